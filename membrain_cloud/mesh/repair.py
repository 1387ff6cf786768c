"""Meshes made fit to be measured, or refused with what is wrong with them."""

from __future__ import annotations

import numpy as np

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.topology import twin_halfedges


def repaired(mesh: Mesh) -> Mesh:
    """The mesh without faces that name a vertex twice and without copies of faces, wound outwards if it is closed.

    The vertices stay as they are, those that no face uses included. Raises ValueError, with numbers, for a mesh without
    faces, with faces of vertices that do not exist, with vertices in use that are not finite, or without area.
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
    vertices = np.where(np.isfinite(mesh.vertices), mesh.vertices, 0.0)  # those that no face uses
    cleaned = Mesh(vertices, np.ascontiguousarray(faces, np.int32))
    area = cleaned.area_angstrom2()
    if not area > 0.0 or not np.isfinite(area):
        raise ValueError("the mesh has no area")
    return _outwards(cleaned)


def _first_copies(faces: np.ndarray) -> np.ndarray:
    """(K,) faces that are not an earlier one again, in the same direction."""
    if not len(faces):
        return np.zeros(0, np.int64)
    first = faces.argmin(axis=1)
    turned = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)
    return np.sort(np.unique(turned, axis=0, return_index=True)[1])


def _outwards(mesh: Mesh) -> Mesh:
    """A closed mesh that holds less than nothing is inside out."""
    if (twin_halfedges(mesh.faces, len(mesh.vertices)) < 0).any():
        return mesh
    a, b, c = (mesh.vertices[mesh.faces[:, k]] - mesh.vertices[mesh.faces[0, 0]] for k in range(3))
    if (a * np.cross(b, c)).sum() >= 0.0:
        return mesh
    return Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))
