"""Densities, neighbours and pairs in bins of a property: distance to a class or an edge, curvature, verticality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from membrain_cloud.geometry import Picks
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.measure import ripley_from_pair_counts
from membrain_cloud.statistics.membrane.surface_properties import distance_to_class, of_distances
from membrain_cloud.statistics.spatial.random_placement import random_points

CENTRE = (1000.0, 1000.0, 1000.0)


def picks_on(mesh: Any, count: int, seed: int) -> Picks:
    surface = Surface(mesh)
    return Picks(random_points(surface, np.arange(len(surface.faces)), count, np.random.default_rng(seed)).positions)


def test_area_by_distance_to_a_particle_is_that_of_rings_on_a_sphere(shapes: Any) -> None:
    surface = Surface(shapes.sphere(2500, 250.0))
    source = random_points(surface, np.arange(len(surface.faces)), 1, np.random.default_rng(0))
    to_vertices = surface.distance_from_any(source, cutoff_angstrom=450.0)
    scale = distance_to_class("a")
    distances = of_distances(scale, to_vertices, surface, np.zeros(0), 400.0, 0)
    areas = scale.histogram(distances.values, distances.areas)
    r = np.arange(0.0, 401.0, 20.0)
    rings = 2 * np.pi * 250.0**2 * -np.diff(np.cos(r / 250.0))
    np.testing.assert_allclose(areas[:-1], rings[:-1], rtol=0.04)
    assert areas.sum() == pytest.approx(surface.face_areas.sum())  # area beyond reach is in the last bin


def test_density_against_the_distance_to_a_class_is_flat_at_random(shapes: Any, measure: Any) -> None:
    mesh = shapes.sphere(2500, 400.0, CENTRE)
    names = ["a"] * 12 + ["b"] * 3000
    tables = measure(mesh, picks_on(mesh, 3012, 4), object_names=names, n_neighbors=1)
    areas = {r["bin"]: r["area_nm2"] for r in tables["membrane_histograms"] if r["property"] == "distance_to_a_nm"}
    counts = {
        r["bin"]: r["n_particles"]
        for r in tables["particle_histograms"]
        if (r["property"], r["object_name"]) == ("distance_to_a_nm", "b")
    }
    assert sum(counts.values()) == 3000
    density = 3000 / sum(areas.values())
    for number, area in areas.items():
        expected = area * density
        assert abs(counts.get(number, 0) - expected) < 4.0 * np.sqrt(expected) + 1.0
    own = [r for r in tables["particle_histograms"] if (r["property"], r["object_name"]) == ("distance_to_a_nm", "a")]
    assert own == []


def test_the_area_without_edges_is_that_of_the_inner_square(shapes: Any, measure: Any) -> None:
    mesh = shapes.plane(41, 20.0)
    (row,) = measure(mesh, Picks(np.zeros((0, 3))), edge_width_nm=10.0)["membranes"]
    width = 800.0  # along both axes; two sides are jagged by half a step
    inner = (width - 200.0) * (width * 1.0 - 200.0) / 100.0
    assert row["has_edge"] is True
    assert row["area_without_edges_nm2"] == pytest.approx(inner, rel=0.03)
    assert row["boundary_length_nm"] == pytest.approx(2 * 80.0 + 2 * 40 * np.hypot(20.0, 10.0) / 10.0, rel=0.01)
    assert row["rim_length_nm"] == 0.0
    (row,) = measure(shapes.sphere(500, 200.0, CENTRE), None)["membranes"]
    assert (row["has_edge"], row["boundary_length_nm"]) == (False, 0.0)
    assert row["area_without_edges_nm2"] == pytest.approx(row["one_sided_area_nm2"])


def test_binned_neighbours_sum_to_the_neighbours(shapes: Any, measure: Any) -> None:
    mesh = shapes.sphere(1500, 300.0, CENTRE)
    names = ["a", "b", "b"] * 30
    tables = measure(mesh, picks_on(mesh, 90, 5), object_names=names)
    first = [row for row in tables["neighbors"] if row["rank"] == 1]
    for name in ("mean_curvature_per_nm", "verticality", "distance_to_edge_nm"):
        for one in "ab":
            for other in "ab":
                here = [
                    row
                    for row in tables["binned_neighbors"]
                    if (row["property"], row["object_name"], row["target_object_name"]) == (name, one, other)
                ]
                distances = np.array(
                    [r["geodesic_nm"] for r in first if (r["object_name"], r["target_object_name"]) == (one, other)]
                )
                assert sum(row["n_particles"] for row in here) == names.count(one)
                assert sum(row["n_found"] for row in here) == len(distances)
                assert sum(row["distance_sum_nm"] for row in here) == pytest.approx(distances.sum())
                assert sum(row["distance_square_sum_nm2"] for row in here) == pytest.approx((distances**2).sum())


def test_binned_pairs_sum_to_the_pairs_and_make_curves(shapes: Any, measure: Any) -> None:
    mesh = shapes.plane(41, 20.0)
    tables = measure(mesh, picks_on(mesh, 200, 6), against=("distance_to_edge_nm", "verticality"))
    whole = ripley_from_pair_counts(tables["pair_counts"])
    assert {row["property"] for row in tables["binned_pair_counts"]} == {"distance_to_edge_nm", "verticality"}
    for name in ("distance_to_edge_nm", "verticality"):
        rows = [row for row in tables["binned_pair_counts"] if row["property"] == name]
        for column in ("n_pairs", "area_sum_nm2", "expected_pairs"):
            total = sum(row[column] for row in tables["pair_counts"])
            assert sum(row[column] for row in rows) == pytest.approx(total)
        pooled = ripley_from_pair_counts(rows)
        np.testing.assert_allclose(pooled.pair_correlation, whole.pair_correlation)
        np.testing.assert_allclose(pooled.o_per_nm2, whole.o_per_nm2)
    edges = [row for row in tables["binned_pair_counts"] if row["property"] == "distance_to_edge_nm"]
    near, far = (
        ripley_from_pair_counts([row for row in edges if row["property_bin"] == number])
        for number in (0, max(row["property_bin"] for row in edges))
    )
    # near an edge half of each ring is missing, and its area is not counted
    assert near.random_k_nm2[-1] < 0.8 * far.random_k_nm2[-1]


def test_o_is_the_density_times_g(shapes: Any, measure: Any) -> None:
    mesh = shapes.sphere(1500, 300.0, CENTRE)
    rows = measure(mesh, picks_on(mesh, 120, 7), bin_width_nm=4.0)["pair_counts"]
    curve = ripley_from_pair_counts(rows)
    np.testing.assert_allclose(curve.o_per_nm2, curve.pair_correlation * 119 / rows[0]["area_nm2"])
