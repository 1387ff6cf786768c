"""Areas of annuli about a source against spherical caps, whole surfaces and single triangles."""

from __future__ import annotations

import numpy as np
from standins.shapes import Shapes
from standins.surface_points import random_points

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.geodesics.annuli import add_face_area
from membrain_cloud.mesh.geodesics.solver import Geodesics
from membrain_cloud.mesh.geodesics.state import new_buffers
from membrain_cloud.mesh.surface import Surface

SHAPES = Shapes()


def test_annuli_add_up_to_the_cap_of_a_sphere() -> None:
    surface = Surface(SHAPES.sphere(2500, 500.0))
    points = random_points(surface, 12)
    edges = np.arange(0.0, 401.0, 20.0)
    areas = surface.survey(points, points, cutoff_angstrom=400.0, edges_angstrom=edges).annulus_areas
    expected = 2 * np.pi * 500.0**2 * -np.diff(np.cos(edges / 500.0))
    np.testing.assert_allclose(areas.mean(axis=0), expected, rtol=2e-3)
    np.testing.assert_allclose(areas[:, 0], expected[0], rtol=1e-2)


def test_annuli_end_where_the_surface_ends() -> None:
    surface = Surface(SHAPES.plane(40, 15.0))
    corner = surface.closest_points(np.array([[7.5, 0.0, 0.0]]))
    survey = surface.survey(corner, corner, cutoff_angstrom=2000.0, edges_angstrom=np.array([0.0, 100.0, 2000.0]))
    np.testing.assert_allclose(survey.annulus_areas.sum(), surface.face_areas.sum(), rtol=1e-9)
    assert survey.to_boundary[0] < 8.0


def test_a_far_triangle_is_shared_between_annuli_by_height() -> None:
    """Seen from far away, distances rise linearly over the triangle: from 1000 at one corner to 1010 at its base."""
    mesh = Mesh(np.array([[0.0, 0.0, 0.0], [10.0, -5.0, 0.0], [10.0, 5.0, 0.0]]), np.array([[0, 1, 2]], np.int32))
    surface = Surface(mesh)
    halfedges = Geodesics(surface.vertices, surface.faces, surface.twins, np.zeros(3, bool))._mesh
    buffers = new_buffers(halfedges, 16)
    buffers.distance[:] = 1000.0, 1010.0, 1010.0
    areas = np.zeros(3)
    add_face_area(halfedges, buffers, 0, np.array([0.0, 1000.0, 1005.0, 2000.0]), areas)
    np.testing.assert_allclose(areas, [0.0, 12.5, 37.5], atol=0.1)
    np.testing.assert_allclose(areas.sum(), surface.face_areas.sum())
