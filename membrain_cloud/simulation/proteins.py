"""Proteins of simulated tomograms: sums of Gaussians, and how they are added to a volume.

The frame of a particle has its origin on the membrane's mid-surface and z along the membrane normal, to the side on
which the particle protrudes. The frame of a cytosolic particle has its origin at the centre.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from collections.abc import Callable

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Blobs:
    """A density as a sum of Gaussians.

    Attributes
    ----------
    points : ndarray, shape (N, 3), float64
        Centres, xyz in Å.
    sigma_angstrom : float
        Standard deviation of every Gaussian in Å.
    weights : ndarray, shape (N,), float64
        Peak densities, relative to protein.
    """

    points: Points
    sigma_angstrom: float
    weights: NDArray[np.float64]


def fill(inside: Callable[[Points], NDArray[np.bool_]], reach: float, step: float, rng: np.random.Generator) -> Blobs:
    """Fill a solid with Gaussians whose sum is about 1, uneven as a protein is.

    Parameters
    ----------
    inside : callable
        Takes points (N, 3) float64, xyz in Å, and returns which lie in the solid, (N,) bool.
    reach : float
        Half the edge of a cube that holds the solid, in Å.
    step : float
        Distance of the Gaussians in Å.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    Blobs
        The filled solid.
    """
    axis = np.arange(-reach, reach + step, step)
    grid = np.array(list(itertools.product(axis, axis, axis)))
    points = grid[inside(grid)]
    points = points + rng.normal(0, 0.15 * step, points.shape)
    sigma = 0.55 * step
    weights = (step / (np.sqrt(2 * np.pi) * sigma)) ** 3 * rng.uniform(0.5, 1.4, len(points))
    return Blobs(points, sigma, weights)


def _cylinder(p: Points, x: float, y: float, radius: float, low: float, high: float) -> NDArray[np.bool_]:
    flat = (p[:, 0] - x) ** 2 + (p[:, 1] - y) ** 2 <= radius**2
    return flat & (p[:, 2] >= low) & (p[:, 2] <= high)


def _ball(p: Points, centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = ((p - np.array(centre)) ** 2).sum(1) <= radius**2
    return result


def _dimer(rng: np.random.Generator) -> Blobs:
    """Return two lobes side by side, low on one side of the membrane, similar to photosystem II."""
    return fill(
        lambda p: _cylinder(p, 38, 0, 34, -22, 55) | _cylinder(p, -38, 0, 34, -22, 55) | _ball(p, (0, 0, 40), 30),
        110, 15, rng,
    )  # fmt: skip


def _tower(rng: np.random.Generator) -> Blobs:
    """Return a square tower through the membrane, similar to a tetrameric receptor."""
    return fill(
        lambda p: (np.abs(p[:, 0]) <= 38) & (np.abs(p[:, 1]) <= 38) & (p[:, 2] >= -30) & (p[:, 2] <= 100),
        120, 15, rng,
    )  # fmt: skip


def _head_on_stalk(rng: np.random.Generator) -> Blobs:
    """Return a ball on a stalk, with a ring in the membrane, similar to ATP synthase."""
    return fill(
        lambda p: _cylinder(p, 0, 0, 30, -22, 22) | _cylinder(p, 0, 0, 15, 20, 75) | _ball(p, (0, 0, 105), 46),
        160, 15, rng,
    )  # fmt: skip


def _hump(rng: np.random.Generator) -> Blobs:
    """Return a small asymmetric hump, similar to cytochrome b6f."""
    return fill(lambda p: _cylinder(p, 0, 0, 30, -25, 25) | _ball(p, (12, 0, 38), 30), 75, 14, rng)


MEMBRANE_PARTICLES: dict[str, Callable[[np.random.Generator], Blobs]] = {
    "dimer": _dimer,
    "tower": _tower,
    "head-on-stalk": _head_on_stalk,
    "hump": _hump,
}


def random_membrane_particle(rng: np.random.Generator) -> Blobs:
    """Draw a protein of a random shape: a few balls stacked outwards from the membrane.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    Blobs
        The protein in its own frame.
    """
    balls = [((0.0, 0.0, 0.0), rng.uniform(20, 35))]
    x, y, z = 0.0, 0.0, rng.uniform(10, 25)
    for _ in range(int(rng.integers(2, 5))):
        radius = rng.uniform(18, 42)
        balls.append(((x, y, z + 0.6 * radius), radius))
        x, y, z = x + rng.normal(0, 15), y + rng.normal(0, 15), z + 0.8 * radius
    reach = z + 90
    return fill(lambda p: np.any([_ball(p, c, r) for c, r in balls], axis=0) & (p[:, 2] > -28), reach, 15, rng)


def random_assembly(rng: np.random.Generator) -> Blobs:
    """Draw a complex of one to four subunits around a slightly tilted axis.

    Some have domains on the other side of the membrane too. Height and density vary.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    Blobs
        The protein in its own frame.
    """
    copies = int(rng.choice([1, 1, 2, 2, 3, 4]))
    around = 0.0 if copies == 1 else float(rng.uniform(18, 60 if copies == 2 else 45))
    foot = rng.uniform(14, 36 if copies == 1 else 28)
    domains = _pile(rng, int(rng.integers(1, 5)), 14, 44 if copies == 1 else 32, rng.uniform(5, 22))
    beneath = rng.random() < 0.4
    if beneath:
        domains += [((x, y, -z), r) for (x, y, z), r in _pile(rng, int(rng.integers(1, 3)), 12, 28, rng.uniform(5, 20))]
    lowest = -np.inf if beneath else -rng.uniform(20, 30)

    def inside(p: Points) -> NDArray[np.bool_]:
        hit = np.zeros(len(p), bool)
        for k in range(copies):
            cosine, sine = np.cos(2 * np.pi * k / copies), np.sin(2 * np.pi * k / copies)
            x, y = cosine * p[:, 0] + sine * p[:, 1] - around, cosine * p[:, 1] - sine * p[:, 0]
            own = np.stack([x, y, p[:, 2]], axis=1)
            hit |= _cylinder(own, 0, 0, foot, -24, 24)
            hit |= np.any([_ball(own, centre, radius) for centre, radius in domains], axis=0)
        return hit & (p[:, 2] > lowest)

    reach = max(around + 80, max(abs(centre[2]) + radius for centre, radius in domains) + 5)
    solid = fill(inside, reach, 15, rng)
    lean, towards = np.deg2rad(rng.normal(0, 7)), rng.uniform(0, 2 * np.pi)
    points = Rotation.from_rotvec(lean * np.array([np.cos(towards), np.sin(towards), 0.0])).apply(solid.points)
    points[:, 2] += rng.normal(0, 4)
    return Blobs(points, solid.sigma_angstrom, solid.weights * rng.uniform(0.7, 1.1))


def _pile(
    rng: np.random.Generator, count: int, least: float, most: float, start: float
) -> list[tuple[tuple[float, float, float], float]]:
    """Draw balls (centre, radius) one above the other, with random shifts sideways."""
    x, y, z = rng.normal(0, 8), rng.normal(0, 8), start
    balls = []
    for _ in range(count):
        radius = rng.uniform(least, most)
        balls.append(((x, y, z + 0.6 * radius), radius))
        x, y, z = x + rng.normal(0, 18), y + rng.normal(0, 18), z + 0.9 * radius
    return balls


UNNAMED_PARTICLES: dict[str, Callable[[np.random.Generator], Blobs]] = {
    "random": random_membrane_particle,
    "assembly": random_assembly,
}


def random_cytosolic_particle(rng: np.random.Generator, largest_angstrom: float) -> Blobs:
    """Draw a globular complex: overlapping balls, sometimes hollow.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    largest_angstrom : float
        Largest radius in Å; the least is 25.

    Returns
    -------
    Blobs
        The protein in its own frame.
    """
    radius = float(np.exp(rng.uniform(np.log(25), np.log(largest_angstrom))))
    balls = [(rng.normal(0, 0.45 * radius, 3), rng.uniform(0.45, 0.8) * radius) for _ in range(int(rng.integers(2, 6)))]
    cavity = rng.random() < 0.25
    step = 14.0 if radius < 60 else 20.0

    def inside(p: Points) -> NDArray[np.bool_]:
        solid = np.any([_ball(p, tuple(c), r) for c, r in balls], axis=0)
        result: NDArray[np.bool_] = solid & ~_ball(p, (0, 0, 0), 0.35 * radius) if cavity else solid
        return result

    return fill(inside, 2.0 * radius, step, rng)


def actin_filament(rng: np.random.Generator, length_angstrom: float) -> Blobs:
    """Return an actin filament along z: a helix of 27.5 Å rise and -166.6° twist.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    length_angstrom : float
        Length in Å.

    Returns
    -------
    Blobs
        The protein in its own frame.
    """
    count = int(length_angstrom / 27.5)
    index = np.arange(count)
    angle = np.deg2rad(-166.6) * index
    points = np.stack([22 * np.cos(angle), 22 * np.sin(angle), (index - count / 2) * 27.5], axis=1)
    return Blobs(points, 16.0, rng.uniform(0.8, 1.2, count))


def microtubule(rng: np.random.Generator, length_angstrom: float) -> Blobs:
    """Return a microtubule along z: 13 protofilaments of 41 Å repeat on a wall of radius 110 Å.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    length_angstrom : float
        Length in Å.

    Returns
    -------
    Blobs
        The protein in its own frame.
    """
    rings = np.arange(-length_angstrom / 2, length_angstrom / 2, 41.0)
    angle = 2 * np.pi * np.arange(13) / 13
    ring = np.stack([110 * np.cos(angle), 110 * np.sin(angle), 9.4 * np.arange(13)], axis=1)
    points = (ring[None] + np.stack([0 * rings, 0 * rings, rings], axis=1)[:, None]).reshape(-1, 3)
    return Blobs(points, 17.0, rng.uniform(0.8, 1.2, len(points)))


def stamp(volume: NDArray[np.float32], blobs: Blobs, centre_xyz: Points, rotation: Points, spacing: float) -> None:
    """Add a rotated and shifted particle to a volume in place; parts outside of the volume are cut off.

    Parameters
    ----------
    volume : ndarray, shape (Z, Y, X), float32
        The volume.
    blobs : Blobs
        The particle in its own frame.
    centre_xyz : ndarray, shape (3,), float64
        Position of the particle's origin, xyz in Å.
    rotation : ndarray, shape (3, 3), float64
        Rotation from the particle's frame to the volume's.
    spacing : float
        Voxel spacing in Å.
    """
    places = (blobs.points @ rotation.T + centre_xyz)[:, ::-1] / spacing
    sigma = np.sqrt(blobs.sigma_angstrom**2 + spacing**2 / 12) / spacing
    peak = blobs.weights * (blobs.sigma_angstrom / spacing / sigma) ** 3
    reach = int(np.ceil(2.8 * sigma))
    shape = np.array(volume.shape)
    near = np.all((places > -reach) & (places < shape + reach), axis=1)
    places, peak = places[near], peak[near]
    if not len(places):
        return
    base = np.round(places).astype(np.int64)
    steps = np.arange(-reach, reach + 1)
    profiles = [np.exp(-0.5 * ((base[:, a, None] + steps - places[:, a, None]) / sigma) ** 2) for a in range(3)]
    values = np.einsum("n,ni,nj,nk->nijk", peak, *profiles)
    low = base.min(0) - reach
    size = base.max(0) + reach + 1 - low
    strides = np.array([size[1] * size[2], size[2], 1])
    corner = ((base - reach - low) * strides).sum(1)
    offsets = (np.stack(np.meshgrid(*([np.arange(2 * reach + 1)] * 3), indexing="ij"), -1) * strides).sum(-1)
    flat = (corner[:, None] + offsets.reshape(1, -1)).ravel()
    local = np.bincount(flat, values.reshape(-1), minlength=int(np.prod(size))).reshape(size)
    start, stop = np.maximum(low, 0), np.minimum(low + size, shape)
    if np.any(start >= stop):
        return
    into = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    cut = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
    volume[into] += local[cut].astype(np.float32)
