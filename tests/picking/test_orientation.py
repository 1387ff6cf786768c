"""In-plane angles of elongated particles; round ones have none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from standins.picking_surfaces import OPTIONS, directions, sphere

from membrain_cloud.geometry import Mesh
from membrain_cloud.picking.orientation import orient
from membrain_cloud.picking.particles import cluster_picks

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_elongated_particles_have_an_in_plane_angle_and_round_ones_none() -> None:
    mesh = sphere(500.0, 5)
    centers = 500.0 * directions(10, seed=2, apart=0.55)
    centers[0] = (500.0, 0.0, 0.0)  # its normal lies along x
    rng = np.random.default_rng(0)
    scores = np.full(len(mesh.vertices), 10.0)
    axes = []
    for index, center in enumerate(centers):
        normal = center / 500.0
        frame = np.linalg.svd(normal[None])[2][1:]
        angle = rng.uniform(0, np.pi)
        long = np.cos(angle) * frame[0] + np.sin(angle) * frame[1]
        axes.append(long)
        offset = mesh.vertices - center
        along = offset @ long
        stretch = 2.2 if index < 8 else 1.0
        distance = np.sqrt((offset**2).sum(axis=1) - along**2 + (along / stretch) ** 2)
        scores = np.minimum(scores, distance / 15.0 + rng.normal(0, 0.3, len(scores)))
    picks = cluster_picks(mesh, scores, replace(OPTIONS, bandwidth_angstrom=90.0, score_threshold=4.0), membrane_id=3)
    assert len(picks) == 10
    assert picks.orientations is not None
    assert picks.in_plane is not None
    which = cKDTree(centers).query(picks.positions)[1]
    np.testing.assert_array_equal(picks.in_plane, which < 8)
    assert np.isfinite(picks.orientations).all()
    np.testing.assert_allclose(np.linalg.det(picks.orientations), 1.0)
    cosines = np.abs((picks.orientations[:, :, 0] * np.array(axes)[which]).sum(axis=1))[picks.in_plane]
    assert np.degrees(np.arccos(np.clip(cosines, 0, 1))).max() < 15.0
    tilts = (picks.orientations[:, :, 2] * centers[which] / 500.0).sum(axis=1)
    assert np.degrees(np.arccos(np.clip(tilts, -1, 1))).max() < 6.0


def test_in_plane_angles_do_not_depend_on_neighbours_or_the_rim() -> None:
    """Noise-free scores of particles so dense that none is whole; the rim of the sheet cuts the outermost."""
    side = np.arange(0.0, 600.0, 20.0)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
    corner = np.arange(len(side) ** 2).reshape(len(side), -1)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    mesh = Mesh(np.stack([x, y, 0.0 * x], axis=1), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    centers = np.array([[x, y, 0.0] for x in range(20, 600, 110) for y in range(10, 600, 140)], float)
    angles = np.random.default_rng(3).uniform(0, np.pi, len(centers))

    def scored(stretch: float) -> NDArray[np.float64]:
        offset = mesh.vertices[:, None, :2] - centers[None, :, :2]
        along = offset[..., 0] * np.cos(angles) + offset[..., 1] * np.sin(angles)
        across = offset[..., 1] * np.cos(angles) - offset[..., 0] * np.sin(angles)
        distance = np.sqrt((along / np.sqrt(stretch)) ** 2 + (across * np.sqrt(stretch)) ** 2) / 15.0
        scores: NDArray[np.float64] = np.minimum(distance.min(axis=1), 10.0)
        return scores

    options = replace(OPTIONS, bandwidth_angstrom=70.0, min_distance_angstrom=70.0, refine=True)
    picks = cluster_picks(mesh, scored(2.1), options, membrane_id=3)
    distance, which = cKDTree(centers).query(picks.positions)
    placed = distance < 25.0
    assert placed.mean() > 0.8
    assert picks.orientations is not None
    assert picks.in_plane is not None
    reported = picks.in_plane & placed
    assert reported.sum() > 0.9 * placed.sum()
    long = np.stack([np.cos(angles), np.sin(angles), 0.0 * angles], axis=1)[which]
    turned = np.degrees(np.arccos(np.clip(np.abs((picks.orientations[:, :, 0] * long).sum(axis=1)), 0, 1)))
    assert np.median(turned[reported]) < 6.0
    assert np.quantile(turned[reported], 0.8) < 25.0  # the corners of the sheet are the worst
    round_ones = cluster_picks(mesh, scored(1.0), options, membrane_id=3)
    assert len(round_ones) > 20
    assert round_ones.in_plane is not None
    assert round_ones.in_plane.mean() < 0.1


def test_an_axis_needs_vertices_on_the_picks_own_side() -> None:
    rng = np.random.default_rng(0)
    vertices = np.column_stack([rng.uniform(-60, 60, (300, 2)), np.zeros(300)])
    scores = np.hypot(vertices[:, 0] / 2.0, vertices[:, 1]) / 15.0  # the long axis lies along x
    up, center = np.tile([0.0, 0.0, 1.0], (300, 1)), np.zeros((1, 3))
    frames, in_plane = orient(center, up[:1], vertices, up, scores, OPTIONS)
    assert in_plane.tolist() == [True]
    np.testing.assert_allclose(frames[0], np.eye(3), atol=0.05)
    _, in_plane = orient(center, up[:1], vertices, -up, scores, OPTIONS)
    assert in_plane.tolist() == [False]
    assert orient(np.zeros((0, 3)), np.zeros((0, 3)), vertices, up, scores, OPTIONS)[0].shape == (0, 3, 3)
