"""Rays against a search of all triangles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from membrain_cloud.mesh.ray_casting import cells_of, first_hits


def test_rays_agree_with_a_search_of_all_triangles(shapes: Any) -> None:
    rng = np.random.default_rng(0)
    mesh = shapes.joined(shapes.torus(24, 12, 300.0, 100.0), shapes.sphere(200, 90.0))
    corners = mesh.vertices[mesh.faces]
    origins = rng.uniform(-420, 420, (300, 3))
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[:3] = np.eye(3)
    distances, faces = first_hits(cells_of(corners), origins, directions, np.full(300, -1), 500.0)
    for origin, direction, distance, face in zip(origins, directions, distances, faces, strict=True):
        a, u, v = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        matrix = np.stack([u, v, np.broadcast_to(-direction, u.shape)], axis=2)
        s, t, along = np.linalg.solve(matrix, (origin - a)[..., None])[..., 0].T
        hit = (s >= 0) & (t >= 0) & (s + t <= 1) & (along >= 0) & (along <= 500.0)
        assert np.isfinite(distance) == hit.any()
        if hit.any():
            assert distance == pytest.approx(along[hit].min())
            assert along[face] == pytest.approx(distance)
    assert 50 < np.isfinite(distances).sum() < 300
    misses = first_hits(cells_of(corners), np.full((1, 3), np.nan), directions[:1], np.array([-1]), 500.0)
    assert np.isinf(misses[0]).all()


def test_a_ray_does_not_meet_its_own_face(shapes: Any) -> None:
    mesh = shapes.plane(5, 10.0)
    cells = cells_of(mesh.vertices[mesh.faces])
    origin, up = mesh.vertices[mesh.faces[3]].mean(axis=0)[None], np.array([[0.0, 0.0, 1.0]])
    distances, faces = first_hits(cells, origin, up, np.array([-1]), 10.0)
    assert (distances[0], faces[0]) == (0.0, 3)
    distances, faces = first_hits(cells, origin, up, np.array([3]), 10.0)
    assert (distances[0], faces[0]) == (np.inf, -1)
