"""Curves as a data set of xarray: the numbers of the frame, by labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from membrain_cloud import tables
from membrain_cloud.errors import UsageError
from membrain_cloud.tables.datasets import curves_as_dataset

if TYPE_CHECKING:
    from membrain_cloud.tables import Analysis


@pytest.fixture(scope="module")
def analysis(measured_config: str) -> Analysis:
    return tables.open(measured_config)


def test_every_number_of_the_frame_is_at_its_labels(analysis: Analysis) -> None:
    by = ["run_name", "membrane_id"]
    frame, dataset = analysis.ripley(by), analysis.ripley_dataset(by)
    assert dataset.g.dims == ("run_name", "membrane_id", "object_name", "target_object_name", "r_nm")
    assert int(dataset.g.notnull().sum()) == frame["g"].notna().sum()
    for _, row in frame.iloc[:: len(frame) // 37].iterrows():
        labels = {name: row[name] for name in dataset.g.dims[:-1]}
        at = dataset.sel(labels | {"r_nm": row["r_max_nm"]})
        for name in ("g", "k_nm2", "l_minus_r_nm", "g_low", "k_nm2_high", "n_pairs", "r_min_nm"):
            np.testing.assert_array_equal(float(at[name]), row[name])


def test_units_and_levels_are_attributes(analysis: Analysis) -> None:
    dataset = analysis.ripley_dataset(level=0.8)
    assert dataset.k_nm2.attrs["units"] == "nm2"
    assert dataset.r_nm.attrs["units"] == "nm"
    assert dataset.g_low.attrs["level"] == 0.8
    assert "level" not in dataset.g.attrs
    inside = (dataset.g >= dataset.g_low) & (dataset.g <= dataset.g_high)
    wide = analysis.ripley_dataset(level=0.95)
    assert (wide.g_high >= dataset.g_high).all()
    assert inside.dims == ("object_name", "target_object_name", "r_nm")


def frame(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"r_min_nm": [0.0, 1.0, 0.0], "r_max_nm": [1.0, 2.0, 1.0], "g": [1.0, 2.0, 3.0]} | columns)


def test_a_combination_without_a_curve_is_unknown_and_not_zero() -> None:
    dataset = curves_as_dataset(frame(run_name=["a", "a", "b"], n_pairs=[4, 5, 6]), ["run_name"], 0.95)
    assert np.isnan(dataset.n_pairs.sel(run_name="b", r_nm=2.0))
    assert float(dataset.n_pairs.sel(run_name="b", r_nm=1.0)) == 6.0


def test_an_unknown_label_is_the_empty_string() -> None:
    dataset = curves_as_dataset(frame(dataset=["a", "a", None]), ["dataset"], 0.95)
    assert dataset["dataset"].values.tolist() == ["", "a"]
    assert float(dataset.g.sel(dataset="", r_nm=1.0)) == 3.0


def test_different_bins_are_refused() -> None:
    other = frame(run_name=["a", "a", "b"]).assign(r_min_nm=[0.0, 1.0, 0.5])
    with pytest.raises(UsageError, match="bins differ"):
        curves_as_dataset(other, ["run_name"], 0.95)


def test_without_curves_the_data_set_is_empty() -> None:
    dataset = curves_as_dataset(pd.DataFrame(columns=["run_name"]), ["run_name"], 0.95)
    assert dict(dataset.sizes) == {"run_name": 0, "r_nm": 0}
