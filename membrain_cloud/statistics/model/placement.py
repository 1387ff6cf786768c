"""Place particles on a surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.surface import Surface, SurfacePoints

if TYPE_CHECKING:
    from numpy.typing import NDArray


def normals_at(surface: Surface, at: SurfacePoints) -> NDArray[np.float64]:
    """Return the outward unit normals at points of a surface, interpolated between vertices.

    Parameters
    ----------
    surface : Surface
        The surface.
    at : SurfacePoints
        N points on it.

    Returns
    -------
    (N, 3) float64 array
        Unit normals x, y, z.
    """
    normals = surface.interpolate(surface.normals, at)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(normals / np.maximum(lengths, np.finfo(np.float64).tiny))


def place_on_leaflets(
    surface: Surface,
    leaflets: NDArray[np.int64],
    positions: NDArray[np.float64],
    axes: NDArray[np.float64],
) -> SurfacePoints:
    """Place oriented particles on the leaflet that they point out of.

    A particle goes to the nearest point of the surface. It goes to the nearest point of the other leaflet if only that
    one's outward normal makes an acute angle with the particle's z axis.

    Parameters
    ----------
    surface : Surface
        Surface of both leaflets, F faces.
    leaflets : (F,) int64 array
        Leaflet of each face, 0 or 1.
    positions : (N, 3) float64 array
        Centres of the particles, Å.
    axes : (N, 3) float64 array
        Their z axes; NaN, where unknown, keeps the nearest point.

    Returns
    -------
    SurfacePoints
        N points on the surface.
    """
    nearest = surface.closest_points(positions)
    facing = (normals_at(surface, nearest) * axes).sum(axis=1)
    faces, weights = nearest.faces.copy(), nearest.weights.copy()
    for leaflet in range(2):
        leaflet_faces = np.flatnonzero(leaflets == leaflet)
        wrong = np.flatnonzero((leaflets[nearest.faces] != leaflet) & (facing < 0.0))
        if not len(wrong) or not len(leaflet_faces):
            continue
        on_leaflet = Surface(Mesh(surface.vertices, surface.faces[leaflet_faces])).closest_points(positions[wrong])
        points = surface.points(leaflet_faces[on_leaflet.faces], on_leaflet.weights)
        better = (normals_at(surface, points) * axes[wrong]).sum(axis=1) > 0.0
        faces[wrong[better]], weights[wrong[better]] = points.faces[better], points.weights[better]
    placed = surface.points(faces, weights)
    return SurfacePoints(faces, weights, placed.positions, np.linalg.norm(placed.positions - positions, axis=1))
