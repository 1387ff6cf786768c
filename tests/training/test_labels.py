"""Marks of annotators become labels by a stated rule."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import InputError
from membrain_cloud.training.labels import merge_labels


def marks(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_a_whole_mask_is_taken_as_it_is() -> None:
    np.testing.assert_array_equal(merge_labels([marks(0, 1, 2)]), marks(0, 1, 2))


def test_a_later_annotator_overrides_where_he_marks_anything() -> None:
    model, alice, bob = marks(0, 1, 0, 1, 1), marks(1, 3, 0, 2, 0), marks(0, 1, 0, 0, 3)
    np.testing.assert_array_equal(merge_labels([model, alice]), marks(1, 0, 0, 2, 1))
    np.testing.assert_array_equal(merge_labels([model, alice, bob]), marks(1, 1, 0, 2, 0))
    np.testing.assert_array_equal(merge_labels([model, bob, alice]), marks(1, 0, 0, 2, 0))


def test_what_nobody_marks_is_ignored_when_the_first_marks_background() -> None:
    corrected = marks(0, 1, 2, 3)
    np.testing.assert_array_equal(merge_labels([corrected]), marks(2, 1, 2, 0))
    np.testing.assert_array_equal(merge_labels([corrected[..., :2]], partial=True), marks(2, 1))
    np.testing.assert_array_equal(merge_labels([corrected], partial=False), marks(0, 1, 2, 0))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([], "no labels"),
        ([marks(0, 1), marks(0, 1, 1)], "do not fit"),
        ([marks(0, 1), marks(0, 7)], "segmentation 2 holds values from 0 to 7"),
        ([np.array([-1, 1])], "from -1 to 1"),
    ],
)
def test_other_marks_are_refused(layers: list[np.ndarray], says: str) -> None:
    with pytest.raises(InputError, match=says):
        merge_labels(layers)
