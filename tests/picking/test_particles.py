"""Picks from scores of vertices: positions, scores, offsets, refinement, distances between picks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree
from standins.picking_surfaces import OPTIONS, crowd, directions, perfect_scores, sphere, together

from membrain_cloud.geometry import Mesh
from membrain_cloud.picking.particles import cluster_picks, slab_thickness
from membrain_cloud.picking.vertex_scores import FAR_SCORE


def test_picks_are_where_the_scores_are_low() -> None:
    mesh = sphere(500.0, 5)
    centers = 500.0 * directions(12, seed=0, apart=0.5)
    picks = cluster_picks(mesh, perfect_scores(mesh, centers), OPTIONS, membrane_id=3)
    assert len(picks) == 12
    assert cKDTree(centers).query(picks.positions)[0].max() < 20.0
    assert picks.orientations is not None
    outward = picks.positions / np.linalg.norm(picks.positions, axis=1, keepdims=True)
    assert ((picks.orientations[:, :, 2] * outward).sum(axis=1) > 0.99).all()
    assert (np.diff(picks.scores) <= 0).all()
    assert 0.5 < picks.scores.min() <= picks.scores.max() <= 1.0
    assert set(picks.membrane_ids) == {3}


def test_the_offset_moves_picks_along_the_outward_normal() -> None:
    mesh = sphere(500.0)
    scores = perfect_scores(mesh, 500.0 * directions(4, seed=0, apart=0.6))
    here, deeper = (
        cluster_picks(mesh, scores, replace(OPTIONS, center_offset_angstrom=offset), membrane_id=3)
        for offset in (0.0, -27.0)
    )
    assert here.orientations is not None
    np.testing.assert_allclose(deeper.positions, here.positions - 27.0 * here.orientations[:, :, 2])


@pytest.mark.parametrize("score", [9.0, 10.0])
def test_nothing_below_the_threshold_gives_no_picks(score: float) -> None:
    mesh = sphere(300.0, 3)
    picks = cluster_picks(
        mesh, np.full(len(mesh.vertices), score), replace(OPTIONS, score_threshold=9.0), membrane_id=3
    )
    assert len(picks) == 0
    assert picks.orientations is not None
    assert picks.orientations.shape == (0, 3, 3)


def test_too_few_low_vertices_give_no_picks() -> None:
    mesh = sphere(300.0, 3)
    scores = np.full(len(mesh.vertices), 10.0)
    scores[:2] = 0.0
    assert len(cluster_picks(mesh, scores, OPTIONS, membrane_id=3)) == 0


def test_refining_frees_centres_from_the_pull_of_neighbours() -> None:
    mesh, apart = sphere(500.0, 5), 110.0
    sine, cosine = np.sin(apart / 1000.0), np.cos(apart / 1000.0)
    centers = 500.0 * np.array([[sine, 0.0, cosine], [-sine, 0.0, cosine]])
    scores = perfect_scores(mesh, centers)
    errors = [
        np.sort(cKDTree(centers).query(picks.positions)[0])[:2].max()
        for picks in (cluster_picks(mesh, scores, replace(OPTIONS, refine=r), membrane_id=3) for r in (False, True))
    ]
    assert errors[0] > 8.0
    assert errors[1] < 4.0


def test_two_picks_on_one_particle_meet_in_its_middle() -> None:
    """Lowest scores at both ends of 44 Å, two clusters at a bandwidth of 25 Å."""
    mesh, ends = sphere(500.0, 5), np.radians([-2.5, 2.5])
    scores = perfect_scores(mesh, 500.0 * np.stack([np.sin(ends), 0 * ends, np.cos(ends)], axis=1))
    options = replace(OPTIONS, bandwidth_angstrom=25.0, min_distance_angstrom=25.0)
    middle = np.array([0.0, 0.0, 500.0])
    apart = cluster_picks(mesh, scores, options, membrane_id=3).positions
    assert len(apart) == 2
    assert np.linalg.norm(apart - middle, axis=1).min() > 15.0
    (pick,) = cluster_picks(mesh, scores, replace(options, refine=True), membrane_id=3).positions
    assert np.linalg.norm(pick - middle) < 10.0


@pytest.mark.parametrize("thickness", [40.0, 60.0])
def test_picks_lie_in_the_middle_of_the_slab(thickness: float) -> None:
    outer, inner = sphere(500.0 + thickness / 2, 4), sphere(500.0 - thickness / 2, 4)
    shell = together(outer, Mesh(inner.vertices, inner.faces[:, ::-1]))
    center = np.array([[0.0, 0.0, 500.0 + thickness / 2]])
    scores = perfect_scores(shell, center)
    scores[len(outer.vertices) :] = FAR_SCORE
    to_the_middle = replace(OPTIONS, center_offset_angstrom=None)
    picks = cluster_picks(shell, scores, to_the_middle, membrane_id=3)
    assert len(picks) == 1
    assert np.linalg.norm(picks.positions[0]) == pytest.approx(500.0, abs=4.0)
    across = slab_thickness(shell)
    np.testing.assert_allclose(across, thickness, atol=2.0)
    again = cluster_picks(shell, scores, to_the_middle, membrane_id=3, thickness=across)
    np.testing.assert_array_equal(again.positions, picks.positions)


def test_the_better_of_two_near_picks_stays() -> None:
    mesh = sphere(500.0, 5)
    centers = crowd(100.0)[:3]  # one in the middle, two beside it, all 100 Å apart
    scores = perfect_scores(mesh, centers)
    worse = cKDTree(mesh.vertices).query_ball_point(centers[1], 60.0)
    scores[worse] += 1.0
    options = replace(OPTIONS, bandwidth_angstrom=50.0)
    every = cluster_picks(mesh, scores, options, membrane_id=3)
    assert len(every) == 3
    kept = cluster_picks(mesh, scores, replace(options, min_distance_angstrom=130.0), membrane_id=3)
    assert len(kept) == 1
    np.testing.assert_array_equal(kept.positions, every.positions[:1])
    assert len(cluster_picks(mesh, scores, replace(options, min_distance_angstrom=70.0), membrane_id=3)) == 3


def test_near_picks_on_two_leaflets_both_stay() -> None:
    """30 Å apart through the slab, far apart along it."""
    mesh = together(sphere(500.0, 5), Mesh(sphere(470.0, 5).vertices, sphere(470.0, 5).faces[:, ::-1].copy()))
    scores = np.full(len(mesh.vertices), 10.0)
    half = len(scores) // 2
    for part, radius in ((slice(0, half), 500.0), (slice(half, None), 470.0)):
        center = np.array([[0.0, 0.0, radius]])
        scores[part] = np.minimum(cKDTree(center).query(mesh.vertices[part])[0] / 15.0, 10.0)
    picks = cluster_picks(
        mesh, scores, replace(OPTIONS, bandwidth_angstrom=25.0, min_distance_angstrom=60.0), membrane_id=3
    )
    assert len(picks) == 2
    assert picks.orientations is not None
    assert picks.orientations[0, :, 2] @ picks.orientations[1, :, 2] < -0.99
