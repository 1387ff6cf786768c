"""Geodesic distances against closed forms, and on surfaces with holes, seams, touching sheets and bad faces."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import Delaunay
from standins.shapes import Shapes
from standins.surface_points import at_vertices, random_points

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.geodesics.solver import Geodesics
from membrain_cloud.mesh.surface import Surface

SHAPES = Shapes()


@pytest.mark.parametrize(("count", "tolerance"), [(2500, 1e-2), (10_000, 2e-3)])
def test_geodesics_on_a_sphere_are_great_circles(count: int, tolerance: float) -> None:
    surface = Surface(SHAPES.sphere(count, 500.0))
    points = random_points(surface, 60)
    unit = points.positions / np.linalg.norm(points.positions, axis=1, keepdims=True)
    arc = 500.0 * np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
    distances = surface.geodesic(points, points, cutoff_angstrom=400.0)
    near = (arc > 1.0) & (arc < 399.0)
    np.testing.assert_allclose(distances[near], arc[near], rtol=tolerance)
    assert np.isinf(distances[arc > 401.0]).all()
    assert (np.diagonal(distances) == 0.0).all()


def test_geodesics_on_a_plane_are_straight() -> None:
    surface = Surface(SHAPES.plane(40, 15.0))
    points = random_points(surface, 50)
    straight = np.linalg.norm(points.positions[:, None] - points.positions[None], axis=2)
    np.testing.assert_allclose(surface.geodesic(points, points), straight, rtol=2e-4, atol=1e-3)


def test_geodesics_on_a_cylinder_are_helices() -> None:
    radius = 150.0
    surface = Surface(SHAPES.cylinder(94, 60, radius, 10.0))
    points = random_points(surface, 40, seed=3)
    angle = np.arctan2(points.positions[:, 1], points.positions[:, 0])
    apart = np.abs(angle[:, None] - angle[None])
    apart = np.minimum(apart, 2 * np.pi - apart)
    helix = np.hypot(radius * apart, points.positions[:, None, 2] - points.positions[None, :, 2])
    distances = surface.geodesic(points, points)
    far = helix > 5.0
    np.testing.assert_allclose(distances[far], helix[far], rtol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_geodesics_do_not_depend_on_direction_position_or_numbering(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bumps = SHAPES.plane(30, 10.0)
    mesh = Mesh(bumps.vertices + rng.normal(0.0, 1.5, bumps.vertices.shape), bumps.faces)
    surface = Surface(mesh)
    points = random_points(surface, 25, seed)
    distances = surface.geodesic(points, points)
    # Merging windows may err by 2e-3 on a sheet as rough as this (noise of 15 % of an edge), either way.
    np.testing.assert_allclose(distances, distances.T, rtol=4e-3)
    assert (distances >= np.linalg.norm(points.positions[:, None] - points.positions[None], axis=2) * (1 - 1e-3)).all()
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    vertices, faces = rng.permutation(len(mesh.vertices)), rng.permutation(len(mesh.faces))
    numbers = np.argsort(vertices)
    moved = Mesh(
        (3.0 * mesh.vertices @ turn.T + [50.0, -7.0, 1e4])[vertices], numbers[mesh.faces[faces]].astype(np.int32)
    )
    there = Surface(moved)
    same = there.points(np.argsort(faces)[points.faces], points.weights)
    np.testing.assert_allclose(there.geodesic(same, same), 3.0 * distances, rtol=4e-3)


def test_no_path_leads_through_a_vertex_that_two_sheets_share() -> None:
    one = SHAPES.plane(5, 10.0)
    other = Mesh(one.vertices + np.array([0.0, 0.0, 30.0]), one.faces)
    both = SHAPES.joined(one, other)
    faces = both.faces.copy()
    faces[faces == 25 + 12] = 12  # the second sheet's middle vertex is now the first one's
    surface = Surface(Mesh(both.vertices, faces))
    distances = surface.geodesic_to_vertices(at_vertices(surface, [0]))[0]
    assert np.isfinite(distances[:25]).all()
    assert np.isinf(distances[25:]).all()


def test_a_cut_between_groups_is_a_boundary() -> None:
    mesh = SHAPES.plane(20, 10.0)
    groups = (mesh.vertices[mesh.faces].mean(axis=1)[:, 1] > 100.0).astype(int)
    surface = Surface(mesh, groups)
    points = surface.closest_points(np.array([[100.0, 65.0, 0.0], [100.0, 125.0, 0.0]]))
    survey = surface.survey(points, points, cutoff_angstrom=500.0, edges_angstrom=np.zeros(0))
    assert np.isinf(survey.distances[0, 1])
    assert surface.n_components == 2
    np.testing.assert_allclose(survey.to_seam, [35.0, 25.0], rtol=1e-6)
    np.testing.assert_allclose(survey.to_boundary, 65.0, atol=10.0)
    to_edge = surface.distance_from_any(surface.boundary_points(2), cutoff_angstrom=1000.0)
    x, y = mesh.vertices[:, 0], mesh.vertices[:, 1]
    inner = np.abs(x - 97.5) < 40.0  # farther from the sides than from the seam or the other two
    expected = np.minimum(np.abs(y - 100.0), np.minimum(y, 190.0 - y))
    assert (np.abs(to_edge - expected)[inner] < 3.0).all()


def test_degenerate_faces_do_not_stop_paths() -> None:
    mesh = SHAPES.plane(8, 10.0)
    faces = np.concatenate([mesh.faces, [[3, 3, 4], [0, 9, 0], [5, 5, 5]]]).astype(np.int32)
    surface = Surface(Mesh(mesh.vertices, faces))
    plain = Surface(mesh)
    source = plain.points(np.array([0]), np.full((1, 3), 1 / 3))
    whole = plain.geodesic_to_vertices(source)
    np.testing.assert_allclose(surface.geodesic_to_vertices(source), whole, rtol=1e-3)
    with pytest.raises(ValueError, match="another surface"):
        plain.geodesic_to_vertices(surface.points(np.array([len(faces) - 1]), np.full((1, 3), 1 / 3)))


def test_geodesics_on_the_inside_of_a_torus_are_not_cut_short() -> None:
    """On a saddle an unfolded source is too near beyond a vertex; the inner equator would show it."""
    large, small = 350.0, 150.0
    rows, columns = 120, 50
    surface = Surface(SHAPES.torus(rows, columns, large, small))
    source, target = 0 * columns + columns // 2, 30 * columns + columns // 2
    distances = surface.geodesic_to_vertices(at_vertices(surface, [source]))[0]
    np.testing.assert_allclose(distances[target], (large - small) * 2 * np.pi * 30 / rows, rtol=5e-3)
    # half round the tube
    np.testing.assert_allclose(distances[0], np.pi * small, rtol=5e-3)


def test_geodesics_go_round_a_hole() -> None:
    mesh = SHAPES.plane(61, 10.0)
    centroids = mesh.vertices[mesh.faces].mean(axis=1)
    middle, radius = np.array([302.5, 300.0, 0.0]), 100.0
    surface = Surface(Mesh(mesh.vertices, mesh.faces[np.linalg.norm(centroids - middle, axis=1) > radius]))
    ends = surface.closest_points(middle + np.array([[-200.0, 0.0, 0.0], [200.0, 0.0, 0.0]]))
    distances = surface.geodesic(ends, ends)[0, 1]
    tangent, arc = np.sqrt(200.0**2 - radius**2), np.pi - 2 * np.arccos(radius / 200.0)
    # the rim is ragged by an edge length
    assert distances == pytest.approx(2 * tangent + radius * arc, rel=0.02)


def test_other_components_are_infinitely_far() -> None:
    surface = Surface(SHAPES.joined(SHAPES.sphere(200, 20.0), SHAPES.sphere(200, 20.0, (40.5, 0.0, 0.0))))
    points = surface.closest_points(np.array([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [20.5, 0.0, 0.0]]))
    distances = surface.geodesic(points, points)
    assert np.isinf(distances[:2, 2]).all()
    assert np.isinf(distances[2, :2]).all()
    assert np.isfinite(distances[:2, :2]).all()
    to_vertices = surface.geodesic_to_vertices(points)
    assert np.isfinite(to_vertices[0]).tolist() == [True] * 200 + [False] * 200


def test_vertex_distances_equal_point_distances_in_any_order() -> None:
    surface = Surface(SHAPES.torus(40, 20, 300.0, 100.0))
    sources = random_points(surface, 6, seed=4)
    to_vertices = surface.geodesic_to_vertices(sources, cutoff_angstrom=150.0)
    corners = at_vertices(surface, list(range(len(surface.vertices))))
    np.testing.assert_allclose(
        surface.geodesic(sources, corners, cutoff_angstrom=150.0), to_vertices, rtol=2e-3, atol=0.01
    )
    np.testing.assert_array_equal(surface.geodesic_to_vertices(sources, cutoff_angstrom=150.0), to_vertices)
    one_by_one = [
        surface.geodesic_to_vertices(surface.points(sources.faces[[i]], sources.weights[[i]]), cutoff_angstrom=150.0)
        for i in reversed(range(6))
    ]
    np.testing.assert_array_equal(np.concatenate(one_by_one[::-1]), to_vertices)


def test_results_are_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, edges = SHAPES.torus(40, 20, 300.0, 100.0), np.arange(0.0, 301.0, 50.0)
    surveys = []
    for threads, windows in ((1, 4096), (3, 4096), (4, 16)):
        monkeypatch.setattr("membrain_cloud.mesh.geodesics.solver.FIRST_WINDOWS", windows)
        surface = Surface(mesh, threads=threads)
        points = random_points(surface, 60, seed=5)
        surveys.append(surface.survey(points, points, cutoff_angstrom=300.0, edges_angstrom=edges))
    for other in surveys[1:]:
        np.testing.assert_array_equal(other.distances, surveys[0].distances)
        np.testing.assert_array_equal(other.annulus_areas, surveys[0].annulus_areas)
        np.testing.assert_array_equal(other.to_boundary, surveys[0].to_boundary)


def test_merged_windows_miss_no_face_behind_a_saddle_or_a_hill() -> None:
    """Every face is reached from every source, and distances are symmetric."""
    rng = np.random.default_rng(5)
    ground = np.indices((60, 60)).reshape(2, -1).T * 10.0
    ground += rng.uniform(-3.0, 3.0, ground.shape)
    height = 60.0 * np.sin(ground[:, 0] / 30.0) * np.sin(ground[:, 1] / 50.0)
    surface = Surface(Mesh(np.c_[ground, height], Delaunay(ground).simplices.astype(np.int32)))
    points = surface.closest_points(surface.vertices[rng.permutation(3600)[:150]])
    survey = surface.survey(points, points, cutoff_angstrom=1e5, edges_angstrom=np.array([0.0, 1e5]))
    np.testing.assert_allclose(survey.annulus_areas[:, 0], surface.face_areas.sum(), rtol=1e-9)
    np.testing.assert_allclose(survey.distances, survey.distances.T, rtol=2e-3, atol=1e-6)


def test_points_of_another_surface_are_refused() -> None:
    mesh = SHAPES.plane(5, 10.0)
    surface = Surface(mesh)
    geodesics = Geodesics(surface.vertices, surface.faces, surface.twins, np.zeros(len(surface.twins), bool), threads=1)
    points = surface.points(np.array([len(mesh.faces)]) - 1, np.full((1, 3), 1 / 3))
    assert np.isfinite(geodesics.to_vertices(points, np.inf)).all()
    assert np.isinf(geodesics.from_any(random_points(surface, 0), np.inf)).all()
    few = surface.faces[:5]
    small = Geodesics(surface.vertices, few, np.full(15, -1, np.int32), np.zeros(15, bool), threads=1)
    with pytest.raises(ValueError, match="another surface"):
        small.from_any(points, np.inf)
