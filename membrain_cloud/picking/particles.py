"""Particles from the scores of a membrane's vertices: clusters of low scores, refined, ranked and oriented."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.mesh.shell_sides import membrane_sides
from membrain_cloud.mesh.spectral.operators import vertex_areas
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.picking.clustering import Shift, dense_clusters, mean_shift
from membrain_cloud.picking.crowded_clusters import split_crowded
from membrain_cloud.picking.orientation import orient
from membrain_cloud.picking.vertex_scores import FAR_SCORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.picking.clustering_options import ClusteringOptions

_THICKEST_ANGSTROM = 150.0  # no slab of a membrane is thicker
_GATHERED = 0.4  # bandwidths: radius in which seeds are gathered and scores averaged
# In bandwidths, but never less than so many Å: a small bandwidth keeps neighbours apart, and may leave two picks on one
# particle, which only meet where each sees all of it.
_REFINING_REACH, _LEAST_REFINING_ANGSTROM = 0.85, 50.0
_REFINING_STEPS, _REFINED_ANGSTROM = 8, 0.3  # at most; movement at the end
_SAME_SIDE = 0.3  # cosine of normals that belong to one side
_NEIGHBOURS = 12  # vertices whose thickness is a pick's


@dataclass(frozen=True, eq=False)
class _ScoredSurface:
    """A mesh with scores (V,) of its vertices; what several steps need of it is computed once."""

    mesh: Mesh
    scores: NDArray[np.floating]

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        return self.mesh.vertex_normals()

    @cached_property
    def tree(self) -> cKDTree:
        return cKDTree(self.mesh.vertices)

    def normals_at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the normals (N, 3) of the vertices nearest to points (N, 3)."""
        nearest: NDArray[np.float64] = self.normals[self.tree.query(points)[1]]
        return nearest


def cluster_picks(
    mesh: Mesh,
    scores: NDArray[np.floating],
    options: ClusteringOptions,
    *,
    membrane_id: int,
    shift: Shift = mean_shift,
    thickness: NDArray[np.float64] | None = None,
) -> Picks:
    """Cluster the vertices whose scores are below the threshold into particles.

    Vertices are gathered by mean shift, then DBSCAN with a radius of 0.4 bandwidths on the shifted seeds. A particle is
    the mean of a cluster's seeds, moved along the outward normal at the nearest vertex. Its z axis is that normal, its
    x axis the direction in which the scores rise slowest where they are elongated (`orientation`). Its score, in 0..1,
    is 1 minus a tenth of the mean score of the vertices within 0.4 bandwidths that face the same way.

    Parameters
    ----------
    mesh : Mesh
        The membrane, a closed shell around its slab; vertices in Å.
    scores : (V,) floating
        Scores of its vertices, 0 at a particle to 10 far from all.
    options : ClusteringOptions
        How to cluster.
    membrane_id : int
        Number of the membrane, kept with its picks.
    shift : Shift
        The mean shift, `clustering.mean_shift` or one on another device.
    thickness : (V,) float64 or None
        `slab_thickness` of the mesh, for one that is clustered more than once; None to compute it where needed.

    Returns
    -------
    Picks
        The particles, best first.
    """
    surface = _ScoredSurface(mesh, np.asarray(scores))
    centers = _cluster_centers(surface, options, shift)
    if not len(centers):
        return Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)), in_plane=np.zeros(0, bool))
    if options.refine:
        centers = _refined(surface, centers, options)
    normals = surface.normals_at(centers)
    confidence = _confidence(surface, centers, normals, _GATHERED * options.bandwidth_angstrom)
    order = np.lexsort((*centers.T, -confidence))
    if options.min_distance_angstrom is not None:
        order = order[_unsuppressed(mesh, centers[order], options.min_distance_angstrom)]
    centers, normals, confidence = centers[order], normals[order], confidence[order]
    frames, in_plane = orient(centers, normals, mesh.vertices, surface.normals, np.asarray(scores, np.float64), options)
    offset: float | NDArray[np.float64] | None = options.center_offset_angstrom
    if offset is None:
        offset = _offset_to_middle(mesh, centers, slab_thickness(mesh) if thickness is None else thickness)
    return Picks(
        positions=centers + offset * normals,
        orientations=frames,
        scores=confidence,
        membrane_ids=np.full(len(centers), membrane_id, np.int64),
        in_plane=in_plane,
    )


def slab_thickness(mesh: Mesh) -> NDArray[np.float64]:
    """Return the thickness of a membrane's slab at each vertex of its shell.

    Parameters
    ----------
    mesh : Mesh
        A closed shell around the slab; vertices in Å.

    Returns
    -------
    (V,) float64
        Å; NaN on the slab's rim.
    """
    return membrane_sides(mesh, reach_angstrom=_THICKEST_ANGSTROM).thickness


def _cluster_centers(surface: _ScoredSurface, options: ClusteringOptions, shift: Shift) -> NDArray[np.float64]:
    """Return the means (K, 3) of the seeds of each cluster of vertices below the threshold."""
    mesh = surface.mesh
    low = np.flatnonzero(surface.scores < options.score_threshold)
    if not len(low):
        return np.zeros((0, 3))
    points, scores = mesh.vertices[low], np.asarray(surface.scores, np.float64)[low]
    seeds = shift(points, scores, bandwidth_angstrom=options.bandwidth_angstrom, max_iterations=options.max_iterations)
    radius = _GATHERED * options.bandwidth_angstrom
    labels = dense_clusters(seeds, radius=radius, min_samples=options.min_samples)
    if labels.max() < 0:
        return np.zeros((0, 3))
    if options.largest_nm2 is not None:
        areas = vertex_areas(mesh.vertices, mesh.faces)[low]
        labels, ends = split_crowded(points, scores, areas, labels, options, shift=shift)
        seeds = np.where(np.isnan(ends), seeds, ends)
    member = labels >= 0
    sizes = np.bincount(labels[member])
    return np.stack([np.bincount(labels[member], seeds[member, k]) / sizes for k in range(3)], axis=1)


def _refined(surface: _ScoredSurface, centers: NDArray[np.float64], options: ClusteringOptions) -> NDArray[np.float64]:
    """Move centres (K, 3) along the surface to the mean of the vertices within reach, low scores weighing more.

    The ends of a mean shift are means over all of a particle's surroundings, and lean to where more of them were
    scored; the lowest scores lie nearest to the particle. Vertices that face another way take no part.
    """
    vertices, normals = surface.mesh.vertices, surface.normals
    gain = np.clip(options.score_threshold - np.asarray(surface.scores, np.float64), 0.0, None) ** 3
    reach = max(_REFINING_REACH * options.bandwidth_angstrom, _LEAST_REFINING_ANGSTROM)
    moved = centers.copy()
    for index, normal in enumerate(surface.normals_at(centers)):
        for _ in range(_REFINING_STEPS):
            near = np.asarray(surface.tree.query_ball_point(moved[index], reach, return_sorted=True), np.int64)
            near = near[normals[near] @ normal > _SAME_SIDE]
            weight = gain[near]
            if not weight.sum() > 0:
                break
            step = np.average(vertices[near], axis=0, weights=weight) - moved[index]
            step -= (step @ normal) * normal
            moved[index] += step
            if step @ step < _REFINED_ANGSTROM**2:
                break
    return moved


def _confidence(
    surface: _ScoredSurface, centers: NDArray[np.float64], center_normals: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """Return scores (K,) in 0..1 of centres (K, 3), from the vertices within reach that face the same way."""
    nearest = surface.tree.query(centers)[1]
    confidence = np.empty(len(centers))
    for index, near in enumerate(surface.tree.query_ball_point(centers, reach, return_sorted=True)):
        same_side = [v for v in near if surface.normals[v] @ center_normals[index] > 0] or [int(nearest[index])]
        confidence[index] = np.clip(1.0 - surface.scores[same_side].mean() / FAR_SCORE, 0.0, 1.0)
    return confidence


def _unsuppressed(mesh: Mesh, centers: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """Return which centres (K, 3), in falling order of score, have no better one within `least` Å along the surface."""
    surface = Surface(mesh)
    points = surface.closest_points(centers)
    near_kept = np.zeros(len(centers), bool)
    kept = []
    for index in range(len(centers)):
        if near_kept[index]:
            continue
        kept.append(index)
        here = surface.points(points.faces[[index]], points.weights[[index]])
        near_kept |= surface.geodesic(here, points, cutoff_angstrom=least)[0] < least
    return np.array(kept, np.int64)


def _offset_to_middle(mesh: Mesh, centers: NDArray[np.float64], thickness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far along the outward normal the slab's middle lies from centres (K, 3): (K, 1), Å, negative."""
    measured = np.flatnonzero(np.isfinite(thickness))
    if not len(measured):
        return np.zeros((len(centers), 1))
    near = cKDTree(mesh.vertices[measured]).query(centers, k=min(_NEIGHBOURS, len(measured)))[1]
    medians = np.median(thickness[measured][near.reshape(len(centers), -1)], axis=1)
    offset: NDArray[np.float64] = -0.5 * medians[:, None]
    return offset
