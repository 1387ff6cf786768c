"""Separation of crowded particles: clusters that cover too much surface are gathered again from lower scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.picking.clustering import Shift, dense_clusters, mean_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.picking.clustering_options import ClusteringOptions

_LEVELS = 6  # of the threshold: down to a sixth
_FALL, _LEAST_BANDWIDTH = 0.75, 0.5  # from one level to the next; of the bandwidth in all
_ANGSTROM2_PER_NM2 = 100.0


def split_crowded(
    points: NDArray[np.float64],
    scores: NDArray[np.floating],
    areas: NDArray[np.float64],
    labels: NDArray[np.int64],
    options: ClusteringOptions,
    *,
    shift: Shift = mean_shift,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Split clusters that cover too much surface.

    They are gathered again from ever lower scores with ever smaller bandwidths: scores rise between two particles, so
    from low scores each is gathered by itself. Threshold and bandwidth fall by a quarter at a time, the bandwidth to no
    less than half. All crowded clusters are gathered together, so that a particle between two of them is found too; a
    cluster of which nothing would be left stays as it was. (MemBrain v1 splits clusters of more than 78 points once,
    one by one, from a bandwidth of 18 to 13 pixels.)

    Parameters
    ----------
    points : (N, 3) float64
        Positions of the clustered vertices, xyz in Å.
    scores : (N,) floating
        Their scores.
    areas : (N,) float64
        Their areas, Å².
    labels : (N,) int64
        Their clusters, -1 for none.
    options : ClusteringOptions
        Options that the clusters come from; `largest_nm2` is the largest area of one particle, None for any.
    shift : Shift
        The mean shift.

    Returns
    -------
    labels : (N,) int64
        New clusters, numbered without gaps; -1 for none.
    ends : (N, 3) float64
        Where the seeds of the vertices that were gathered again end, xyz in Å; NaN for the others.
    """
    before, labels = labels, labels.copy()
    ends = np.full(points.shape, np.nan)
    largest = np.inf if options.largest_nm2 is None else _ANGSTROM2_PER_NM2 * options.largest_nm2
    settled: set[int] = set()
    for level in range(1, _LEVELS + 1):
        covered = np.bincount(labels[labels >= 0], areas[labels >= 0], minlength=1)
        crowded = np.array([k for k in np.flatnonzero(covered > largest) if k not in settled], np.int64)
        lower = np.flatnonzero(np.isin(labels, crowded) & (scores < options.score_threshold * _FALL**level))
        bandwidth = options.bandwidth_angstrom * max(_LEAST_BANDWIDTH, _FALL**level)
        moved = shift(points[lower], scores[lower], bandwidth_angstrom=bandwidth, max_iterations=options.max_iterations)
        parts = dense_clusters(moved, radius=0.4 * bandwidth, min_samples=options.min_samples)
        gathered = parts >= 0
        replaced = np.unique(labels[lower[gathered]])
        settled |= set(crowded.tolist()) - set(replaced.tolist())
        if not len(replaced):
            break
        first = int(labels.max()) + 1
        labels = np.where(np.isin(labels, replaced), -1, labels)
        labels[lower[gathered]] = parts[gathered] + first
        ends[lower[gathered]] = moved[gathered]
    _restore_unsplit(before, labels, ends)
    labels[labels >= 0] = np.unique(labels[labels >= 0], return_inverse=True)[1]
    return labels, ends


def _restore_unsplit(before: NDArray[np.int64], labels: NDArray[np.int64], ends: NDArray[np.float64]) -> None:
    """Give clusters that did not fall apart their vertices back: from fewer, the centre would be less certain."""
    for cluster in range(int(before.max(initial=-1)) + 1):
        parts = np.unique(labels[(before == cluster) & (labels >= 0)])
        if len(parts) == 1 and (before[labels == parts[0]] == cluster).all():
            labels[before == cluster] = parts[0]
            ends[before == cluster] = np.nan
