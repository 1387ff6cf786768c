"""Particles are placed on the leaflet that they point out of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.model.placement import normals_at, place_on_leaflets


@pytest.fixture
def two_planes(shapes: Any) -> tuple[Surface, np.ndarray]:
    """Two parallel planes 40 Å apart, the upper one (leaflet 0) looking up and the lower one down."""
    mesh = shapes.joined(shapes.plane(20, 20.0, 40.0), shapes.inside_out(shapes.plane(20, 20.0)))
    leaflets = np.repeat([0, 1], len(mesh.faces) // 2)
    return Surface(mesh, leaflets), leaflets


def test_the_axis_decides_between_two_leaflets(two_planes: tuple[Surface, np.ndarray]) -> None:
    positions = np.array([[200.0, 200.0, 22.0], [200.0, 200.0, 22.0], [200.0, 200.0, 18.0]])
    axes = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    at = place_on_leaflets(*two_planes, positions, axes)
    np.testing.assert_allclose(at.positions[:, 2], [40.0, 0.0, 40.0], atol=1e-9)
    np.testing.assert_allclose(at.distances, [18.0, 22.0, 22.0])


def test_without_a_clear_axis_the_nearest_point_stays(two_planes: tuple[Surface, np.ndarray]) -> None:
    positions = np.array([[200.0, 200.0, 22.0], [200.0, 200.0, 18.0]])
    at = place_on_leaflets(*two_planes, positions, np.array([[np.nan] * 3, [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(at.positions[:, 2], [40.0, 0.0], atol=1e-9)


def test_normals_are_of_unit_length_and_point_outwards(shapes: Any) -> None:
    surface = Surface(shapes.sphere(1000, 200.0))
    places = np.random.default_rng(0).normal(size=(30, 3))
    places *= 200.0 / np.linalg.norm(places, axis=1, keepdims=True)
    normals = normals_at(surface, surface.closest_points(places))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
    np.testing.assert_allclose(normals, places / 200.0, atol=0.02)
