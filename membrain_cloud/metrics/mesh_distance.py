"""Distances between two surfaces, from points spread over each to the nearest point of the other's triangles.

Each point stands for an equal area, so means, quantiles and shares are those of the area, whatever the faces. Nothing
is drawn at random.

References
----------
Cignoni, Rocchini & Scopigno, Computer Graphics Forum 17(2) (1998): Metro.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.bounding_volume_tree import FaceTree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Floats = NDArray[np.float64]

#: Points on each surface, and values that are kept of their distances: what stands for one surface stays small.
POINTS, KEPT = 50_000, 1_000
# Vertices asked for at once.
_PORTION = 100_000
# Steps of the plastic number's sequence, which fills a square evenly (Roberts 2018, "R2").
_STEPS = np.array([0.7548776662466927, 0.5698402909980532])


@dataclass(frozen=True, eq=False)
class Reach:
    """Distances from one surface to another; None and empty arrays where one of them is empty.

    Attributes
    ----------
    area_angstrom2 : float
        Area of the surface in Å².
    components : int
        Connected components of all its meshes.
    mean_angstrom, largest_angstrom : float or None
        Mean and maximum of the distances to the other surface in Å; the maximum includes the vertices.
    within : float or None
        Share of the area that is within the tolerance of the other surface.
    distances : ndarray, shape (KEPT,), float64
        Quantiles of the distance in Å, each for an equal part of the area.
    angles : ndarray, shape (KEPT,), float64
        Quantiles of the angle between the normals of both surfaces there, 0 to 90 degrees.
    """

    area_angstrom2: float
    components: int
    mean_angstrom: float | None
    largest_angstrom: float | None
    within: float | None
    distances: Floats
    angles: Floats


def whole(meshes: Mapping[int, Mesh]) -> Mesh:
    """Join all membranes into one mesh; their vertices stay separate.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Number of each membrane to its mesh.

    Returns
    -------
    Mesh
        All vertices and faces, in the order of the numbers.
    """
    vertices, faces = [np.zeros((0, 3))], [np.zeros((0, 3), np.int32)]
    start = 0
    for _, mesh in sorted(meshes.items()):
        vertices.append(np.asarray(mesh.vertices, np.float64).reshape(-1, 3))
        faces.append((np.asarray(mesh.faces).reshape(-1, 3) + start).astype(np.int32))
        start += len(mesh.vertices)
    return Mesh(np.concatenate(vertices), np.concatenate(faces))


def compared(one: Mesh, other: Mesh, *, tolerance_angstrom: float) -> tuple[Reach, Reach]:
    """Compute the distances from each of two surfaces to the other.

    Parameters
    ----------
    one, other : Mesh
        Surfaces with finite vertices, xyz in Å; one without area counts as empty.
    tolerance_angstrom : float
        Tolerance of `Reach.within` in Å.

    Returns
    -------
    tuple of Reach
        From the first to the second, and from the second to the first.
    """
    trees = [FaceTree(mesh.vertices, mesh.faces) if mesh.area_angstrom2() > 0.0 else None for mesh in (one, other)]
    return (
        _reach(one, other, trees[1], tolerance_angstrom),
        _reach(other, one, trees[0], tolerance_angstrom),
    )


def vertex_distances(mesh: Mesh, other: Mesh) -> Floats:
    """Compute the distance from each vertex to another surface.

    Parameters
    ----------
    mesh : Mesh
        Surface with V vertices, xyz in Å.
    other : Mesh
        Surface with at least one face.

    Returns
    -------
    ndarray, shape (V,), float64
        Distances in Å.
    """
    return _distances(FaceTree(other.vertices, other.faces), mesh.vertices)


def _reach(mesh: Mesh, other: Mesh, tree: FaceTree | None, tolerance: float) -> Reach:
    """Return the distances from a mesh to another one, whose faces are in `tree`."""
    area, components = mesh.area_angstrom2(), component_count(mesh)
    if not area > 0.0 or tree is None:
        return Reach(area, components, None, None, None if not area > 0.0 else 0.0, np.zeros(0), np.zeros(0))
    points, faces = spread_points(mesh, POINTS)
    distances, met = tree.find(points)
    cosine = np.abs((_face_normals(mesh)[faces] * _face_normals(other)[met]).sum(axis=1))
    at_vertices = _distances(tree, mesh.vertices[np.unique(mesh.faces)])
    shares = (np.arange(KEPT) + 0.5) / KEPT
    return Reach(
        area,
        components,
        float(distances.mean()),
        float(max(distances.max(), at_vertices.max())),
        float(np.count_nonzero(distances <= tolerance) / len(distances)),
        np.quantile(distances, shares),
        np.quantile(np.degrees(np.arccos(np.minimum(cosine, 1.0))), shares),
    )


def spread_points(mesh: Mesh, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """Spread points over a surface, each of which stands for an equal area.

    The points follow each other at equal steps of the summed areas of the faces. The place of each on its face is the
    next pair of an even sequence, folded into the triangle.

    Parameters
    ----------
    mesh : Mesh
        Surface with some area.
    count : int
        Number of points N.

    Returns
    -------
    ndarray, shape (N, 3), float64
        Points, xyz in Å.
    ndarray, shape (N,), int64
        The faces that they lie on.
    """
    summed = np.cumsum(mesh.face_areas_angstrom2())
    wanted = (np.arange(count) + 0.5) / count * summed[-1]
    faces = np.minimum(np.searchsorted(summed, wanted, side="right"), len(summed) - 1)
    u, v = ((0.5 + np.outer(_STEPS, np.arange(count))) % 1.0).copy()
    folded = u + v > 1.0
    u[folded], v[folded] = 1.0 - u[folded], 1.0 - v[folded]
    a, b, c = (mesh.vertices[mesh.faces[faces, k]] for k in range(3))
    return a + u[:, None] * (b - a) + v[:, None] * (c - a), faces


def component_count(mesh: Mesh) -> int:
    """Count the connected components of a mesh.

    Parameters
    ----------
    mesh : Mesh
        Vertices at one place count as one, since some programs write each triangle with vertices of its own.

    Returns
    -------
    int
        Number of components.
    """
    if not len(mesh.faces):
        return 0
    places, at = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = at.reshape(-1)[mesh.faces]
    start, end = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(len(places), len(places)))
    labels = connected_components(graph, directed=False)[1]
    return len(np.unique(labels[faces[:, 0]]))


def pooled(reaches: Sequence[Reach]) -> Reach:
    """Combine several surfaces into one by their areas.

    Parameters
    ----------
    reaches : sequence of Reach
        Distances from each surface. One without distances contributes its area only, and lies beyond any tolerance.

    Returns
    -------
    Reach
        Distances from all of them together.
    """
    known = [r for r in reaches if r.mean_angstrom is not None and r.largest_angstrom is not None]
    area, known_area = (float(sum(r.area_angstrom2 for r in some)) for some in (reaches, known))
    shared = sum(r.area_angstrom2 * (r.within or 0.0) for r in reaches)
    return Reach(
        area,
        sum(r.components for r in reaches),
        sum(r.area_angstrom2 * (r.mean_angstrom or 0.0) for r in known) / known_area if known else None,
        max((r.largest_angstrom or 0.0 for r in known), default=None),
        shared / area if area > 0.0 else None,
        _pooled_quantiles([r.distances for r in known], known),
        _pooled_quantiles([r.angles for r in known], known),
    )


def median_of_both(first: Reach, second: Reach) -> float | None:
    """Return the median angle over the area of both surfaces.

    Parameters
    ----------
    first, second : Reach
        Distances from each of two surfaces to the other.

    Returns
    -------
    float or None
        Angle in degrees; None where it is unknown for both.
    """
    known = [r for r in (first, second) if len(r.angles)]
    return float(_quantiles([r.angles for r in known], known, np.array([0.5]))[0]) if known else None


def _pooled_quantiles(values: Sequence[Floats], reaches: Sequence[Reach]) -> Floats:
    if len(reaches) < 2:
        return values[0] if values else np.zeros(0)
    return _quantiles(values, reaches, (np.arange(KEPT) + 0.5) / KEPT)


def _quantiles(values: Sequence[Floats], reaches: Sequence[Reach], shares: Floats) -> Floats:
    """Return area-weighted quantiles of values that several surfaces hold."""
    together = np.concatenate(values)
    weights = np.concatenate([np.full(len(some), r.area_angstrom2) for some, r in zip(values, reaches, strict=True)])
    order = np.argsort(together, kind="stable")
    below = np.cumsum(weights[order]) - 0.5 * weights[order]
    result: Floats = np.interp(shares * weights.sum(), below, together[order])
    return result


def _face_normals(mesh: Mesh) -> Floats:
    """Return the unit normals of the faces, (F, 3); 0 for a face without area."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    result: Floats = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    return result


def _distances(tree: FaceTree, points: Floats) -> Floats:
    parts = [tree.find(points[k : k + _PORTION])[0] for k in range(0, len(points), _PORTION)]
    return np.concatenate([np.zeros(0), *parts])
