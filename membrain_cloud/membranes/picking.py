"""Particles on a membrane: score the vertices with a network, then cluster the low scores into picks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Box, Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.membranes.clustering import dense_clusters, mean_shift
from membrain_cloud.membranes.operators import Operators, surface_operators
from membrain_cloud.membranes.partitions import cut_into_patches
from membrain_cloud.membranes.sampling import sample_along_normals

FAR_SCORE = 10.0
"""The score of a vertex far from every particle: scores are clipped here in training."""

Predict = Callable[[NDArray[np.float32], Operators], NDArray[np.floating]]


class PickerModel(Protocol):
    """What `pick_membrane` reads of a trained picker (networks.picker.Picker has it)."""

    @property
    def offsets_angstrom(self) -> NDArray[np.float64]: ...
    @property
    def spline_order(self) -> int: ...
    @property
    def eigenpairs(self) -> int: ...
    @property
    def partition_vertices(self) -> int: ...
    @property
    def length_unit_angstrom(self) -> float: ...
    def predict(self, profiles: NDArray[np.floating], operators: Operators) -> NDArray[np.float32]: ...


def vertex_scores(
    mesh: Mesh,
    profiles: NDArray[np.floating],
    predict: Predict,
    *,
    partition_vertices: int,
    eigenpairs: int,
    length_unit_angstrom: float,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Score every vertex of a mesh: about 0 at a particle, 10 far from all (a distance in units of 15 Å).

    profiles : (V, C) density along the vertex normals.
    predict : (patch's profiles, patch's Operators) -> (n,) scores.
    progress : called with the number of vertices done after each patch (vertices in overlaps count once a patch).

    The patches' scores are averaged by their weights. Vertices in no patch are far.
    """
    normals = mesh.vertex_normals()
    total, weight = np.zeros(len(mesh.vertices)), np.zeros(len(mesh.vertices))
    for patch in cut_into_patches(mesh, partition_vertices=partition_vertices):
        operators = surface_operators(
            mesh.vertices[patch.vertices],
            patch.faces,
            normals[patch.vertices],
            eigenpairs=eigenpairs,
            length_unit_angstrom=length_unit_angstrom,
        )
        total[patch.vertices] += patch.weights * predict(profiles[patch.vertices], operators)
        weight[patch.vertices] += patch.weights
        if progress is not None:
            progress(len(patch.vertices))
    scores = np.full(len(mesh.vertices), FAR_SCORE)
    np.divide(total, weight, out=scores, where=weight > 0)
    return scores.astype(np.float32)


def cluster_picks(
    mesh: Mesh,
    scores: NDArray[np.floating],
    *,
    bandwidth_angstrom: float,
    score_threshold: float,
    max_iterations: int,
    min_samples: int,
    center_offset_angstrom: float,
    membrane_id: int,
) -> Picks:
    """Cluster the vertices whose score is below the threshold into particles, best first.

    Mean shift, then DBSCAN with radius 0.4 bandwidths on the shifted seeds; a particle is the mean of a cluster's
    seeds, moved by `center_offset_angstrom` along the outward normal at the nearest vertex (negative: towards the
    middle of the membrane; 0 is MemBrain-pick's). Its z axis is that normal; its score, in 0..1, is 1 minus a tenth of
    the mean vertex score within 0.4 bandwidths, as far as that surface faces the same way.
    """
    low = np.flatnonzero(np.asarray(scores) < score_threshold)
    if not len(low):
        return Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))
    seeds = mean_shift(
        mesh.vertices[low], scores[low], bandwidth_angstrom=bandwidth_angstrom, max_iterations=max_iterations
    )
    labels = dense_clusters(seeds, radius=0.4 * bandwidth_angstrom, min_samples=min_samples)
    if labels.max() < 0:
        return Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))
    sizes = np.bincount(labels[labels >= 0])
    centers = np.stack([np.bincount(labels[labels >= 0], seeds[labels >= 0, k]) / sizes for k in range(3)], axis=1)

    vertex_tree = cKDTree(mesh.vertices)
    normals = mesh.vertex_normals()
    facing = normals[vertex_tree.query(centers)[1]]
    confidence = np.empty(len(centers))
    for index, near in enumerate(vertex_tree.query_ball_point(centers, 0.4 * bandwidth_angstrom, return_sorted=True)):
        same_side = [v for v in near if normals[v] @ facing[index] > 0] or [int(vertex_tree.query(centers[index])[1])]
        confidence[index] = np.clip(1.0 - np.asarray(scores)[same_side].mean() / FAR_SCORE, 0.0, 1.0)
    order = np.lexsort((*centers.T, -confidence))
    return Picks(
        positions=(centers + center_offset_angstrom * facing)[order],
        orientations=orientations_from_normals(facing[order]),
        scores=confidence[order],
        membrane_ids=np.full(len(order), membrane_id, np.int64),
    )


def pick_membrane(
    mesh: Mesh,
    density: NDArray[np.generic],
    box: Box,
    grid: Grid,
    picker: PickerModel,
    *,
    outside: float,
    partition_vertices: int | None,
    bandwidth_angstrom: float,
    score_threshold: float,
    max_iterations: int,
    min_samples: int,
    center_offset_angstrom: float,
    membrane_id: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[Picks, NDArray[np.float32]]:
    """Pick the particles of one membrane; returns them and the vertices' scores (V,).

    density : the part of the tomogram that `box` covers, any real type; it should reach beyond the mesh as far as the
        picker's largest offset.
    partition_vertices : size of the patches; None takes the picker's.
    outside : the tomogram's mean, taken for samples outside the box.
    """
    profiles = sample_along_normals(
        density,
        box,
        grid,
        mesh.vertices,
        mesh.vertex_normals(),
        picker.offsets_angstrom,
        outside=outside,
        spline_order=picker.spline_order,
    )
    scores = vertex_scores(
        mesh,
        profiles,
        picker.predict,
        partition_vertices=partition_vertices or picker.partition_vertices,
        eigenpairs=picker.eigenpairs,
        length_unit_angstrom=picker.length_unit_angstrom,
        progress=progress,
    )
    picks = cluster_picks(
        mesh,
        scores,
        bandwidth_angstrom=bandwidth_angstrom,
        score_threshold=score_threshold,
        max_iterations=max_iterations,
        min_samples=min_samples,
        center_offset_angstrom=center_offset_angstrom,
        membrane_id=membrane_id,
    )
    return picks, scores
