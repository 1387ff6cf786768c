"""Heat-method distances on spheres, and on meshes with holes, odd edges and several components."""

from __future__ import annotations

import numpy as np
from standins.picking_surfaces import sphere, together

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.spectral.heat_method import HeatDistances


def test_heat_distances_are_near_the_true_ones() -> None:
    mesh = sphere(400.0, 4)
    distances = HeatDistances(mesh).from_vertex(5)
    cosine = np.clip(mesh.vertices @ mesh.vertices[5] / 400.0**2, -1, 1)
    assert np.abs(distances - 400.0 * np.arccos(cosine)).max() < 40.0
    assert distances[5] == 0
    assert distances.min() == 0


def test_heat_distances_are_finite_with_holes_odd_edges_components() -> None:
    whole = sphere(400.0, 3)
    holes = Mesh(whole.vertices, np.delete(whole.faces, [3, 4, 5, 200, 201], axis=0))
    fin = np.array([[0, int(whole.faces[0, 1]), 300]], np.int32)
    odd = Mesh(whole.vertices, np.vstack([whole.faces, whole.faces[:1], fin]))
    alone = Mesh(np.vstack([whole.vertices, [[9e3, 0, 0]]]), whole.faces)
    for mesh in (holes, odd, together(whole, sphere(50.0, 2, (2e3, 0, 0))), alone):
        assert np.isfinite(HeatDistances(mesh).from_vertex(0)).all()
