"""Surfaces against closed forms: topology, closest points, geodesics, curvature."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial import ConvexHull, Delaunay

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.mesh.surface import Surface, SurfacePoints

if TYPE_CHECKING:
    from collections.abc import Callable


def sphere(count: int, radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    """Vertices on a Fibonacci spiral, wound outwards."""
    i = np.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - height**2)
    points = np.stack([np.cos(turn) * ring, np.sin(turn) * ring, height], axis=1)
    faces = ConvexHull(points).simplices.astype(np.int32)
    a, b, c = (points[faces[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return Mesh(points * radius + np.array(centre), faces)


def sheet(rows: int, columns: int, place: Callable, *, wrap: tuple[bool, bool] = (False, False)) -> Mesh:
    """A grid of two triangles a cell; place(i, j) -> (N, 3)."""
    i, j = (index.ravel() for index in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    u, v = (
        index.ravel()
        for index in np.meshgrid(np.arange(rows - (not wrap[0])), np.arange(columns - (not wrap[1])), indexing="ij")
    )

    def number(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return (i % rows) * columns + j % columns

    a, b, c, d = number(u, v), number(u + 1, v), number(u + 1, v + 1), number(u, v + 1)
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return Mesh(place(i, j).astype(np.float64), faces.astype(np.int32))


def plane(size: int, step: float) -> Mesh:
    return sheet(size, size, lambda i, j: np.stack([(i + 0.5 * (j % 2)) * step, j * step, 0 * i], axis=1))


def torus(rows: int, columns: int, large: float, small: float) -> Mesh:
    def place(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        u, v = 2 * np.pi * i / rows, 2 * np.pi * j / columns
        ring = large + small * np.cos(v)
        return np.stack([ring * np.cos(u), ring * np.sin(u), small * np.sin(v)], axis=1)

    return sheet(rows, columns, place, wrap=(True, True))


def joined(*meshes: Mesh) -> Mesh:
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + shift for mesh, shift in zip(meshes, offsets, strict=True)]).astype(np.int32),
    )


def random_points(surface: Surface, count: int, seed: int = 0) -> SurfacePoints:
    """Points spread evenly by area."""
    rng = np.random.default_rng(seed)
    faces = rng.choice(len(surface.faces), count, p=surface.face_areas / surface.face_areas.sum())
    return surface.points(faces, rng.dirichlet([1.0, 1.0, 1.0], count))


# ------------------------------------------------------------------ topology


@pytest.mark.parametrize(
    ("mesh", "euler", "closed", "components"),
    [
        (sphere(300, 10.0), 2, True, 1),
        (torus(24, 12, 30.0, 10.0), 0, True, 1),
        (plane(8, 1.0), 1, False, 1),
        (joined(sphere(100, 5.0), sphere(200, 5.0, (20.0, 0.0, 0.0))), 4, True, 2),
    ],
    ids=["sphere", "torus", "plane", "two spheres"],
)
def test_topology(mesh: Mesh, euler: int, closed: bool, components: int) -> None:
    surface = Surface(mesh)
    assert surface.euler_characteristic == euler
    assert surface.is_closed is closed
    assert surface.n_components == components
    np.testing.assert_allclose(surface.angle_defects.sum(), 2 * np.pi * euler, atol=1e-9)


def test_twins_run_against_each_other() -> None:
    surface = Surface(torus(9, 7, 30.0, 10.0))
    start, end = surface.faces.reshape(-1), np.roll(surface.faces, -1, axis=1).reshape(-1)
    assert (start[surface.twins] == end).all()
    assert (surface.twins[surface.twins] == np.arange(len(start))).all()


def test_boundary_of_a_plane_is_its_rim() -> None:
    surface = Surface(plane(6, 1.0))
    assert len(surface.boundary_edges) == 4 * 5
    inner = np.zeros((6, 6), bool)
    inner[1:-1, 1:-1] = True
    np.testing.assert_array_equal(surface.boundary_vertices, ~inner.ravel())


def test_edges_of_three_faces_and_of_faces_wound_against_each_other_are_boundaries() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0.5, 1, 0], [0.5, -1, 0], [0.5, 0, 1]], float)
    fin = Surface(Mesh(points, np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]], np.int32)))
    assert (fin.twins == -1).all()
    assert fin.n_components == 3
    against = Surface(Mesh(points, np.array([[0, 1, 2], [0, 1, 3]], np.int32)))
    assert (against.twins == -1).all()


def test_components_are_numbered_by_size() -> None:
    surface = Surface(joined(sphere(50, 5.0), sphere(200, 5.0, (20.0, 0.0, 0.0))))
    assert np.bincount(surface.face_components).tolist() == [396, 96]


def test_areas_and_volume_of_a_sphere_anywhere() -> None:
    surface = Surface(sphere(4000, 50.0, (1e4, -2e4, 5.0)))
    np.testing.assert_allclose(surface.vertex_areas.sum(), 4 * np.pi * 50**2, rtol=3e-3)
    np.testing.assert_allclose(surface.volume, 4 / 3 * np.pi * 50**3, rtol=5e-3)


def test_unused_vertices_change_nothing() -> None:
    mesh = sphere(200, 10.0)
    surface = Surface(Mesh(np.concatenate([mesh.vertices, [[0.0, 0.0, 0.0]]]), mesh.faces))
    assert surface.euler_characteristic == 2
    assert surface.closest_points(np.zeros((1, 3))).distances[0] > 9.0
    mean, _ = curvature(surface, rings=2)
    assert np.isnan(mean[-1])
    assert np.isfinite(mean[:-1]).all()


# ------------------------------------------------------------------ closest points


def test_closest_points_agree_with_a_search_of_all_faces() -> None:
    surface = Surface(torus(20, 10, 30.0, 10.0))
    rng = np.random.default_rng(1)
    points = rng.uniform(-50, 50, (60, 3))
    found = surface.closest_points(points)
    # A fine net of barycentric points: its nearest point bounds the true distance from above, by half its mesh width.
    steps = np.array([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)]) / 12.0
    net = np.einsum("sk,fkd->fsd", steps, surface.vertices[surface.faces]).reshape(-1, 3)
    brute = np.linalg.norm(points[:, None] - net[None], axis=2).min(axis=1)
    assert (found.distances <= brute + 1e-9).all()
    assert (found.distances >= brute - 0.6).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)
    assert (found.weights >= 0.0).all()
    np.testing.assert_allclose(np.linalg.norm(points - found.positions, axis=1), found.distances)


def test_closest_point_of_a_long_triangle_is_not_that_of_its_nearest_vertex() -> None:
    points = np.array([[0, 0, 0], [100, 0, 0], [100, 1, 0], [0, 1, 0], [50, 3, 0], [50.5, 3, 0], [50, 3.5, 0]], float)
    surface = Surface(Mesh(points, np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]], np.int32)))
    found = surface.closest_points(np.array([[50.0, 0.5, 1.0], [50.1, 3.1, 0.2]]))
    np.testing.assert_allclose(found.distances, [1.0, 0.2])


def test_closest_points_do_not_depend_on_how_many_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    surface = Surface(sphere(500, 20.0))
    points = np.random.default_rng(2).normal(0, 15, (40, 3))
    whole = surface.closest_points(points)
    monkeypatch.setattr("membrain_cloud.mesh.bounding_volume_tree._PAIRS_AT_ONCE", 50)
    parts = surface.closest_points(points)
    np.testing.assert_array_equal(whole.faces, parts.faces)
    np.testing.assert_array_equal(whole.weights, parts.weights)


def test_closest_points_of_none_and_of_nonsense() -> None:
    surface = Surface(sphere(50, 20.0))
    assert len(surface.closest_points(np.zeros((0, 3)))) == 0
    with pytest.raises(ValueError, match="finite"):
        surface.closest_points(np.array([[0.0, np.nan, 0.0]]))
    with pytest.raises(ValueError, match="without faces"):
        Surface(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))).closest_points(np.zeros((1, 3)))


# ------------------------------------------------------------------ geodesics


@pytest.mark.parametrize(("count", "tolerance"), [(2500, 1e-2), (10_000, 2e-3)])
def test_geodesics_on_a_sphere_are_great_circles(count: int, tolerance: float) -> None:
    surface = Surface(sphere(count, 500.0))
    points = random_points(surface, 60)
    unit = points.positions / np.linalg.norm(points.positions, axis=1, keepdims=True)
    arc = 500.0 * np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
    found = surface.geodesic(points, points, cutoff_angstrom=400.0)
    near = (arc > 1.0) & (arc < 399.0)
    np.testing.assert_allclose(found[near], arc[near], rtol=tolerance)
    assert np.isinf(found[arc > 401.0]).all()
    assert (np.diagonal(found) == 0.0).all()


def test_geodesics_on_a_plane_are_straight() -> None:
    surface = Surface(plane(40, 15.0))
    points = random_points(surface, 50)
    straight = np.linalg.norm(points.positions[:, None] - points.positions[None], axis=2)
    np.testing.assert_allclose(surface.geodesic(points, points), straight, rtol=2e-4, atol=1e-3)


def test_geodesics_on_a_cylinder_are_helices() -> None:
    radius, step = 150.0, 10.0
    around = 94
    mesh = sheet(
        around,
        60,
        lambda i, j: np.stack(
            [
                radius * np.cos(2 * np.pi * (i + 0.5 * (j % 2)) / around),
                radius * np.sin(2 * np.pi * (i + 0.5 * (j % 2)) / around),
                j * step,
            ],
            axis=1,
        ),
        wrap=(True, False),
    )
    surface = Surface(mesh)
    points = random_points(surface, 40, seed=3)
    angle = np.arctan2(points.positions[:, 1], points.positions[:, 0])
    apart = np.abs(angle[:, None] - angle[None])
    apart = np.minimum(apart, 2 * np.pi - apart)
    helix = np.hypot(radius * apart, points.positions[:, None, 2] - points.positions[None, :, 2])
    found = surface.geodesic(points, points)
    far = helix > 5.0
    np.testing.assert_allclose(found[far], helix[far], rtol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_geodesics_do_not_depend_on_direction_place_or_numbering(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bumps = plane(30, 10.0)
    mesh = Mesh(bumps.vertices + rng.normal(0.0, 1.5, bumps.vertices.shape), bumps.faces)
    surface = Surface(mesh)
    points = random_points(surface, 25, seed)
    found = surface.geodesic(points, points)
    # Joining windows may err by 2e-3 on a sheet as rough as this (noise of 15 % of an edge), either way.
    np.testing.assert_allclose(found, found.T, rtol=4e-3)
    assert (found >= np.linalg.norm(points.positions[:, None] - points.positions[None], axis=2) * (1 - 1e-3)).all()
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    vertices, faces = rng.permutation(len(mesh.vertices)), rng.permutation(len(mesh.faces))
    numbers = np.argsort(vertices)
    moved = Mesh(
        (3.0 * mesh.vertices @ turn.T + [50.0, -7.0, 1e4])[vertices], numbers[mesh.faces[faces]].astype(np.int32)
    )
    there = Surface(moved)
    same = there.points(np.argsort(faces)[points.faces], points.weights)
    np.testing.assert_allclose(there.geodesic(same, same), 3.0 * found, rtol=4e-3)


def test_sheets_that_touch_in_a_vertex_share_no_ways() -> None:
    one = plane(5, 10.0)
    other = Mesh(one.vertices + np.array([0.0, 0.0, 30.0]), one.faces)
    both = joined(one, other)
    faces = both.faces.copy()
    faces[faces == 25 + 12] = 12  # the second sheet's middle vertex is now the first one's
    surface = Surface(Mesh(both.vertices, faces))
    found = surface.geodesic_to_vertices(_at_vertices(surface, [0]))[0]
    assert np.isfinite(found[:25]).all()
    assert np.isinf(found[25:]).all()


def test_a_cut_between_groups_is_a_boundary() -> None:
    mesh = plane(20, 10.0)
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


def test_degenerate_faces_stop_nothing() -> None:
    mesh = plane(8, 10.0)
    faces = np.concatenate([mesh.faces, [[3, 3, 4], [0, 9, 0], [5, 5, 5]]]).astype(np.int32)
    surface = Surface(Mesh(mesh.vertices, faces))
    plain = Surface(mesh)
    source = plain.points(np.array([0]), np.full((1, 3), 1 / 3))
    whole = plain.geodesic_to_vertices(source)
    np.testing.assert_allclose(surface.geodesic_to_vertices(source), whole, rtol=1e-3)
    with pytest.raises(ValueError, match="another surface"):
        plain.geodesic_to_vertices(surface.points(np.array([len(faces) - 1]), np.full((1, 3), 1 / 3)))


def test_geodesics_on_the_inside_of_a_torus_are_not_cut_short() -> None:
    """On a saddle an unfolded source is too near beyond a vertex: the inner equator shows it."""
    large, small = 350.0, 150.0
    rows, columns = 120, 50
    surface = Surface(torus(rows, columns, large, small))
    source, target = 0 * columns + columns // 2, 30 * columns + columns // 2
    found = surface.geodesic_to_vertices(_at_vertices(surface, [source]))[0]
    np.testing.assert_allclose(found[target], (large - small) * 2 * np.pi * 30 / rows, rtol=5e-3)
    # half round the tube
    np.testing.assert_allclose(found[0], np.pi * small, rtol=5e-3)


def test_geodesics_go_round_a_hole() -> None:
    mesh = plane(61, 10.0)
    centroids = mesh.vertices[mesh.faces].mean(axis=1)
    middle, radius = np.array([302.5, 300.0, 0.0]), 100.0
    surface = Surface(Mesh(mesh.vertices, mesh.faces[np.linalg.norm(centroids - middle, axis=1) > radius]))
    ends = surface.closest_points(middle + np.array([[-200.0, 0.0, 0.0], [200.0, 0.0, 0.0]]))
    found = surface.geodesic(ends, ends)[0, 1]
    tangent, arc = np.sqrt(200.0**2 - radius**2), np.pi - 2 * np.arccos(radius / 200.0)
    # the rim is ragged by an edge length
    assert found == pytest.approx(2 * tangent + radius * arc, rel=0.02)


def test_other_components_are_infinitely_far() -> None:
    surface = Surface(joined(sphere(200, 20.0), sphere(200, 20.0, (40.5, 0.0, 0.0))))
    points = surface.closest_points(np.array([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [20.5, 0.0, 0.0]]))
    found = surface.geodesic(points, points)
    assert np.isinf(found[:2, 2]).all()
    assert np.isinf(found[2, :2]).all()
    assert np.isfinite(found[:2, :2]).all()
    to_vertices = surface.geodesic_to_vertices(points)
    assert np.isfinite(to_vertices[0]).tolist() == [True] * 200 + [False] * 200


def test_vertex_distances_equal_point_distances_and_buffers_are_left_clean() -> None:
    surface = Surface(torus(40, 20, 300.0, 100.0))
    sources = random_points(surface, 6, seed=4)
    to_vertices = surface.geodesic_to_vertices(sources, cutoff_angstrom=150.0)
    corners = _at_vertices(surface, list(range(len(surface.vertices))))
    np.testing.assert_allclose(
        surface.geodesic(sources, corners, cutoff_angstrom=150.0), to_vertices, rtol=2e-3, atol=0.01
    )
    np.testing.assert_array_equal(surface.geodesic_to_vertices(sources, cutoff_angstrom=150.0), to_vertices)
    one_by_one = [
        surface.geodesic_to_vertices(surface.points(sources.faces[[i]], sources.weights[[i]]), cutoff_angstrom=150.0)
        for i in reversed(range(6))
    ]
    np.testing.assert_array_equal(np.concatenate(one_by_one[::-1]), to_vertices)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, edges = torus(40, 20, 300.0, 100.0), np.arange(0.0, 301.0, 50.0)
    found = []
    for threads, windows in ((1, 4096), (3, 4096), (4, 16)):
        monkeypatch.setattr("membrain_cloud.mesh.geodesics.solver.FIRST_WINDOWS", windows)
        surface = Surface(mesh, threads=threads)
        points = random_points(surface, 60, seed=5)
        found.append(surface.survey(points, points, cutoff_angstrom=300.0, edges_angstrom=edges))
    for other in found[1:]:
        np.testing.assert_array_equal(other.distances, found[0].distances)
        np.testing.assert_array_equal(other.annulus_areas, found[0].annulus_areas)
        np.testing.assert_array_equal(other.to_boundary, found[0].to_boundary)


def test_annuli_add_up_to_the_cap_of_a_sphere() -> None:
    surface = Surface(sphere(2500, 500.0))
    points = random_points(surface, 12)
    edges = np.arange(0.0, 401.0, 20.0)
    areas = surface.survey(points, points, cutoff_angstrom=400.0, edges_angstrom=edges).annulus_areas
    expected = 2 * np.pi * 500.0**2 * -np.diff(np.cos(edges / 500.0))
    np.testing.assert_allclose(areas.mean(axis=0), expected, rtol=2e-3)
    np.testing.assert_allclose(areas[:, 0], expected[0], rtol=1e-2)


def test_annuli_end_where_the_surface_ends() -> None:
    surface = Surface(plane(40, 15.0))
    corner = surface.closest_points(np.array([[7.5, 0.0, 0.0]]))
    survey = surface.survey(corner, corner, cutoff_angstrom=2000.0, edges_angstrom=np.array([0.0, 100.0, 2000.0]))
    np.testing.assert_allclose(survey.annulus_areas.sum(), surface.face_areas.sum(), rtol=1e-9)
    assert survey.to_boundary[0] < 8.0


def test_importing_the_surface_does_not_import_numba() -> None:
    code = "import sys, membrain_cloud.statistics.measure; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ curvature


@pytest.mark.parametrize("radius", [40.0, 500.0])
def test_curvature_of_a_sphere(radius: float) -> None:
    mean, gauss = curvature(Surface(sphere(3000, radius)), rings=2)
    np.testing.assert_allclose(mean, 1 / radius, rtol=0.05)
    np.testing.assert_allclose(gauss, 1 / radius**2, rtol=0.1)


def test_curvature_of_a_rough_sphere_is_right_in_the_middle() -> None:
    mesh = sphere(3000, 300.0)
    bumps = 1 + 5e-4 * np.random.default_rng(5).normal(size=(3000, 1))
    mean, _ = curvature(Surface(Mesh(mesh.vertices * bumps, mesh.faces)), rings=2)
    assert np.median(mean) == pytest.approx(1 / 300.0, rel=0.05)


def test_curvature_of_a_torus_and_gauss_bonnet() -> None:
    large, small = 300.0, 100.0
    surface = Surface(torus(120, 50, large, small))
    mean, gauss = curvature(surface, rings=2)
    v = np.tile(2 * np.pi * np.arange(50) / 50, 120)
    ring = large + small * np.cos(v)
    np.testing.assert_allclose(mean, (large + 2 * small * np.cos(v)) / (2 * small * ring), rtol=0.05)
    np.testing.assert_allclose(gauss, np.cos(v) / (small * ring), atol=0.05 / (small * ring.min()))
    assert abs((gauss * surface.vertex_areas).sum()) < 0.02 * 4 * np.pi


def test_curvature_sums_to_gauss_bonnet_on_a_sphere() -> None:
    surface = Surface(sphere(2000, 80.0))
    _, gauss = curvature(surface, rings=2)
    assert (gauss * surface.vertex_areas).sum() == pytest.approx(4 * np.pi, rel=0.03)


def test_a_plane_is_flat_and_a_lone_triangle_has_no_curvature() -> None:
    mean, gauss = curvature(Surface(plane(10, 15.0)), rings=2)
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(gauss, 0.0, atol=1e-12)
    lone = Surface(Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32)))
    assert np.isnan(curvature(lone, rings=2)[0]).all()


def _at_vertices(surface: Surface, vertices: list[int]) -> SurfacePoints:
    faces, corners = np.empty(len(surface.vertices), np.int64), np.empty(len(surface.vertices), np.int64)
    faces[surface.faces.reshape(-1)] = np.repeat(np.arange(len(surface.faces)), 3)
    corners[surface.faces.reshape(-1)] = np.tile(np.arange(3), len(surface.faces))
    return surface.points(faces[vertices], np.eye(3)[corners[vertices]])


def test_joined_windows_leave_no_face_out_behind_a_saddle_or_a_hill() -> None:
    """From every source ways come into every face, and they are as long back as there."""
    rng = np.random.default_rng(5)
    ground = np.indices((60, 60)).reshape(2, -1).T * 10.0
    ground += rng.uniform(-3.0, 3.0, ground.shape)
    height = 60.0 * np.sin(ground[:, 0] / 30.0) * np.sin(ground[:, 1] / 50.0)
    surface = Surface(Mesh(np.c_[ground, height], Delaunay(ground).simplices.astype(np.int32)))
    points = surface.closest_points(surface.vertices[rng.permutation(3600)[:150]])
    found = surface.survey(points, points, cutoff_angstrom=1e5, edges_angstrom=np.array([0.0, 1e5]))
    np.testing.assert_allclose(found.annulus_areas[:, 0], surface.face_areas.sum(), rtol=1e-9)
    np.testing.assert_allclose(found.distances, found.distances.T, rtol=2e-3, atol=1e-6)
