"""Particles go to the membrane with the nearest vertex within reach."""

from __future__ import annotations

import numpy as np

from membrain_cloud.geometry import Mesh
from membrain_cloud.picking.assignment import nearest_membranes


def triangle(z: float) -> Mesh:
    return Mesh(np.array([[0.0, 0, z], [10, 0, z], [0, 10, z]]), np.array([[0, 1, 2]], np.int32))


def test_the_nearest_membrane_within_reach_is_assigned() -> None:
    meshes = {7: triangle(100.0), 3: triangle(0.0)}
    positions = np.array([[0.0, 0, 10], [0, 0, 95], [0, 0, 50], [0, 0, 200]])
    assert nearest_membranes(meshes, positions, within_angstrom=60.0).tolist() == [3, 7, 3, 0]
    assert nearest_membranes(meshes, positions, within_angstrom=20.0).tolist() == [3, 7, 0, 0]


def test_nothing_to_assign() -> None:
    assert nearest_membranes({}, np.zeros((2, 3)), within_angstrom=10.0).tolist() == [0, 0]
    assert nearest_membranes({1: triangle(0.0)}, np.zeros((0, 3)), within_angstrom=10.0).tolist() == []
