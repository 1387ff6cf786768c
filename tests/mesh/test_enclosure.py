"""Inside and outside of closed surfaces: closed forms, trimesh, and points that project onto edges and vertices."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from standins.shapes import Shapes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.enclosure import pseudonormals, sides_of
from membrain_cloud.mesh.surface import Surface


def box(size: float) -> Mesh:
    made = trimesh.creation.box((size, size, size))
    return Mesh(np.asarray(made.vertices, np.float64), np.asarray(made.faces, np.int32))


def test_a_sphere_and_a_torus_against_their_formulas() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-160.0, 160.0, (4000, 3))
    radius = np.linalg.norm(points, axis=1)
    clear = np.abs(radius - 100.0) > 1.0
    sides = sides_of(Surface(Shapes().sphere(2000, 100.0)), points[clear])
    np.testing.assert_array_equal(sides, np.sign(radius[clear] - 100.0))
    tube = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 100.0, points[:, 2])
    clear = np.abs(tube - 40.0) > 1.0
    torus = Surface(Shapes().torus(120, 60, 100.0, 40.0))
    sign = 1 if torus.volume > 0 else -1
    np.testing.assert_array_equal(sign * sides_of(torus, points[clear]), np.sign(tube[clear] - 40.0))


def test_sharp_edges_and_corners_against_trimesh() -> None:
    """Beside the corners of thin spikes the normal of a single face gives the wrong side."""
    rng = np.random.default_rng(1)
    spikes = trimesh.creation.icosphere(subdivisions=2, radius=10.0)
    vertices = np.asarray(spikes.vertices) * rng.uniform(0.3, 3.0, (len(spikes.vertices), 1))
    star = trimesh.Trimesh(vertices, spikes.faces, process=False)
    points = rng.uniform(-30.0, 30.0, (3000, 3))
    surface = Surface(Mesh(np.asarray(star.vertices, np.float64), np.asarray(star.faces, np.int32)))
    at = surface.closest_points(points)
    assert ((at.weights <= 0.0).sum(axis=1) == 2).sum() > 500  # many nearest points are vertices
    np.testing.assert_array_equal(sides_of(surface, points) < 0, star.contains(points))
    of_faces = np.asarray(star.face_normals)[at.faces]
    alone = ((points - at.positions) * of_faces).sum(axis=1) < 0
    assert (alone != star.contains(points)).any()


def test_directions_at_faces_edges_and_corners_of_a_box() -> None:
    surface = Surface(box(2.0))
    points = np.array([[0.3, 0.2, 5.0], [5.0, 5.0, 0.2], [5.0, -5.0, 5.0]])
    normals = pseudonormals(surface, surface.closest_points(points))
    expected = np.array([[0, 0, 1], [1, 1, 0], [1, -1, 1]]) / np.sqrt([[1], [2], [3]])
    np.testing.assert_allclose(normals / np.linalg.norm(normals, axis=1, keepdims=True), expected, atol=1e-12)


def test_points_on_the_surface_and_open_surfaces() -> None:
    surface = Surface(box(2.0))
    assert sides_of(surface, np.array([[1.0, 0.3, 0.1], [0.0, 0.0, 0.0]])).tolist() == [0, -1]
    with pytest.raises(ValueError, match="not closed"):
        sides_of(Surface(Shapes().plane(5, 10.0)), np.zeros((1, 3)))
