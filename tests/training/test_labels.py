"""Marks of annotators are merged into labels for training."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import InputError
from membrain_cloud.training.labels import merge_labels


def marks(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_a_whole_mask_is_unchanged() -> None:
    np.testing.assert_array_equal(merge_labels([marks(0, 1, 2)]), marks(0, 1, 2))


def test_a_later_layer_overrides_where_it_has_marks() -> None:
    model, alice, bob = marks(0, 1, 0, 1, 1), marks(1, 3, 0, 2, 0), marks(0, 1, 0, 0, 3)
    np.testing.assert_array_equal(merge_labels([model, alice]), marks(1, 0, 0, 2, 1))
    np.testing.assert_array_equal(merge_labels([model, alice, bob]), marks(1, 1, 0, 2, 0))
    np.testing.assert_array_equal(merge_labels([model, bob, alice]), marks(1, 0, 0, 2, 0))


def test_unmarked_is_ignored_if_the_first_layer_marks_background() -> None:
    corrected = marks(0, 1, 2, 3)
    np.testing.assert_array_equal(merge_labels([corrected]), marks(2, 1, 2, 0))
    np.testing.assert_array_equal(merge_labels([corrected[..., :2]], partial=True), marks(2, 1))
    np.testing.assert_array_equal(merge_labels([corrected], partial=False), marks(0, 1, 2, 0))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "no labels"),
        ([marks(0, 1), marks(0, 1, 1)], "do not fit"),
        ([marks(0, 1), marks(0, 7)], "segmentation 2 holds values from 0 to 7"),
        ([np.array([-1, 1])], "from -1 to 1"),
    ],
)
def test_bad_marks_are_refused(layers: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_labels(layers)
