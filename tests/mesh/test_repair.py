"""Repair of meshes: what is removed, what is turned, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from standins.shapes import Shapes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.repair import repaired

SHAPES = Shapes()


def test_faces_without_sides_and_copies_are_removed() -> None:
    mesh = SHAPES.plane(4, 10.0)
    copy = np.roll(mesh.faces[5], 1)
    more = Mesh(mesh.vertices, np.vstack([mesh.faces, [[3, 3, 4], copy]]).astype(np.int32))
    np.testing.assert_array_equal(repaired(more).faces, mesh.faces)
    turned = Mesh(mesh.vertices, np.vstack([mesh.faces, copy[::-1]]).astype(np.int32))
    assert len(repaired(turned).faces) == len(mesh.faces) + 1  # the other direction is another face


def test_a_closed_mesh_is_wound_outwards() -> None:
    mesh = SHAPES.sphere(100, 10.0, (50.0, 0.0, 0.0))
    fixed = repaired(SHAPES.inside_out(mesh))
    np.testing.assert_array_equal(fixed.faces, mesh.faces)
    np.testing.assert_array_equal(repaired(SHAPES.plane(3, 1.0)).faces, SHAPES.plane(3, 1.0).faces)


def test_a_mesh_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="no faces"):
        repaired(Mesh(np.zeros((3, 3)), np.zeros((0, 3), np.int32)))
    with pytest.raises(ValueError, match="no area"):
        repaired(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]], np.int32)))
