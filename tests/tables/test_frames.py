"""Every frame of `membrain_cloud.tables`, against the rows it is made of and against the specimen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from membrain_cloud import tables
from membrain_cloud.errors import UsageError
from membrain_cloud.store.tables.check import check_tables
from membrain_cloud.store.tables.parquet_tables import Tables

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.tables import Analysis

PSII = ("psii", "psii")


@pytest.fixture(scope="module")
def found(measured_config: str) -> Analysis:
    return tables.open(measured_config)


def of(frame: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    return frame[(frame["object_name"] == one) & (frame["target_object_name"] == other)]


def test_the_tables_pass_all_checks(measured_project: Path) -> None:
    assert check_tables(Tables(str(measured_project / "project/membrain-cloud/tables"))) == []


def test_the_same_sums_by_pandas_pyarrow_and_duckdb(found: Analysis) -> None:
    by_pandas = found.frame("membranes").groupby("run_name")["one_sided_area_nm2"].sum()
    table = found.dataset("membranes").to_table(columns=["run_name", "one_sided_area_nm2"])
    by_arrow = table.group_by("run_name").aggregate([("one_sided_area_nm2", "sum")]).to_pandas().set_index("run_name")
    query = "SELECT run_name, sum(one_sided_area_nm2) AS area FROM membranes GROUP BY run_name ORDER BY run_name"
    by_duckdb = found.sql(query).set_index("run_name")
    np.testing.assert_allclose(by_arrow.loc[by_pandas.index, "one_sided_area_nm2_sum"], by_pandas)
    np.testing.assert_allclose(by_duckdb["area"], by_pandas)
    chosen = tables.open(str(found._tables.url), where=pd.DataFrame({"run_name": ["TS_2"]}))
    assert chosen.sql("SELECT DISTINCT run_name FROM membranes")["run_name"].tolist() == ["TS_2"]


@pytest.mark.parametrize("by", ["object_name", ["object_name", "target_object_name"], ["run_name", "object_name"], ()])
def test_any_column_may_be_grouped_by_once(found: Analysis, by: str | list[str]) -> None:
    for frame in (found.nearest_neighbors(by), found.ripley(by), found.in_plane_angles(by), found.significance(by)):
        assert frame.columns.is_unique
        assert {"object_name", "target_object_name"} <= set(frame.columns)
        assert len(frame)


def test_histogram_of_curvature_is_that_of_spheres(found: Analysis) -> None:
    frame = found.histogram("mean_curvature_per_nm", by="leaflet")
    totals = frame.groupby("leaflet")["share"].sum()
    np.testing.assert_allclose(totals, 1.0)
    middle = (frame["bin_min"] + frame["bin_max"]) / 2
    means = (middle * frame["share"]).groupby(frame["leaflet"]).sum()
    # outer surfaces of radii 16.5 and 19.5 nm bend outwards, inner ones of 11.5 and 14.5 nm inwards
    assert 1 / 19.5 * 0.9 < means[0] < 1 / 16.5 * 1.1
    assert -1 / 11.5 * 1.1 < means[1] < -1 / 14.5 * 0.9
    whole = found.histogram("mean_curvature_per_nm")
    np.testing.assert_allclose(whole["area_um2"].sum(), found.concentration()["area_um2"].iloc[0], rtol=1e-9)
    np.testing.assert_allclose((whole["share_per_unit"] * (whole["bin_max"] - whole["bin_min"])).sum(), 1.0)


def test_density_against_a_class_counts_every_particle_of_the_other(found: Analysis) -> None:
    frame = found.density_against("distance_to_cytb6f_nm", by="run_name")
    assert frame.groupby("run_name")["n_particles"].sum().to_dict() == {"TS_1": 100, "TS_2": 100}
    assert set(frame["object_name"]) == {"psii"}
    area = frame.groupby("run_name")["area_um2"].sum()
    np.testing.assert_allclose(area, found.concentration(by="run_name")["area_um2"], rtol=1e-6)
    weighted = (frame["relative"] * frame["area_um2"]).groupby(frame["run_name"]).sum() / area
    np.testing.assert_allclose(weighted, 1.0)


def test_neighbours_in_bins_add_up_to_all_of_them(found: Analysis) -> None:
    frame = of(found.neighbors_against("mean_curvature_per_nm", by="run_name"), *PSII)
    neighbors = of(found.frame("neighbors"), *PSII)
    nearest = neighbors[neighbors["rank"] == 1].groupby("run_name")["geodesic_nm"].agg(["sum", "count"])
    total = (frame["mean_nm"] * frame["n_found"]).groupby(frame["run_name"]).sum()
    np.testing.assert_allclose(total, nearest["sum"])
    np.testing.assert_allclose(frame.groupby("run_name")["n_found"].sum(), nearest["count"])
    assert (frame["mean_error_nm"].dropna() >= 0).all()


def test_pair_curves_in_bins_add_up_to_the_whole(found: Analysis) -> None:
    parts = of(found.ripley_against("distance_to_cytb6f_nm"), *PSII)
    whole = of(found.ripley(), *PSII)
    total = parts.groupby("r_min_nm")[["n_pairs", "expected_pairs"]].sum()
    np.testing.assert_allclose(total["n_pairs"], whole["n_pairs"])
    np.testing.assert_allclose(total["expected_pairs"], whole["expected_pairs"], rtol=1e-6)
    assert (parts["property_min"] < parts["property_max"]).all()


def test_curves_of_two_kinds_and_of_clusters(found: Analysis) -> None:
    curves = found.ripley(by="run_name")
    assert set(zip(curves["object_name"], curves["target_object_name"], strict=True)) == {
        PSII,
        ("psii", "cytb6f"),
        ("cytb6f", "psii"),
        ("cytb6f", "cytb6f"),
    }
    own = of(curves, *PSII)
    near = own[own["r_max_nm"] <= 6].groupby("run_name")["g"].mean()
    assert near["TS_2"] > 3 > near["TS_1"]
    p = of(found.significance(by="run_name"), *PSII).set_index("run_name")
    assert p.loc["TS_2", "p"] == pytest.approx(1 / 40)
    # these particles at random happen to lie a little apart: p is 0.023 with 999 simulations
    assert p["direction"].to_dict() == {"TS_1": "spaced", "TS_2": "clustered"}
    # the O-ring statistic is g times the density on that leaflet
    density = (own["o_per_um2"] / own["g"])[own["g"] > 0]
    leaflets = found.frame("membranes")["outer_leaflet_area_nm2"]
    assert 50 / leaflets.max() * 1e6 * 0.98 < density.min() <= density.max() < 50 / leaflets.min() * 1e6 * 1.02


def test_angles_of_random_rotations_are_uniform(found: Analysis) -> None:
    frame = of(found.in_plane_angles(bin_width_degrees=30.0), *PSII)
    assert frame["n"].sum() == frame["n_known"].iloc[0] == 200
    assert frame[frame["angle_min_degrees"] >= 90.0]["n"].sum() == 0  # C2
    assert frame["share"].iloc[:3].tolist() == pytest.approx([1 / 3] * 3, abs=0.12)


def test_membranes_face_each_other(found: Analysis) -> None:
    frame = found.membrane_pairs(by="run_name")
    assert frame["n_pairs"].tolist() == [2, 2]
    # centres 41 nm apart, outer radii 16.5 and 19.5 nm
    np.testing.assert_allclose(frame["min_distance_nm"], 5.0, atol=0.7)
    assert (frame["mean_gap_nm"] > frame["min_distance_nm"]).all()
    assert (frame["contact_area_um2"] <= frame["facing_area_um2"]).all()
    across = found.membrane_pairs(to_itself=True)
    assert across["n_pairs"].iloc[0] == 4
    assert 23.0 < across["mean_gap_nm"].iloc[0] < 29.0  # lumens of radii 11.5 and 14.5 nm


def test_chains_and_those_of_random_orientations(found: Analysis) -> None:
    frame = found.chains(by="run_name").set_index(["run_name", "object_name"])
    rows = found.frame("chains")
    for (run, kind), row in frame.iterrows():
        own = rows[(rows["run_name"] == run) & (rows["object_name"] == kind)]
        assert (row["n_chains"], row["n_in_chains"]) == (len(own), own["n_members"].sum())
        assert row["share_in_chains"] == pytest.approx(row["n_in_chains"] / row["n_particles"])
        assert 0 < row["p"] <= 1
    assert frame["n_particles"].tolist() == [24, 100, 24, 100]
    assert frame.loc[("TS_2", "psii"), "n_in_chains"] > 0
    assert frame.loc[("TS_2", "psii"), "n_simulations"] == 39


def test_the_profile_has_two_dark_lines(found: Analysis) -> None:
    frame = found.density_profile()
    middle = (frame["offset_min_nm"] + frame["offset_max_nm"]) / 2
    near = middle.abs() < 4.0
    outer = middle[near & (middle > 0.5)].loc[frame["density_sigma"][near & (middle > 0.5)].idxmin()]
    inner = middle[near & (middle < -0.5)].loc[frame["density_sigma"][near & (middle < -0.5)].idxmin()]
    assert outer - inner == pytest.approx(4.0, abs=0.8)
    thickness = found.frame("membranes")["bilayer_thickness_nm"]
    assert thickness.to_numpy() == pytest.approx(4.0, abs=0.3)
    assert found.histogram("bilayer_thickness_nm")["area_um2"].sum() > 0


def test_unknown_columns_and_properties_are_refused(found: Analysis, tmp_path: Path) -> None:
    for call in (found.histogram, found.density_against, found.neighbors_against, found.ripley_against):
        with pytest.raises(UsageError, match="no property 'colour'") as caught:
            call("colour")
        assert "distance_to_cytb6f_nm" in caught.value.next_step
    for call in (found.membrane_pairs, found.chains, found.density_profile, found.in_plane_angles):
        with pytest.raises(UsageError, match="no column 'colour'"):
            call(by="colour")
    empty = tables.open(str(tmp_path))
    for frame in (empty.chains(), empty.in_plane_angles(), empty.density_profile(), empty.nearest_neighbors()):
        assert len(frame) == 0
    assert empty.membrane_pairs()["n_pairs"].tolist() == [0]
