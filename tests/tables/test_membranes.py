"""Frames about membranes and chains, on made-up rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from membrain_cloud.statistics.membrane.surface_properties import scale_of
from membrain_cloud.tables import membranes


def test_membranes_without_an_area_are_left_out_of_densities() -> None:
    table = pd.DataFrame(
        {
            "n_particles": [10, 20, None],
            "one_sided_area_nm2": [2e6, None, 1e6],
            "n_particles_without_edges": [4, None, None],
            "area_without_edges_nm2": [1e6, None, 1e6],
        }
    )
    (row,) = membranes.concentration(table, []).to_dict("records")
    assert (row["n_membranes"], row["n_particles"], row["n_particles_without_edges"]) == (1, 10, 4)
    assert row["per_um2"] == pytest.approx(5.0)
    assert row["per_um2_without_edges"] == pytest.approx(4.0)


def test_a_leaflets_area_is_not_halved() -> None:
    table = pd.DataFrame({"leaflet": [0, 1], "bin": 0, "bin_min": -0.2, "bin_max": -0.195, "area_nm2": [2e6, 4e6]})
    scale = scale_of("mean_curvature_per_nm")
    assert membranes.area_histogram(table, ["leaflet"], scale)["area_um2"].tolist() == [2.0, 4.0]
    whole = membranes.area_histogram(table, [], scale)
    assert whole["area_um2"].tolist() == [3.0]
    assert whole["holds_beyond"].tolist() == [True]
    # rows that know their share of the one-sided area: that of one side is all of it
    told = membranes.area_histogram(table.assign(one_sided_area_nm2=[2e6, None]), [], scale)
    assert told["area_um2"].tolist() == [4.0]


def test_gaps_are_weighted_by_facing_area() -> None:
    table = pd.DataFrame(
        {
            "membrane_id": [1, 2, 1],
            "other_membrane_id": [2, 1, 1],
            "min_distance_nm": [5.0, 5.0, None],
            "median_gap_nm": [10.0, 20.0, 50.0],
            "facing_area_nm2": [3e6, 1e6, 9e6],
            "contact_area_nm2": [1e6, 0.0, 0.0],
        }
    )
    (row,) = membranes.pair_summary(table, [], to_itself=False).to_dict("records")
    assert (row["n_pairs"], row["n_in_contact"], row["min_distance_nm"]) == (2, 1, 5.0)
    assert row["mean_gap_nm"] == pytest.approx(12.5)
    (itself,) = membranes.pair_summary(table, [], to_itself=True).to_dict("records")
    assert (itself["n_pairs"], itself["mean_gap_nm"]) == (1, 50.0)


def test_kinds_without_chains_have_a_row_of_zeros() -> None:
    particles = pd.DataFrame({"object_name": ["a"] * 8 + ["b"] * 2})
    chains = pd.DataFrame({"object_name": ["a", "a"], "n_members": [3, 4]})
    random = pd.DataFrame({"object_name": "a", "simulation": [0, 1, 2], "n_members": [0, 4, 8]})
    first, second = membranes.chain_summary(chains, particles, random, ["object_name"]).to_dict("records")
    assert (first["n_chains"], first["n_in_chains"], first["longest"], first["p"]) == (2, 7, 4, 0.5)
    assert first["random_share_in_chains"] == pytest.approx(0.5)
    assert (second["n_chains"], second["n_in_chains"], second["longest"]) == (0, 0, 0)
    assert np.isnan(second["p"])


def test_a_profile_is_the_mean_over_area() -> None:
    table = pd.DataFrame(
        {
            "bin": 0,
            "offset_min_nm": 0.0,
            "offset_max_nm": 0.25,
            "area_nm2": [1e6, 3e6],
            "density_area_sum": [-1e6, -6e6],
        }
    )
    (row,) = membranes.profile(table, []).to_dict("records")
    assert row["density_sigma"] == pytest.approx(-7 / 4)
    assert row["area_um2"] == pytest.approx(4.0)
