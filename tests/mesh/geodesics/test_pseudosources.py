"""Vertices as sources: paths start in all faces of a fan, and bend only where they must."""

from __future__ import annotations

import numpy as np
from standins.shapes import Shapes

from membrain_cloud.mesh.geodesics.pseudosources import Sector, add_source, bend_at_vertex, emit_sector
from membrain_cloud.mesh.geodesics.solver import Geodesics
from membrain_cloud.mesh.geodesics.state import Buffers, HalfedgeMesh, new_buffers
from membrain_cloud.mesh.surface import Surface

MIDDLE = 3 * 7 + 3  # of a plane of 7 by 7 vertices


def plane() -> tuple[HalfedgeMesh, Buffers, Surface]:
    surface = Surface(Shapes().plane(7, 10.0))
    mesh = Geodesics(surface.vertices, surface.faces, surface.twins, np.zeros(len(surface.twins), bool))._mesh
    return mesh, new_buffers(mesh, 64), surface


def waiting(buffers: Buffers) -> int:
    return int(buffers.counts[0]["waiting"])


def test_a_source_at_a_vertex_enters_all_faces_of_its_fan() -> None:
    mesh, buffers, surface = plane()
    face = int(np.flatnonzero((surface.faces == MIDDLE).any(axis=1))[0])
    add_source(mesh, buffers, face, (surface.faces[face] == MIDDLE).astype(float), np.inf)
    around = np.unique(surface.faces[(surface.faces == MIDDLE).any(axis=1)])
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(buffers.distance)), around)
    assert buffers.counts[0]["faces"] == 6
    assert waiting(buffers) == 6  # a window on the outer edge of each face; no vertex bends paths


def test_a_sector_sends_paths_through_part_of_a_face_only() -> None:
    mesh, buffers, surface = plane()
    corner = int(np.flatnonzero(surface.faces.reshape(-1) == MIDDLE)[0])
    angle = mesh.angle[corner]
    emit_sector(mesh, buffers, Sector(corner, 0.25 * angle, 0.75 * angle), 5.0, np.inf)
    assert waiting(buffers) == 1
    (window,) = buffers.windows[buffers.bucket[buffers.bucket >= 0]]
    length = mesh.shape[mesh.links[buffers.edge[0]]["twin"]]["length"]
    assert 0.0 < window["low"] < window["high"] < length
    assert window["sigma"] == 5.0
    assert np.isinf(buffers.distance).all()  # neither of the face's other corners is in the sector


def test_paths_bend_at_a_boundary_away_from_where_they_come_from() -> None:
    mesh, buffers, surface = plane()
    vertex = 3  # on the rim
    corner = int(np.flatnonzero(surface.faces.reshape(-1) == vertex)[0])
    buffers.corner[vertex], buffers.bearing[vertex], buffers.distance[vertex] = corner, 0.0, 7.0
    bend_at_vertex(mesh, buffers, vertex, 7.0, np.inf)
    reached = np.flatnonzero(np.isfinite(buffers.distance))
    assert set(reached) - {vertex} <= set(np.unique(surface.faces[(surface.faces == vertex).any(axis=1)]))
    assert (buffers.distance[reached] >= 7.0).all()
