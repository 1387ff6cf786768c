"""Mid-surfaces of simulated membranes, as signed distances on the voxel grid.

A shape is a function of coordinates (xyz in Å from the centre of the volume) whose zero is the mid-surface and whose
gradient has length about one near it, so that two leaflets, labels and areas all follow from one array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Float32 = NDArray[np.float32]
Coordinates = tuple[Float32, Float32, Float32]
Distance = Callable[[Coordinates], Float32]


@dataclass(frozen=True)
class Shape:
    """A closed or open mid-surface.

    kind : what it is, in the field's words.
    distance : signed distance in Å (negative inside, for closed shapes) at coordinates x, y, z.
    """

    kind: str
    distance: Distance


def random_rotation(rng: np.random.Generator) -> NDArray[np.float32]:
    """A rotation drawn uniformly (Shoemake's quaternions)."""
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        np.float32,
    )


def _in_frame(xyz: Coordinates, centre: NDArray[np.floating], rotation: NDArray[np.floating]) -> Coordinates:
    x, y, z = (c - np.float32(o) for c, o in zip(xyz, centre, strict=True))
    u, v, w = (np.float32(r[0]) * x + np.float32(r[1]) * y + np.float32(r[2]) * z for r in rotation)
    return u, v, w


def ellipsoid(centre: NDArray[np.floating], axes: NDArray[np.floating], rotation: NDArray[np.floating]) -> Shape:
    """First-order distance f/|grad f|, right to second order near the surface; a sphere where the axes are equal."""

    def distance(xyz: Coordinates) -> Float32:
        local = _in_frame(xyz, centre, rotation)
        scaled = sum((c / np.float32(a)) ** 2 for c, a in zip(local, axes, strict=True))
        slope = sum((c / np.float32(a) ** 2) ** 2 for c, a in zip(local, axes, strict=True))
        radius = np.sqrt(scaled)
        return np.asarray((radius - 1.0) * radius / np.maximum(np.sqrt(slope), np.float32(1e-6)), np.float32)

    return Shape("sphere" if np.ptp(axes) < 1e-6 else "ellipsoid", distance)


def torus(centre: NDArray[np.floating], ring: float, tube: float, rotation: NDArray[np.floating]) -> Shape:
    def distance(xyz: Coordinates) -> Float32:
        u, v, w = _in_frame(xyz, centre, rotation)
        return np.sqrt((np.sqrt(u * u + v * v) - np.float32(ring)) ** 2 + w * w) - np.float32(tube)

    return Shape("torus", distance)


def blob(centre: NDArray[np.floating], radius: float, amplitude: float, rng: np.random.Generator) -> Shape:
    """A vesicle bent by a few plane waves over its sphere of directions: organelles are never round."""
    waves = rng.standard_normal((5, 3)).astype(np.float32) * 1.6
    phases = rng.uniform(0, 2 * np.pi, 5).astype(np.float32)
    weights = (rng.uniform(0.3, 1.0, 5) * amplitude / 5).astype(np.float32)

    def distance(xyz: Coordinates) -> Float32:
        x, y, z = (c - np.float32(o) for c, o in zip(xyz, centre, strict=True))
        r = np.maximum(np.sqrt(x * x + y * y + z * z), np.float32(1.0))
        bumps = np.zeros_like(r)
        slope2 = np.zeros_like(r)
        for wave, phase, weight in zip(waves, phases, weights, strict=True):
            along = (wave[0] * x + wave[1] * y + wave[2] * z) / r
            bumps += weight * np.sin(along + phase)
            slope2 += (weight * np.cos(along + phase)) ** 2 * np.maximum((wave**2).sum() - along**2, 0.0)
        return (r - np.float32(radius) * (1 + bumps)) / np.sqrt(1 + slope2 * (np.float32(radius) / r) ** 2)

    return Shape("vesicle", distance)


def sheet(
    centre: NDArray[np.floating],
    rotation: NDArray[np.floating],
    amplitude: float,
    wavelength: float,
    phases: NDArray[np.floating],
    offset: float = 0.0,
) -> Shape:
    """An undulating sheet; sheets of one rotation and phases at several offsets make a stack."""
    q = np.float32(2 * np.pi / wavelength)

    def distance(xyz: Coordinates) -> Float32:
        u, v, w = _in_frame(xyz, centre, rotation)
        first, second = q * u + np.float32(phases[0]), np.float32(0.7) * q * v + np.float32(phases[1])
        height = np.float32(amplitude) * (np.sin(first) + np.cos(second))
        slope_u = np.float32(amplitude) * q * np.cos(first)
        slope_v = np.float32(-0.7 * amplitude) * q * np.sin(second)
        return (w - height - np.float32(offset)) / np.sqrt(1 + slope_u**2 + slope_v**2)

    return Shape("sheet", distance)


def tube(points: NDArray[np.floating], radius: float) -> Shape:
    """A membrane tube about a curved axis given by closely spaced points (N, 3) xyz in Å."""
    tree = cKDTree(points)

    def distance(xyz: Coordinates) -> Float32:
        x, y, z = np.broadcast_arrays(*xyz)
        reach = radius + 150.0
        low, high = points.min(0) - reach, points.max(0) + reach
        near = np.ones(x.shape, bool)
        for c, a, b in zip((x, y, z), low, high, strict=True):
            near &= (c >= a) & (c <= b)
        found = np.full(x.shape, 150.0, np.float32)
        query = np.stack([x[near], y[near], z[near]], axis=1)
        found[near] = np.minimum(tree.query(query, distance_upper_bound=reach)[0], reach) - radius
        return found

    return Shape("tube", distance)


def random_shapes(rng: np.random.Generator, size_angstrom: NDArray[np.floating], kinds: tuple[str, ...]) -> list[Shape]:
    """One membrane, or the several of a stack or of a double membrane, placed at random in a volume of that size."""
    kind = str(rng.choice(kinds))
    centre = (rng.uniform(-0.45, 0.45, 3) * size_angstrom).astype(np.float32)
    if kind == "sphere":
        return [ellipsoid(centre, np.full(3, rng.uniform(140, 380)), np.eye(3))]
    if kind == "ellipsoid":
        long = rng.uniform(200, 600)
        axes = np.array([long, long * rng.uniform(0.45, 1.0), long * rng.uniform(0.4, 1.0)])
        return [ellipsoid(centre, np.maximum(axes, 140), random_rotation(rng))]
    if kind == "vesicle":
        radius, seed = rng.uniform(200, 500), int(rng.integers(2**31))
        amplitude = rng.uniform(0.3, 1.0)
        shapes = [blob(centre, radius, amplitude, np.random.default_rng(seed))]
        if radius > 330 and rng.random() < 0.5:  # a double membrane: the same form within
            gap = rng.uniform(140, 190)
            shapes.append(blob(centre, radius - gap, amplitude, np.random.default_rng(seed)))
        return shapes
    if kind == "torus":
        tube_radius = rng.uniform(120, 220)
        return [torus(centre, tube_radius + rng.uniform(110, 350), tube_radius, random_rotation(rng))]
    if kind == "tube":
        return [tube(_random_axis(rng, centre, float(size_angstrom.max())), rng.uniform(90, 240))]
    rotation = random_rotation(rng)
    amplitude, wavelength = rng.uniform(0, 60), rng.uniform(600, 1400)
    phases = rng.uniform(0, 2 * np.pi, 2)
    count = 1 if kind == "sheet" else int(rng.integers(2, 5))
    step = rng.uniform(125, 220)
    return [sheet(centre, rotation, amplitude, wavelength, phases, k * step) for k in range(count)]


def _random_axis(rng: np.random.Generator, centre: NDArray[np.floating], length: float) -> NDArray[np.float64]:
    """A gently bending line through `centre`, points 8 Å apart."""
    half = int(1.2 * length / 8)
    start = random_rotation(rng)[0].astype(np.float64)
    bend = rng.standard_normal(3) * rng.uniform(0, 1 / 900)
    arms = []
    for sign in (1.0, -1.0):
        direction, position, points = sign * start, centre.astype(np.float64).copy(), []
        for _ in range(half):
            direction = direction + 8.0 * bend
            direction /= np.linalg.norm(direction)
            position = position + 8.0 * direction
            points.append(position)
        arms.append(np.array(points))
    return np.concatenate([arms[1][::-1], centre[None].astype(np.float64), arms[0]])
