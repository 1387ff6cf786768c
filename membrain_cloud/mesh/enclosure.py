"""Tell whether points lie inside or outside of a closed surface, by the side of the nearest point.

The sign of the offset from the nearest point along a normal decides. On an edge that normal is the sum of the two
faces', at a vertex the sum of its faces' weighted by their angles: then the sign is exact for every closed surface that
does not cross itself [1]_.

References
----------
.. [1] Bærentzen and Aanæs, Signed distance computation using the angle weighted pseudonormal, IEEE Trans. Vis. Comput.
   Graph. 11(3), 2005.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface, SurfacePoints


def pseudonormals(surface: Surface, at: SurfacePoints) -> NDArray[np.float64]:
    """Return the angle-weighted normals at points of a surface.

    Parameters
    ----------
    surface : Surface
        The surface.
    at : SurfacePoints
        N points of it, as `closest_points` returns them: weights of 0 mark points of an edge or vertex.

    Returns
    -------
    (N, 3) float64
        Normals, not of unit length: within a face its own, on an edge the sum of its faces', at a vertex the sum of its
        faces' weighted by their angles there.
    """
    corners = surface.vertices[surface.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0.0)
    result = normals[at.faces]
    zeros = at.weights <= 0.0
    on_edge = np.flatnonzero(zeros.sum(axis=1) == 1)
    if len(on_edge):
        # halfedge k runs from corner k to k + 1, so it lies across from the corner k + 2, whose weight is 0
        corner = (np.argmax(zeros[on_edge], axis=1) + 1) % 3
        twins = surface.twins[3 * at.faces[on_edge] + corner]
        other = np.where((twins >= 0)[:, None], normals[np.maximum(twins, 0) // 3], 0.0)
        result[on_edge] += other
    on_vertex = np.flatnonzero(zeros.sum(axis=1) == 2)
    if len(on_vertex):
        of_vertices = np.zeros((len(surface.vertices), 3))
        angles = surface.corner_angles
        for k in range(3):
            np.add.at(of_vertices, surface.faces[:, k], angles[:, k, None] * normals)
        corner = np.argmin(zeros[on_vertex], axis=1)
        result[on_vertex] = of_vertices[surface.faces[at.faces[on_vertex], corner]]
    return np.asarray(result)


def sides_of(surface: Surface, points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return on which side of a closed surface points lie.

    Parameters
    ----------
    surface : Surface
        A closed surface, Å, normals outward.
    points : (N, 3) float64
        xyz in Å, finite.

    Returns
    -------
    (N,) int64
        1 outside, -1 inside, 0 on the surface.

    Raises
    ------
    ValueError
        If the surface is not closed, or a point is not finite.
    """
    if not surface.is_closed:
        raise ValueError("the surface is not closed: it has no inside")
    at = surface.closest_points(points)
    heights = ((np.asarray(points, np.float64) - at.positions) * pseudonormals(surface, at)).sum(axis=1)
    return np.asarray(np.sign(heights), np.int64)
