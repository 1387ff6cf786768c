"""Crowded particles are separated; clusters no larger than a particle stay as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from standins.picking_surfaces import OPTIONS, crowd, perfect_scores, sphere

from membrain_cloud.picking.clustering import dense_clusters, mean_shift
from membrain_cloud.picking.crowded_clusters import split_crowded
from membrain_cloud.picking.particles import cluster_picks


@pytest.mark.parametrize("spacing", [75.0, 85.0])
def test_crowded_particles_are_separated(spacing: float) -> None:
    mesh, centers = sphere(500.0, 5), crowd(spacing)
    scores = perfect_scores(mesh, centers) + np.random.default_rng(0).normal(0, 0.7, len(mesh.vertices))
    merged = cluster_picks(mesh, scores, OPTIONS, membrane_id=3)
    split = cluster_picks(mesh, scores, replace(OPTIONS, largest_nm2=100.0), membrane_id=3)
    assert len(merged) < 5
    assert 7 <= len(split) <= 8
    assert cKDTree(split.positions).query(centers)[0].max() < 30.0
    # What is no larger than one particle stays as it was.
    alone = perfect_scores(mesh, centers[:1])
    for limit in (None, 1000.0):
        one = cluster_picks(mesh, alone, replace(OPTIONS, largest_nm2=limit), membrane_id=3)
        np.testing.assert_array_equal(
            one.positions, cluster_picks(mesh, alone, replace(OPTIONS, largest_nm2=None), membrane_id=3).positions
        )


def test_only_clusters_above_the_largest_area_are_split() -> None:
    mesh, centers = sphere(500.0, 5), np.vstack([crowd(75.0), [[0.0, 0.0, -500.0]]])
    scores = perfect_scores(mesh, centers).astype(np.float64)
    low = np.flatnonzero(scores < OPTIONS.score_threshold)
    points, low_scores = mesh.vertices[low], scores[low]
    seeds = mean_shift(points, low_scores, bandwidth_angstrom=75.0, max_iterations=150)
    labels = dense_clusters(seeds, radius=30.0, min_samples=5)
    areas = np.full(len(low), mesh.area_angstrom2() / len(mesh.vertices))
    split, ends = split_crowded(points, low_scores, areas, labels, replace(OPTIONS, largest_nm2=250.0))
    alone = points[:, 2] < 0  # the particle on the other side has few enough vertices
    assert len(np.unique(split[alone])) == 1
    assert np.isnan(ends[alone]).all()
    assert len(np.unique(split)) > len(np.unique(labels))
    assert np.isfinite(ends[(split >= 0) & ~alone]).any()
    same, none = split_crowded(points, low_scores, areas, labels, OPTIONS)
    np.testing.assert_array_equal(same, labels)
    assert np.isnan(none).all()
