"""Seeds of simulations: one for each membrane, the same in every run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from standins.membranes import GRID, random_picks, sphere
from standins.shapes import OPTIONS

from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.measure import Membrane, Options, measure_tomogram
from membrain_cloud.statistics.model.prepare import prepare_membrane
from membrain_cloud.statistics.model.seeds import SEED_BITS, membrane_seed

SMALL = replace(OPTIONS, n_simulations=19, cutoff_nm=20.0, bin_width_nm=2.0, gap_nm=0.0, chains=None)


def seed(mesh: Mesh, picks: Picks, options: Options = SMALL, origin: str = "a/1", name: str = "protein") -> int:
    membrane = Membrane(mesh, picks, np.zeros(len(mesh.vertices), bool), name)
    return prepare_membrane(membrane, grid=GRID, options=options, origin=origin).seed


def test_a_seed_depends_on_run_mesh_particles_and_settings() -> None:
    mesh, picks = sphere(300, 200.0), random_picks(sphere(300, 200.0), 12, 0)
    moved = Picks(picks.positions[::-1] + 0.5, picks.orientations)
    seeds = [
        seed(mesh, picks),
        seed(mesh, picks, origin="a/2"),
        seed(mesh, picks, name="other"),
        seed(mesh, moved),
        seed(sphere(301, 200.0), picks),
        seed(mesh, picks, replace(SMALL, bin_width_nm=1.0)),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= one < 2**63 for one in seeds)
    assert seed(mesh, picks) == seeds[0]
    shuffled = np.random.default_rng(1).permutation(12)
    assert picks.orientations is not None
    assert seed(mesh, Picks(picks.positions[shuffled], picks.orientations[shuffled])) == seeds[0]


def test_simulations_of_equal_membranes_do_not_correlate() -> None:
    mesh, picks = sphere(300, 200.0), random_picks(sphere(300, 200.0), 12, 0)
    membranes = {number: Membrane(mesh, picks, np.zeros(len(mesh.vertices), bool), "protein") for number in (1, 2)}
    options = replace(SMALL, n_simulations=199)
    tables = measure_tomogram(membranes, grid=GRID, options=options, origin="a")
    rows = tables["random_pair_counts"]
    assert len(rows) == 2 * 199 * 10  # bins without pairs have rows too
    counts = np.zeros((2, 199))
    for row in rows:
        counts[row["membrane_id"] - 1, row["simulation"]] += row["n_pairs"]
    assert abs(np.corrcoef(counts)[0, 1]) < 4 / np.sqrt(199)
    # alone, and after another one, a membrane has the same draws
    alone = measure_tomogram({2: membranes[2]}, grid=GRID, options=options, origin="a")
    assert alone["random_pair_counts"] == [row for row in rows if row["membrane_id"] == 2]
    assert {row["n_simulations"] for row in tables["pair_counts"]} == {199}
    assert [row["random_seed"] for row in tables["membranes"]][1] == alone["membranes"][0]["random_seed"]


def test_seeds_of_many_membranes_differ_and_fit_a_table() -> None:
    surface = Surface(sphere(300, 200.0))
    positions = np.zeros((1, 3))
    seeds = {membrane_seed(f"TS_{number}", surface, positions, ["psii"], OPTIONS) for number in range(200)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**SEED_BITS for seed in seeds)
    assert len({seed >> (SEED_BITS - 1) for seed in seeds}) == 2


def test_names_that_join_to_the_same_text_give_different_seeds() -> None:
    surface = Surface(sphere(300, 200.0))
    positions = np.zeros((2, 3))
    first, second = (membrane_seed("TS", surface, positions, names, OPTIONS) for names in (["a", "bc"], ["ab", "c"]))
    assert first != second
