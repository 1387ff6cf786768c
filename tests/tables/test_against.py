"""Densities, neighbours and pairs in bins of a property, on made-up rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from membrain_cloud.tables import against

BINS = pd.DataFrame({"bin": [0, 1], "bin_min": [0.0, 1.0], "bin_max": [1.0, 2.0]})


def test_bins_with_area_and_no_particle_have_density_zero() -> None:
    areas = pd.concat([BINS.assign(area_nm2=[2e6, 6e6])] * 2)  # two membranes
    counts = pd.DataFrame({"object_name": ["a", "b"], "bin": [0, 0], "n_particles": [8, 4]})
    frame = against.density(areas, counts, [])
    assert frame["object_name"].tolist() == ["a", "a", "b", "b"]
    np.testing.assert_allclose(frame["area_um2"], [2.0, 6.0, 2.0, 6.0])  # half of both sides
    np.testing.assert_allclose(frame["per_um2"], [4.0, 0.0, 2.0, 0.0])
    np.testing.assert_allclose(frame["relative"], [4.0, 0.0, 4.0, 0.0])
    np.testing.assert_allclose(frame["per_um2_error"], [np.sqrt(8) / 2.0, 0.0, 1.0, 0.0])


def test_mean_and_deviation_of_neighbours_follow_from_sums() -> None:
    distances = [[3.0, 5.0], [4.0]]
    table = BINS.assign(
        n_particles=[3, 1],
        n_found=[len(part) for part in distances],
        distance_sum_nm=[sum(part) for part in distances],
        distance_square_sum_nm2=[float(np.square(part).sum()) for part in distances],
    )
    frame = against.neighbors(table, [])
    np.testing.assert_allclose(frame["mean_nm"], [4.0, 4.0])
    np.testing.assert_allclose(frame["deviation_nm"], [1.0, 0.0])
    np.testing.assert_allclose(frame["mean_error_nm"], [np.sqrt(0.5), 0.0])


def test_pair_curves_are_of_one_bin_of_the_property_each() -> None:
    counts = pd.DataFrame(
        {
            "property_bin": [0, 1], "property_min": [0.0, 5.0], "property_max": [5.0, 10.0], "bin": 0, "r_min_nm": 0.0,
            "r_max_nm": 1.0, "n_pairs": [2, 12], "area_sum_nm2": 10.0, "expected_pairs": 4.0, "n_start": 3,
        }
    )  # fmt: skip
    frame = against.pair_curves(counts, [])
    assert frame["property_min"].tolist() == [0.0, 5.0]
    np.testing.assert_allclose(frame["g"], [0.5, 3.0])
    assert "property_bin" not in frame.columns
