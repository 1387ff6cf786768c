"""Columns and the values of rows."""

from __future__ import annotations

import numpy as np

from membrain_cloud.statistics.schema.column import MEMBRANE_KEYS, TOMOGRAM_KEYS, count, finite_or_none, numbers


def test_infinity_and_nan_become_none() -> None:
    values = finite_or_none(np.array([1.5, np.nan, np.inf, -np.inf, 0.0]))
    assert values == [1.5, None, None, None, 0.0]
    assert type(values[0]) is float


def test_columns_have_the_kind_and_unit_they_were_made_with() -> None:
    x, y = numbers(("x_nm", "y_nm"), "nm", "a place")
    assert (x.name, x.kind, x.unit, x.description) == ("x_nm", "float", "nm", "a place")
    assert y.name == "y_nm"
    assert (count("n", "things").kind, count("n", "things").unit) == ("int", "")


def test_membrane_keys_are_the_tomograms_keys_and_the_number() -> None:
    assert MEMBRANE_KEYS[:-1] == TOMOGRAM_KEYS
    assert MEMBRANE_KEYS[-1].name == "membrane_id"
