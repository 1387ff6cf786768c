"""Rows about particles against closed forms: places on the surface, edges, angles, neighbours."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from standins.membranes import GRID, measure, random_picks, slab, sphere
from standins.shapes import OPTIONS, Shapes

from membrain_cloud.geometry import Picks, orientations_from_normals
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.rotations import in_plane_angle_degrees, relion_angles
from membrain_cloud.statistics.membrane.gaps import find_gaps
from membrain_cloud.statistics.membrane.lamella import Lamella
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane
from membrain_cloud.statistics.rows.particles import particle_rows
from membrain_cloud.statistics.spatial.neighbors import count_pairs


def test_particles_off_the_surface_are_placed_on_it() -> None:
    mesh = sphere(4000, 300.0)
    picks = random_picks(mesh, 40, 2, off=40.0)
    rows = measure(mesh, picks)["particles"]
    assert [row["particle_id"] for row in rows] == list(range(40))
    for row, position, score in zip(rows, picks.positions, picks.scores, strict=True):
        outwards = (position - [1000.0, 1000.0, 500.0]) / np.linalg.norm(position - [1000.0, 1000.0, 500.0])
        assert [row[f"{axis}_angstrom"] for axis in "xyz"] == position.tolist()
        assert row["score"] == score
        assert row["distance_to_surface_nm"] == pytest.approx(4.0, abs=0.05)
        assert [row[f"normal_{axis}"] for axis in "xyz"] == pytest.approx(outwards.tolist(), abs=0.02)
        assert row["mean_curvature_per_nm"] == pytest.approx(1 / 30.0, rel=0.05)
        assert row["gaussian_curvature_per_nm2"] == pytest.approx(1 / 900.0, rel=0.1)
        assert (row["distance_to_boundary_nm"], row["is_edge"]) == (None, False)
        assert row["object_name"] == "protein"


def test_edges_are_found_along_the_surface() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    positions = np.array([[23.0, 300.0, 525.0], [295.0, 295.0, 475.0], [95.0, 300.0, 520.0]])
    rows = measure(mesh, Picks(positions), border_vertices=border, cutoff_nm=20.0)["particles"]
    assert [row["is_edge"] for row in rows] == [True, False, False]
    assert rows[0]["distance_to_boundary_nm"] == pytest.approx(2.8, abs=0.2)
    assert rows[1]["distance_to_boundary_nm"] is None
    assert rows[2]["distance_to_boundary_nm"] == pytest.approx(10.0, abs=0.2)
    assert rows[0]["distance_to_border_nm"] == pytest.approx(2.8)
    assert rows[1]["distance_to_border_nm"] == pytest.approx(30.0)
    assert [row["rot_degrees"] for row in rows] == [None] * 3


def test_an_oriented_particle_is_placed_on_the_leaflet_it_points_out_of() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    positions = np.array([[300.0, 300.0, 502.0], [300.0, 340.0, 502.0], [300.0, 380.0, 498.0]])
    axes = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    picks = Picks(positions, orientations_from_normals(axes))
    rows = measure(mesh, picks, border_vertices=border, leaflets_apart=True)["particles"]
    assert [row["normal_z"] for row in rows] == pytest.approx([1.0, -1.0, 1.0])
    assert [row["distance_to_surface_nm"] for row in rows] == pytest.approx([1.8, 2.2, 2.2])
    assert rows[0]["leaflet"] == rows[2]["leaflet"] == 1 - rows[1]["leaflet"]


def test_curvatures_of_a_sphere_are_those_of_a_dome() -> None:
    mesh = sphere(3000, 250.0)
    row = measure(mesh, random_picks(mesh, 5, 1))["particles"][0]
    assert row["shape_index"] == pytest.approx(1.0, abs=0.1)
    for name in ("largest_curvature_per_nm", "least_curvature_per_nm", "curvedness_per_nm"):
        assert row[name] == pytest.approx(1 / 25.0, rel=0.06)


def test_relion_angles_rebuild_the_rotation() -> None:
    rotations = Rotation.random(200, random_state=3).as_matrix()
    upright = Rotation.from_euler("z", [[0.0], [30.0], [-170.0]], degrees=True).as_matrix()
    overhead = upright @ Rotation.from_euler("x", 180.0, degrees=True).as_matrix()
    every = np.concatenate([rotations, upright, overhead, np.eye(3)[None]])
    angles = relion_angles(every)
    assert np.isfinite(angles).all()
    rebuilt = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(rebuilt, every, atol=1e-9)
    expected = Rotation.from_matrix(rotations).inv().as_euler("ZYZ", degrees=True)
    np.testing.assert_allclose(angles[:200], expected, atol=1e-6)


def test_in_plane_angle() -> None:
    def turned(degrees: float, tilt: float = 0.0) -> np.ndarray:
        return Rotation.from_euler("xz", [0.0, degrees], degrees=True).as_matrix() if not tilt else (
            Rotation.from_euler("x", tilt, degrees=True) * Rotation.from_euler("z", degrees, degrees=True)
        ).as_matrix()  # fmt: skip

    assert in_plane_angle_degrees(turned(0.0), turned(0.0)) == 0.0
    assert in_plane_angle_degrees(turned(10.0), turned(70.0)) == pytest.approx(60.0)
    assert in_plane_angle_degrees(turned(10.0), turned(200.0)) == pytest.approx(170.0)
    # Tilting the plane does not change the in-plane angle.
    assert in_plane_angle_degrees(turned(10.0), turned(70.0, tilt=50.0)) == pytest.approx(60.0)
    assert in_plane_angle_degrees(turned(0.0), turned(0.0, tilt=180.0)) is None
    assert in_plane_angle_degrees(turned(0.0), np.full((3, 3), np.nan)) is None


def test_nearest_neighbours_at_random_on_a_sphere() -> None:
    """Mean πR·C(2N-2, N-1)/4^(N-1): 8.896 nm for 100 particles at R = 50 nm."""
    count, radius = 100, 50.0
    expected = np.pi * radius * math.comb(2 * count - 2, count - 1) / 4 ** (count - 1)
    mesh = sphere(1000, radius * 10)
    surface = Surface(mesh)
    found = []
    for seed in range(25):
        at = surface.closest_points(random_picks(mesh, count, seed).positions)
        pairs = count_pairs(
            surface,
            at,
            np.zeros(count, np.int64),
            cutoff_angstrom=300.0,
            bin_width_angstrom=300.0,
            boundary_cutoff_angstrom=0.0,
            n_neighbors=1,
        )
        found += (pairs.neighbors.distances / 10).tolist()
    assert len(found) == 25 * count
    assert np.mean(found) == pytest.approx(expected, rel=0.04)


def test_neighbours_of_a_hexagonal_lattice_come_in_shells() -> None:
    spacing = 80.0
    mesh, border = slab(1200.0, 40.0, 20.0)
    i, j = (index.ravel() for index in np.meshgrid(np.arange(-20, 21), np.arange(-20, 21), indexing="ij"))
    lattice = np.stack([600 + spacing * (i + 0.5 * j), 600 + spacing * np.sqrt(0.75) * j], axis=1)
    lattice = lattice[((lattice > 30) & (lattice < 1160)).all(axis=1)]
    picks = Picks(np.column_stack([lattice, np.full(len(lattice), 520.0)]))
    tables = measure(mesh, picks, border_vertices=border, n_neighbors=18, cutoff_nm=20.0, bin_width_nm=1.0)
    middle = np.flatnonzero((np.abs(lattice - 600) < 250).all(axis=1))
    assert len(middle) > 20
    shells = np.repeat([spacing, spacing * np.sqrt(3), spacing * 2], 6) / 10
    for particle in middle:
        found = [row["geodesic_nm"] for row in tables["neighbors"] if row["particle_id"] == particle]
        np.testing.assert_allclose(found, shells, rtol=5e-3)
    euclidean = [row["euclidean_nm"] for row in tables["neighbors"] if row["rank"] == 1]
    np.testing.assert_allclose(euclidean, spacing / 10)
    (row,) = tables["membranes"]
    # λ = 2/(√3a²) on one side of the membrane; the lattice's ends are ragged.
    inside = (1160 - 30) ** 2 / row["one_sided_area_nm2"] / 100
    assert row["particles_per_um2"] == pytest.approx(inside * 2 / (np.sqrt(3) * 0.008**2), rel=0.06)


def test_leaflets_parted_by_the_border_share_no_neighbours() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    both = Picks(np.array([[300.0, 300.0, 520.0], [300.0, 300.0, 480.0], [340.0, 300.0, 480.0]]))
    tables = measure(mesh, both, border_vertices=border)
    pairs = [(row["particle_id"], row["target_id"]) for row in tables["neighbors"]]
    assert pairs == [(1, 2), (2, 1)]
    assert tables["neighbors"][0]["geodesic_nm"] == pytest.approx(4.0)
    assert len({row["component_id"] for row in tables["particles"]}) == 2
    # Around a lone particle there is nothing to count.
    assert {row["n_start"] for row in tables["pair_counts"]} == {2}


def test_leaflets_joined_at_a_rim_are_one_surface() -> None:
    mesh, _ = slab(600.0, 40.0, 20.0)
    both = Picks(np.array([[300.0, 20.0, 520.0], [300.0, 30.0, 480.0]]))
    rows = measure(mesh, both)["neighbors"]
    assert rows[0]["geodesic_nm"] == pytest.approx(2.5 + 4.0 + 3.5, rel=1e-2)
    assert rows[0]["euclidean_nm"] == pytest.approx(np.hypot(4.0, 1.0))


def test_fewer_neighbours_than_asked_for_and_coinciding_particles() -> None:
    mesh = sphere(500, 200.0)
    place = mesh.vertices[[7, 7, 100]]
    rows = measure(mesh, Picks(place), n_neighbors=5, cutoff_nm=100.0)["neighbors"]
    assert [(row["particle_id"], row["rank"]) for row in rows] == [(i, rank) for i in range(3) for rank in (1, 2)]
    assert rows[0]["geodesic_nm"] == 0.0
    assert (rows[0]["target_id"], rows[2]["target_id"]) == (1, 0)
    assert rows[0]["in_plane_angle_degrees"] is None


def test_ranks_are_counted_for_each_kind() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    x = [300.0, 320.0, 330.0, 350.0]
    picks = Picks(np.array([[value, 300.0, 520.0] for value in x]))
    rows = measure(mesh, picks, border_vertices=border, object_names=["a", "b", "b", "a"], n_neighbors=1)["neighbors"]
    found = {(row["particle_id"], row["target_object_name"]): row["target_id"] for row in rows}
    assert found == {
        (0, "a"): 3,
        (0, "b"): 1,
        (1, "a"): 0,
        (1, "b"): 2,
        (2, "a"): 3,
        (2, "b"): 1,
        (3, "a"): 0,
        (3, "b"): 2,
    }


def test_depth_in_the_lamella_and_distance_to_the_next_membrane() -> None:
    lower, upper = (Shapes().plane(30, 20.0, height) for height in (300.0, 450.0))
    picks = Picks(np.array([[300.0, 300.0, 330.0], [300.0, 300.0, np.nan]]), scores=np.array([0.5, 0.25]))
    membrane = Membrane(lower, picks, np.zeros(len(lower.vertices), bool), "a")
    prepared = prepare_membrane(membrane, grid=GRID, options=OPTIONS)
    gaps = find_gaps({1: lower, 2: upper}, reach_angstrom=500.0)[1]
    row, unplaced = particle_rows(replace(prepared, gaps=gaps, lamella=Lamella((0.0, 0.0, 1.0, 600.0), None)))
    assert row["distance_to_next_membrane_nm"] == pytest.approx(15.0)
    assert row["distance_to_lamella_nm"] == pytest.approx(27.0)
    assert row["distance_to_surface_nm"] == pytest.approx(3.0)
    assert (unplaced["particle_id"], unplaced["score"], unplaced["x_angstrom"]) == (1, 0.25, None)
    (row, _) = particle_rows(prepared)
    assert (row["distance_to_next_membrane_nm"], row["distance_to_lamella_nm"]) == (None, None)
