"""Corrections of patches: MemBrain-seg's order, marks of several annotators, borders."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.geometry import Box
from membrain_cloud.training.corrections import (
    apply_corrections,
    combine_annotators,
    compose_patches,
    fill_unmarked,
    marks_from_masks,
    patch_border,
    prefill_marks,
)


def row(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_corrections_are_applied_in_membrain_segs_order() -> None:
    base = row(0, 1, 1, 1, 1, 2)
    remove, add, ignore = row(0, 1, 1, 0, 1, 1), row(1, 0, 1, 0, 1, 0), row(0, 0, 0, 0, 1, 0)
    np.testing.assert_array_equal(apply_corrections(base, remove, add, ignore), row(1, 0, 1, 1, 2, 0))


def test_border_lies_where_the_patch_was_cut_out() -> None:
    border = patch_border(Box((0, 10, 10), (12, 22, 22)), (12, 40, 22), 3)
    inner = np.argwhere(~border)
    np.testing.assert_array_equal(inner.min(0), [0, 3, 3])
    np.testing.assert_array_equal(inner.max(0), [11, 8, 11])
    np.testing.assert_array_equal(np.unique(prefill_marks(np.ones((12, 12, 12)), border)), [1, 2])
    with pytest.raises(UsageError, match="leaves nothing"):
        patch_border(Box((0, 10, 0), (12, 22, 12)), (12, 40, 12), 6)


def test_zero_becomes_background_unless_it_shall_be_ignored() -> None:
    np.testing.assert_array_equal(fill_unmarked(row(0, 1, 2, 3), "x"), row(3, 1, 2, 3))
    np.testing.assert_array_equal(fill_unmarked(row(0, 1, 2, 3), "x", unmarked=2), row(2, 1, 2, 3))
    with pytest.raises(InputError, match=r"alice/1 .* from 0 to 7"):
        fill_unmarked(row(0, 7), "alice/1 on patch-0001")


def test_masks_of_three_objects_are_combined() -> None:
    marks = marks_from_masks(row(1, 1, 1, 0), row(0, 1, 1, 0), row(0, 0, 1, 0), (1, 1, 4))
    np.testing.assert_array_equal(marks, row(1, 3, 2, 0))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("agree", row(1, 2, 2, 2, 3, 2)),
        ("majority", row(1, 1, 2, 1, 3, 3)),
        ("last", row(1, 3, 1, 1, 3, 3)),
    ],
)
def test_annotators_are_combined_by_the_rule(rule: str, expected: np.ndarray) -> None:
    annotations = [row(1, 1, 3, 2, 3, 3), row(1, 1, 2, 1, 3, 3), row(1, 3, 1, 2, 3, 2)]
    np.testing.assert_array_equal(combine_annotators(annotations, rule), expected)  # type: ignore[arg-type]


def test_composed_patches_prefer_marks_to_borders() -> None:
    shape = (1, 4, 20)
    boxes = [Box((0, 0, 0), (1, 4, 8)), Box((0, 0, 6), (1, 4, 14))]
    borders = [patch_border(box, shape, 2) for box in boxes]
    patches = [
        (boxes[0], np.full((1, 4, 8), 1, np.uint8), borders[0]),
        (boxes[1], np.full((1, 4, 8), 3, np.uint8), borders[1]),
    ]
    whole = compose_patches(Box((0, 0, 0), shape), patches)
    np.testing.assert_array_equal(whole[0, 0], [1] * 6 + [2] * 2 + [3] * 4 + [2] * 2 + [0] * 6)
    for start in (0, 5, 13):
        part = Box((0, 0, start), (1, 4, start + 7))
        np.testing.assert_array_equal(compose_patches(part, patches), whole[part.slices])
