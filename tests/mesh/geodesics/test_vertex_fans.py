"""Fans of faces about vertices: one each, but for vertices in which sheets touch."""

from __future__ import annotations

import numpy as np
from standins.shapes import Shapes

from membrain_cloud.mesh.geodesics.vertex_fans import fans_about_vertices
from membrain_cloud.mesh.topology import twin_halfedges

SHAPES = Shapes()


def test_a_vertex_has_one_fan_at_a_boundary_or_inside() -> None:
    for mesh in (SHAPES.sphere(100, 10.0), SHAPES.plane(5, 10.0)):
        fans, vertex_of = fans_about_vertices(mesh.faces, twin_halfedges(mesh.faces, len(mesh.vertices)))
        np.testing.assert_array_equal(fans, mesh.faces)
        np.testing.assert_array_equal(vertex_of, np.arange(len(mesh.vertices)))


def test_sheets_that_touch_in_a_vertex_have_a_fan_each() -> None:
    both = SHAPES.joined(SHAPES.plane(5, 10.0), SHAPES.plane(5, 10.0, height=30.0))
    faces = np.where(both.faces == 25 + 12, 12, both.faces).astype(np.int32)
    fans, vertex_of = fans_about_vertices(faces, twin_halfedges(faces, 50))
    assert len(vertex_of) == 50
    assert np.flatnonzero(vertex_of == 12).tolist() == [12, 13]
    np.testing.assert_array_equal(vertex_of[fans], faces)
    assert set(np.unique(fans[:32])).isdisjoint(np.unique(fans[32:]))
