"""Gaps between membranes: distances along the normals of one membrane to the next one, or to itself.

A membrane faces itself across a lumen or a fold. Distances are from surface to surface of the shells; from mid-surface
to mid-surface they are a membrane's thickness larger.

References
----------
Barad et al., J. Cell Biol. 222(4), 2023 (surface_morphometrics). Here rays are exact, where it searches in a cone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

# A ray starts this far (Å) behind its own face, so that it hits a membrane that touches this one.
RAY_SETBACK_ANGSTROM = 1e-6


@dataclass(frozen=True, eq=False)
class Gaps:
    """Distances along the normals from the F faces of one membrane.

    Parameters
    ----------
    to_next : (F,) float64 array
        Å along the outward normal to another membrane; infinity beyond reach, or if this membrane is hit first.
    next_id : (F,) int64 array
        Number of the other membrane; -1 where `to_next` is infinite.
    to_itself : (F,) float64 array
        Å along the outward normal to this membrane; infinity beyond reach, or if another membrane is hit first.
    across : (F,) float64 array
        Å along the inward normal to the other side of the shell; infinity if it is not hit within reach.
    """

    to_next: NDArray[np.float64]
    next_id: NDArray[np.int64]
    to_itself: NDArray[np.float64]
    across: NDArray[np.float64]

    def of_faces(self, faces: NDArray[np.int64]) -> Gaps:
        """Return the gaps of some of the faces.

        Parameters
        ----------
        faces : (N,) int64 array
            Numbers of the faces.

        Returns
        -------
        Gaps
            The gaps of these N faces, in this order.
        """
        return Gaps(self.to_next[faces], self.next_id[faces], self.to_itself[faces], self.across[faces])


def find_gaps(meshes: Mapping[int, Mesh], *, reach_angstrom: float) -> dict[int, Gaps]:
    """Cast rays along the normals of all faces, outwards and inwards.

    Parameters
    ----------
    meshes : mapping of int to Mesh
        Membrane number -> its shell without border caps, wound outwards.
    reach_angstrom : float
        Maximum length of a ray in Å.

    Returns
    -------
    dict of int to Gaps
        The gaps of every membrane that has faces. Faces without area have none. Where two shells overlap, the gap is
        that to the next surface outside.
    """
    from membrain_cloud.mesh.ray_casting import cells_of, first_hits  # loads numba: imported only here

    filled = {number: mesh for number, mesh in sorted(meshes.items()) if len(mesh.faces)}
    if not filled:
        return {}
    corners = np.concatenate([mesh.vertices[mesh.faces] for mesh in filled.values()])
    counts = [len(mesh.faces) for mesh in filled.values()]
    owner = np.repeat(np.array(list(filled)), counts)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.full_like(normals, np.nan), where=lengths > 0.0)
    own, middle = np.arange(len(corners)), corners.mean(axis=1)
    cells = cells_of(corners)
    distances, hit = first_hits(cells, middle - RAY_SETBACK_ANGSTROM * normals, normals, own, reach_angstrom)
    hit_id = np.where(hit >= 0, owner[hit], -1)
    other, itself = (hit_id >= 0) & (hit_id != owner), (hit_id >= 0) & (hit_id == owner)
    across, behind = first_hits(cells, middle + RAY_SETBACK_ANGSTROM * normals, -normals, own, reach_angstrom)
    across[(behind < 0) | (owner[behind] != owner)] = np.inf
    starts = np.cumsum([0, *counts])
    return {
        number: Gaps(
            np.where(other, distances, np.inf)[starts[i] : starts[i + 1]],
            np.where(other, hit_id, -1)[starts[i] : starts[i + 1]],
            np.where(itself, distances, np.inf)[starts[i] : starts[i + 1]],
            across[starts[i] : starts[i + 1]],
        )
        for i, number in enumerate(filled)
    }


def min_distance_angstrom(one: Mesh, other: Mesh) -> float:
    """Compute the shortest distance between two surfaces.

    Distances are taken from the vertices of either surface to the other surface. This is exact, except where two edges
    pass each other nearer than any vertex does.

    Parameters
    ----------
    one, other : Mesh
        Two meshes with faces.

    Returns
    -------
    float
        Distance in Å.
    """
    return min(_from_vertices(one, other), _from_vertices(other, one))


def _from_vertices(one: Mesh, other: Mesh) -> float:
    """Compute the shortest distance (Å) from the vertices of one mesh to the surface of another."""
    from membrain_cloud.mesh.bounding_volume_tree import FaceTree  # loads numba: imported only here

    vertices = one.vertices[np.unique(one.faces)]
    to_vertices = cKDTree(other.vertices[np.unique(other.faces)]).query(vertices)[0]
    # A face's nearest point is no farther from its nearest corner than its longest edge.
    corners = other.vertices[other.faces]
    longest = float(np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max())
    near = vertices[to_vertices <= to_vertices.min() + longest]
    faces, weights = FaceTree(other.vertices, other.faces).project(near)
    closest = np.einsum("nk,nkd->nd", weights, other.vertices[other.faces[faces]])
    return float(np.linalg.norm(closest - near, axis=1).min())
