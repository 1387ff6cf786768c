"""Nearest faces against trimesh and against a projection onto all faces."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from standins.shapes import Shapes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.bounding_volume_tree import FaceTree
from membrain_cloud.mesh.point_triangle import project_to_triangles


def test_the_tree_agrees_with_trimesh_for_faces_of_all_sizes() -> None:
    rng = np.random.default_rng(1)
    size = 10.0 ** rng.uniform(-1, 3, (400, 1, 1))
    corners = rng.uniform(0, 1000, (400, 1, 3)) + size * rng.normal(size=(400, 3, 3))
    corners[7, 2] = corners[7, 1]  # a side, and a point
    corners[8, 1:] = corners[8, 0]
    vertices, faces = corners.reshape(-1, 3), np.arange(1200, dtype=np.int32).reshape(-1, 3)
    points = np.concatenate([rng.uniform(-2000, 3000, (200, 3)), corners[:, 0], corners[8:9, 0] + [0.0, 0.0, 1e-3]])
    distances, nearest = FaceTree(vertices, faces).find(points)
    # trimesh needs faces with area: the two without are checked by themselves
    sound = np.delete(np.arange(400), [7, 8])
    _, expected, _ = trimesh.proximity.closest_point_naive(
        trimesh.Trimesh(vertices, faces[sound], process=False), points[:-1]
    )
    fewer, _ = FaceTree(vertices, faces[sound]).find(points[:-1])
    assert fewer == pytest.approx(expected, abs=1e-7)
    assert (distances[:-1] <= fewer + 1e-9).all()
    assert distances[-1] == pytest.approx(1e-3)
    assert nearest[-1] == 8
    on_it = trimesh.triangles.closest_point(corners[nearest[:200]], points[:200])
    assert np.linalg.norm(on_it - points[:200], axis=1) == pytest.approx(distances[:200])


def test_of_equally_near_faces_the_lowest_is_returned() -> None:
    mesh = Shapes().plane(3, 5.0)
    twice = Mesh(mesh.vertices, np.concatenate([mesh.faces, mesh.faces]))
    _, nearest = FaceTree(twice.vertices, twice.faces).find(np.array([[1.0, 2.0, 5.0], [7.0, 8.0, -1.0]]))
    assert (nearest < len(mesh.faces)).all()
    faces, _ = FaceTree(twice.vertices, twice.faces).project(np.array([[1.0, 2.0, 5.0], [7.0, 8.0, -1.0]]))
    np.testing.assert_array_equal(faces, nearest)


def slivers() -> Mesh:
    """Return triangles in all directions, most of them 1e-7 times as high as wide."""
    rng = np.random.default_rng(2)
    first = 100.0 * rng.normal(size=(200, 3))
    second, third = first + 30.0 * rng.normal(size=(200, 3)), first + 1e-5 * rng.normal(size=(200, 3))
    return Mesh(np.concatenate([first, second, third]), np.arange(600).reshape(3, 200).T.astype(np.int32))


@pytest.mark.parametrize("mesh", [Shapes().torus(20, 10, 30.0, 10.0), slivers()], ids=["torus", "slivers"])
def test_projection_equals_that_onto_all_faces(mesh: Mesh) -> None:
    """At vertices and on edges several faces are equally near but for rounding: the projection decides."""
    corners, rng = mesh.vertices[mesh.faces], np.random.default_rng(1)
    points = np.concatenate(
        [mesh.vertices[:150], corners[:50, :2].mean(axis=1), rng.normal(0, 40, (100, 3)), 1e4 * rng.normal(size=(9, 3))]
    )
    faces, weights = FaceTree(mesh.vertices, mesh.faces).project(points)
    for point, face, weight in zip(points, faces, weights, strict=True):
        every = project_to_triangles(np.broadcast_to(point, (len(corners), 3)), corners)
        squared = ((np.einsum("nk,nkd->nd", every, corners) - point) ** 2).sum(axis=1)
        assert face == squared.argmin()
        np.testing.assert_array_equal(weight, every[face])
