"""Surfaces with particles at known places, and the scores that a perfect picker would give them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Mesh
from membrain_cloud.picking.clustering_options import ClusteringOptions
from membrain_cloud.picking.vertex_scores import FAR_SCORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = ClusteringOptions(
    bandwidth_angstrom=75.0,
    score_threshold=7.0,
    max_iterations=150,
    min_samples=5,
    center_offset_angstrom=0.0,
    largest_nm2=None,
    min_distance_angstrom=None,
    least_elongation=1.5,
    refine=False,
)


def sphere(radius: float = 400.0, subdivisions: int = 4, center: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """Return a sphere of evenly spread vertices, in Å."""
    shape = trimesh.creation.icosphere(subdivisions, radius=radius)
    return Mesh(np.array(shape.vertices, np.float64) + center, np.array(shape.faces, np.int32))


def together(*meshes: Mesh) -> Mesh:
    """Return several meshes as one."""
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    faces = np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)])
    return Mesh(np.concatenate([m.vertices for m in meshes]), faces.astype(np.int32))


def perfect_scores(mesh: Mesh, centers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return what a perfect picker would predict for particles at these centres."""
    return np.minimum(cKDTree(centers).query(mesh.vertices)[0] / 15.0, FAR_SCORE).astype(np.float32)


def directions(count: int, seed: int, apart: float) -> NDArray[np.float64]:
    """Return unit vectors at least `apart` radians apart."""
    rng, vectors = np.random.default_rng(seed), np.zeros((0, 3))
    while len(vectors) < count:
        new = rng.normal(size=3)
        new /= np.linalg.norm(new)
        if not len(vectors) or np.max(vectors @ new) < math.cos(apart):
            vectors = np.vstack([vectors, new])
    return vectors


def crowd(spacing: float) -> NDArray[np.float64]:
    """Return seven particles, each `spacing` from its neighbours, on a sphere of 500 Å about the origin."""
    angles = np.arange(6) * np.pi / 3
    tilt = 2 * np.arcsin(spacing / 1000.0)
    around = np.stack([np.sin(tilt) * np.cos(angles), np.sin(tilt) * np.sin(angles), np.full(6, np.cos(tilt))], axis=1)
    return 500.0 * np.vstack([[0.0, 0.0, 1.0], around])
