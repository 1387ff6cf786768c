"""The target of a picker at a vertex: its distance from the nearest particle on its side of the membrane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from membrain_cloud.picking.vertex_scores import FAR_SCORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh, Picks

WRONG_SIDE_SCORE = 10.05
"""Target of vertices that are near particles of the other side only."""

# Radius around a particle's centre in which the surface is looked for, in Å.
_SURFACE_REACH_ANGSTROM = 80.0
# Smallest cosine between a particle's z axis and the normals of its own side.
_SAME_SIDE = 0.3

ParticleShape = tuple[float, float, float]
"""Half axes of a particle along its own x, y and z, in Å."""


def particle_targets(
    mesh: Mesh, particles: Picks, *, score_unit_angstrom: float, shape: ParticleShape | None = None
) -> NDArray[np.float32]:
    """Compute the distance of each vertex to the nearest particle on its side of the membrane.

    A particle is on the side that its z axis points to; without orientations, on that of the nearest vertex. Its
    position is projected along that axis onto the surface, so that the target is 0 at the particle although its centre
    lies inside the membrane.

    Parameters
    ----------
    mesh : Mesh
        The membrane, with V vertices, in Å.
    particles : Picks
        The particles on it.
    score_unit_angstrom : float
        Unit of the distances, in Å.
    shape : tuple of float or None
        Half axes of the particles, in Å, for a Mahalanobis distance: lengths along each of a particle's axes are
        divided by its half axis and multiplied by the geometric mean of the three. Not used for particles without
        orientations. Default None: Euclidean distance.

    Returns
    -------
    targets : ndarray of shape (V,), float32
        Distances, clipped at 10; 10.05 for vertices that have particles only on the other side.

    References
    ----------
    Lamm et al., "MemBrain v2", bioRxiv 2024: MemBrain-pick's targets. Lamm et al., "MemBrain", Comput. Methods Programs
    Biomed. 2022: Mahalanobis distances for elongated particles.
    """
    return _targets(mesh.vertices, mesh.vertex_normals(), particles, score_unit_angstrom, shape)


def class_targets(
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    particles: Sequence[Picks],
    *,
    score_unit_angstrom: float,
    shapes: Sequence[ParticleShape],
) -> NDArray[np.float32]:
    """Compute the targets of several classes of particles, each as `particle_targets` does.

    Parameters
    ----------
    vertices, normals : ndarray of shape (V, 3), float64
        Positions (x, y, z) in Å, and outward unit normals.
    particles : sequence of Picks
        The particles of each of K classes.
    score_unit_angstrom : float
        Unit of the distances, in Å.
    shapes : sequence of tuple of float
        Half axes of each class, in Å; empty for Euclidean distances.

    Returns
    -------
    targets : ndarray of shape (V, K), float32
        One column for each class.
    """
    shape_of: Sequence[ParticleShape | None] = shapes or [None] * len(particles)
    columns = [
        _targets(vertices, normals, of_class, score_unit_angstrom, shape)
        for of_class, shape in zip(particles, shape_of, strict=True)
    ]
    return np.stack(columns, axis=1)


def _targets(
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    particles: Picks,
    unit: float,
    shape: ParticleShape | None,
) -> NDArray[np.float32]:
    targets = np.full(len(vertices), FAR_SCORE, np.float64)
    if not len(particles) or not len(vertices):
        return targets.astype(np.float32)
    tree = cKDTree(vertices)
    nearest = tree.query(particles.positions)[1]
    axes = normals[nearest] if particles.orientations is None else particles.orientations[:, :, 2]
    pairs_of_positions = zip(particles.positions, axes, strict=True)
    projected = np.array([_project(vertices, normals, tree, p, z) for p, z in pairs_of_positions])

    scale = np.ones(3)
    if shape is not None and particles.orientations is not None:
        scale = np.prod(shape) ** (1 / 3) / np.asarray(shape, np.float64)
    reach = FAR_SCORE * unit / float(scale.min())
    pairs = tree.sparse_distance_matrix(cKDTree(projected), reach, output_type="ndarray")
    vertex, particle, distance = pairs["i"], pairs["j"], pairs["v"]
    if particles.orientations is not None and (scale != 1.0).any():
        offset = vertices[vertex] - projected[particle]
        own = np.einsum("nk,nkj->nj", offset, particles.orientations[particle])
        distance = np.linalg.norm(own * scale, axis=1)
    reached = distance <= FAR_SCORE * unit
    vertex, particle, distance = vertex[reached], particle[reached], distance[reached] / unit
    same_side = (normals[vertex] * axes[particle]).sum(axis=1) > 0
    targets[vertex] = WRONG_SIDE_SCORE
    targets[vertex[same_side]] = FAR_SCORE
    np.minimum.at(targets, vertex[same_side], distance[same_side])
    return targets.astype(np.float32)


def _project(
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    tree: cKDTree,
    position: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move a position along `axis` to the height of the nearest vertex that faces the same way."""
    near = np.array(tree.query_ball_point(position, _SURFACE_REACH_ANGSTROM), np.int64)
    facing = near[normals[near] @ axis > _SAME_SIDE] if len(near) else near
    if not len(facing):
        return position
    relative = vertices[facing] - position
    height = relative @ axis
    lateral = (relative**2).sum(axis=1) - height**2
    # The leaflet on the particle's side: the laterally nearest vertex of those at or above the centre.
    cost = lateral + np.where(height < -10.0, 1e6, 0.0)
    return np.asarray(position + axis * height[np.argmin(cost)])
