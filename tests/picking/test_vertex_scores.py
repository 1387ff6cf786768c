"""Scores of vertices from patches: overlaps, classes, the cache of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from standins.picking_surfaces import sphere, together

from membrain_cloud.geometry import Mesh
from membrain_cloud.picking.mesh_patches import cut_into_patches
from membrain_cloud.picking.vertex_scores import (
    FAR_SCORE,
    PatchOptions,
    scale_of_boxes,
    vertex_scores,
    vertices_for_scale,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.spectral.operators import Operators


def first_channel(profiles: NDArray, operators: object) -> NDArray:
    return profiles[:, 0]


def test_patches_merge_to_what_was_predicted() -> None:
    mesh = sphere(1500.0, 5)
    truth = np.random.default_rng(0).uniform(0, 10, len(mesh.vertices)).astype(np.float32)
    done: list[int] = []
    scores = vertex_scores(
        mesh,
        truth[:, None],
        first_channel,
        PatchOptions(2000, 4, 500.0),
        progress=done.append,
    )
    np.testing.assert_allclose(scores, truth, atol=1e-5)
    assert sum(done) >= len(mesh.vertices)


def test_overlaps_are_averaged_with_the_weights() -> None:
    """Each patch predicts its own number."""
    mesh = sphere(1000.0, 5)
    patches = cut_into_patches(mesh, partition_vertices=3000)
    numbers = iter(range(len(patches)))
    scores = vertex_scores(
        mesh,
        np.zeros((len(mesh.vertices), 1), np.float32),
        lambda profiles, operators: np.full(len(profiles), float(next(numbers))),
        PatchOptions(3000, 4, 500.0),
    )
    expected, weight = np.zeros(len(scores)), np.zeros(len(scores))
    for number, patch in enumerate(patches):
        expected[patch.vertices] += number * patch.weights
        weight[patch.vertices] += patch.weights
    np.testing.assert_allclose(scores, expected / weight, rtol=1e-5)


def test_vertices_in_no_patch_are_far() -> None:
    mesh = together(sphere(100.0, 1), Mesh(np.array([[9e3, 0, 0]]), np.zeros((0, 3), np.int32)))
    scores = vertex_scores(
        mesh,
        np.zeros((43, 1), np.float32),
        first_channel,
        PatchOptions(2000, 8, 500.0),
    )
    assert scores[-1] == FAR_SCORE
    assert (scores[:-1] == 0).all()


def test_a_cache_knows_patches_by_their_content() -> None:
    mesh = sphere(500.0, 4)
    cache: dict[str, Operators] = {}

    def score(on: Mesh, eigenpairs: int) -> NDArray[np.float32]:
        profiles = np.zeros((len(on.vertices), 1), np.float32)
        return vertex_scores(
            on,
            profiles,
            lambda _, operators: operators.eigenvectors[:, 1],
            PatchOptions(2000, eigenpairs, 500.0),
            cache=cache,
        )

    first = score(mesh, 8)
    assert len(cache) == 1
    kept = dict(cache)
    np.testing.assert_array_equal(score(mesh, 8), first)
    assert cache == kept
    moved = Mesh(mesh.vertices + 1.0, mesh.faces)
    score(moved, 8)
    score(mesh, 9)
    assert len(cache) == 3


def test_several_classes_at_once() -> None:
    mesh = sphere(500.0, 3)
    truth = np.random.default_rng(0).uniform(0, 10, (len(mesh.vertices), 3)).astype(np.float32)
    scores = vertex_scores(mesh, truth, lambda profiles, _: profiles, PatchOptions(400, 4, 500.0))
    np.testing.assert_allclose(scores, truth, atol=1e-5)


def test_scale_of_boxes_is_of_evenly_spaced_vertices() -> None:
    vertices = vertices_for_scale(10_000)
    assert len(vertices) == 2500
    assert len(set(np.diff(vertices))) == 1
    assert vertices_for_scale(7).tolist() == list(range(7))
    assert scale_of_boxes(np.full((3, 2, 2, 2), 4.0, np.float32)) == (4.0, 1.0)
    assert scale_of_boxes(np.array([1.0, 3.0], np.float32)) == (2.0, 1.0)
