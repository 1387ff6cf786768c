"""What a picker shall predict at a vertex: its distance from the nearest particle on its side of the membrane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh, Picks

FAR_SCORE = 10.0
WRONG_SIDE_SCORE = 10.05

ParticleShape = tuple[float, float, float]
"""Half axes of a particle along its own x, y and z, in Å."""


def particle_targets(
    mesh: Mesh, particles: Picks, *, score_unit_angstrom: float, shape: ParticleShape | None = None
) -> NDArray[np.float32]:
    """(V,) distance of each vertex to the nearest particle on its side, in `score_unit_angstrom`, clipped at 10.

    A particle is on the side its z axis points to (without orientations: on that of the vertex nearest to it). Its
    place is taken at the height of the surface, so that the target is 0 at the particle although its centre lies in
    the membrane. Vertices that only have particles on the other side get 10.05 (MemBrain-pick's target).

    shape : makes it a Mahalanobis distance, as MemBrain v1's for elongated particles: lengths along each of the
        particle's axes are divided by its half axis and multiplied by the half axes' geometric mean, so that the
        distances of a particle of the same volume stay alike. Of particles without orientations it is not used.
    """
    return _targets(mesh.vertices, mesh.vertex_normals(), particles, score_unit_angstrom, shape)


def targets_of_classes(
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    particles: Sequence[Picks],
    *,
    score_unit_angstrom: float,
    shapes: Sequence[ParticleShape],
) -> NDArray[np.float32]:
    """(V, K) targets for K classes of particles, each as `particle_targets`; shapes: one a class, or none."""
    chosen: Sequence[ParticleShape | None] = shapes or [None] * len(particles)
    columns = [
        _targets(vertices, normals, of_class, score_unit_angstrom, shape)
        for of_class, shape in zip(particles, chosen, strict=True)
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
    pairs_of_places = zip(particles.positions, axes, strict=True)
    places = np.array([_at_surface(vertices, normals, tree, p, z) for p, z in pairs_of_places])

    scale = np.ones(3)
    if shape is not None and particles.orientations is not None:
        scale = np.prod(shape) ** (1 / 3) / np.asarray(shape, np.float64)
    pairs = tree.sparse_distance_matrix(cKDTree(places), FAR_SCORE * unit / float(scale.min()), output_type="ndarray")
    vertex, particle, distance = pairs["i"], pairs["j"], pairs["v"]
    if particles.orientations is not None and (scale != 1.0).any():
        away = vertices[vertex] - places[particle]
        own = np.einsum("nk,nkj->nj", away, particles.orientations[particle])
        distance = np.linalg.norm(own * scale, axis=1)
    reached = distance <= FAR_SCORE * unit
    vertex, particle, distance = vertex[reached], particle[reached], distance[reached] / unit
    same_side = (normals[vertex] * axes[particle]).sum(axis=1) > 0
    targets[vertex] = WRONG_SIDE_SCORE
    targets[vertex[same_side]] = FAR_SCORE
    np.minimum.at(targets, vertex[same_side], distance[same_side])
    return targets.astype(np.float32)


def _at_surface(
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    tree: cKDTree,
    position: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The point above `position` along `axis` at the height of the nearest vertex that faces the same way."""
    near = np.array(tree.query_ball_point(position, 80.0), np.int64)
    facing = near[normals[near] @ axis > 0.3] if len(near) else near
    if not len(facing):
        return position
    relative = vertices[facing] - position
    height = relative @ axis
    aside = (relative**2).sum(axis=1) - height**2
    # The leaflet on the particle's side is the nearest in the plane, of those at or above the centre.
    cost = aside + np.where(height < -10.0, 1e6, 0.0)
    return position + axis * height[np.argmin(cost)]
