"""Areas, volume and closest points of surfaces against closed forms."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from standins.shapes import Shapes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.mesh.surface import Surface

SHAPES = Shapes()


def test_areas_and_volume_of_a_sphere_away_from_the_origin() -> None:
    surface = Surface(SHAPES.sphere(4000, 50.0, (1e4, -2e4, 5.0)))
    np.testing.assert_allclose(surface.vertex_areas.sum(), 4 * np.pi * 50**2, rtol=3e-3)
    np.testing.assert_allclose(surface.volume, 4 / 3 * np.pi * 50**3, rtol=5e-3)


def test_unused_vertices_change_nothing() -> None:
    mesh = SHAPES.sphere(200, 10.0)
    surface = Surface(Mesh(np.concatenate([mesh.vertices, [[0.0, 0.0, 0.0]]]), mesh.faces))
    assert surface.euler_characteristic == 2
    assert surface.closest_points(np.zeros((1, 3))).distances[0] > 9.0
    mean, _ = curvature(surface, rings=2)
    assert np.isnan(mean[-1])
    assert np.isfinite(mean[:-1]).all()


def test_closest_points_agree_with_a_search_of_all_faces() -> None:
    surface = Surface(SHAPES.torus(20, 10, 30.0, 10.0))
    rng = np.random.default_rng(1)
    points = rng.uniform(-50, 50, (60, 3))
    nearest = surface.closest_points(points)
    # A fine net of barycentric points: its nearest point bounds the true distance from above, by half its mesh width.
    steps = np.array([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)]) / 12.0
    net = np.einsum("sk,fkd->fsd", steps, surface.vertices[surface.faces]).reshape(-1, 3)
    brute = np.linalg.norm(points[:, None] - net[None], axis=2).min(axis=1)
    assert (nearest.distances <= brute + 1e-9).all()
    assert (nearest.distances >= brute - 0.6).all()
    np.testing.assert_allclose(nearest.weights.sum(axis=1), 1.0)
    assert (nearest.weights >= 0.0).all()
    np.testing.assert_allclose(np.linalg.norm(points - nearest.positions, axis=1), nearest.distances)


def test_closest_points_lie_inside_long_triangles_too() -> None:
    points = np.array([[0, 0, 0], [100, 0, 0], [100, 1, 0], [0, 1, 0], [50, 3, 0], [50.5, 3, 0], [50, 3.5, 0]], float)
    surface = Surface(Mesh(points, np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]], np.int32)))
    nearest = surface.closest_points(np.array([[50.0, 0.5, 1.0], [50.1, 3.1, 0.2]]))
    np.testing.assert_allclose(nearest.distances, [1.0, 0.2])


def test_closest_points_do_not_depend_on_the_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    surface = Surface(SHAPES.sphere(500, 20.0))
    points = np.random.default_rng(2).normal(0, 15, (40, 3))
    whole = surface.closest_points(points)
    monkeypatch.setattr("membrain_cloud.mesh.bounding_volume_tree._PAIRS_AT_ONCE", 50)
    parts = surface.closest_points(points)
    np.testing.assert_array_equal(whole.faces, parts.faces)
    np.testing.assert_array_equal(whole.weights, parts.weights)


def test_closest_points_need_faces_and_finite_points() -> None:
    surface = Surface(SHAPES.sphere(50, 20.0))
    assert len(surface.closest_points(np.zeros((0, 3)))) == 0
    with pytest.raises(ValueError, match="1 of 1 points are not finite"):
        surface.closest_points(np.array([[0.0, np.nan, 0.0]]))
    with pytest.raises(ValueError, match="no faces"):
        Surface(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))).closest_points(np.zeros((1, 3)))


def test_importing_the_surface_does_not_import_numba() -> None:
    code = "import sys, membrain_cloud.statistics.measure; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_interpolation_is_linear_in_each_face() -> None:
    surface = Surface(SHAPES.torus(20, 10, 30.0, 10.0))
    points = surface.points(np.arange(50), np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], 50))
    np.testing.assert_allclose(surface.interpolate(surface.vertices, points), points.positions)
    slope = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(surface.interpolate(surface.vertices @ slope, points), points.positions @ slope)
