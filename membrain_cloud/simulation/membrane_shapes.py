"""Mid-surfaces of simulated membranes, as signed distances on the voxel grid.

A shape is a function of coordinates, xyz in Å from the centre of the volume. Its zero is the mid-surface, and its
gradient has length about one near it, so that leaflets, labels and areas follow from one array.
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

    Attributes
    ----------
    kind : str
        Name of the shape, of `specimen.KINDS`.
    distance : callable
        Takes the coordinates x, y and z in Å, broadcastable float32 arrays, and returns the signed distance in Å,
        float32; negative inside of closed shapes.
    """

    kind: str
    distance: Distance


def random_rotation(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a rotation from the uniform distribution.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    ndarray, shape (3, 3), float32
        A rotation matrix.

    References
    ----------
    Shoemake, Graphics Gems III (1992): uniform random quaternions.
    """
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
    """Return coordinates in the frame of a shape."""
    x, y, z = (c - np.float32(o) for c, o in zip(xyz, centre, strict=True))
    u, v, w = (np.float32(r[0]) * x + np.float32(r[1]) * y + np.float32(r[2]) * z for r in rotation)
    return u, v, w


def ellipsoid(centre: NDArray[np.floating], axes: NDArray[np.floating], rotation: NDArray[np.floating]) -> Shape:
    """Return an ellipsoid; a sphere where the axes are equal.

    The distance is f / |grad f|, correct to second order near the surface.

    Parameters
    ----------
    centre : ndarray, shape (3,), floating
        Centre, xyz in Å.
    axes : ndarray, shape (3,), floating
        Semi-axes in Å.
    rotation : ndarray, shape (3, 3), floating
        Rotation from the volume to the frame of the shape.

    Returns
    -------
    Shape
        The closed mid-surface.
    """

    def distance(xyz: Coordinates) -> Float32:
        local = _in_frame(xyz, centre, rotation)
        scaled = sum((c / np.float32(a)) ** 2 for c, a in zip(local, axes, strict=True))
        slope = sum((c / np.float32(a) ** 2) ** 2 for c, a in zip(local, axes, strict=True))
        radius = np.sqrt(scaled)
        return np.asarray((radius - 1.0) * radius / np.maximum(np.sqrt(slope), np.float32(1e-6)), np.float32)

    return Shape("sphere" if np.ptp(axes) < 1e-6 else "ellipsoid", distance)


def torus(centre: NDArray[np.floating], ring: float, tube: float, rotation: NDArray[np.floating]) -> Shape:
    """Return a torus.

    Parameters
    ----------
    centre : ndarray, shape (3,), floating
        Centre, xyz in Å.
    ring, tube : float
        Radius of the ring and radius of the tube in Å.
    rotation : ndarray, shape (3, 3), floating
        Rotation from the volume to the frame of the shape.

    Returns
    -------
    Shape
        The closed mid-surface.
    """

    def distance(xyz: Coordinates) -> Float32:
        u, v, w = _in_frame(xyz, centre, rotation)
        return np.sqrt((np.sqrt(u * u + v * v) - np.float32(ring)) ** 2 + w * w) - np.float32(tube)

    return Shape("torus", distance)


def blob(centre: NDArray[np.floating], radius: float, amplitude: float, rng: np.random.Generator) -> Shape:
    """Return a vesicle whose radius varies by a few plane waves over its directions.

    Parameters
    ----------
    centre : ndarray, shape (3,), floating
        Centre, xyz in Å.
    radius : float
        Mean radius in Å.
    amplitude : float
        Sum of the waves' largest weights, relative to the radius.
    rng : numpy.random.Generator
        Source of the waves.

    Returns
    -------
    Shape
        The closed mid-surface.
    """
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
        result: Float32 = (r - np.float32(radius) * (1 + bumps)) / np.sqrt(1 + slope2 * (np.float32(radius) / r) ** 2)
        return result

    return Shape("vesicle", distance)


def sheet(
    centre: NDArray[np.floating],
    rotation: NDArray[np.floating],
    amplitude: float,
    wavelength: float,
    phases: NDArray[np.floating],
    offset: float = 0.0,
) -> Shape:
    """Return an undulating sheet; sheets of one rotation and phases at several offsets make a stack.

    Parameters
    ----------
    centre : ndarray, shape (3,), floating
        Centre, xyz in Å.
    rotation : ndarray, shape (3, 3), floating
        Rotation from the volume to the frame of the shape.
    amplitude : float
        Height of the waves in Å.
    wavelength : float
        Wavelength along the first axis in Å.
    phases : ndarray, shape (2,), floating
        Phases of the two waves in radians.
    offset : float
        Shift along the normal in Å. Default: 0.

    Returns
    -------
    Shape
        The open mid-surface.
    """
    q = np.float32(2 * np.pi / wavelength)

    def distance(xyz: Coordinates) -> Float32:
        u, v, w = _in_frame(xyz, centre, rotation)
        first, second = q * u + np.float32(phases[0]), np.float32(0.7) * q * v + np.float32(phases[1])
        height = np.float32(amplitude) * (np.sin(first) + np.cos(second))
        slope_u = np.float32(amplitude) * q * np.cos(first)
        slope_v = np.float32(-0.7 * amplitude) * q * np.sin(second)
        result: Float32 = (w - height - np.float32(offset)) / np.sqrt(1 + slope_u**2 + slope_v**2)
        return result

    return Shape("sheet", distance)


def tube(points: NDArray[np.floating], radius: float) -> Shape:
    """Return a tube around a curved axis.

    Parameters
    ----------
    points : ndarray, shape (N, 3), floating
        Closely spaced points of the axis, xyz in Å.
    radius : float
        Radius in Å.

    Returns
    -------
    Shape
        The mid-surface.
    """
    tree = cKDTree(points)

    def distance(xyz: Coordinates) -> Float32:
        x, y, z = np.broadcast_arrays(*xyz)
        reach = radius + 150.0
        low, high = points.min(0) - reach, points.max(0) + reach
        near = np.ones(x.shape, bool)
        for c, a, b in zip((x, y, z), low, high, strict=True):
            near &= (c >= a) & (c <= b)
        distances = np.full(x.shape, 150.0, np.float32)
        query = np.stack([x[near], y[near], z[near]], axis=1)
        distances[near] = np.minimum(tree.query(query, distance_upper_bound=reach)[0], reach) - radius
        return distances

    return Shape("tube", distance)


def random_shapes(rng: np.random.Generator, size_angstrom: NDArray[np.floating], kinds: tuple[str, ...]) -> list[Shape]:
    """Draw one membrane, or those of a stack or of a double membrane, at a random place.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    size_angstrom : ndarray, shape (3,), floating
        Size of the volume, xyz in Å.
    kinds : tuple of str
        Names of shapes to draw from.

    Returns
    -------
    list of Shape
        The mid-surfaces.
    """
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
        if radius > 330 and rng.random() < 0.5:  # a double membrane: the same shape inside
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
    """Draw a slightly bent line through `centre`, with points 8 Å apart."""
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
