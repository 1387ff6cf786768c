"""The rim of a membrane: the part of the shell around its slab that joins the two leaflets, and is no membrane area.

leaflet 0   -------------------\
                                        ) rim
leaflet 1   -------------------/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from membrain_cloud.mesh.topology import twin_halfedges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.mesh.surface import Surface

# A face lies on a leaflet if its inward normal meets the other leaflet within this many mean thicknesses, ...
REACH = 2.5
# ... where the cosine of the two normals is below this.
OPPOSED = -0.5
# Start of a ray, Å behind its own face.
SETBACK_ANGSTROM = 1e-6


def rim_faces(shell: Surface, leaflets: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the faces of a shell that lie on its rim.

    A face belongs to a leaflet if it faces the other one across the slab. Faces that do not, and that are connected
    through such faces to the seam between the leaflets, are the rim. Others, at a bump of a leaflet, stay.

    Parameters
    ----------
    shell : Surface
        A closed shell around a slab, F faces, vertices in Å, normals outward.
    leaflets : (F,) int64 array
        Leaflet of each face, 0 or 1.
    kept : (F,) bool array
        Faces that are membrane; the others, caps at the border of the volume, are no rim.

    Returns
    -------
    (F,) bool array
        Faces of the rim.
    """
    twins = twin_halfedges(shell.faces, len(shell.vertices))
    face, other = np.repeat(np.arange(len(shell.faces)), 3), twins // 3
    joined = (twins >= 0) & kept[face] & kept[other]
    at_seam = joined & (leaflets[face] != leaflets[other])
    rim = np.zeros(len(shell.faces), bool)
    if not at_seam.any():
        return rim
    behind = _behind(shell, REACH * 2.0 * shell.volume / float(shell.face_areas.sum()))
    beside = kept & ((behind < 0) | (leaflets[behind] == leaflets))
    # A single face that faces the other leaflet in the midst of the rim does so by chance.
    n_beside = np.bincount(face[joined], beside[other[joined]], minlength=len(rim))
    n_joined = np.bincount(face[joined], minlength=len(rim))
    beside |= kept & (n_joined > 1) & (n_beside == n_joined)
    links = joined & beside[face] & beside[other]
    graph = coo_array((np.ones(int(links.sum()), bool), (face[links], other[links])), shape=(len(rim),) * 2)
    part = connected_components(graph, directed=False)[1]
    seam_parts = np.unique(part[face[at_seam & beside[face]]])
    rim[:] = beside & np.isin(part, seam_parts)
    return rim


def rim_length(shell: Surface, sides: NDArray[np.float64], kept: NDArray[np.bool_]) -> float:
    """Return the length of the line in the middle of the rim, where the sign of the leaflets changes.

    Parameters
    ----------
    shell : Surface
        A shell of V vertices and F faces, Å.
    sides : (V,) float64 array
        Values of the vertices that change their sign in the middle of the rim, as `leaflet_sides` returns them.
    kept : (F,) bool array
        Faces that are membrane.

    Returns
    -------
    float
        Length in Å.
    """
    faces = shell.faces[kept]
    values, corners = sides[faces], shell.vertices[faces]
    low, high = values, np.roll(values, -1, axis=1)
    crosses = (low < 0.0) != (high < 0.0)
    share = np.divide(low, low - high, out=np.zeros_like(low), where=crosses)
    points = corners + share[..., None] * (np.roll(corners, -1, axis=1) - corners)
    cut = crosses.sum(axis=1) == 2
    ends = points[cut][crosses[cut]].reshape(-1, 2, 3)
    return float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).sum())


def faces_another_side(surface: Surface, reach_angstrom: float) -> NDArray[np.bool_]:
    """Tell which faces have another part of the surface behind them, that faces the other way.

    Parameters
    ----------
    surface : Surface
        A surface of F faces, vertices in Å.
    reach_angstrom : float
        Largest distance along the inward normal, Å.

    Returns
    -------
    (F,) bool array
        True for the two sides of a slab that is thinner than the reach.
    """
    return _behind(surface, reach_angstrom) >= 0


def _behind(surface: Surface, reach: float) -> NDArray[np.int64]:
    """Return the face (F,) that each face's inward normal meets within `reach` Å; -1 for none that faces away."""
    from membrain_cloud.mesh.ray_casting import cells_of, first_hits  # loads numba: imported only here

    corners = np.ascontiguousarray(surface.vertices[surface.faces])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.full_like(normals, np.nan), where=lengths > 0.0)
    starts = corners.mean(axis=1) + SETBACK_ANGSTROM * normals
    _, hit = first_hits(cells_of(corners), starts, -normals, np.arange(len(corners)), reach)
    return np.where((normals * normals[hit]).sum(axis=1) < OPPOSED, hit, -1)
