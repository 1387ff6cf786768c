"""The kernels by themselves: positions in a halfedge's frame, targets, and what happens when windows run out."""

from __future__ import annotations

import numpy as np
from standins.shapes import Shapes

from membrain_cloud.mesh.geodesics import propagation
from membrain_cloud.mesh.geodesics.propagation import local_position
from membrain_cloud.mesh.geodesics.solver import Geodesics
from membrain_cloud.mesh.geodesics.state import KINDS, HalfedgeMesh, Points, Results, Targets, new_buffers
from membrain_cloud.mesh.surface import Surface


def plane() -> tuple[HalfedgeMesh, Surface]:
    surface = Surface(Shapes().plane(7, 10.0))
    mesh = Geodesics(surface.vertices, surface.faces, surface.twins, np.zeros(len(surface.twins), bool))._mesh
    return mesh, surface


def test_a_point_keeps_its_distances_in_the_frame_of_each_halfedge() -> None:
    mesh, surface = plane()
    weights = np.array([0.2, 0.3, 0.5])
    position = weights @ surface.vertices[surface.faces[11]]
    for k in range(3):
        x, y = local_position(mesh, 33 + k, weights)
        assert np.isclose(np.hypot(x, y), np.linalg.norm(position - surface.vertices[surface.faces[11, k]]))


def test_a_survey_that_runs_out_of_windows_says_how_many_sources_are_done() -> None:
    mesh, surface = plane()
    sources = Points(np.array([5, 40]), np.full((2, 3), 1 / 3))
    first = np.full(len(surface.faces), -1, np.int32)
    first[60] = 0
    targets = Targets(np.array([60]), np.full((1, 3), 1 / 3), first, np.array([-1], np.int32))
    results = Results(np.full((2, 1), np.inf), np.full((2, KINDS), np.inf), np.zeros((2, 1)))
    edges = np.array([0.0, 1e3])
    assert propagation.survey(mesh, new_buffers(mesh, 2), 0, sources, targets, 1e3, edges, results) == 0
    assert np.isinf(results.distances).all()
    assert propagation.survey(mesh, new_buffers(mesh, 256), 0, sources, targets, 1e3, edges, results) == 2
    middles = surface.vertices[surface.faces].mean(axis=1)
    straight = np.linalg.norm(middles[[5, 40]] - middles[60], axis=1)
    np.testing.assert_allclose(results.distances[:, 0], straight, rtol=1e-3)
    np.testing.assert_allclose(results.areas[:, 0], surface.face_areas.sum())
