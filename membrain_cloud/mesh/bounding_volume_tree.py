"""The nearest face of a mesh to points anywhere: a tree of boxes about faces, searched by compiled code.

`closest.ClosestFaces` serves points on or by the surface. It looks at every face that could be as near as the nearest
centroid, which for a point far from all of them are many: here whole boxes of faces are left out at once, and faces may
be of any sizes. Memory is that of the faces; a search keeps nothing.

Bounding volume hierarchy of axis-aligned boxes, halved at the median centroid along their longest side; the point of a
triangle nearest to a point as in Ericson, Real-Time Collision Detection (2005), 5.1.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled

_LEAF_FACES = 6
# Of a tree that halves its faces: more than enough for 2^31 of them.
_DEEPEST = 64

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class FaceTree:
    """Nearest faces of one mesh.

    vertices : (V, 3) Å, finite.  faces : (F, 3), at least one.
    """

    def __init__(self, vertices: Floats, faces: NDArray[np.int32]) -> None:
        corners = np.ascontiguousarray(vertices[faces], np.float64)
        self._order, self._boxes, self._ranges = _build(corners)
        self._corners = np.ascontiguousarray(corners[self._order])

    def find(self, points: Floats) -> tuple[Floats, Ints]:
        """(N,) distances in Å and (N,) faces of points (N, 3); of several equally near, the lowest face."""
        wanted = np.ascontiguousarray(points, np.float64)
        squared, faces = np.empty(len(wanted)), np.empty(len(wanted), np.int64)
        _search(wanted, self._corners, self._order, self._boxes, self._ranges, squared, faces)
        return np.sqrt(squared), faces


@compiled
def _to_box(x: float, y: float, z: float, box: Floats) -> float:
    dx = max(box[0] - x, 0.0, x - box[3])
    dy = max(box[1] - y, 0.0, y - box[4])
    dz = max(box[2] - z, 0.0, z - box[5])
    return dx * dx + dy * dy + dz * dz


@compiled
def _to_side(ax: float, ay: float, az: float, ux: float, uy: float, uz: float, uu: float) -> float:
    """Squared distance of the origin to the side from a along u, whose squared length is uu."""
    t = min(max(-(ax * ux + ay * uy + az * uz) / uu, 0.0), 1.0) if uu > 0.0 else 0.0
    dx, dy, dz = ax + t * ux, ay + t * uy, az + t * uz
    return dx * dx + dy * dy + dz * dz


@compiled
def _to_triangle(x: float, y: float, z: float, corners: Floats) -> float:
    """Squared distance to a triangle; a face without area is the longest of its sides."""
    ax, ay, az = corners[0, 0] - x, corners[0, 1] - y, corners[0, 2] - z
    ux, uy, uz = corners[1, 0] - corners[0, 0], corners[1, 1] - corners[0, 1], corners[1, 2] - corners[0, 2]
    vx, vy, vz = corners[2, 0] - corners[0, 0], corners[2, 1] - corners[0, 1], corners[2, 2] - corners[0, 2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    area2 = nx * nx + ny * ny + nz * nz
    uu, vv, uv = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, ux * vx + uy * vy + uz * vz
    if area2 > 1e-14 * uu * vv:
        au, av = -(ax * ux + ay * uy + az * uz), -(ax * vx + ay * vy + az * vz)
        s, t = (vv * au - uv * av) / area2, (uu * av - uv * au) / area2
        if s >= 0.0 and t >= 0.0 and s + t <= 1.0:
            height = ax * nx + ay * ny + az * nz
            return height * height / area2
    to_u, to_v = _to_side(ax, ay, az, ux, uy, uz, uu), _to_side(ax, ay, az, vx, vy, vz, vv)
    wx, wy, wz = vx - ux, vy - uy, vz - uz
    to_w = _to_side(ax + ux, ay + uy, az + uz, wx, wy, wz, wx * wx + wy * wy + wz * wz)
    return min(to_u, to_v, to_w)


@compiled
def _build(corners: Floats) -> tuple[Ints, Floats, Ints]:
    """Faces in the tree's order; (N, 6) boxes of its nodes, low then high; (N, 3) first face, end, and first child.

    The second child follows the first; a leaf has child 0.
    """
    count = len(corners)
    order = np.arange(count)
    centroids = (corners[:, 0] + corners[:, 1] + corners[:, 2]) / 3.0
    boxes = np.empty((2 * count, 6))
    ranges = np.zeros((2 * count, 3), np.int64)
    ranges[0, 1] = count
    made, node = 1, 0
    while node < made:
        first, end = ranges[node, 0], ranges[node, 1]
        for axis in range(3):
            low, high = np.inf, -np.inf
            for k in range(first, end):
                for corner in range(3):
                    value = corners[order[k], corner, axis]
                    low, high = min(low, value), max(high, value)
            boxes[node, axis], boxes[node, 3 + axis] = low, high
        if end - first > _LEAF_FACES:
            longest = np.argmax(boxes[node, 3:] - boxes[node, :3])
            part = order[first:end].copy()
            order[first:end] = part[np.argsort(centroids[part, longest], kind="mergesort")]
            middle = (first + end) // 2
            ranges[node, 2] = made
            ranges[made, 0], ranges[made, 1] = first, middle
            ranges[made + 1, 0], ranges[made + 1, 1] = middle, end
            made += 2
        node += 1
    return order, boxes[:made].copy(), ranges[:made].copy()


@compiled
def _search(
    points: Floats, corners: Floats, order: Ints, boxes: Floats, ranges: Ints, squared: Floats, faces: Ints
) -> None:
    waiting = np.empty(_DEEPEST, np.int64)
    least = np.empty(_DEEPEST)
    hint = 0
    for i in range(len(points)):
        x, y, z = points[i]
        # The face of the point before is often near: it spares the way down.
        best, best_k = _to_triangle(x, y, z, corners[hint]), hint
        waiting[0], least[0], depth = 0, _to_box(x, y, z, boxes[0]), 1
        while depth:
            depth -= 1
            node = waiting[depth]
            if least[depth] > best:
                continue
            child = ranges[node, 2]
            if child:
                one, other = _to_box(x, y, z, boxes[child]), _to_box(x, y, z, boxes[child + 1])
                nearer = child if one <= other else child + 1
                waiting[depth], least[depth] = 2 * child + 1 - nearer, max(one, other)
                waiting[depth + 1], least[depth + 1] = nearer, min(one, other)
                depth += 2
                continue
            for k in range(ranges[node, 0], ranges[node, 1]):
                found = _to_triangle(x, y, z, corners[k])
                if found < best or (found == best and order[k] < order[best_k]):
                    best, best_k = found, k
        squared[i], faces[i], hint = best, order[best_k], best_k
