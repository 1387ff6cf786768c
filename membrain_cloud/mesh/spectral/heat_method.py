"""Distances along a surface by the heat method, as MemBrain-pick measures them to cut its patches.

Heat flows from a vertex for a short time; the directions it takes, made of length one, are the gradient of the
distance (Crane, Weischedel & Wardetzky, ACM TOG 32(5), 2013). The operators are those of the tufted cover's intrinsic
Delaunay triangulation (Sharp & Crane, CGF 39(5), 2020): every face has a front and a back, which meet at boundaries, so
holes and odd edges do no harm. The distances are smooth and cheap, but some per cent off; where distances are measured,
`surface` has exact ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from membrain_cloud.jit import compiled
from membrain_cloud.mesh.spectral.operators import directed_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

_DELAUNAY = -1e-6  # edges whose cotangents sum to less are flipped
_FLIPS_AN_EDGE = 100


class HeatDistances:
    """Distances from any vertex of one mesh; the two linear systems are factored once."""

    def __init__(self, mesh: Mesh) -> None:
        corners = np.asarray(mesh.faces, np.int64)
        sides = np.linalg.norm(mesh.vertices[np.roll(corners, -1, axis=1)] - mesh.vertices[corners], axis=2)
        edges = directed_edges(corners)
        mean = float(np.linalg.norm(mesh.vertices[edges[:, 0]] - mesh.vertices[edges[:, 1]], axis=1).mean())
        starts, lengths, twins = _tufted_cover(corners, sides)
        _flip_to_delaunay(starts, lengths, twins, _FLIPS_AN_EDGE * len(starts))
        self._faces, self._sides = starts.reshape(-1, 3), np.maximum(lengths.reshape(-1, 3), 1e-12 * mean)
        count = len(mesh.vertices)
        self._cotangents, areas = _cotangents(self._sides)
        laplacian = _laplacian(self._faces, self._cotangents, count)
        mass = np.bincount(self._faces.ravel(), np.repeat(areas / 3.0, 3), minlength=count)
        # vertices without a face belong to nothing; a little mass keeps the systems solvable
        mass = np.maximum(mass, 1e-12 * mass.max(initial=1.0))
        self._heat = _factor(scipy.sparse.diags(mass) + mean**2 * laplacian)
        self._poisson = _factor(laplacian + scipy.sparse.diags(1e-10 * mass / mean**2))
        self._count = count

    def from_vertex(self, vertex: int) -> NDArray[np.float64]:
        """(V,) distance of every vertex, in the mesh's unit; a finite constant on other pieces of the mesh."""
        source = np.zeros(self._count)
        source[vertex] = 1.0
        heat = self._heat.solve(source)
        potential = self._poisson.solve(_divergence(self._faces, self._sides, self._cotangents, heat))
        return potential - potential[vertex]


@compiled
def _divergence(
    faces: NDArray, sides: NDArray, cotangents: NDArray, heat: NDArray
) -> NDArray:  # pragma: no cover - compiled
    """(V,) of the unit field along which the heat (V,) falls, integrated over each vertex's surroundings."""
    found, x, y = np.zeros(len(heat)), np.zeros(3), np.zeros(3)
    for face in range(len(faces)):
        # the face in its plane: corner 0 at the origin, corner 1 on the x axis
        a, b, c = sides[face]
        x[1], x[2] = a, (a * a + c * c - b * b) / (2 * a)
        y[2] = np.sqrt(max(c * c - x[2] * x[2], 0.0))
        along, up = 0.0, 0.0
        for k in range(3):
            following, before, here = (k + 1) % 3, (k + 2) % 3, heat[faces[face, k]]
            along += here * (y[before] - y[following])
            up -= here * (x[before] - x[following])
        length = np.sqrt(along * along + up * up)
        if not length > 0.0:
            continue
        along, up = along / length, up / length
        for k in range(3):
            following, before = (k + 1) % 3, (k + 2) % 3
            onward = (x[following] - x[k]) * along + (y[following] - y[k]) * up
            back = (x[before] - x[k]) * along + (y[before] - y[k]) * up
            found[faces[face, k]] -= 0.5 * (cotangents[face, before] * onward + cotangents[face, following] * back)
    return found


def _tufted_cover(
    corners: NDArray[np.int64], sides: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Halfedges of the fronts and backs of all faces: start vertex, length, opposite; three a face, in its order."""
    count = len(corners)
    backs = corners[:, [0, 2, 1]]
    starts = np.concatenate([corners, backs]).ravel()
    lengths = np.concatenate([sides, sides[:, [2, 1, 0]]]).ravel()
    ends = np.roll(starts.reshape(-1, 3), -1, axis=1).ravel()
    front = np.arange(3 * count)
    # the back of side k of a face is side 2 - k of its back
    mirror = np.empty(6 * count, np.int64)
    mirror[front] = 3 * count + front // 3 * 3 + 2 - front % 3
    mirror[mirror[front]] = front
    # Around an edge, each side's face towards the next meets that side's face towards the one before: of two sides,
    # fronts meet fronts and backs meet backs; of one, front meets back.
    low, high = np.minimum(starts, ends)[front], np.maximum(starts, ends)[front]
    order = np.lexsort((front, high, low))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (low[order][1:] != low[order][:-1]) | (high[order][1:] != high[order][:-1])
    following = np.append(order[1:], order[:1])
    begins = np.append(np.flatnonzero(fresh), len(order))
    following[begins[1:] - 1] = order[begins[:-1]]
    along = starts[order] < ends[order]
    onward = np.where(along, order, mirror[order])
    backward = np.where(starts[following] < ends[following], mirror[following], following)
    twins = np.empty_like(mirror)
    twins[onward], twins[backward] = backward, onward
    return starts, lengths, twins


@compiled
def _cotangent(a: float, b: float, c: float) -> float:  # pragma: no cover - compiled
    """Of the angle between the sides b and c, opposite to a."""
    half = 0.5 * (a + b + c)
    area = np.sqrt(max(half * (half - a) * (half - b) * (half - c), 1e-300))
    return (b * b + c * c - a * a) / (4.0 * area)


@compiled
def _flip_to_delaunay(
    starts: NDArray, lengths: NDArray, twins: NDArray, most: int
) -> int:  # pragma: no cover - compiled
    """Flip edges, in place, until every edge's opposite angles sum to no more than 180 degrees."""
    waiting = list(range(len(starts)))
    queued = np.ones(len(starts), np.bool_)
    flips = 0
    moved = np.empty(4, np.int64)
    places = np.empty(4, np.int64)
    far = np.empty(4, np.int64)
    sizes = np.empty(4)
    origins = np.empty(4, np.int64)
    while waiting and flips < most:
        h = waiting.pop()
        queued[h] = False
        g = twins[h]
        if h // 3 == g // 3:
            continue
        h1, h2 = h // 3 * 3 + (h + 1) % 3, h // 3 * 3 + (h + 2) % 3
        g1, g2 = g // 3 * 3 + (g + 1) % 3, g // 3 * 3 + (g + 2) % 3
        base, right, left, near, away = lengths[h], lengths[h1], lengths[h2], lengths[g1], lengths[g2]
        if _cotangent(base, right, left) + _cotangent(base, near, away) >= _DELAUNAY:
            continue
        # h runs from a to b below c, g back above d
        cx = (base * base + left * left - right * right) / (2.0 * base)
        dx = (base * base + near * near - away * away) / (2.0 * base)
        cy = np.sqrt(max(left * left - cx * cx, 0.0))
        dy = -np.sqrt(max(near * near - dx * dx, 0.0))
        across = np.hypot(cx - dx, cy - dy)
        c, d = starts[h2], starts[g2]
        f3, g3 = h // 3 * 3, g // 3 * 3
        moved[0], moved[1], moved[2], moved[3] = h2, g1, g2, h1
        places[0], places[1], places[2], places[3] = f3 + 1, f3 + 2, g3 + 1, g3 + 2
        for k in range(4):
            sizes[k], origins[k], far[k] = lengths[moved[k]], starts[moved[k]], twins[moved[k]]
        for k in range(4):
            for m in range(4):
                if far[k] == moved[m]:
                    far[k] = places[m] + (1 << 40)
        starts[f3], lengths[f3], twins[f3] = d, across, g3
        starts[g3], lengths[g3], twins[g3] = c, across, f3
        for k in range(4):
            starts[places[k]], lengths[places[k]] = origins[k], sizes[k]
            other = far[k] - (1 << 40) if far[k] >= (1 << 40) else far[k]
            twins[places[k]] = other
            twins[other] = places[k]
        flips += 1
        for k in range(4):
            if not queued[places[k]]:
                queued[places[k]] = True
                waiting.append(places[k])
    return flips


def _cotangents(sides: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F, 3) cotangents of the angles at the corners, and (F,) areas; side k runs from corner k to the next."""
    a, b, c = sides.T
    half = sides.sum(axis=1) / 2.0
    areas = np.sqrt(np.maximum(half * (half - a) * (half - b) * (half - c), 1e-30 * half**4))
    # the side opposite to corner k is side k + 1
    squares = sides**2
    opposite = np.roll(squares, -1, axis=1)
    return (squares.sum(axis=1, keepdims=True) - 2.0 * opposite) / (4.0 * areas[:, None]), areas


def _laplacian(faces: NDArray[np.int64], cotangents: NDArray[np.float64], count: int) -> scipy.sparse.csr_matrix:
    rows, columns = np.roll(faces, -1, axis=1).ravel(), np.roll(faces, -2, axis=1).ravel()
    weights = 0.5 * cotangents.ravel()
    shape = (count, count)
    off = scipy.sparse.coo_matrix((np.r_[weights, weights], (np.r_[rows, columns], np.r_[columns, rows])), shape=shape)
    diagonal = np.asarray(off.sum(axis=1)).ravel()
    return (scipy.sparse.diags(diagonal) - off.tocsr()).tocsr()


def _factor(matrix: scipy.sparse.spmatrix) -> scipy.sparse.linalg.SuperLU:
    return scipy.sparse.linalg.splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
