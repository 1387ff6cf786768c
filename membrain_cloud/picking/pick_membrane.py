"""Particles on a membrane: score the vertices with a network, then cluster the low scores into picks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.mesh.shell_sides import membrane_sides
from membrain_cloud.mesh.spectral.operators import Operators, vertex_areas
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.picking.clustering import Shift, dense_clusters, mean_shift, split_crowded
from membrain_cloud.picking.orientation import orient
from membrain_cloud.picking.vertex_scores import FAR_SCORE, PickerModel, membrane_scores

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.mesh.density_sampling import Read

NO_PICKS = Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)), in_plane=np.zeros(0, bool))

_THICKEST_ANGSTROM = 150.0  # no slab of a membrane is thicker
# In bandwidths, but never less than so many Å: a small bandwidth keeps neighbours apart, and may leave two picks on one
# particle, which only meet where each sees all of it.
_REFINING_REACH, _LEAST_REFINING_ANGSTROM = 0.85, 50.0
_REFINING_STEPS, _REFINED_ANGSTROM = 8, 0.3  # at most; movement at the end
_FOOTPRINT_REACH = 1.3  # in bandwidths: how far around a pick its scores tell how it is turned
_SAME_WAY = 0.3  # cosine of normals that belong to one side
_NEIGHBOURS = 12  # vertices whose thickness is a pick's


@dataclass(frozen=True)
class Clustering:
    """How scores are made into picks; each field as `cluster_picks` takes it."""

    bandwidth_angstrom: float
    score_threshold: float
    max_iterations: int
    min_samples: int
    center_offset_angstrom: float | None
    largest_nm2: float | None
    min_distance_angstrom: float | None
    least_elongation: float
    refine: bool


def cluster_picks(
    mesh: Mesh,
    scores: NDArray[np.floating],
    *,
    bandwidth_angstrom: float,
    score_threshold: float,
    max_iterations: int,
    min_samples: int,
    center_offset_angstrom: float | None,
    largest_nm2: float | None,
    min_distance_angstrom: float | None,
    least_elongation: float,
    membrane_id: int,
    refine: bool = False,
    shift: Shift = mean_shift,
    thickness: NDArray[np.float64] | None = None,
) -> Picks:
    """Cluster the vertices whose score is below the threshold into particles, best first.

    Mean shift, then DBSCAN with radius 0.4 bandwidths on the shifted seeds; a particle is the mean of a cluster's
    seeds, moved by `center_offset_angstrom` along the outward normal at the nearest vertex (negative: towards the
    middle of the membrane; 0 is MemBrain-pick's; None: into the middle, half of the slab's thickness there). Its z
    axis is that normal, its x axis the way the scores rise slowest where they are elongated (see
    `orientation`); its score, in 0..1, is 1 minus a tenth of the mean vertex score within 0.4 bandwidths, as far as
    that surface faces the same way.

    largest_nm2 : clusters that cover more surface are split (see `split_crowded`); None: none.
    min_distance_angstrom : of two particles nearer to each other along the surface the better stays; None: both.
    least_elongation : of the scores around a pick that gives an in-plane angle.
    refine : move centres along the surface to where the scores around them are lowest (see `_refined`); MemBrain-pick
        does not.
    shift : the mean shift, `clustering.mean_shift` or one on another device.
    thickness : (V,) as `slab_thickness`, for a mesh that is clustered more than once; None: worked out where needed.
    """
    low = np.flatnonzero(np.asarray(scores) < score_threshold)
    if not len(low):
        return NO_PICKS
    points, low_scores = mesh.vertices[low], np.asarray(scores, np.float64)[low]
    seeds = shift(points, low_scores, bandwidth_angstrom=bandwidth_angstrom, max_iterations=max_iterations)
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
            shift=shift,
        )
        seeds = np.where(np.isnan(ends), seeds, ends)
    member = labels >= 0
    sizes = np.bincount(labels[member])
    centers = np.stack([np.bincount(labels[member], seeds[member, k]) / sizes for k in range(3)], axis=1)
    normals, tree = mesh.vertex_normals(), cKDTree(mesh.vertices)
    facing = normals[tree.query(centers)[1]]
    if refine:
        gain = np.clip(score_threshold - np.asarray(scores, np.float64), 0.0, None) ** 3
        reach = max(_REFINING_REACH * bandwidth_angstrom, _LEAST_REFINING_ANGSTROM)
        centers = _refined(mesh, normals, gain, centers, facing, reach=reach)
        facing = normals[tree.query(centers)[1]]
    confidence = _confidence(mesh, normals, np.asarray(scores), centers, facing, 0.4 * bandwidth_angstrom)
    order = np.lexsort((*centers.T, -confidence))
    if min_distance_angstrom is not None:
        order = order[_unsuppressed(mesh, centers[order], min_distance_angstrom)]
    centers, facing = centers[order], facing[order]
    frames, known = orient(
        centers,
        facing,
        mesh.vertices,
        normals,
        np.asarray(scores, np.float64),
        reach_angstrom=_FOOTPRINT_REACH * bandwidth_angstrom,
        score_threshold=score_threshold,
        least_elongation=least_elongation,
    )
    offset: float | NDArray[np.float64] | None = center_offset_angstrom
    if offset is None:
        offset = _to_the_middle(mesh, centers, slab_thickness(mesh) if thickness is None else thickness)
    return Picks(
        positions=centers + offset * facing,
        orientations=frames,
        scores=confidence[order],
        membrane_ids=np.full(len(order), membrane_id, np.int64),
        in_plane=known,
    )


def _refined(
    mesh: Mesh,
    normals: NDArray[np.float64],
    gain: NDArray[np.float64],
    centers: NDArray[np.float64],
    facing: NDArray[np.float64],
    *,
    reach: float,
) -> NDArray[np.float64]:
    """Centres moved along the surface to the mean of the vertices within reach, weighted by `gain` (V,).

    The ends of a mean shift are means over all of a particle's surroundings, and lean to where more of them were
    scored; the lowest scores lie nearest to the particle. Vertices that face another way take no part.
    """
    tree, moved = cKDTree(mesh.vertices), centers.copy()
    for index, normal in enumerate(facing):
        for _ in range(_REFINING_STEPS):
            near = np.asarray(tree.query_ball_point(moved[index], reach, return_sorted=True), np.int64)
            near = near[normals[near] @ normal > _SAME_WAY]
            weight = gain[near]
            if not weight.sum() > 0:
                break
            step = np.average(mesh.vertices[near], axis=0, weights=weight) - moved[index]
            step -= (step @ normal) * normal
            moved[index] += step
            if step @ step < _REFINED_ANGSTROM**2:
                break
    return moved


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


def slab_thickness(mesh: Mesh) -> NDArray[np.float64]:
    """(V,) Å across the slab at each vertex, NaN on its rim."""
    return membrane_sides(mesh, reach_angstrom=_THICKEST_ANGSTROM).thickness


def _to_the_middle(mesh: Mesh, centers: NDArray[np.float64], thickness: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 1) how far along the outward normal the middle of the slab lies from points of its surface: negative."""
    known = np.flatnonzero(np.isfinite(thickness))
    if not len(known):
        return np.zeros((len(centers), 1))
    near = cKDTree(mesh.vertices[known]).query(centers, k=min(_NEIGHBOURS, len(known)))[1]
    return -0.5 * np.median(thickness[known][near.reshape(len(centers), -1)], axis=1)[:, None]


def pick_membrane(
    mesh: Mesh,
    read: Read,
    grid: Grid,
    picker: PickerModel,
    *,
    outside: float,
    partition_vertices: int | None,
    clustering: Clustering,
    membrane_id: int,
    cache: MutableMapping[str, Operators] | None = None,
    shift: Shift = mean_shift,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Picks], NDArray[np.float32]]:
    """Pick the particles of one membrane: picks for each class of the picker, and the scores of the vertices.

    read : box of the tomogram -> its density; only what lies near the mesh is read.  The others as `membrane_scores`
    and `cluster_picks` take them.

    Where picks of several classes lie nearer to each other than `min_distance_angstrom` (in space), the best one stays.
    """
    scores = membrane_scores(
        mesh,
        read,
        grid,
        picker,
        outside=outside,
        partition_vertices=partition_vertices,
        cache=cache,
        progress=progress,
    )
    classes = scores.T if scores.ndim == 2 else scores[None]
    once = len(classes) > 1 and clustering.center_offset_angstrom is None
    thickness = slab_thickness(mesh) if once else None
    found = [
        cluster_picks(mesh, of_class, **asdict(clustering), membrane_id=membrane_id, shift=shift, thickness=thickness)
        for of_class in classes
    ]
    if clustering.min_distance_angstrom is not None:
        found = best_of_classes(found, within_angstrom=clustering.min_distance_angstrom)
    return found, scores


def best_of_classes(found: Sequence[Picks], *, within_angstrom: float) -> list[Picks]:
    """Picks of K classes without those that have a better one of another class within so many Å, on the same side."""
    owner = np.concatenate([np.full(len(picks), k) for k, picks in enumerate(found)])
    positions = np.concatenate([picks.positions for picks in found])
    facing = np.concatenate([picks.frames()[:, :, 2] for picks in found])
    scores = np.concatenate([picks.scores for picks in found])
    kept = np.ones(len(owner), bool)
    near = cKDTree(positions).query_ball_point(positions, within_angstrom, return_sorted=True) if len(owner) else []
    for index in np.argsort(-scores, kind="stable"):
        if kept[index]:
            rivals = np.asarray(near[index], np.int64)
            rivals = rivals[(owner[rivals] != owner[index]) & (facing[rivals] @ facing[index] > 0)]
            kept[rivals] = False
    return [picks.select(kept[owner == k]) for k, picks in enumerate(found)]
