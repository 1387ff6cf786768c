"""Weighted mean shift and density-based clusters, as MemBrain-pick takes them to gather scores into particles.

Neighbours come from cells or KD-trees, in portions of bounded size, never from a matrix of all pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from membrain_cloud.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_PAIRS_AT_ONCE = 2_000_000


class Shift(Protocol):
    """A mean shift: `mean_shift`, or one on another device."""

    def __call__(
        self,
        points: NDArray[np.float64],
        scores: NDArray[np.floating],
        *,
        bandwidth_angstrom: float,
        max_iterations: int,
    ) -> NDArray[np.float64]:
        """Move seeds as `mean_shift` does."""


class _Cells(NamedTuple):
    """Points sorted into cubes of one bandwidth.

    Attributes
    ----------
    points : (N, 3) float64
        Sorted by cube, from the corner of the grid, Å.
    weights : (N,) float64
        Weight of each point.
    codes : (C,) int64
        Rising codes of the cubes that hold points.
    starts : (C + 1,) int64
        First point of each cube.
    extent : (3,) int64
        Cubes along each axis.
    """

    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    codes: NDArray[np.int64]
    starts: NDArray[np.int64]
    extent: NDArray[np.int64]


def mean_shift(
    points: NDArray[np.float64],
    scores: NDArray[np.floating],
    *,
    bandwidth_angstrom: float,
    max_iterations: int,
) -> NDArray[np.float64]:
    """Move a seed from each point to a local mean of the points with low scores.

    A point at distance d from a seed has the weight max(B - d, 0) * (clamp(10 - score, 0.01, 10) + 0.05), where B is
    the bandwidth. Iterations end when the seeds move by less than B / 1000 on average.

    Parameters
    ----------
    points : (N, 3) float64
        xyz in Å.
    scores : (N,) floating
        Scores of the points, low near particles.
    bandwidth_angstrom : float
        B, Å.
    max_iterations : int
        Maximum number of iterations.

    Returns
    -------
    (N, 3) float64
        Where the seeds end, xyz in Å.
    """
    seeds = np.array(points, np.float64)
    if not len(seeds):
        return seeds
    importance = np.clip(10.0 - np.asarray(scores, np.float64), 0.01, 10.0) + 0.05
    origin = seeds.min(axis=0)
    seeds -= origin
    cells = _sort_into_cells(seeds, importance, bandwidth_angstrom)
    for _ in range(max_iterations):
        moved = _shifted(seeds, cells, bandwidth_angstrom)
        shift = float(np.linalg.norm(moved - seeds, axis=1).mean())
        seeds = moved
        if shift < 1e-3 * bandwidth_angstrom:
            break
    ends: NDArray[np.float64] = seeds + origin
    return ends


def _sort_into_cells(points: NDArray[np.float64], weights: NDArray[np.float64], size: float) -> _Cells:
    """Sort points (N, 3) >= 0 and weights (N,) into cubes of this size."""
    cell = (points / size).astype(np.int64)
    extent = cell.max(axis=0) + 1
    code = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    order = np.argsort(code, kind="stable")
    codes, starts = np.unique(code[order], return_index=True)
    return _Cells(points[order], weights[order], codes, np.append(starts, len(points)), extent)


@compiled
def _shifted(seeds: NDArray[np.float64], cells: _Cells, reach: float) -> NDArray[np.float64]:  # pragma: no cover
    """Return each seed's weighted mean of the points within reach: those in its cube and the 26 around it."""
    moved = seeds.copy()
    points, weights, extent = cells.points, cells.weights, cells.extent
    for s in range(len(seeds)):
        x, y, z = seeds[s, 0], seeds[s, 1], seeds[s, 2]
        total, sum_x, sum_y, sum_z = 0.0, 0.0, 0.0, 0.0
        a, b, c = int(x / reach), int(y / reach), int(z / reach)
        first, last = max(c - 1, 0), min(c + 1, extent[2] - 1)
        for i in range(max(a - 1, 0), min(a + 2, extent[0])):
            for j in range(max(b - 1, 0), min(b + 2, extent[1])):
                row = (i * extent[1] + j) * extent[2]
                # The cubes of a row along z have neighbouring codes, so their points lie in one run.
                begin = cells.starts[np.searchsorted(cells.codes, row + first)]
                end = cells.starts[np.searchsorted(cells.codes, row + last + 1)]
                for p in range(begin, end):
                    dx, dy, dz = points[p, 0] - x, points[p, 1] - y, points[p, 2] - z
                    near = reach - np.sqrt(dx * dx + dy * dy + dz * dz)
                    if near > 0.0:
                        weight = near * weights[p]
                        total += weight
                        sum_x += weight * points[p, 0]
                        sum_y += weight * points[p, 1]
                        sum_z += weight * points[p, 2]
        if total > 0.0:
            moved[s, 0], moved[s, 1], moved[s, 2] = sum_x / total, sum_y / total, sum_z / total
    return moved


def dense_clusters(points: NDArray[np.float64], *, radius: float, min_samples: int) -> NDArray[np.int64]:
    """Cluster points by density (DBSCAN).

    A point with at least `min_samples` points within `radius`, itself included, is a core point. Core points within
    `radius` of each other share a cluster; another point joins the nearest core point within `radius`.

    Parameters
    ----------
    points : (N, 3) float64
        Positions.
    radius : float
        In the unit of the points.
    min_samples : int
        Points within the radius of a core point.

    Returns
    -------
    (N,) int64
        Cluster of each point, numbered from 0 by first member; -1 for noise.

    References
    ----------
    Ester et al., A density-based algorithm for discovering clusters, KDD 1996.
    """
    labels = np.full(len(points), -1, np.int64)
    tree = cKDTree(points)
    counts = np.asarray(tree.query_ball_point(points, radius, return_length=True), np.int64).reshape(-1)
    core = np.flatnonzero(counts >= min_samples)
    if not len(core):
        return labels
    core_tree = cKDTree(points[core])
    group = np.arange(len(core))
    for part, i, j in _neighbours(core_tree, points[core], radius):
        graph = scipy.sparse.csr_matrix(
            (np.ones(len(i), np.int8), (group[i + part.start], group[j])), shape=(len(core), len(core))
        )
        group = connected_components(graph, directed=False)[1][group]
    distance, nearest = core_tree.query(points)
    joined = distance <= radius
    labels[joined] = group[nearest[joined]]
    first = np.unique(labels[joined], return_index=True)
    rank = np.empty(labels.max() + 1, np.int64)
    rank[first[0][np.argsort(first[1], kind="stable")]] = np.arange(len(first[0]))
    labels[joined] = rank[labels[joined]]
    return labels


def _neighbours(
    tree: cKDTree, queries: NDArray[np.float64], radius: float
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (part of the queries, query within the part, point) for all pairs within the radius, in a fixed order."""
    counts = np.asarray(tree.query_ball_point(queries, radius, return_length=True), np.int64).reshape(-1)
    start, ends = 0, np.cumsum(counts)
    while start < len(queries):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
        pairs = cKDTree(queries[start:stop]).sparse_distance_matrix(tree, radius, output_type="ndarray")
        order = np.lexsort((pairs["j"], pairs["i"]))
        yield slice(start, stop), pairs["i"][order], pairs["j"][order]
        start = stop
