"""Projection of points onto triangles of their own."""

from __future__ import annotations

import numpy as np

from membrain_cloud.mesh.point_triangle import project_to_triangles

TRIANGLE = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])


def test_points_project_to_the_inside_the_edges_and_the_corners() -> None:
    points = np.array([[1.0, 1.0, 7.0], [2.0, -3.0, 1.0], [4.0, 4.0, 0.0], [-1.0, -1.0, 2.0], [9.0, -2.0, 0.0]])
    weights = project_to_triangles(points, np.broadcast_to(TRIANGLE, (5, 3, 3)))
    nearest = [[1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]]
    np.testing.assert_allclose(weights @ TRIANGLE, nearest, atol=1e-12)


def test_a_triangle_without_area_is_its_longest_side() -> None:
    flat = np.array([[[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[2.0, 2.0, 2.0]] * 3])
    weights = project_to_triangles(np.array([[3.0, 5.0, 0.0], [0.0, 0.0, 0.0]]), flat)
    nearest = np.einsum("nk,nkd->nd", weights, flat)
    np.testing.assert_allclose(nearest, [[3.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
