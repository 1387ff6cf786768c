"""Pair counts and the curves made of them, against closed forms on spheres and planes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from standins.membranes import GRID, measure, random_picks, slab, sphere
from standins.shapes import OPTIONS

from membrain_cloud.geometry import Picks
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane
from membrain_cloud.statistics.rows.pair_counts import pair_count_rows, random_pair_count_rows
from membrain_cloud.statistics.spatial.ripley import ripley_from_pair_counts


def test_ripley_at_random_on_a_sphere() -> None:
    mesh = sphere(1000, 500.0)
    rows: list[dict[str, Any]] = []
    for seed in range(12):
        rows += measure(mesh, random_picks(mesh, 120, 100 + seed), bin_width_nm=5.0)["pair_counts"]
    curves = ripley_from_pair_counts(rows)
    cap = 2 * np.pi * 50.0**2 * (1 - np.cos(curves.r_nm / 50.0))
    np.testing.assert_allclose(curves.random_k_nm2, cap, rtol=5e-3)
    np.testing.assert_allclose(curves.k_nm2[1:], cap[1:], rtol=0.05)
    np.testing.assert_allclose(curves.pair_correlation[1:], 1.0, atol=0.06)
    np.testing.assert_allclose(curves.l_minus_r_nm, 0.0, atol=0.25)


def test_ripley_at_random_on_a_plane_with_ends() -> None:
    mesh, border = slab(800.0, 40.0, 40.0)
    rows: list[dict[str, Any]] = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        picks = Picks(np.column_stack([rng.uniform(-5, 795, (120, 2)), np.full(120, 520.0)]))
        rows += measure(mesh, picks, border_vertices=border, bin_width_nm=5.0)["pair_counts"]
    curves = ripley_from_pair_counts(rows)
    np.testing.assert_allclose(curves.pair_correlation[1:], 1.0, atol=0.07)
    np.testing.assert_allclose(curves.l_minus_r_nm, 0.0, atol=0.3)
    # area is missing beyond the ends: more of it at larger distances
    lost = 1 - curves.random_k_nm2 / (np.pi * curves.r_nm**2)
    assert (np.diff(lost) > 0).all()
    assert lost[0] < 0.1


def test_pair_counts_are_ordered_pairs_and_areas_add_up() -> None:
    mesh = sphere(1500, 300.0)
    tables = measure(mesh, random_picks(mesh, 40, 5), cutoff_nm=95.0, bin_width_nm=1.0)
    rows = tables["pair_counts"]
    assert len(rows) == 95
    assert sum(row["n_pairs"] for row in rows) == 40 * 39
    assert sum(row["area_sum_nm2"] for row in rows) == pytest.approx(40 * rows[0]["area_nm2"], rel=1e-6)
    assert sum(row["expected_pairs"] for row in rows) == pytest.approx(40 * 39, rel=1e-6)
    assert (rows[3]["r_min_nm"], rows[3]["r_max_nm"], rows[3]["bin"]) == (3.0, 4.0, 3)


def test_pairs_of_two_kinds() -> None:
    mesh = sphere(800, 200.0)
    picks = random_picks(mesh, 30, 6)
    names = ["a"] * 10 + ["b"] * 20
    rows = measure(mesh, picks, object_names=names, cutoff_nm=70.0)["pair_counts"]
    sums = {
        (one, other): sum(r["n_pairs"] for r in rows if (r["object_name"], r["target_object_name"]) == (one, other))
        for one in "ab"
        for other in "ab"
    }
    assert sums == {("a", "a"): 90, ("a", "b"): 200, ("b", "a"): 200, ("b", "b"): 380}
    mixed = [row for row in rows if row["object_name"] == "a" and row["target_object_name"] == "b"]
    assert mixed[0]["expected_pairs"] == pytest.approx(mixed[0]["area_sum_nm2"] * 20 / mixed[0]["area_nm2"])


def test_curves_pool_by_sums_and_refuse_mixed_bins() -> None:
    mesh = sphere(800, 300.0)
    parts = [measure(mesh, random_picks(mesh, n, n))["pair_counts"] for n in (20, 60)]
    pooled = ripley_from_pair_counts(parts[0] + parts[1])
    by_hand = [
        (a["n_pairs"] + b["n_pairs"]) / (a["expected_pairs"] + b["expected_pairs"]) for a, b in zip(*parts, strict=True)
    ]
    np.testing.assert_allclose(pooled.pair_correlation, by_hand)
    other = measure(mesh, random_picks(mesh, 20, 1), bin_width_nm=1.0)["pair_counts"]
    with pytest.raises(ValueError, match="different bins"):
        ripley_from_pair_counts(parts[0] + other)
    assert len(ripley_from_pair_counts([]).r_nm) == 0


def test_random_pairs_are_as_many_as_observed_ones_and_reproducible() -> None:
    mesh = sphere(800, 100.0)
    membrane = Membrane(mesh, random_picks(mesh, 20, 3), np.zeros(800, bool), ["a"] * 8 + ["b"] * 12)
    options = replace(OPTIONS, cutoff_nm=40.0, n_simulations=4)  # half of the circumference is 31 nm
    prepared = prepare_membrane(membrane, grid=GRID, options=options)
    rows = random_pair_count_rows(prepared)
    for one, other, expected in (("a", "a", 8 * 7), ("a", "b", 8 * 12), ("b", "a", 12 * 8), ("b", "b", 12 * 11)):
        for simulation in range(4):
            pairs = [
                row["n_pairs"]
                for row in rows
                if (row["object_name"], row["target_object_name"], row["simulation"]) == (one, other, simulation)
            ]
            assert sum(pairs) == expected
    assert random_pair_count_rows(prepare_membrane(membrane, grid=GRID, options=options)) == rows
    assert sum(row["n_pairs"] for row in pair_count_rows(prepared)) == 20 * 19
