"""Labels of any stored type become unsigned integers, or are refused."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.volumes.labels import as_labels


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([True, False], "bool", "uint8"),
        ([0, 7], "uint16", "uint16"),
        ([0, 7], "int16", "uint16"),
        ([0.0, 70000.0], "float32", "uint32"),
        ([], "int8", "uint8"),
    ],
)
def test_labels_become_unsigned(values: list[float], dtype: str, expected: str) -> None:
    labels = as_labels(np.array(values, dtype), "x")
    assert labels.dtype == expected
    np.testing.assert_array_equal(labels, np.array(values))


@pytest.mark.parametrize(
    ("values", "cause"), [([0.5], "whole"), ([np.nan], "whole"), ([np.inf], "whole"), ([-1], "-1")]
)
def test_other_values_are_refused(values: list[float], cause: str) -> None:
    with pytest.raises(TomogramError, match=cause):
        as_labels(np.array(values), "TS_1")
