"""Scores of a segmentation, of its instances or of picks against a truth.

An empty prediction of an empty truth scores 1; an empty prediction of something scores 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.image.skeleton import skeleton_blocks, skeletonize_box

Read = Callable[[Box], NDArray[Any]]


class Score(NamedTuple):
    """Harmonic mean of precision and recall, and the two; all within [0, 1]."""

    score: float
    precision: float
    recall: float


class MaskCounts(NamedTuple):
    """What two masks have in common, in voxels; counts of parts of a volume, or of several volumes, add up."""

    predicted: int = 0
    truth: int = 0
    both: int = 0
    predicted_sheet: int = 0
    """Voxels of the prediction's skeleton ..."""
    right: int = 0
    """... and of these, inside the truth."""
    true_sheet: int = 0
    """Voxels of the truth's skeleton ..."""
    reached: int = 0
    """... and of these, inside the prediction."""

    def plus(self, other: MaskCounts) -> MaskCounts:
        """Return the sum of two counts.

        Parameters
        ----------
        other : MaskCounts
            Counts of other voxels.

        Returns
        -------
        MaskCounts
            The sum.
        """
        return MaskCounts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def dice(self) -> float:
        """Dice overlap of the voxels; 1 for two empty masks."""
        total = self.predicted + self.truth
        return 2.0 * self.both / total if total else 1.0

    @property
    def voxels(self) -> Score:
        """Dice, with the precision and recall of single voxels."""
        return _score(self.both, self.predicted, self.both, self.truth)

    @property
    def surface_dice(self) -> Score:
        """Surface-Dice, with the precision and recall of the skeletons."""
        return _score(self.right, self.predicted_sheet, self.reached, self.true_sheet)


class InstanceMatches(NamedTuple):
    """The result of `matched_instances`: precision is found / predicted, recall is found / truth."""

    found: int
    truth: int
    predicted: int
    pairs: dict[int, int]
    """truth id -> predicted id."""


def dice(predicted: NDArray[Any], truth: NDArray[Any], ignore: NDArray[Any] | None = None) -> float:
    """Compute the Dice overlap of two masks.

    Parameters
    ----------
    predicted, truth : ndarray, shape (Z, Y, X)
        Nonzero is membrane.
    ignore : ndarray, shape (Z, Y, X), optional
        Voxels where it is nonzero are left out. Default: none.

    Returns
    -------
    float
        0 to 1; 1 for two empty masks.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    predicted, truth, valid = _masks(predicted, truth, ignore)
    predicted, truth = predicted & valid, truth & valid
    return MaskCounts(_count(predicted), _count(truth), _count(predicted & truth)).dice


def surface_dice(predicted: NDArray[Any], truth: NDArray[Any], ignore: NDArray[Any] | None = None) -> Score:
    """Compute the Surface-Dice of two masks, which rewards connected sheets rather than an exact thickness.

    Precision is the part of the prediction's skeleton inside the truth, recall the part of the truth's skeleton inside
    the prediction. The skeletons are those of the whole masks, so that the edge of an ignored region makes no rims.

    Parameters
    ----------
    predicted, truth : ndarray, shape (Z, Y, X)
        Nonzero is membrane.
    ignore : ndarray, shape (Z, Y, X), optional
        Skeleton voxels where it is nonzero are left out. Default: none.

    Returns
    -------
    Score
        The score, precision and recall.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Lamm et al., MemBrain v2 (2024), bioRxiv 2024.01.05.574336.
    """
    _masks(predicted, truth, ignore)
    z, y, x = predicted.shape
    counts = compare_masks(
        lambda box: predicted[box.slices],
        lambda box: truth[box.slices],
        None if ignore is None else lambda box: ignore[box.slices],
        (z, y, x),
    )
    return counts.surface_dice


def compare_masks(read_predicted: Read, read_truth: Read, read_ignore: Read | None, shape: Zyx) -> MaskCounts:
    """Compute the counts behind Dice and Surface-Dice for volumes of any size, block by block.

    Parameters
    ----------
    read_predicted, read_truth : callable
        Take a box and return its voxels, (Z, Y, X); nonzero is membrane.
    read_ignore : callable or None
        Takes a box and returns its voxels; nonzero is ignored.
    shape : tuple of int
        Voxels along (z, y, x).

    Returns
    -------
    MaskCounts
        The counts; they do not depend on the blocks, since the skeletons do not.
    """
    total = MaskCounts()
    for box in skeleton_blocks(shape):
        total = total.plus(mask_counts(read_predicted, read_truth, read_ignore, shape, box))
    return total


def mask_counts(read_predicted: Read, read_truth: Read, read_ignore: Read | None, shape: Zyx, box: Box) -> MaskCounts:
    """Compute the counts of one box of two volumes.

    Parameters
    ----------
    read_predicted, read_truth, read_ignore
        As for `compare_masks`.
    shape : tuple of int
        Voxels of the volumes along (z, y, x).
    box : Box
        Part of the volumes.

    Returns
    -------
    MaskCounts
        The counts of the box.
    """
    ignore = None if read_ignore is None else read_ignore(box)
    predicted, truth, valid = _masks(read_predicted(box), read_truth(box), ignore)
    predicted, truth = predicted & valid, truth & valid
    of_predicted = skeletonize_box(read_predicted, shape, box) & valid
    of_truth = skeletonize_box(read_truth, shape, box) & valid
    return MaskCounts(
        predicted=_count(predicted),
        truth=_count(truth),
        both=_count(predicted & truth),
        predicted_sheet=_count(of_predicted),
        right=_count(of_predicted & truth),
        true_sheet=_count(of_truth),
        reached=_count(of_truth & predicted),
    )


def pick_f1(predicted_xyz: NDArray[Any], true_xyz: NDArray[Any], radius_angstrom: float) -> Score:
    """Compute the F1 of picks as MemBrain-pick defines it, with many predictions for one particle.

    Recall is the part of the true positions with any prediction within the radius, precision the part of the
    predictions with any true position within it. Ten predictions on one particle count as ten correct ones;
    `pick_f1_one_to_one` is stricter.

    Parameters
    ----------
    predicted_xyz : ndarray, shape (N, 3), floating
        Predicted positions in Å.
    true_xyz : ndarray, shape (M, 3), floating
        True positions in Å.
    radius_angstrom : float
        Radius in Å; MemBrain-pick takes 63.36.

    Returns
    -------
    Score
        F1, precision and recall.
    """
    predicted, true = _positions(predicted_xyz), _positions(true_xyz)
    if not len(predicted) or not len(true):
        return _score(0, len(predicted), 0, len(true))
    right = _count(cKDTree(true).query(predicted)[0] <= radius_angstrom)
    reached = _count(cKDTree(predicted).query(true)[0] <= radius_angstrom)
    return _score(right, len(predicted), reached, len(true))


def pick_f1_one_to_one(predicted_xyz: NDArray[Any], true_xyz: NDArray[Any], radius_angstrom: float) -> Score:
    """Compute the F1 of picks, where each true position and each prediction is matched at most once.

    Parameters
    ----------
    predicted_xyz : ndarray, shape (N, 3), floating
        Predicted positions in Å.
    true_xyz : ndarray, shape (M, 3), floating
        True positions in Å.
    radius_angstrom : float
        Radius in Å.

    Returns
    -------
    Score
        F1, precision and recall of the largest matching (Hopcroft-Karp); it does not depend on the order of the points.
    """
    predicted, true = _positions(predicted_xyz), _positions(true_xyz)
    if not len(predicted) or not len(true):
        return _score(0, len(predicted), 0, len(true))
    near = cKDTree(predicted).query_ball_tree(cKDTree(true), radius_angstrom)
    offsets = np.cumsum([0, *(len(n) for n in near)])
    indices = np.array([j for n in near for j in sorted(n)], np.int32)
    graph = csr_array((np.ones(len(indices), np.int8), indices, offsets), shape=(len(predicted), len(true)))
    matched = _count(maximum_bipartite_matching(graph, perm_type="column") >= 0)
    return _score(matched, len(predicted), matched, len(true))


def chamfer_angstrom(predicted_xyz: NDArray[Any], true_xyz: NDArray[Any]) -> float | None:
    """Compute the Chamfer distance: the mean of both mean distances to the nearest point of the other set.

    Parameters
    ----------
    predicted_xyz : ndarray, shape (N, 3), floating
        Predicted positions in Å.
    true_xyz : ndarray, shape (M, 3), floating
        True positions in Å.

    Returns
    -------
    float or None
        Distance in Å; None where a set is empty.
    """
    predicted, true = _positions(predicted_xyz), _positions(true_xyz)
    if not len(predicted) or not len(true):
        return None
    forth, back = cKDTree(true).query(predicted)[0], cKDTree(predicted).query(true)[0]
    return float((forth.mean() + back.mean()) / 2.0)


def matched_instances(predicted: NDArray[Any], truth: NDArray[Any]) -> InstanceMatches:
    """Find the true instances that a segmentation has as an instance of their own.

    A true instance is found where one predicted instance covers more than half of its voxels, and has more than half of
    its own voxels that lie on any true instance there. Each is matched at most once. A membrane in pieces is not found,
    nor are two membranes that are merged (the larger one may be). A prediction thicker than the truth is not penalised.

    Parameters
    ----------
    predicted, truth : ndarray, shape (Z, Y, X), integer
        Instance numbers; 0 is background.

    Returns
    -------
    InstanceMatches
        Counts and pairs.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"shapes differ: {predicted.shape} and {truth.shape}")
    true_ids, true_sizes = _ids(truth[truth != 0])
    predicted_ids, _ = _ids(predicted[predicted != 0])
    both = (predicted != 0) & (truth != 0)
    pairs, shared = np.unique(np.stack([truth[both], predicted[both]]).astype(np.int64), axis=1, return_counts=True)
    size_of = dict(zip(true_ids, true_sizes, strict=True))
    on_truth: dict[int, int] = {}
    for p, n in zip(pairs[1].tolist(), shared.tolist(), strict=True):
        on_truth[p] = on_truth.get(p, 0) + n
    found = {
        t: p
        for (t, p), n in zip(pairs.T.tolist(), shared.tolist(), strict=True)
        if 2 * n > size_of[t] and 2 * n > on_truth[p]
    }
    return InstanceMatches(len(found), len(true_ids), len(predicted_ids), found)


def _count(values: NDArray[Any]) -> int:
    return int(np.count_nonzero(values))


def _ids(values: NDArray[Any]) -> tuple[list[int], list[int]]:
    ids, counts = np.unique(values, return_counts=True)
    return ids.tolist(), counts.tolist()


def _score(right: int, n_predicted: int, reached: int, n_truth: int) -> Score:
    if not n_predicted and not n_truth:
        return Score(1.0, 1.0, 1.0)
    precision = right / n_predicted if n_predicted else 0.0
    recall = reached / n_truth if n_truth else 0.0
    total = precision + recall
    return Score(2.0 * precision * recall / total if total else 0.0, precision, recall)


def _positions(points: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(points, np.float64).reshape(-1, 3)


def _masks(
    predicted: NDArray[Any], truth: NDArray[Any], ignore: NDArray[Any] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_] | np.bool_]:
    shapes = {predicted.shape, truth.shape} | ({ignore.shape} if ignore is not None else set())
    if len(shapes) > 1:
        raise ValueError(f"shapes differ: {sorted(shapes)}")
    return predicted != 0, truth != 0, np.True_ if ignore is None else ignore == 0
