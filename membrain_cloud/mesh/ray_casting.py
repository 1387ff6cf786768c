"""The first triangle that a ray meets: a walk through a grid of cells that know their triangles (numba).

Amanatides and Woo, Eurographics 1987, for the walk; Möller and Trumbore, J. Graphics Tools 2(1), 1997, for the test.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled, compiled_bare

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Cells are as long as this many mean edges, and no more than so many along an axis.
EDGES_A_CELL, MOST_CELLS = 2.0, 256


class Cells(NamedTuple):
    """low : (3,) Å, the grid's corner.  shape : (3,).  starts : (cells + 1,) into members, the triangles of a cell."""

    low: Floats
    size: float
    shape: Ints
    starts: Ints
    members: Ints
    corners: Floats  # (F, 3, 3)


def cells_of(corners: Floats) -> Cells:
    """A grid over triangles (F, 3, 3) xyz, at least one; all finite."""
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
    """(N,) distance to the first triangle within `reach` Å along each ray, inf for none, and (N,) its number, -1.

    origins, directions : (N, 3), the latter of length 1; not finite: no hit.  own : (N,) a triangle that the ray does
    not see, the one it starts from; -1 for none.
    """
    distances, faces = np.full(len(origins), np.inf), np.full(len(origins), -1, np.int64)
    _first_hits(
        cells, np.ascontiguousarray(origins), np.ascontiguousarray(directions), own, float(reach), distances, faces
    )
    return distances, faces


@compiled
def _count(first: Ints, last: Ints, shape: Ints, starts: Ints) -> None:
    for f in range(len(first)):
        for i in range(first[f, 0], last[f, 0] + 1):
            for j in range(first[f, 1], last[f, 1] + 1):
                for k in range(first[f, 2], last[f, 2] + 1):
                    starts[(i * shape[1] + j) * shape[2] + k + 1] += 1


@compiled
def _fill(first: Ints, last: Ints, shape: Ints, at: Ints, members: Ints) -> None:
    for f in range(len(first)):
        for i in range(first[f, 0], last[f, 0] + 1):
            for j in range(first[f, 1], last[f, 1] + 1):
                for k in range(first[f, 2], last[f, 2] + 1):
                    cell = (i * shape[1] + j) * shape[2] + k
                    members[at[cell]] = f
                    at[cell] += 1


@compiled_bare
def _meets(corners: Floats, f: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Distance along the ray to the triangle; infinite where it misses. Edges belong to both triangles."""
    ax, ay, az = corners[f, 0, 0], corners[f, 0, 1], corners[f, 0, 2]
    ux, uy, uz = corners[f, 1, 0] - ax, corners[f, 1, 1] - ay, corners[f, 1, 2] - az
    vx, vy, vz = corners[f, 2, 0] - ax, corners[f, 2, 1] - ay, corners[f, 2, 2] - az
    px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
    volume = ux * px + uy * py + uz * pz
    if volume == 0.0:
        return math.inf
    sx, sy, sz = ox - ax, oy - ay, oz - az
    u = (sx * px + sy * py + sz * pz) / volume
    qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
    v = (dx * qx + dy * qy + dz * qz) / volume
    if u < -1e-9 or v < -1e-9 or u + v > 1.0 + 2e-9:
        return math.inf
    t = (vx * qx + vy * qy + vz * qz) / volume
    return t if t >= 0.0 else math.inf


@compiled_bare
def _enter(cells: Cells, origin: Floats, direction: Floats, reach: float) -> float:
    """How far along the ray the grid begins; infinite where the ray misses it."""
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


@compiled
def _first_hits(
    cells: Cells, origins: Floats, directions: Floats, own: Ints, reach: float, distances: Floats, faces: Ints
) -> None:
    at, step = np.empty(3, np.int64), np.empty(3, np.int64)
    ahead, across = np.empty(3), np.empty(3)
    for n in range(len(origins)):
        origin, direction = origins[n], directions[n]
        passed = _enter(cells, origin, direction, reach)
        if not passed < math.inf:  # NaN included
            continue
        for axis in range(3):
            place = (origin[axis] + passed * direction[axis] - cells.low[axis]) / cells.size
            at[axis] = min(max(math.floor(place), 0), cells.shape[axis] - 1)
            step[axis] = 1 if direction[axis] > 0.0 else -1
            if direction[axis] == 0.0:
                ahead[axis], across[axis] = math.inf, math.inf
                continue
            wall = cells.low[axis] + cells.size * (at[axis] + (direction[axis] > 0.0))
            ahead[axis] = (wall - origin[axis]) / direction[axis]
            across[axis] = cells.size / abs(direction[axis])
        while passed <= min(reach, distances[n]):
            cell = (at[0] * cells.shape[1] + at[1]) * cells.shape[2] + at[2]
            for m in range(cells.starts[cell], cells.starts[cell + 1]):
                f = cells.members[m]
                if f == own[n]:
                    continue
                t = _meets(cells.corners, f, origin[0], origin[1], origin[2], direction[0], direction[1], direction[2])
                if t < distances[n] or (t == distances[n] and f < faces[n]):
                    distances[n], faces[n] = t, f
            axis = 0
            if ahead[1] < ahead[axis]:
                axis = 1
            if ahead[2] < ahead[axis]:
                axis = 2
            passed = ahead[axis]
            at[axis] += step[axis]
            if at[axis] < 0 or at[axis] >= cells.shape[axis]:
                break
            ahead[axis] += across[axis]
        if distances[n] > reach:
            distances[n], faces[n] = math.inf, -1
