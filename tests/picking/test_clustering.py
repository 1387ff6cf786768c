"""Mean shift and density-based clusters against their definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.picking import clustering
from membrain_cloud.picking.clustering import dense_clusters, mean_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plain_mean_shift(points: NDArray, scores: NDArray, bandwidth: float, iterations: int) -> NDArray:
    """Compute the mean shift by its definition, with a matrix of all pairs."""
    importance = np.clip(10 - scores, 0.01, 10) + 0.05
    seeds = points.copy()
    for _ in range(iterations):
        distance = np.linalg.norm(seeds[:, None] - points[None], axis=2)
        weight = np.maximum(bandwidth - distance, 0) * importance
        moved = weight @ points / weight.sum(axis=1, keepdims=True)
        shift = np.linalg.norm(moved - seeds, axis=1).mean()
        seeds = moved
        if shift < 1e-3 * bandwidth:
            break
    return seeds


@pytest.mark.parametrize("iterations", [1, 3, 150])
def test_mean_shift_is_its_definition(iterations: int) -> None:
    rng = np.random.default_rng(0)
    points, scores = rng.uniform(-300, 300, (400, 3)) * [1, 1, 0.1] + 1e4, rng.uniform(-1, 12, 400)
    moved = mean_shift(points, scores, bandwidth_angstrom=75.0, max_iterations=iterations)
    np.testing.assert_allclose(moved, plain_mean_shift(points, scores, 75.0, iterations), atol=1e-6)


def test_mean_shift_of_nothing_and_of_one() -> None:
    assert mean_shift(np.zeros((0, 3)), np.zeros(0), bandwidth_angstrom=75.0, max_iterations=9).shape == (0, 3)
    one = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(mean_shift(one, np.ones(1), bandwidth_angstrom=75.0, max_iterations=9), one)


def plain_dbscan(points: NDArray, radius: float, min_samples: int) -> list[set[int]]:
    """Return the sets of core points that reach each other, by walking."""
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= radius
    core = np.flatnonzero(near.sum(axis=1) >= min_samples)
    left, clusters = set(core.tolist()), []
    while left:
        todo, cluster = [left.pop()], set()
        while todo:
            here = todo.pop()
            cluster.add(here)
            reached = {j for j in left if near[here, j]}
            left -= reached
            todo += reached
        clusters.append(cluster)
    return sorted(clusters, key=min)


def test_dense_clusters_are_dbscans(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.normal(c, 8.0, (30, 3)) for c in ((0, 0, 0), (60, 0, 0), (0, 80, 0))])
    points = np.concatenate([points, rng.uniform(-200, 200, (40, 3))])[rng.permutation(130)]
    labels = dense_clusters(points, radius=12.0, min_samples=5)
    clusters = plain_dbscan(points, 12.0, 5)
    core = set().union(*clusters)
    assert len(clusters) >= 3
    for cluster in clusters:
        assert len({labels[i] for i in cluster}) == 1
    assert len({labels[min(c)] for c in clusters}) == len(clusters)
    for i in set(range(len(points))) - core:
        near_core = [j for j in core if np.linalg.norm(points[i] - points[j]) <= 12.0]
        assert (labels[i] == -1) == (not near_core)
        assert not near_core or labels[i] in {labels[j] for j in near_core}
    # The same, one pair at a time.
    monkeypatch.setattr(clustering, "_PAIRS_AT_ONCE", 1)
    np.testing.assert_array_equal(dense_clusters(points, radius=12.0, min_samples=5), labels)


def test_points_without_neighbours_are_noise() -> None:
    assert dense_clusters(np.eye(3) * 100, radius=5.0, min_samples=2).tolist() == [-1, -1, -1]
