"""Particles on a membrane: score the vertices with a network, then cluster the low scores into picks."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Box, Grid, Mesh, Picks
from membrain_cloud.membranes.clustering import dense_clusters, mean_shift, split_crowded
from membrain_cloud.membranes.operators import Operators, cached_operators, vertex_areas
from membrain_cloud.membranes.orientation import orient
from membrain_cloud.membranes.partitions import cut_into_patches, released_patches
from membrain_cloud.membranes.sampling import sample_along_normals
from membrain_cloud.membranes.surface import Surface

FAR_SCORE = 10.0
"""The score of a vertex far from every particle: scores are clipped here in training."""

NO_PICKS = Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)), in_plane=np.zeros(0, bool))

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
    @property
    def partitions(self) -> str: ...
    def predict(self, profiles: NDArray[np.floating], operators: Operators) -> NDArray[np.float32]: ...


def vertex_scores(
    mesh: Mesh,
    profiles: NDArray[np.floating],
    predict: Predict,
    *,
    partition_vertices: int,
    eigenpairs: int,
    length_unit_angstrom: float,
    partitions: str = "even",
    normals: NDArray[np.floating] | None = None,
    cache: MutableMapping[str, Operators] | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Score every vertex of a mesh: about 0 at a particle, 10 far from all (a distance in units of 15 Å).

    profiles : (V, C) density along the vertex normals.
    predict : (patch's profiles, patch's Operators) -> (n,) scores, or (n, K) for K classes of particles.
    partitions : "even" for our patches, "released" for those of MemBrain-pick (see `partitions`).
    normals : (V, 3) outward, in place of the mesh's own.
    cache : the patches' operators by content, so that the same patch is worked out once.
    progress : called with the number of vertices done after each patch (vertices in overlaps count once a patch).

    Returns (V,) or (V, K): the patches' scores averaged by their weights. Vertices in no patch are far.
    """
    outward = np.asarray(mesh.vertex_normals() if normals is None else normals, np.float64)
    cut = {"even": cut_into_patches, "released": released_patches}[partitions]
    total: NDArray[np.float64] | None = None
    weight = np.zeros(len(mesh.vertices))
    for patch in cut(mesh, partition_vertices=partition_vertices):
        operators = cached_operators(
            cache,
            mesh.vertices[patch.vertices],
            patch.faces,
            outward[patch.vertices],
            eigenpairs=eigenpairs,
            length_unit_angstrom=length_unit_angstrom,
        )
        found = predict(profiles[patch.vertices], operators)
        if total is None:
            total = np.zeros((len(mesh.vertices), *found.shape[1:]))
        total[patch.vertices] += (patch.weights * found.T).T
        weight[patch.vertices] += patch.weights
        if progress is not None:
            progress(len(patch.vertices))
    if total is None:
        return np.full(len(mesh.vertices), FAR_SCORE, np.float32)
    scores = np.full(total.shape, FAR_SCORE)
    scored = weight > 0
    scores[scored] = (total[scored].T / weight[scored]).T
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
    largest_nm2: float | None,
    min_distance_angstrom: float | None,
    least_elongation: float,
    membrane_id: int,
) -> Picks:
    """Cluster the vertices whose score is below the threshold into particles, best first.

    Mean shift, then DBSCAN with radius 0.4 bandwidths on the shifted seeds; a particle is the mean of a cluster's
    seeds, moved by `center_offset_angstrom` along the outward normal at the nearest vertex (negative: towards the
    middle of the membrane; 0 is MemBrain-pick's). Its z axis is that normal, its x axis the long axis of the cluster's
    vertices where they are elongated (see `orientation`); its score, in 0..1, is 1 minus a tenth of the mean vertex
    score within 0.4 bandwidths, as far as that surface faces the same way.

    largest_nm2 : clusters that cover more surface are split (see `split_crowded`); None: none.
    min_distance_angstrom : of two particles nearer to each other along the surface the better stays; None: both.
    least_elongation : of a cluster that gives an in-plane angle.
    """
    low = np.flatnonzero(np.asarray(scores) < score_threshold)
    if not len(low):
        return NO_PICKS
    points, low_scores = mesh.vertices[low], np.asarray(scores, np.float64)[low]
    seeds = mean_shift(points, low_scores, bandwidth_angstrom=bandwidth_angstrom, max_iterations=max_iterations)
    labels = dense_clusters(seeds, radius=0.4 * bandwidth_angstrom, min_samples=min_samples)
    if labels.max() < 0:
        return NO_PICKS
    if largest_nm2 is not None:
        labels, ends = split_crowded(
            points,
            low_scores,
            vertex_areas(mesh.vertices, mesh.faces)[low],
            labels,
            largest_area=100.0 * largest_nm2,
            bandwidth_angstrom=bandwidth_angstrom,
            score_threshold=score_threshold,
            max_iterations=max_iterations,
            min_samples=min_samples,
        )
        seeds = np.where(np.isnan(ends), seeds, ends)
    member = labels >= 0
    sizes = np.bincount(labels[member])
    centers = np.stack([np.bincount(labels[member], seeds[member, k]) / sizes for k in range(3)], axis=1)
    normals = mesh.vertex_normals()
    facing = normals[cKDTree(mesh.vertices).query(centers)[1]]
    confidence = _confidence(mesh, normals, np.asarray(scores), centers, facing, 0.4 * bandwidth_angstrom)
    frames, known = orient(
        facing, points[member], score_threshold - low_scores[member], labels[member], least_elongation=least_elongation
    )
    order = np.lexsort((*centers.T, -confidence))
    if min_distance_angstrom is not None:
        order = order[_unsuppressed(mesh, centers[order], min_distance_angstrom)]
    return Picks(
        positions=(centers + center_offset_angstrom * facing)[order],
        orientations=frames[order],
        scores=confidence[order],
        membrane_ids=np.full(len(order), membrane_id, np.int64),
        in_plane=known[order],
    )


def _confidence(
    mesh: Mesh,
    normals: NDArray[np.float64],
    scores: NDArray[np.floating],
    centers: NDArray[np.float64],
    facing: NDArray[np.float64],
    reach: float,
) -> NDArray[np.float64]:
    tree = cKDTree(mesh.vertices)
    nearest = tree.query(centers)[1]
    confidence = np.empty(len(centers))
    for index, near in enumerate(tree.query_ball_point(centers, reach, return_sorted=True)):
        same_side = [v for v in near if normals[v] @ facing[index] > 0] or [int(nearest[index])]
        confidence[index] = np.clip(1.0 - scores[same_side].mean() / FAR_SCORE, 0.0, 1.0)
    return confidence


def _unsuppressed(mesh: Mesh, centers: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """Of points in falling order of score, those without a better one within `least` Å along the surface."""
    surface = Surface(mesh)
    points = surface.closest_points(centers)
    near = np.zeros(len(centers), bool)  # to one that was kept
    kept = []
    for index in range(len(centers)):
        if near[index]:
            continue
        kept.append(index)
        here = surface.points(points.faces[[index]], points.weights[[index]])
        near |= surface.geodesic(here, points, cutoff_angstrom=least)[0] < least
    return np.array(kept, np.int64)


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
    largest_nm2: float | None,
    min_distance_angstrom: float | None,
    least_elongation: float,
    membrane_id: int,
    cache: MutableMapping[str, Operators] | None = None,
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
        partitions=picker.partitions,
        cache=cache,
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
        largest_nm2=largest_nm2,
        min_distance_angstrom=min_distance_angstrom,
        least_elongation=least_elongation,
        membrane_id=membrane_id,
    )
    return picks, scores
