"""Neighbours, boundaries and components of meshes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from standins.shapes import Shapes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.mesh.topology import components_of_faces, euler_characteristic, is_manifold, twin_halfedges

SHAPES = Shapes()


@pytest.mark.parametrize(
    ("mesh", "euler", "closed", "components"),
    [
        (SHAPES.sphere(300, 10.0), 2, True, 1),
        (SHAPES.torus(24, 12, 30.0, 10.0), 0, True, 1),
        (SHAPES.plane(8, 1.0), 1, False, 1),
        (SHAPES.joined(SHAPES.sphere(100, 5.0), SHAPES.sphere(200, 5.0, (20.0, 0.0, 0.0))), 4, True, 2),
    ],
    ids=["sphere", "torus", "plane", "two spheres"],
)
def test_topology(mesh: Mesh, euler: int, closed: bool, components: int) -> None:
    surface = Surface(mesh)
    assert surface.euler_characteristic == euler
    assert surface.is_closed is closed
    assert surface.n_components == components
    np.testing.assert_allclose(surface.angle_defects.sum(), 2 * np.pi * euler, atol=1e-9)


def test_twins_run_in_opposite_directions() -> None:
    surface = Surface(SHAPES.torus(9, 7, 30.0, 10.0))
    start, end = surface.faces.reshape(-1), np.roll(surface.faces, -1, axis=1).reshape(-1)
    assert (start[surface.twins] == end).all()
    assert (surface.twins[surface.twins] == np.arange(len(start))).all()


def test_boundary_of_a_plane_is_its_rim() -> None:
    surface = Surface(SHAPES.plane(6, 1.0))
    assert len(surface.boundary_edges) == 4 * 5
    inner = np.zeros((6, 6), bool)
    inner[1:-1, 1:-1] = True
    np.testing.assert_array_equal(surface.boundary_vertices, ~inner.ravel())


def test_edges_of_three_or_of_contrary_faces_are_boundaries() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0.5, 1, 0], [0.5, -1, 0], [0.5, 0, 1]], float)
    fin = Surface(Mesh(points, np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]], np.int32)))
    assert (fin.twins == -1).all()
    assert fin.n_components == 3
    contrary = Surface(Mesh(points, np.array([[0, 1, 2], [0, 1, 3]], np.int32)))
    assert (contrary.twins == -1).all()


def test_components_are_numbered_by_size() -> None:
    surface = Surface(SHAPES.joined(SHAPES.sphere(50, 5.0), SHAPES.sphere(200, 5.0, (20.0, 0.0, 0.0))))
    assert np.bincount(surface.face_components).tolist() == [396, 96]


def test_the_functions_agree_with_the_surface() -> None:
    mesh = SHAPES.joined(SHAPES.torus(9, 7, 30.0, 10.0), SHAPES.plane(5, 3.0, height=50.0))
    twins, surface = twin_halfedges(mesh.faces, len(mesh.vertices)), Surface(mesh)
    np.testing.assert_array_equal(twins, surface.twins)
    np.testing.assert_array_equal(components_of_faces(twins), surface.face_components)
    assert euler_characteristic(mesh.faces, len(mesh.vertices)) == 0 + 1
    assert is_manifold(mesh.faces, twins, len(mesh.vertices))
    fin = np.vstack([mesh.faces, [mesh.faces[0, 0], mesh.faces[0, 1], 70]]).astype(np.int32)
    assert not is_manifold(fin, twin_halfedges(fin, len(mesh.vertices)), len(mesh.vertices))
