"""Gaps between membranes: along the outward normals of one to the next one, or to itself across a lumen or a fold.

As in surface_morphometrics (Barad et al., J. Cell Biol. 222(4), 2023), with exact rays in place of searches in a cone.
Distances are from surface to surface of the shells: from middle to middle it is a membrane's thickness more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from membrain_cloud.statistics.membrane.weighted import weighted_quantile
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

Row = dict[str, Any]
# A ray starts so far inside its face, so that a membrane that touches this one is met. Å
INSIDE = 1e-6


@dataclass(frozen=True, eq=False)
class Gaps:
    """Of a membrane's F faces.

    to_next : (F,) Å along the outward normal to another membrane, inf beyond reach or where this one is met first.
    next_id : (F,) the other membrane, -1 for none.
    to_itself : (F,) Å along the outward normal to this membrane again, inf beyond reach or where another is met first.
    across : (F,) Å along the inward normal to the slab's other side, inf where it is not met within reach.
    """

    to_next: NDArray[np.float64]
    next_id: NDArray[np.int64]
    to_itself: NDArray[np.float64]
    across: NDArray[np.float64]


def find_gaps(meshes: Mapping[int, Mesh], *, reach_angstrom: float) -> dict[int, Gaps]:
    """The gaps of every membrane; `meshes` by membrane number, without border caps, wound outwards.

    Where two shells overlap, the gap is that to what is met next outside. Faces without area have none.
    """
    from membrain_cloud.mesh.ray_casting import cells_of, first_hits  # numba: only where it is used

    known = {number: mesh for number, mesh in sorted(meshes.items()) if len(mesh.faces)}
    if not known:
        return {}
    corners = np.concatenate([mesh.vertices[mesh.faces] for mesh in known.values()])
    counts = [len(mesh.faces) for mesh in known.values()]
    owner = np.repeat(np.array(list(known)), counts)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.full_like(normals, np.nan), where=lengths > 0.0)
    own, middle = np.arange(len(corners)), corners.mean(axis=1)
    cells = cells_of(corners)
    distances, hit = first_hits(cells, middle - INSIDE * normals, normals, own, reach_angstrom)
    met = np.where(hit >= 0, owner[hit], -1)
    other, itself = (met >= 0) & (met != owner), (met >= 0) & (met == owner)
    across, behind = first_hits(cells, middle + INSIDE * normals, -normals, own, reach_angstrom)
    across[(behind < 0) | (owner[behind] != owner)] = np.inf
    starts = np.cumsum([0, *counts])
    return {
        number: Gaps(
            np.where(other, distances, np.inf)[starts[i] : starts[i + 1]],
            np.where(other, met, -1)[starts[i] : starts[i + 1]],
            np.where(itself, distances, np.inf)[starts[i] : starts[i + 1]],
            across[starts[i] : starts[i + 1]],
        )
        for i, number in enumerate(known)
    }


def pair_rows(number: int, gaps: Gaps, meshes: Mapping[int, Mesh], *, contact_angstrom: float) -> list[Row]:
    """A row for each membrane that this one faces within reach, itself included; without key columns."""
    areas = meshes[number].face_areas_angstrom2()
    rows = []
    for other in sorted({number, *np.unique(gaps.next_id[gaps.next_id >= 0]).tolist()}):
        distances = gaps.to_itself if other == number else np.where(gaps.next_id == other, gaps.to_next, np.inf)
        facing = np.isfinite(distances)
        if not facing.any():
            continue
        median = weighted_quantile(np.where(facing, distances, np.nan), areas, 0.5)
        nearest = None if other == number else _nearest(meshes[number], meshes[other])
        rows.append(
            {
                "other_membrane_id": other,
                "min_distance_nm": None if nearest is None else nearest / ANGSTROM_PER_NM,
                "median_gap_nm": None if median is None else median / ANGSTROM_PER_NM,
                "facing_area_nm2": float(areas[facing].sum()) / ANGSTROM_PER_NM**2,
                "contact_area_nm2": float(areas[distances <= contact_angstrom].sum()) / ANGSTROM_PER_NM**2,
            }
        )
    return rows


def _nearest(one: Mesh, other: Mesh) -> float:
    """Å between the surfaces: from vertices of either to the other, so exact but where edges cross in mid-air."""
    return min(_from_vertices(one, other), _from_vertices(other, one))


def _from_vertices(one: Mesh, other: Mesh) -> float:
    from membrain_cloud.mesh.bounding_volume_tree import FaceTree  # numba: only where it is used

    vertices = one.vertices[np.unique(one.faces)]
    to_vertices = cKDTree(other.vertices[np.unique(other.faces)]).query(vertices)[0]
    # A face's nearest point is no farther from its nearest corner than its longest edge.
    corners = other.vertices[other.faces]
    longest = float(np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).max())
    near = vertices[to_vertices <= to_vertices.min() + longest]
    faces, weights = FaceTree(other.vertices, other.faces).project(near)
    found = np.einsum("nk,nkd->nd", weights, other.vertices[other.faces[faces]])
    return float(np.linalg.norm(found - near, axis=1).min())
