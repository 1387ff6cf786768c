"""From scores on a surface to particles: weighted mean shift and density-based clusters, as MemBrain-pick does it.

Neighbours come from cells or KD-trees, in portions of bounded size, never from a matrix of all pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from membrain_cloud.jit import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Shift(Protocol):
    """A mean shift: `mean_shift`, or one on another device."""

    def __call__(
        self,
        points: NDArray[np.float64],
        scores: NDArray[np.floating],
        *,
        bandwidth_angstrom: float,
        max_iterations: int,
    ) -> NDArray[np.float64]: ...


_PAIRS_AT_ONCE = 2_000_000
_SPLITS = 6  # down to a sixth of the threshold


def mean_shift(
    points: NDArray[np.float64],
    scores: NDArray[np.floating],
    *,
    bandwidth_angstrom: float,
    max_iterations: int,
) -> NDArray[np.float64]:
    """Move a seed from each of the points (N, 3) to a local mean of the points with low scores (N,).

    The weight of a point at distance d from a seed is max(B - d, 0) * (clamp(10 - score, 0.01, 10) + 0.05). Stops
    when the seeds move by less than B / 1000 on average, or after `max_iterations`. Returns (N, 3).
    """
    seeds = np.array(points, np.float64)
    if not len(seeds):
        return seeds
    importance = np.clip(10.0 - np.asarray(scores, np.float64), 0.01, 10.0) + 0.05
    origin = seeds.min(axis=0)
    order, codes, starts, extent = _cells(seeds - origin, bandwidth_angstrom)
    sources, weights = (seeds - origin)[order], importance[order]
    seeds -= origin
    for _ in range(max_iterations):
        moved = _shifted(seeds, sources, weights, codes, starts, extent, bandwidth_angstrom)
        shift = float(np.linalg.norm(moved - seeds, axis=1).mean())
        seeds = moved
        if shift < 1e-3 * bandwidth_angstrom:
            break
    return seeds + origin


def _cells(points: NDArray[np.float64], size: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Sort points (>= 0) into cubes: their order, the codes of the cubes in use, where each begins, cubes an axis."""
    cell = (points / size).astype(np.int64)
    extent = cell.max(axis=0) + 1
    code = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    order = np.argsort(code, kind="stable")
    codes, starts = np.unique(code[order], return_index=True)
    return order, codes, np.append(starts, len(points)), extent


@compiled
def _shifted(
    seeds: NDArray, points: NDArray, weights: NDArray, codes: NDArray, starts: NDArray, extent: NDArray, reach: float
) -> NDArray:  # pragma: no cover - compiled
    """Each seed's weighted mean of the points within reach: those in its cube and the 26 around it."""
    moved = seeds.copy()
    for s in range(len(seeds)):
        x, y, z = seeds[s, 0], seeds[s, 1], seeds[s, 2]
        total, sum_x, sum_y, sum_z = 0.0, 0.0, 0.0, 0.0
        a, b, c = int(x / reach), int(y / reach), int(z / reach)
        first, last = max(c - 1, 0), min(c + 1, extent[2] - 1)
        for i in range(max(a - 1, 0), min(a + 2, extent[0])):
            for j in range(max(b - 1, 0), min(b + 2, extent[1])):
                row = (i * extent[1] + j) * extent[2]
                # The cubes of a row along z have neighbouring codes, so their points lie in one run.
                begin = starts[np.searchsorted(codes, row + first)]
                end = starts[np.searchsorted(codes, row + last + 1)]
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
    """DBSCAN (Ester et al., 1996): (N,) cluster of each point, numbered by first member; -1 for noise.

    A point with at least `min_samples` points within `radius`, itself included, is a core point; core points within
    `radius` of each other share a cluster; another point joins the nearest core point within `radius`.
    """
    labels = np.full(len(points), -1, np.int64)
    tree = cKDTree(points)
    counts = np.asarray(tree.query_ball_point(points, radius, return_length=True), np.int64).reshape(-1)
    core = np.flatnonzero(counts >= min_samples)
    if not len(core):
        return labels
    core_tree = cKDTree(points[core])
    group = np.arange(len(core))
    for part, i, j, _ in _neighbours(core_tree, points[core], radius):
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


def split_crowded(
    points: NDArray[np.float64],
    scores: NDArray[np.floating],
    areas: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    largest_area: float,
    bandwidth_angstrom: float,
    score_threshold: float,
    max_iterations: int,
    min_samples: int,
    shift: Shift = mean_shift,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Clusters that cover too much surface, gathered again from ever lower scores with ever smaller bandwidths.

    points, scores, areas : (N, 3), (N,), (N,) of the clustered vertices.  labels : (N,) their clusters, -1 for none.
    largest_area : of a cluster that is one particle.
    bandwidth_angstrom, score_threshold : that made the clusters. Both fall by a quarter at a time, the bandwidth to no
        less than half: scores rise between two particles, so from low scores each is gathered by itself.

    Returns new labels (N,), without gaps, and the seeds' ends (N, 3) of the vertices that were gathered again, NaN for
    the others. All crowded clusters are gathered together, so that a particle between two of them is found too. A
    cluster of which nothing would be left stays as it was. (MemBrain v1 splits clusters of more than 78 points once,
    one by one, from a bandwidth of 18 to 13 pixels.)
    """
    given, labels = labels, labels.copy()
    ends = np.full(points.shape, np.nan)
    settled: set[int] = set()
    for level in range(1, _SPLITS + 1):
        bandwidth = bandwidth_angstrom * max(0.5, 0.75**level)
        covered = np.bincount(labels[labels >= 0], areas[labels >= 0], minlength=1)
        crowded = np.array([k for k in np.flatnonzero(covered > largest_area) if k not in settled], np.int64)
        lower = np.flatnonzero(np.isin(labels, crowded) & (scores < score_threshold * 0.75**level))
        moved = shift(points[lower], scores[lower], bandwidth_angstrom=bandwidth, max_iterations=max_iterations)
        parts = dense_clusters(moved, radius=0.4 * bandwidth, min_samples=min_samples)
        replaced = np.unique(labels[lower[parts >= 0]])
        settled |= set(crowded.tolist()) - set(replaced.tolist())
        if not len(replaced):
            break
        first = int(labels.max()) + 1
        new = np.where(np.isin(labels, replaced), -1, labels)
        new[lower[parts >= 0]] = parts[parts >= 0] + first
        ends[lower[parts >= 0]] = moved[parts >= 0]
        labels = new
    # one that did not fall apart stays as it was: from fewer vertices its centre would be less certain
    for cluster in range(int(given.max(initial=-1)) + 1):
        parts = np.unique(labels[(given == cluster) & (labels >= 0)])
        if len(parts) == 1 and (given[labels == parts[0]] == cluster).all():
            labels[given == cluster] = parts[0]
            ends[given == cluster] = np.nan
    labels[labels >= 0] = np.unique(labels[labels >= 0], return_inverse=True)[1]
    return labels, ends


def _neighbours(
    tree: cKDTree, queries: NDArray[np.float64], radius: float
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield (part of the queries, query index within the part, point index, distance) for all pairs within radius."""
    counts = np.asarray(tree.query_ball_point(queries, radius, return_length=True), np.int64).reshape(-1)
    start, ends = 0, np.cumsum(counts)
    while start < len(queries):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
        pairs = cKDTree(queries[start:stop]).sparse_distance_matrix(tree, radius, output_type="ndarray")
        order = np.lexsort((pairs["j"], pairs["i"]))  # sums in one order: the same input gives the same bits
        yield slice(start, stop), pairs["i"][order], pairs["j"][order], pairs["v"][order]
        start = stop
