"""What changed between two sets of membranes and particles."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.metrics.changes import MembraneChanges, Overlap, matched_points, membrane_changes


def plates(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """(12, 20, 20) labels: each row is label, plane z, first and last x."""
    volume = np.zeros((12, 20, 20), np.uint16)
    for label, z, start, stop in rows:
        volume[z : z + 2, :, start:stop] = label
    return volume


def changes(first: np.ndarray, second: np.ndarray) -> MembraneChanges:
    overlap = Overlap()
    overlap.add(first, second)
    return membrane_changes(overlap)


def test_every_fate_of_a_membrane() -> None:
    first = plates((1, 0, 0, 20), (2, 3, 0, 20), (3, 6, 0, 9), (4, 6, 11, 20), (5, 9, 0, 8))
    second = plates((7, 0, 0, 18), (8, 3, 0, 9), (9, 3, 11, 20), (6, 6, 0, 20), (5, 9, 12, 20))
    assert changes(first, second) == MembraneChanges(
        matched=((1, 7),), split=((2, (8, 9)),), merged=(((3, 4), 6),), mixed=(), gone=(5,), new=(5,)
    )
    back = changes(second, first)
    assert (back.split, back.merged) == (((6, (3, 4)),), (((8, 9), 2),))


def test_several_into_several_and_touching_rims() -> None:
    assert changes(
        plates((1, 0, 0, 10), (2, 0, 10, 20)), plates((1, 0, 0, 5), (2, 0, 5, 15), (3, 0, 15, 20))
    ).mixed == (((1, 2), (1, 2, 3)),)
    touching = changes(plates((1, 0, 0, 11), (2, 0, 11, 20)), plates((1, 0, 0, 10), (2, 0, 10, 20)))
    assert touching.matched == ((1, 1), (2, 2))


def test_counts_add_up_over_parts() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (2, 10, 11, 12)).astype(np.uint8)
    whole, parts = Overlap(), Overlap()
    whole.add(first, second)
    for z in range(0, 10, 3):
        parts.add(first[z : z + 3], second[z : z + 3])
    assert whole.counts == parts.counts
    a, b, both = whole.voxels
    assert (a, b, both) == ((first > 0).sum(), (second > 0).sum(), ((first > 0) & (second > 0)).sum())
    assert whole.dice == pytest.approx(2 * both / (a + b))
    with pytest.raises(ValueError, match="differ"):
        whole.add(first, second[:3])


@pytest.mark.parametrize("largest", [2**16 - 1, 2**32 - 1, 2**63 - 1])
def test_labels_of_any_size_are_counted_by_pairs(largest: int) -> None:
    labels = np.array([0, 1, largest - 1, largest], np.uint64)
    first, second = labels[np.random.default_rng(0).integers(0, 4, (2, 6, 7, 8))]
    overlap = Overlap()
    overlap.add(first, second)
    for a in labels.tolist():
        for b in labels.tolist():
            assert overlap.counts[a, b] == (((first == a) & (second == b)).sum() if a or b else 0)


def test_empty_volumes() -> None:
    empty = np.zeros((3, 3, 3), np.uint8)
    overlap = Overlap()
    overlap.add(empty, empty)
    assert overlap.dice == 1
    assert membrane_changes(overlap) == MembraneChanges((), (), (), (), (), ())
    assert changes(empty, empty + 1).new == (1,)


def test_points_are_matched_one_to_one_nearest_first() -> None:
    first = np.array([[0.0, 0, 0], [10, 0, 0], [100, 0, 0]])
    second = np.array([[6.0, 0, 0], [101, 0, 0], [102, 0, 0]])
    pairs, distances = matched_points(first, second, 8.0)
    assert pairs.tolist() == [[2, 1], [1, 0]]
    assert distances.tolist() == [1.0, 4.0]
    same, zero = matched_points(first, first, 5.0)
    assert sorted(same.tolist()) == [[0, 0], [1, 1], [2, 2]]
    assert not zero.any()
    assert len(matched_points(first, np.zeros((0, 3)), 5.0)[0]) == 0
    assert len(matched_points(first, first + 50, 5.0)[0]) == 0
