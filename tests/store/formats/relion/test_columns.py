"""Columns of text as numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.formats.relion.columns import optional_numbers, required_numbers, whole_numbers


def test_gaps_are_unknown_or_refused() -> None:
    table = pd.DataFrame({"a": ["1", "2.0", "nan"], "b": ["1", "x", "3"]})
    np.testing.assert_array_equal(optional_numbers(table, "a", "f"), [1.0, 2.0, np.nan])
    numbers, known = whole_numbers(table, "a", "f")
    assert numbers.tolist() == [1, 2, 0]
    assert known.tolist() == [True, True, False]
    with pytest.raises(ProjectError, match="first in row 3"):
        required_numbers(table, ["a"], "f")
    with pytest.raises(ProjectError, match="b are not numbers"):
        optional_numbers(table, "b", "f")
