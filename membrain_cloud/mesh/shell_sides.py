"""The two sides of a membrane and the surface midway between them, from the closed shell around its slab.

A vertex of the shell lies on a side where the shell has another vertex across the slab, with the opposite normal;
vertices without one are the slab's rim: the edge of a sheet, of a hole, or a cap at the volume's border.

        side 1   -------------------\
        midway   . . . . . . . . . . ) rim
        side 2   -------------------/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Mesh
from membrain_cloud.jit import compiled
from membrain_cloud.mesh.spectral.operators import directed_edges, vertex_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AGAINST = -0.7  # cosine of the normals of vertices across from each other
_ASIDE = 0.5  # largest distance beside each other, over the distance across
_PARTS_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class Sides:
    """The sides of a shell of V vertices.

    Attributes
    ----------
    side : (V,) int8
        1 or 2, 0 on the rim. Of a closed membrane 1 is the outer side; otherwise it is the larger.
    thickness : (V,) float64
        Å across the slab, NaN on the rim.
    opposite : (V,) int64
        The vertex across the slab, -1 on the rim.
    """

    side: NDArray[np.int8]
    thickness: NDArray[np.float64]
    opposite: NDArray[np.int64]


def membrane_sides(mesh: Mesh, *, reach_angstrom: float) -> Sides:
    """Find the sides of a membrane's shell.

    Parameters
    ----------
    mesh : Mesh
        A closed shell around the slab, vertices in Å, normals outward.
    reach_angstrom : float
        Largest thickness of a slab, Å; vertices that face no other part of the shell within it are rim.

    Returns
    -------
    Sides
        Side, thickness and opposite vertex of each vertex.
    """
    normals = mesh.vertex_normals()
    opposite, thickness = _across(mesh, normals, reach_angstrom)
    paired = opposite >= 0
    edges = directed_edges(mesh.faces) if len(mesh.faces) else np.zeros((0, 2), np.int64)
    # an edge within a side joins two vertices that face the same way
    edges = edges[paired[edges].all(axis=1) & (edges[:, 0] < edges[:, 1])]
    alike = (normals[edges[:, 0]] * normals[edges[:, 1]]).sum(axis=1)
    edges, alike = edges[alike > 0], alike[alike > 0]
    pairs = np.stack([np.flatnonzero(paired), opposite[paired]], axis=1)
    against = -(normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(axis=1)
    side = _two_coloured(edges, alike, pairs, against, vertex_areas(mesh.vertices, mesh.faces))
    thickness[side == 0] = np.nan
    return Sides(side, thickness, np.where(side > 0, opposite, -1))


def middle_surface(mesh: Mesh, sides: Sides, side: int = 1) -> Mesh:
    """Return the surface midway between the sides: the faces of one side moved inwards by half of the thickness.

    The thickness is averaged over neighbours.

    Parameters
    ----------
    mesh : Mesh
        The shell, vertices in Å.
    sides : Sides
        Its sides.
    side : int
        The side that is moved, 1 (default) or 2.

    Returns
    -------
    Mesh
        Normals point to that side; open where the membrane has rims, empty where there is no such side.
    """
    faces = mesh.faces[(sides.side == side)[mesh.faces].all(axis=1)]
    kept, local = np.unique(faces, return_inverse=True)
    if not len(kept):
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))
    local_faces = local.reshape(-1, 3).astype(np.int32)
    i, j = directed_edges(local_faces).T
    ones = np.ones(len(i) + len(kept))
    rows, columns = np.r_[i, np.arange(len(kept))], np.r_[j, np.arange(len(kept))]
    mean = scipy.sparse.csr_matrix((ones, (rows, columns)))
    mean = scipy.sparse.diags(1.0 / np.asarray(mean.sum(axis=1)).ravel()) @ mean
    thickness = mean @ (mean @ sides.thickness[kept])
    inwards = 0.5 * thickness[:, None] * mesh.vertex_normals()[kept]
    return Mesh(mesh.vertices[kept] - inwards, local_faces)


def one_side(mesh: Mesh, sides: Sides, side: int) -> Mesh:
    """Return the faces of one side.

    Parameters
    ----------
    mesh : Mesh
        The shell.
    sides : Sides
        Its sides.
    side : int
        1 or 2.

    Returns
    -------
    Mesh
        Open at the rims, normals outward; empty where there is no such side.
    """
    faces = mesh.faces[(sides.side == side)[mesh.faces].all(axis=1)]
    kept, local = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[kept], local.reshape(-1, 3).astype(np.int32))


def side_of(mesh: Mesh, sides: Sides, seed_xyz_angstrom: NDArray[np.floating]) -> int:
    """Return the side that a seed point lies on, by the nearest vertex that faces it.

    Parameters
    ----------
    mesh : Mesh
        The shell, vertices in Å.
    sides : Sides
        Its sides.
    seed_xyz_angstrom : (3,) floating
        The point, xyz in Å.

    Returns
    -------
    int
        1 or 2; 0 where no side faces the point.
    """
    toward = np.asarray(seed_xyz_angstrom, np.float64) - mesh.vertices
    distance = np.linalg.norm(toward, axis=1)
    facing = ((toward * mesh.vertex_normals()).sum(axis=1) >= 0) & (sides.side > 0)
    if not facing.any():
        return 0
    return int(sides.side[np.where(facing, distance, np.inf).argmin()])


def _across(mesh: Mesh, normals: NDArray[np.float64], reach: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the vertex across the slab of each vertex (V,), -1 for none, and its distance along the normal (V,)."""
    count = len(mesh.vertices)
    opposite, thickness = np.full(count, -1, np.int64), np.full(count, np.nan)
    tree = cKDTree(mesh.vertices) if count else None
    for start in range(0, count, _PARTS_AT_ONCE):
        assert tree is not None
        part = np.arange(start, min(start + _PARTS_AT_ONCE, count))
        neighbours = tree.query_ball_point(mesh.vertices[part], reach, return_sorted=True)
        here = np.repeat(part, [len(near) for near in neighbours])
        there = np.concatenate([np.asarray(near, np.int64) for near in neighbours])
        offset = mesh.vertices[there] - mesh.vertices[here]
        depth = -(offset * normals[here]).sum(axis=1)
        aside = np.sqrt(np.maximum((offset**2).sum(axis=1) - depth**2, 0.0))
        fits = (depth > 0) & (aside <= _ASIDE * depth) & ((normals[here] * normals[there]).sum(axis=1) < _AGAINST)
        here, there, depth, aside = here[fits], there[fits], depth[fits], aside[fits]
        order = np.lexsort((there, depth + aside, here))
        first = order[np.unique(here[order], return_index=True)[1]]
        opposite[here[first]], thickness[here[first]] = there[first], depth[first]
    return opposite, thickness


def _two_coloured(
    edges: NDArray[np.int64],
    alike: NDArray[np.float64],
    pairs: NDArray[np.int64],
    against: NDArray[np.float64],
    areas: NDArray[np.float64],
) -> NDArray[np.int8]:
    """Assign sides (V,): the same to vertices of an edge, different ones to those of a pair across, the surest first.

    A single edge around a rim joins both sides. Being the least sure it comes last, and what contradicts earlier links
    is ignored. Of pairs whose ends get the same side nevertheless, both are rim.
    """
    links = np.concatenate([edges, pairs])
    across = np.arange(len(links)) >= len(edges)
    surest = np.argsort(-np.concatenate([alike, against]), kind="stable")
    part, turned = _parts_and_sides(links[surest], across[surest], len(areas))
    paired = np.zeros(len(areas), bool)
    paired[pairs[:, 0]] = True
    # the larger of a part's two sides is 1
    area = np.bincount(2 * part[paired] + turned[paired], weights=areas[paired], minlength=2 * len(areas)).reshape(
        -1, 2
    )
    side = np.where(paired, 1 + (turned ^ (area[part, 1] > area[part, 0])), 0).astype(np.int8)
    same = side[pairs[:, 0]] == side[pairs[:, 1]]
    side[pairs[same, 0]] = 0
    return side


@compiled
def _rooted(
    vertex: int, parent: NDArray[np.int64], turned: NDArray[np.int64]
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the root of a vertex's part and whether the vertex is on the other side; compress its path there."""
    root, parity = vertex, 0
    while parent[root] != root:
        parity ^= turned[root]
        root = parent[root]
    here, left = vertex, parity
    while here != root:
        after, rest = parent[here], left ^ turned[here]
        parent[here], turned[here] = root, left
        here, left = after, rest
    return root, parity


@compiled
def _parts_and_sides(
    links: NDArray[np.int64], across: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # pragma: no cover - compiled
    """Return the part (V,) that each vertex belongs to and its side there (V,), 0 or 1.

    Links (L, 2) come in falling order of trust; `across` (L,) says which join different sides. Union and find with a
    parity: `turned` says whether a vertex is on another side than its parent.
    """
    parent, turned, size = np.arange(count), np.zeros(count, np.int64), np.ones(count, np.int64)
    for link in range(len(links)):
        large, one = _rooted(links[link, 0], parent, turned)
        small, other = _rooted(links[link, 1], parent, turned)
        if large == small:
            continue
        if size[large] < size[small]:
            large, small = small, large
        parent[small], turned[small] = large, one ^ other ^ (1 if across[link] else 0)
        size[large] += size[small]
    for vertex in range(count):
        _rooted(vertex, parent, turned)
    return parent, turned
