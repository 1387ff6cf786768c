"""Curvatures of spheres, tori and planes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from standins.shapes import Shapes

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.mesh.surface import Surface

SHAPES = Shapes()


@pytest.mark.parametrize("radius", [40.0, 500.0])
def test_curvature_of_a_sphere(radius: float) -> None:
    mean, gauss = curvature(Surface(SHAPES.sphere(3000, radius)), rings=2)
    np.testing.assert_allclose(mean, 1 / radius, rtol=0.05)
    np.testing.assert_allclose(gauss, 1 / radius**2, rtol=0.1)


def test_curvature_of_a_rough_sphere_is_right_in_the_middle() -> None:
    mesh = SHAPES.sphere(3000, 300.0)
    bumps = 1 + 5e-4 * np.random.default_rng(5).normal(size=(3000, 1))
    mean, _ = curvature(Surface(Mesh(mesh.vertices * bumps, mesh.faces)), rings=2)
    assert np.median(mean) == pytest.approx(1 / 300.0, rel=0.05)


def test_curvature_of_a_torus_and_gauss_bonnet() -> None:
    large, small = 300.0, 100.0
    surface = Surface(SHAPES.torus(120, 50, large, small))
    mean, gauss = curvature(surface, rings=2)
    v = np.tile(2 * np.pi * np.arange(50) / 50, 120)
    ring = large + small * np.cos(v)
    np.testing.assert_allclose(mean, (large + 2 * small * np.cos(v)) / (2 * small * ring), rtol=0.05)
    np.testing.assert_allclose(gauss, np.cos(v) / (small * ring), atol=0.05 / (small * ring.min()))
    assert abs((gauss * surface.vertex_areas).sum()) < 0.02 * 4 * np.pi


def test_curvature_sums_to_gauss_bonnet_on_a_sphere() -> None:
    surface = Surface(SHAPES.sphere(2000, 80.0))
    _, gauss = curvature(surface, rings=2)
    assert (gauss * surface.vertex_areas).sum() == pytest.approx(4 * np.pi, rel=0.03)


def test_a_plane_is_flat_and_a_lone_triangle_has_no_curvature() -> None:
    mean, gauss = curvature(Surface(SHAPES.plane(10, 15.0)), rings=2)
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(gauss, 0.0, atol=1e-12)
    lone = Surface(Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32)))
    assert np.isnan(curvature(lone, rings=2)[0]).all()
