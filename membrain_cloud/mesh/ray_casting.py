"""First triangles that rays meet: a walk through a grid of cells that list their triangles (numba).

The walk is that of Amanatides and Woo [1]_, the test of a triangle that of Möller and Trumbore [2]_.

References
----------
.. [1] Amanatides and Woo, A fast voxel traversal algorithm for ray tracing, Eurographics 1987.
.. [2] Möller and Trumbore, Fast, minimum storage ray-triangle intersection, J. Graphics Tools 2(1), 1997.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled, compiled_bare, inlined
from membrain_cloud.mesh.vectors import Vector, cross, dot, minus, vector

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Cells are as long as this many mean edges, and no more than so many along an axis.
EDGES_A_CELL, MOST_CELLS = 2.0, 256


class Cells(NamedTuple):
    """A grid of cubes over triangles.

    Attributes
    ----------
    low : (3,) float64
        Corner of the grid, xyz in Å.
    size : float
        Edge of a cube, Å.
    shape : (3,) int64
        Cubes along x, y, z.
    starts : (cells + 1,) int64
        First of the members of each cube.
    members : (M,) int64
        Triangles whose bounding boxes meet a cube, cube after cube.
    corners : (F, 3, 3) float64
        Corners of the triangles, xyz in Å.
    """

    low: Floats
    size: float
    shape: Ints
    starts: Ints
    members: Ints
    corners: Floats


class _Rays(NamedTuple):
    """N rays that end after `reach` Å; fields as the parameters of `first_hits`."""

    origins: Floats
    directions: Floats
    own: Ints
    reach: float


class _Walk(NamedTuple):
    """The state of a walk along one ray, by axis: cube, step (1 or -1), and along the ray, Å, next wall and spacing."""

    cell: Ints
    step: Ints
    ahead: Floats
    across: Floats


def cells_of(corners: Floats) -> Cells:
    """Sort triangles into a grid of cubes.

    Parameters
    ----------
    corners : (F, 3, 3) float64
        Corners of at least one triangle, xyz in Å, finite.

    Returns
    -------
    Cells
        The grid.
    """
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    edges = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
    size = max(EDGES_A_CELL * float(edges.mean()), float((high - low).max()) / MOST_CELLS, 1e-9)
    shape = np.floor((high - low) / size).astype(np.int64) + 1
    first = np.floor((corners.min(axis=1) - low) / size).astype(np.int64).clip(0, shape - 1)
    last = np.floor((corners.max(axis=1) - low) / size).astype(np.int64).clip(0, shape - 1)
    starts = np.zeros(int(shape.prod()) + 1, np.int64)
    _count(first, last, shape, starts)
    starts = np.cumsum(starts)
    members = np.empty(int(starts[-1]), np.int64)
    _fill(first, last, shape, starts.copy(), members)
    return Cells(low, size, shape, starts, members, np.ascontiguousarray(corners, np.float64))


def first_hits(cells: Cells, origins: Floats, directions: Floats, own: Ints, reach: float) -> tuple[Floats, Ints]:
    """Return the first triangle along each ray.

    Parameters
    ----------
    cells : Cells
        The triangles.
    origins : (N, 3) float64
        Where the rays start, xyz in Å.
    directions : (N, 3) float64
        Unit vectors. A ray that is not finite meets no triangle.
    own : (N,) int64
        A triangle that the ray passes through, the one it starts from; -1 for none.
    reach : float
        Length of the rays, Å.

    Returns
    -------
    distances : (N,) float64
        Å along the ray; infinite without a hit.
    faces : (N,) int64
        The triangle, of several at one distance the lowest; -1 without a hit.
    """
    distances, faces = np.full(len(origins), np.inf), np.full(len(origins), -1, np.int64)
    rays = _Rays(np.ascontiguousarray(origins), np.ascontiguousarray(directions), own, float(reach))
    _first_hits(cells, rays, distances, faces)
    return distances, faces


@compiled
def _count(first: Ints, last: Ints, shape: Ints, starts: Ints) -> None:
    """Add up in starts[c + 1] how many triangles have cube c between their first and last cubes (F, 3)."""
    for f in range(len(first)):
        for i in range(first[f, 0], last[f, 0] + 1):
            for j in range(first[f, 1], last[f, 1] + 1):
                for k in range(first[f, 2], last[f, 2] + 1):
                    starts[(i * shape[1] + j) * shape[2] + k + 1] += 1


@compiled
def _fill(first: Ints, last: Ints, shape: Ints, at: Ints, members: Ints) -> None:
    """List the same triangles cube by cube; `at` holds the cubes' starts and is changed."""
    for f in range(len(first)):
        for i in range(first[f, 0], last[f, 0] + 1):
            for j in range(first[f, 1], last[f, 1] + 1):
                for k in range(first[f, 2], last[f, 2] + 1):
                    cell = (i * shape[1] + j) * shape[2] + k
                    members[at[cell]] = f
                    at[cell] += 1


@compiled_bare
def _distance(corners: Floats, origin: Vector, direction: Vector) -> float:
    """Return the distance along a ray to a triangle (3, 3), infinite where it misses; edges belong to both sides."""
    first = vector(corners[0])
    u, v = minus(vector(corners[1]), first), minus(vector(corners[2]), first)
    p = cross(direction, v)
    volume = dot(u, p)
    if volume == 0.0:
        return math.inf
    s = minus(origin, first)
    one = dot(s, p) / volume
    q = cross(s, u)
    other = dot(direction, q) / volume
    if one < -1e-9 or other < -1e-9 or one + other > 1.0 + 2e-9:
        return math.inf
    t: float = dot(v, q) / volume
    return t if t >= 0.0 else math.inf


@compiled_bare
def _enter(cells: Cells, origin: Floats, direction: Floats, reach: float) -> float:
    """Return how far along the ray the grid begins; infinite where the ray misses it."""
    near, far = 0.0, reach
    for axis in range(3):
        low, high = cells.low[axis], cells.low[axis] + cells.size * cells.shape[axis]
        if direction[axis] == 0.0:
            if origin[axis] < low or origin[axis] > high:
                return math.inf
            continue
        one, other = (low - origin[axis]) / direction[axis], (high - origin[axis]) / direction[axis]
        near, far = max(near, min(one, other)), min(far, max(one, other))
    return near if near <= far else math.inf


@inlined
def _begin(cells: Cells, origin: Floats, direction: Floats, passed: float, walk: _Walk) -> None:
    """Begin a walk in the cube that the ray is in after `passed` Å."""
    for axis in range(3):
        position = (origin[axis] + passed * direction[axis] - cells.low[axis]) / cells.size
        walk.cell[axis] = min(max(math.floor(position), 0), cells.shape[axis] - 1)
        walk.step[axis] = 1 if direction[axis] > 0.0 else -1
        if direction[axis] == 0.0:
            walk.ahead[axis], walk.across[axis] = math.inf, math.inf
            continue
        wall = cells.low[axis] + cells.size * (walk.cell[axis] + (direction[axis] > 0.0))
        walk.ahead[axis] = (wall - origin[axis]) / direction[axis]
        walk.across[axis] = cells.size / abs(direction[axis])


@inlined
def _test_cell(cells: Cells, rays: _Rays, n: int, cell: int, distances: Floats, faces: Ints) -> None:
    """Test the triangles of a cube for a nearer hit of ray `n`."""
    origin, direction = vector(rays.origins[n]), vector(rays.directions[n])
    for m in range(cells.starts[cell], cells.starts[cell + 1]):
        f = cells.members[m]
        if f == rays.own[n]:
            continue
        t = _distance(cells.corners[f], origin, direction)
        if t < distances[n] or (t == distances[n] and f < faces[n]):
            distances[n], faces[n] = t, f


@compiled
def _first_hits(cells: Cells, rays: _Rays, distances: Floats, faces: Ints) -> None:
    """Fill in distances (N,) and faces (N,), which hold infinity and -1."""
    walk = _Walk(np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3), np.empty(3))
    cell, step, ahead, across = walk.cell, walk.step, walk.ahead, walk.across
    for n in range(len(rays.origins)):
        passed = _enter(cells, rays.origins[n], rays.directions[n], rays.reach)
        if not passed < math.inf:  # NaN included
            continue
        _begin(cells, rays.origins[n], rays.directions[n], passed, walk)
        while passed <= min(rays.reach, distances[n]):
            number = (cell[0] * cells.shape[1] + cell[1]) * cells.shape[2] + cell[2]
            _test_cell(cells, rays, n, number, distances, faces)
            axis = 0
            if ahead[1] < ahead[axis]:
                axis = 1
            if ahead[2] < ahead[axis]:
                axis = 2
            passed = ahead[axis]
            cell[axis] += step[axis]
            if cell[axis] < 0 or cell[axis] >= cells.shape[axis]:
                break
            ahead[axis] += across[axis]
        if distances[n] > rays.reach:
            distances[n], faces[n] = math.inf, -1
