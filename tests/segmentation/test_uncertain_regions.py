"""Doubt and the boxes that hold most of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.segmentation.score_encoding import encode_scores
from membrain_cloud.segmentation.uncertain_regions import CellSums, doubt, doubtful_boxes, least_around


def test_doubt_is_largest_at_the_threshold_for_every_kind_of_score() -> None:
    logits = np.linspace(-6, 6, 241, dtype=np.float32).reshape(1, 1, -1)
    for threshold in (0.0, 1.5):
        exact = doubt(logits, "scores", threshold)
        assert exact.max() == pytest.approx(0.25, abs=1e-3)
        assert logits.ravel()[exact.argmax()] == pytest.approx(threshold, abs=0.03)
        np.testing.assert_allclose(doubt(encode_scores(logits, "float16"), "scores", threshold), exact, atol=1e-3)
        np.testing.assert_allclose(doubt(encode_scores(logits, "uint8"), "scores", threshold), exact, atol=1e-2)


def test_doubt_of_variances_is_the_variance_and_0_where_unknown() -> None:
    variance = np.array([[[0.0, 0.1, np.nan]]], np.float16)
    np.testing.assert_allclose(doubt(variance, "uncertainty", 0.0), [[[0.0, 0.1, 0.0]]], atol=1e-4)


def test_least_around_is_the_minimum_filter() -> None:
    values = np.random.default_rng(0).random((9, 10, 11)).astype(np.float32)
    np.testing.assert_array_equal(least_around(values), ndimage.minimum_filter(values, 3, mode="nearest"))


def test_cells_do_not_depend_on_how_the_volume_is_read() -> None:
    values = np.random.default_rng(1).random((21, 34, 29))
    sums = []
    for chunk in ((21, 34, 29), (5, 7, 29), (16, 16, 16)):
        cells = CellSums((21, 34, 29), 4)
        for box in iterate_chunks((21, 34, 29), chunk):
            cells.add(box, values[box.slices])
        sums.append(cells.sums)
    assert sums[0][2, 3, 1] == pytest.approx(values[8:12, 12:16, 4:8].sum())
    assert sums[0][5, 8, 7] == pytest.approx(values[20:, 32:, 28:].sum())
    for other in sums[1:]:
        np.testing.assert_allclose(other, sums[0])


def test_a_doubted_membrane_goes_before_a_sure_one_with_more_surface() -> None:
    """Scores fall over two voxels at the surfaces of both; the network is unsure all through the second alone."""
    z, y, x = np.indices((40, 40, 96))
    sure = np.abs(np.sqrt((z - 20.0) ** 2 + (y - 20) ** 2 + (x - 20) ** 2) - 14) - 3.0
    doubted = np.abs(y - 20.0) - 3.0
    scores = np.where(x < 48, -4.0 * sure, np.clip(-doubted, -4.0, 0.5)).astype(np.float32)
    cells = CellSums(scores.shape, 4)  # type: ignore[arg-type]
    cells.add(Box((0, 0, 0), scores.shape), least_around(doubt(scores, "scores", 0.0)))  # type: ignore[arg-type]
    first, second = doubtful_boxes(cells.sums, (40, 40, 96), 32, 2, [])
    assert first.box.start[2] >= 48 - 4
    assert second.mean < 0.6 * first.mean


def test_boxes_do_not_overlap_lie_inside_and_come_with_most_doubt_first() -> None:
    shape = (20, 70, 61)
    values = np.random.default_rng(2).random(shape)
    cells = CellSums(shape, 4)
    cells.add(Box((0, 0, 0), shape), values)
    taken = [Box((0, 0, 0), (20, 32, 32))]
    found = doubtful_boxes(cells.sums, shape, 32, 50, taken)
    assert 1 <= len(found) <= 3
    for number, one in enumerate(found):
        assert one.box.shape == (20, 32, 32)
        assert all(0 <= a < b <= n for a, b, n in zip(one.box.start, one.box.stop, shape, strict=True))
        others = [*taken, *(other.box for other in found[:number])]
        assert not any(one.box.intersection(other) for other in others)
        assert one.mean == pytest.approx(values[one.box.slices].mean(), rel=0.05)
    assert [one.mean for one in found] == sorted((one.mean for one in found), reverse=True)


def test_nothing_is_proposed_where_there_is_no_doubt() -> None:
    assert doubtful_boxes(np.zeros((8, 8, 8)), (32, 32, 32), 32, 3, []) == []
