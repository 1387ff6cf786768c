"""Histograms of neighbours, on made-up rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from membrain_cloud.tables import neighbors

NAMES = ["object_name", "target_object_name"]


def test_particles_without_a_neighbour_count_in_the_share() -> None:
    table = pd.DataFrame(
        {"object_name": "a", "target_object_name": "b", "geodesic_nm": [0.5, 1.5, 1.7], "euclidean_nm": [0.5, 1.4, 1.5]}
    )
    particles = pd.DataFrame({"object_name": ["a"] * 4 + ["b"] * 9})
    frame = neighbors.distance_histogram(table, particles, NAMES, bin_width_nm=1.0)
    assert frame["n"].tolist() == [1, 2]
    np.testing.assert_allclose(frame["share"], [0.25, 0.5])
    assert (frame["n_particles"][0], frame["n_found"][0], frame["median_nm"][0]) == (4, 3, 1.5)


def test_unknown_angles_are_left_out() -> None:
    table = pd.DataFrame(
        {"object_name": "a", "target_object_name": "a", "in_plane_angle_degrees": [10.0, 100.0, None, 170.0]}
    )
    frame = neighbors.angle_histogram(table, NAMES, bin_width_degrees=90.0)
    assert frame["n"].tolist() == [1, 2]
    np.testing.assert_allclose(frame["share"], [1 / 3, 2 / 3])
    assert frame["n_known"].tolist() == [3, 3]
