"""Accuracy of areas, geodesics, curvatures and pair counts against closed forms, as the documentation promises it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from membrain_cloud.mesh.curvature import curvature
from membrain_cloud.mesh.surface import Surface, SurfacePoints
from membrain_cloud.statistics.spatial.neighbors import Pairs, count_pairs
from membrain_cloud.statistics.spatial.random_placement import random_points

RADIUS = 500.0


def at_random(surface: Surface, count: int, seed: int) -> SurfacePoints:
    return random_points(surface, np.arange(len(surface.faces)), count, np.random.default_rng(seed))


def counted(surface: Surface, at: SurfacePoints, kinds: np.ndarray, cutoff: float, width: float) -> Pairs:
    return count_pairs(
        surface,
        at,
        kinds,
        cutoff_angstrom=cutoff,
        bin_width_angstrom=width,
        boundary_cutoff_angstrom=0.0,
        n_neighbors=3,
    )


def test_areas_are_within_two_in_a_thousand(shapes: Any) -> None:
    sphere = Surface(shapes.sphere(10_000, RADIUS)).face_areas.sum()
    assert sphere == pytest.approx(4 * np.pi * RADIUS**2, rel=2e-3)
    torus = Surface(shapes.torus(180, 60, 350.0, 110.0)).face_areas.sum()
    assert torus == pytest.approx(4 * np.pi**2 * 350.0 * 110.0, rel=2e-3)
    cylinder = Surface(shapes.cylinder(94, 80, 150.0, 10.0)).face_areas.sum()
    assert cylinder == pytest.approx(2 * np.pi * 150.0 * 790.0, rel=2e-3)


def test_geodesics_on_a_torus_are_within_two_in_a_thousand(shapes: Any) -> None:
    """Around the tube, and along the inner equator, which is the shortest path between near points."""
    large, small, rows, columns = 350.0, 110.0, 180, 60
    surface = Surface(shapes.torus(rows, columns, large, small))
    start = columns // 2  # on the inner equator
    corner = np.flatnonzero((surface.faces == start).any(axis=1))[:1]
    source = surface.points(corner, (surface.faces[corner] == start).astype(float))
    found = surface.geodesic_to_vertices(source)[0].reshape(rows, columns)
    along = (large - small) * 2 * np.pi * np.arange(1, 20) / rows
    np.testing.assert_allclose(found[1:20, start], along, rtol=2e-3)
    # a ring around the tube has the length of its polygon
    assert found[0, 0] == pytest.approx(np.pi * small, rel=2e-3)


def test_mean_curvature_is_within_three_percent_in_the_median(shapes: Any) -> None:
    mean, _ = curvature(Surface(shapes.sphere(10_000, RADIUS)), rings=2)
    assert np.median(mean) == pytest.approx(1 / RADIUS, rel=0.03)
    mean, _ = curvature(Surface(shapes.cylinder(94, 80, 150.0, 10.0)), rings=2)
    assert np.median(mean) == pytest.approx(1 / (2 * 150.0), rel=0.03)
    large, small, rows, columns = 350.0, 110.0, 180, 60
    mean, _ = curvature(Surface(shapes.torus(rows, columns, large, small)), rings=2)
    v = np.tile(2 * np.pi * np.arange(columns) / columns, rows)
    expected = (large + 2 * small * np.cos(v)) / (2 * small * (large + small * np.cos(v)))
    assert np.median(np.abs(mean / expected - 1.0)) < 0.03


def test_gauss_bonnet_holds_within_a_percent(shapes: Any) -> None:
    for mesh, euler in ((shapes.sphere(10_000, RADIUS), 2), (shapes.torus(180, 60, 350.0, 110.0), 0)):
        surface = Surface(mesh)
        gauss = curvature(surface, rings=2)[1]
        total = (gauss * surface.vertex_areas).sum()
        scale = (np.abs(gauss) * surface.vertex_areas).sum()
        assert total == pytest.approx(2 * np.pi * euler, abs=0.01 * scale)
        assert surface.angle_defects.sum() == pytest.approx(2 * np.pi * euler, abs=1e-6)


def test_ripley_k_at_random_is_within_two_percent(shapes: Any) -> None:
    """K over its closed form, 2πR²(1 - cos r/R), pooled over 20 draws, from two mean edges on."""
    surface = Surface(shapes.sphere(2500, RADIUS))
    edge = 38.0
    n, width, area = 500, 20.0, float(surface.face_areas.sum())
    counts, areas = np.zeros(20), np.zeros(20)
    for draw in range(20):
        pairs = counted(surface, at_random(surface, n, 50 + draw), np.zeros(n, np.int64), 400.0, width)
        counts += pairs.counts.sum(axis=(0, 1))
        areas += pairs.areas.sum(axis=0)
    r = width * np.arange(1, 21)
    at_chance = 2 * np.pi * RADIUS**2 * (1 - np.cos(r / RADIUS))
    k, random_k = np.cumsum(counts) * area / (20 * n * (n - 1)), np.cumsum(areas) / (20 * n)
    far = r >= 2 * edge
    np.testing.assert_allclose(k[far] / random_k[far], 1.0, atol=0.02)
    np.testing.assert_allclose(random_k[far] / at_chance[far], 1.0, atol=5e-3)


def test_nearest_neighbour_at_random_is_within_a_percent(shapes: Any) -> None:
    """Mean πR·C(2N-2, N-1)/4^(N-1): 8.896 nm for 100 particles at R = 50 nm."""
    count = 100
    expected = np.pi * RADIUS * math.comb(2 * count - 2, count - 1) / 4 ** (count - 1)
    surface = Surface(shapes.sphere(2500, RADIUS))
    found = [
        counted(surface, at_random(surface, count, seed), np.zeros(count, np.int64), 260.0, 260.0).neighbors.nearest(
            0, count
        )
        for seed in range(300)
    ]
    assert np.isfinite(found).mean() > 0.998
    assert np.mean(np.minimum(found, 300.0)) == pytest.approx(expected, rel=0.01)


def test_neighbours_and_pairs_between_classes_are_those_of_great_circles(shapes: Any) -> None:
    surface = Surface(shapes.sphere(5000, RADIUS))
    at, kinds = at_random(surface, 90, 3), np.arange(90) % 3
    unit = at.positions / np.linalg.norm(at.positions, axis=1, keepdims=True)
    arcs = RADIUS * np.arccos(np.clip(unit @ unit.T, -1.0, 1.0))
    np.fill_diagonal(arcs, np.inf)
    pairs = counted(surface, at, kinds, 400.0, 100.0)
    near = pairs.neighbors
    for source in range(90):
        for kind in range(3):
            mine = np.flatnonzero((near.sources == source) & (near.kinds == kind))
            members = np.flatnonzero(kinds == kind)
            order = members[np.argsort(arcs[source, members])][:3]
            order = order[arcs[source, order] < 399.0]
            found = near.targets[mine][: len(order)]  # of two as near, to 1e-3, either may come first
            assert len(set(found)) == len(order)
            assert set(found) <= set(members)
            np.testing.assert_allclose(arcs[source, found], arcs[source, order], rtol=1e-3)
            np.testing.assert_allclose(near.distances[mine][: len(order)], arcs[source, order], rtol=2e-3, atol=0.05)
    edges = np.array([0.0, 100.0, 200.0, 300.0, 400.0])
    clear = np.abs(arcs[..., None] - edges).min(axis=-1) > 1.0  # no pair so near to an edge that rounding decides
    for kind in range(3):
        among = arcs[:, kinds == kind][:, :, None]
        exact = ((among >= edges[:-1]) & (among < edges[1:])).sum(axis=1)
        assert np.abs(pairs.counts[:, kind] - exact).sum() <= 2 * (~clear).sum()
        assert pairs.counts[:, kind].sum() == pytest.approx(exact.sum(), rel=0.01)
