"""Points on surfaces for tests of distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from membrain_cloud.mesh.geodesics.surface_points import SurfacePoints
    from membrain_cloud.mesh.surface import Surface


def random_points(surface: Surface, count: int, seed: int = 0) -> SurfacePoints:
    """Return points spread evenly by area."""
    rng = np.random.default_rng(seed)
    faces = rng.choice(len(surface.faces), count, p=surface.face_areas / surface.face_areas.sum())
    return surface.points(faces, rng.dirichlet([1.0, 1.0, 1.0], count))


def at_vertices(surface: Surface, vertices: list[int]) -> SurfacePoints:
    """Return points at vertices, each on one of the vertex's faces."""
    faces, corners = np.empty(len(surface.vertices), np.int64), np.empty(len(surface.vertices), np.int64)
    faces[surface.faces.reshape(-1)] = np.repeat(np.arange(len(surface.faces)), 3)
    corners[surface.faces.reshape(-1)] = np.tile(np.arange(3), len(surface.faces))
    return surface.points(faces[vertices], np.eye(3)[corners[vertices]])
