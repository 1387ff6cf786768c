"""Scores against cases whose value is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest

from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.metrics import overlap as scores

if TYPE_CHECKING:
    from pathlib import Path


def _slab(low: int, high: int) -> np.ndarray:
    mask = np.zeros((24, 30, 30), bool)
    mask[low:high] = True
    return mask


def test_dice() -> None:
    assert scores.dice(_slab(4, 8), _slab(4, 8)) == 1.0
    assert scores.dice(_slab(4, 8), _slab(6, 10)) == pytest.approx(0.5)
    assert scores.dice(_slab(4, 8), _slab(10, 12)) == 0.0
    assert scores.dice(_slab(0, 0), _slab(0, 0)) == 1.0
    assert scores.dice(_slab(4, 8), _slab(6, 10), ignore=_slab(0, 6)) == pytest.approx(2 / 3)


def test_surface_dice_forgives_thickness_and_not_position() -> None:
    truth = _slab(8, 13)
    assert scores.surface_dice(truth, truth) == (1.0, 1.0, 1.0)
    assert scores.surface_dice(_slab(9, 12), truth) == (1.0, 1.0, 1.0)
    assert scores.surface_dice(_slab(14, 19), truth) == (0.0, 0.0, 0.0)
    assert scores.surface_dice(_slab(0, 0), truth) == (0.0, 0.0, 0.0)
    assert scores.surface_dice(_slab(0, 0), _slab(0, 0)) == (1.0, 1.0, 1.0)


def test_surface_dice_of_a_second_sheet_and_of_half_a_sheet() -> None:
    truth = _slab(4, 9)
    both = truth | _slab(14, 19)
    assert scores.surface_dice(both, truth) == pytest.approx((2 / 3, 0.5, 1.0))
    half = truth.copy()
    half[:, :, 15:] = False
    score, precision, recall = scores.surface_dice(half, truth)
    assert precision == 1.0
    assert recall == pytest.approx(0.5)
    assert score == pytest.approx(2 / 3)


def test_surface_dice_ignores() -> None:
    truth = _slab(4, 9)
    both = truth | _slab(14, 19)
    assert scores.surface_dice(both, truth, ignore=_slab(12, 24)) == (1.0, 1.0, 1.0)


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    z, y, x = np.indices((50, 60, 70))
    truth = np.abs(np.sqrt((z - 25) ** 2 + (y - 30) ** 2 + (x - 35) ** 2) - 18) < 2.5
    predicted = np.abs(np.sqrt((z - 26) ** 2 + (y - 30) ** 2 + (x - 34) ** 2) - 19) < 2.1
    predicted[:, :10] |= z[:, :10] > 45
    ignored = x < 12
    whole = scores.compare_masks(
        lambda box: predicted[box.slices], lambda box: truth[box.slices], lambda box: ignored[box.slices], (50, 60, 70)
    )
    assert 0.5 < whole.surface_dice.score < 1.0
    assert whole.surface_dice == scores.surface_dice(predicted, truth, ignored)
    assert whole.dice == scores.dice(predicted, truth, ignored)
    for cut in ((13, 60, 70), (50, 31, 33)):
        total = scores.MaskCounts()
        for box in iterate_chunks((50, 60, 70), cut):
            part = scores.mask_counts(
                lambda wanted: predicted[wanted.slices],
                lambda wanted: truth[wanted.slices],
                lambda wanted: ignored[wanted.slices],
                (50, 60, 70),
                box,
            )
            total = total.plus(part)
        assert total == whole


def test_no_more_than_blocks_are_read() -> None:
    largest = 0

    def read(box: Box) -> np.ndarray:
        nonlocal largest
        largest = max(largest, int(np.prod(box.shape)))
        plane = np.zeros(box.shape, np.uint8)
        plane[:, :, max(0, 398 - box.start[2]) : max(0, 402 - box.start[2])] = 1
        return plane

    counts = scores.compare_masks(read, read, None, (100, 150, 800))
    assert counts.dice == counts.surface_dice.score == 1.0
    assert counts.true_sheet == 100 * 150
    assert largest <= 200**3 / 2


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        scores.dice(_slab(1, 2), _slab(1, 2)[1:])


def test_reference_against_itself_and_against_a_shift(reference: Path) -> None:
    label = mrcfile.read(reference / "simulated-mixed" / "membrane_label.mrc.gz")[50:120, 90:160, 120:190]
    assert scores.surface_dice(label, label) == (1.0, 1.0, 1.0)
    grown, shifted = np.roll(label, 1, 0) | label, np.roll(label, 8, 1)
    assert scores.surface_dice(grown, label).score > 0.97 > scores.dice(grown, label)
    assert scores.surface_dice(shifted, label).score < 0.6


POINTS = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]])


def test_pick_f1() -> None:
    assert scores.pick_f1(POINTS, POINTS, 1.0) == (1.0, 1.0, 1.0)
    assert scores.pick_f1(POINTS + 20, POINTS, 30.0) == (0.0, 0.0, 0.0)  # 34.6 Å away
    assert scores.pick_f1(POINTS + 20, POINTS, 35.0) == (1.0, 1.0, 1.0)
    assert scores.pick_f1(POINTS[:2], POINTS, 1.0) == pytest.approx((2 / 3, 1.0, 0.5))
    assert scores.pick_f1(POINTS, POINTS[:1], 1.0) == pytest.approx((0.4, 0.25, 1.0))


@pytest.mark.parametrize("measure", [scores.pick_f1, scores.pick_f1_one_to_one])
def test_no_picks(measure) -> None:  # type: ignore[no-untyped-def]
    none = np.zeros((0, 3))
    assert measure(none, none, 10.0) == (1.0, 1.0, 1.0)
    assert measure(none, POINTS, 10.0) == (0.0, 0.0, 0.0)
    assert measure(POINTS, none, 10.0) == (0.0, 0.0, 0.0)
    assert measure(POINTS + 500, POINTS, 10.0) == (0.0, 0.0, 0.0)


def test_one_to_one_counts_a_particle_once() -> None:
    doubled = np.concatenate([POINTS, POINTS + 1.0])
    assert scores.pick_f1(doubled, POINTS, 5.0) == (1.0, 1.0, 1.0)
    assert scores.pick_f1_one_to_one(doubled, POINTS, 5.0) == pytest.approx((2 / 3, 0.5, 1.0))


def test_one_to_one_is_the_largest_matching() -> None:
    # nearest first would give 10 -> 12 and leave 0 and 22 alone; both can be matched
    predicted = np.array([[10.0, 0, 0], [19, 0, 0]])
    true = np.array([[12.0, 0, 0], [0, 0, 0]])
    assert scores.pick_f1_one_to_one(predicted, true, 10.0) == (1.0, 1.0, 1.0)
    assert scores.pick_f1_one_to_one(predicted[::-1], true[::-1], 10.0) == (1.0, 1.0, 1.0)


def test_chamfer() -> None:
    assert scores.chamfer_angstrom(POINTS, POINTS) == 0.0
    assert scores.chamfer_angstrom(POINTS + np.array([3.0, 4.0, 0.0]), POINTS) == pytest.approx(5.0)
    assert scores.chamfer_angstrom(np.zeros((0, 3)), POINTS) is None


def _instances(**slabs: tuple[int, int, int]) -> np.ndarray:
    labels = np.zeros((24, 30, 30), np.uint16)
    for low, high, value in slabs.values():
        labels[low:high] = value
    return labels


def test_instances_found_whatever_their_numbers_and_thickness() -> None:
    truth = _instances(a=(2, 6, 1), b=(12, 16, 2))
    predicted = _instances(a=(1, 7, 9), b=(12, 15, 4), c=(20, 23, 5))
    assert scores.matched_instances(predicted, truth) == (2, 2, 3, {1: 9, 2: 4})


def test_merged_and_broken_instances_are_not_found() -> None:
    truth = _instances(a=(2, 6, 1), b=(12, 16, 2))
    merged = np.where(truth > 0, 1, 0)
    assert scores.matched_instances(merged, truth).found == 0
    broken = truth.copy()
    broken[2:6, :, 15:][truth[2:6, :, 15:] > 0] = 3  # two equal halves of 1
    assert scores.matched_instances(broken, truth) == (1, 2, 3, {2: 2})
    nothing = np.zeros_like(truth)
    assert scores.matched_instances(nothing, truth) == (0, 2, 0, {})
    assert scores.matched_instances(truth, nothing) == (0, 0, 2, {})
