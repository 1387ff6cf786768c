"""Particles at random on a mesh: uniform, each in its component, reproducible, and with envelopes that cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.spatial.random_placement import bins_between, random_points, simulate_pair_counts

EDGES = np.arange(0.0, 201.0, 20.0)


def sphere(count: int, radius: float, centre: float = 0.0) -> Mesh:
    points = np.random.default_rng(count).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    faces = ConvexHull(points).simplices.astype(np.int32)
    a, b, c = (points[faces[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return Mesh(points * radius + centre, faces)


def two_spheres() -> Surface:
    one, other = sphere(400, 200.0), sphere(150, 100.0, 1000.0)
    faces = np.concatenate([one.faces, other.faces + 400]).astype(np.int32)
    return Surface(Mesh(np.concatenate([one.vertices, other.vertices]), faces))


def test_random_points_are_even_by_area() -> None:
    surface = Surface(sphere(200, 100.0))
    points = random_points(surface, np.arange(len(surface.faces)), 20_000, np.random.default_rng(0))
    counts = np.bincount(points.faces, minlength=len(surface.faces))
    expected = 20_000 * surface.face_areas / surface.face_areas.sum()
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_squared - len(counts)) < 4 * np.sqrt(2 * len(counts))
    np.testing.assert_allclose(points.weights.mean(axis=0), 1 / 3, atol=0.01)


def test_counts_have_the_expected_mean_and_stay_in_their_component() -> None:
    surface = two_spheres()
    at = random_points(surface, np.arange(len(surface.faces)), 60, np.random.default_rng(1))
    on = surface.face_components[at.faces]
    counts = simulate_pair_counts(surface, at, np.zeros(60, np.int64), edges_angstrom=EDGES, n_simulations=200, seed=3)
    assert counts.shape == (2, 1, 1, 200, 10)
    n, radius = int((on == 0).sum()), 200.0
    expected = n * (n - 1) * -np.diff(np.cos(EDGES / radius)) / 2
    np.testing.assert_allclose(counts[0, 0, 0].mean(axis=0), expected, rtol=0.12)
    again = simulate_pair_counts(surface, at, np.zeros(60, np.int64), edges_angstrom=EDGES, n_simulations=200, seed=3)
    np.testing.assert_array_equal(counts, again)


def test_between_two_kinds_the_particles_in_the_centres_stay() -> None:
    surface = Surface(sphere(400, 200.0))
    rng = np.random.default_rng(2)
    every = np.arange(len(surface.faces))
    at = random_points(surface, every, 30, rng)
    kinds = np.repeat([0, 1], 15)
    counts = simulate_pair_counts(surface, at, kinds, edges_angstrom=EDGES, n_simulations=300, seed=0)
    expected = 15 * 15 * -np.diff(np.cos(EDGES / 200.0)) / 2
    # standard deviation that the pool itself causes: pairs of 15 particles with 200 points
    sigma = np.sqrt(expected * 15 / 200)
    for one, other in ((0, 1), (1, 0)):
        assert (np.abs(counts[0, one, other].mean(axis=0) - expected) < 4 * sigma).all()


def test_no_particle_or_a_single_one_gives_no_pairs() -> None:
    surface = Surface(sphere(100, 50.0))
    none = surface.points(np.zeros(0, np.int64), np.zeros((0, 3)))
    assert (
        simulate_pair_counts(surface, none, np.zeros(0, np.int64), edges_angstrom=EDGES, n_simulations=5, seed=0).size
        == 0
    )
    one = random_points(surface, np.arange(3), 1, np.random.default_rng(0))
    counts = simulate_pair_counts(surface, one, np.zeros(1, np.int64), edges_angstrom=EDGES, n_simulations=5, seed=0)
    assert not counts.any()


@pytest.mark.slow
def test_envelopes_cover_random_patterns() -> None:
    """At each distance, 95 % of further random draws lie between ranks 2.5 % and 97.5 % of 199 simulations."""
    surface = Surface(sphere(600, 250.0))
    every = np.arange(len(surface.faces))
    edges = np.arange(0.0, 401.0, 40.0)
    inside = []
    for draw in range(150):
        at = random_points(surface, every, 60, np.random.default_rng(1000 + draw))
        bins = bins_between(surface, at, at, edges)
        np.fill_diagonal(bins, -1)
        observed = np.cumsum(np.bincount(bins[bins >= 0], minlength=10))[3:]
        null = simulate_pair_counts(
            surface, at, np.zeros(60, np.int64), edges_angstrom=edges, n_simulations=199, seed=draw
        )[0, 0, 0].cumsum(axis=1)[:, 3:]
        ordered = np.sort(null, axis=0)
        inside.append((observed >= ordered[4]) & (observed <= ordered[-5]))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
