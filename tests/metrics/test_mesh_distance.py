"""Distances between surfaces, against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from membrain_cloud.geometry import Mesh
from membrain_cloud.metrics import mesh_distance as mesh_comparison
from membrain_cloud.metrics.mesh_distance import (
    compared,
    component_count,
    median_of_both,
    pooled,
    spread_points,
    vertex_distances,
    whole,
)

NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))


def sphere(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), subdivisions: int = 4) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.asarray(made.vertices, np.float64) + centre, np.asarray(made.faces, np.int32))


def sheet(x: tuple[float, float], y: tuple[float, float], z: float, cells: int = 10) -> Mesh:
    across, along = (np.linspace(*ends, cells + 1) for ends in (x, y))
    grid = np.stack(np.meshgrid(across, along, indexing="ij"), -1).reshape(-1, 2)
    i = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = (part.ravel() for part in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh(np.column_stack([grid, np.full(len(grid), z)]), faces.astype(np.int32))


def test_concentric_spheres_are_apart_by_the_difference_of_their_radii() -> None:
    inner, outer = compared(sphere(500.0), sphere(540.0), tolerance_angstrom=20.0)
    for reach in (inner, outer):
        assert reach.mean_angstrom == pytest.approx(40.0, rel=0.02)
        assert np.median(reach.distances) == pytest.approx(40.0, rel=0.02)
        assert reach.largest_angstrom == pytest.approx(40.0, rel=0.05)
        assert reach.within == 0.0
        assert reach.components == 1
        assert np.median(reach.angles) < 2.0
    assert outer.area_angstrom2 == pytest.approx(4 * np.pi * 540.0**2, rel=0.005)
    assert [r.within for r in compared(sphere(500.0), sphere(540.0), tolerance_angstrom=45.0)] == [1.0, 1.0]


def test_a_shifted_sheet_is_as_far_as_its_shift_whatever_its_faces() -> None:
    coarse, fine = sheet((0, 1000), (0, 1000), 0.0, cells=1), sheet((0, 1000), (0, 1000), 15.0, cells=37)
    for reach in compared(coarse, fine, tolerance_angstrom=20.0):
        assert reach.mean_angstrom == pytest.approx(15.0)
        assert reach.largest_angstrom == pytest.approx(15.0)
        assert reach.distances == pytest.approx(np.full(mesh_comparison.KEPT, 15.0))
        assert reach.within == 1.0
        assert reach.angles == pytest.approx(np.zeros(mesh_comparison.KEPT), abs=1e-5)


def test_normals_are_without_sign_and_their_angle_is_that_of_the_planes() -> None:
    flat = sheet((0, 1000), (0, 1000), 0.0)
    turned = Mesh(flat.vertices @ np.array([[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]), flat.faces[:, ::-1].copy())
    assert median_of_both(*compared(flat, turned, tolerance_angstrom=20.0)) == pytest.approx(np.degrees(np.arccos(0.8)))


def test_sheets_that_overlap_in_part_share_that_part_of_their_area() -> None:
    one, other = sheet((0, 1000), (0, 500), 0.0, 20), sheet((400, 1600), (0, 500), 0.0, 33)
    first, second = compared(one, other, tolerance_angstrom=20.0)
    # 600 of 1000 and of 1200 lie on the other, and 20 more within the tolerance
    assert first.within == pytest.approx(0.62, abs=0.002)
    assert second.within == pytest.approx(620 / 1200, abs=0.002)
    assert first.mean_angstrom == pytest.approx(400**2 / 2 / 1000, rel=0.01)
    assert second.mean_angstrom == pytest.approx(600**2 / 2 / 1200, rel=0.01)
    assert first.largest_angstrom == pytest.approx(400.0)
    assert second.largest_angstrom == pytest.approx(600.0)


def test_points_stand_for_equal_areas_however_a_sheet_is_cut() -> None:
    small = sheet((0, 10), (0, 1000), 0.0, cells=40)
    large = sheet((10, 1000), (0, 1000), 0.0, cells=1)
    points, faces = spread_points(whole({1: small, 2: large}), 20_000)
    assert np.mean(faces < len(small.faces)) == pytest.approx(0.01, abs=1e-4)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=8, range=[[0, 1000]] * 2)
    assert counts.min() > 0.9 * 20_000 / 64
    assert counts.max() < 1.1 * 20_000 / 64
    again, _ = spread_points(whole({1: small, 2: large}), 20_000)
    assert (again == points).all()


def test_an_empty_surface_is_at_no_distance() -> None:
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32))
    for empty in (NOTHING, flat):
        ours, true = compared(empty, sphere(100.0, subdivisions=2), tolerance_angstrom=20.0)
        assert (ours.mean_angstrom, ours.within, ours.area_angstrom2) == (None, None, 0.0)
        assert not len(ours.distances)
        assert (true.mean_angstrom, true.largest_angstrom, true.within, true.components) == (None, None, 0.0, 1)
    assert (compared(NOTHING, sphere(100.0), tolerance_angstrom=1.0)[1].within) == 0.0
    assert [r.within for r in compared(NOTHING, NOTHING, tolerance_angstrom=1.0)] == [None, None]
    assert pooled([]).mean_angstrom is None


def test_components_are_counted_by_place() -> None:
    two = whole({1: sphere(100.0, subdivisions=2), 5: sphere(50.0, (400.0, 0.0, 0.0), subdivisions=2)})
    soup = Mesh(two.vertices[two.faces].reshape(-1, 3), np.arange(3 * len(two.faces), dtype=np.int32).reshape(-1, 3))
    assert component_count(two) == component_count(soup) == 2
    assert component_count(NOTHING) == 0


def test_surfaces_together_weigh_by_their_area() -> None:
    near = compared(sheet((0, 300), (0, 1000), 0.0), sheet((0, 300), (0, 1000), 10.0), tolerance_angstrom=20.0)
    far = compared(sheet((0, 100), (0, 1000), 0.0), sheet((0, 100), (0, 1000), 30.0), tolerance_angstrom=20.0)
    missing = compared(sheet((0, 100), (0, 1000), 0.0), NOTHING, tolerance_angstrom=20.0)
    both = pooled([near[0], far[0]])
    assert both.mean_angstrom == pytest.approx(0.75 * 10 + 0.25 * 30)
    assert both.within == pytest.approx(0.75)
    assert both.largest_angstrom == pytest.approx(30.0)
    assert both.components == 2
    assert np.mean(both.distances < 20.0) == pytest.approx(0.75, abs=0.002)
    three = pooled([near[0], far[0], missing[0]])
    assert three.within == pytest.approx(3 / 5)
    assert three.mean_angstrom == both.mean_angstrom
    assert three.area_angstrom2 == pytest.approx(500_000)


def test_distances_of_vertices_are_those_to_faces() -> None:
    wide = sheet((-1000, 1000), (-1000, 1000), -250.0, cells=1)
    ball = sphere(200.0, subdivisions=3)
    assert vertex_distances(ball, wide) == pytest.approx(ball.vertices[:, 2] + 250.0)
