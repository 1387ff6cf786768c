"""Repair of meshes before they are measured; those beyond repair are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.topology import twin_halfedges

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Share of vertices that repeat the place of another one, from which a mesh is taken as unmerged.
_LEAST_REPEATED = 0.1


def repaired(mesh: Mesh) -> Mesh:
    """Remove faces that name a vertex twice and copies of faces; wind a closed mesh outwards.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.

    Returns
    -------
    Mesh
        The same vertices; those that no face uses are kept, and set to 0 where they are not finite.

    Raises
    ------
    ValueError
        If the mesh has no faces, faces of vertices that do not exist, vertices in use that are not finite, or no area.
    """
    faces = np.asarray(mesh.faces)
    if not len(faces):
        raise ValueError("the mesh has no faces")
    if faces.min() < 0 or faces.max() >= len(mesh.vertices):
        wrong = int(((faces < 0) | (faces >= len(mesh.vertices))).any(axis=1).sum())
        raise ValueError(f"{wrong} of the mesh's {len(faces)} faces name a vertex that does not exist")
    used = np.unique(faces)
    finite = np.isfinite(mesh.vertices[used]).all(axis=1)
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of the {len(used)} vertices in use are not finite")
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    faces = faces[_first_copies(faces)]
    vertices = np.where(np.isfinite(mesh.vertices), mesh.vertices, 0.0)
    cleaned = Mesh(vertices, np.ascontiguousarray(faces, np.int32))
    area = cleaned.area_angstrom2()
    if not area > 0.0 or not np.isfinite(area):
        raise ValueError("the mesh has no area")
    return _outwards(cleaned)


def merge_vertices(mesh: Mesh) -> Mesh:
    """Merge vertices at one place, as triangle soup has them: without it no two faces share an edge.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.

    Returns
    -------
    Mesh
        The same object where fewer than a tenth of the vertices repeat others; else with each place once, in the order
        of first use, and without faces that became lines.
    """
    vertices = np.asarray(mesh.vertices)
    _, first, inverse = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    if len(vertices) - len(first) < _LEAST_REPEATED * len(vertices):
        return mesh
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    faces = rank[inverse.reshape(-1)][mesh.faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    return Mesh(vertices[first[order]], np.ascontiguousarray(faces, np.int32))


def _first_copies(faces: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the faces (K,) that do not repeat an earlier one of the same winding."""
    if not len(faces):
        return np.zeros(0, np.int64)
    first = faces.argmin(axis=1)
    lowest_first = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)
    return np.sort(np.unique(lowest_first, axis=0, return_index=True)[1])


def _outwards(mesh: Mesh) -> Mesh:
    """Reverse the faces of a closed mesh of negative volume."""
    if (twin_halfedges(mesh.faces, len(mesh.vertices)) < 0).any():
        return mesh
    a, b, c = (mesh.vertices[mesh.faces[:, k]] - mesh.vertices[mesh.faces[0, 0]] for k in range(3))
    if (a * np.cross(b, c)).sum() >= 0.0:
        return mesh
    return Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))
