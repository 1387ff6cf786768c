"""Nearest faces of a mesh to points anywhere, by a tree of boxes about faces searched by compiled code.

The tree halves the faces at the median centroid along the longest side of their box. The distance to a triangle is that
of Ericson [1]_, section 5.1.5. Memory is that of the faces; a search keeps nothing.

References
----------
.. [1] Ericson, Real-Time Collision Detection, 2005.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled, compiled_bare, inlined
from membrain_cloud.mesh.point_triangle import project_to_triangles
from membrain_cloud.mesh.vectors import Vector, cross, dot, minus, vector

_LEAF_FACES = 6
# Of a tree that halves its faces: more than enough for 2^31 of them.
_DEEPEST = 64
# Point-triangle pairs projected at once: bounds the memory.
_PAIRS_AT_ONCE = 500_000
# The tree's distances and those of the projection differ by rounding, on slivers by more: by less than this, relative
# to the distance and to the longest edge.
_ROUNDING, _EDGE_ROUNDING = 1e-9, 1e-6

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class _Tree(NamedTuple):
    """The faces of a mesh in the order of a tree of N nodes.

    Attributes
    ----------
    corners : (F, 3, 3) float64
        Corners of the faces, in the tree's order.
    order : (F,) int64
        Number of each in the mesh.
    boxes : (N, 6) float64
        Bounding box of each node: low x, y, z, high x, y, z.
    ranges : (N, 3) int64
        First face, end of the faces, and first child of each node; the second child follows it. A leaf has child 0.
    """

    corners: Floats
    order: Ints
    boxes: Floats
    ranges: Ints


class FaceTree:
    """Finds the nearest faces of one mesh.

    Parameters
    ----------
    vertices : (V, 3) float64
        Positions in Å; those that faces use are finite.
    faces : (F, 3) int32
        At least one face.
    """

    def __init__(self, vertices: Floats, faces: NDArray[np.int32]) -> None:
        self._corners = np.ascontiguousarray(vertices[faces], np.float64)
        order, boxes, ranges = _build(self._corners)
        self._tree = _Tree(np.ascontiguousarray(self._corners[order]), order, boxes, ranges)

    def find(self, points: Floats) -> tuple[Floats, Ints]:
        """Return distances and nearest faces.

        Parameters
        ----------
        points : (N, 3) float64
            xyz in Å.

        Returns
        -------
        distances : (N,) float64
            Å.
        faces : (N,) int64
            Of several equally near, the lowest.
        """
        wanted = np.ascontiguousarray(points, np.float64)
        squared, faces = np.empty(len(wanted)), np.empty(len(wanted), np.int64)
        _search(wanted, self._tree, squared, faces)
        return np.sqrt(squared), faces

    def project(self, points: Floats) -> tuple[Ints, Floats]:
        """Return nearest faces and the nearest points on them.

        Rounding decides which of two faces a point near their common edge goes to, so all faces that are equally near
        to rounding are projected to by `project_to_triangles`, and its distances decide.

        Parameters
        ----------
        points : (N, 3) float64
            xyz in Å, finite.

        Returns
        -------
        faces : (N,) int64
            Of several equally near, the lowest.
        weights : (N, 3) float64
            Barycentric weights of the nearest point.
        """
        wanted = np.ascontiguousarray(points, np.float64)
        spare = _EDGE_ROUNDING * self._longest_edge
        reach = self.find(wanted)[0] * (1.0 + _ROUNDING) + spare
        faces, weights, distances = self._nearest_within(wanted, reach)
        # the projection onto slivers may be farther than the tree says: then other faces may be nearer than it
        farther = distances * (1.0 + _ROUNDING) + spare
        unsure = np.flatnonzero(farther > reach + 0.5 * spare)
        if len(unsure):
            faces[unsure], weights[unsure], _ = self._nearest_within(wanted[unsure], farther[unsure])
        return faces, weights

    @cached_property
    def _longest_edge(self) -> float:
        edges = np.roll(self._corners, -1, axis=1) - self._corners
        return float(np.sqrt((edges * edges).sum(axis=2).max()))

    def _nearest_within(self, points: Floats, reach: Floats) -> tuple[Ints, Floats, Floats]:
        """Project onto all faces within reach (N,) of points (N, 3); return faces, weights (N, 3), distances (N,)."""
        counts, limits = np.zeros(len(points), np.int64), reach * reach
        _count_within(points, limits, self._tree, counts)
        faces, weights, distances = np.empty(len(points), np.int64), np.empty((len(points), 3)), np.empty(len(points))
        for part in _portions(counts, _PAIRS_AT_ONCE):
            owner = np.repeat(part, counts[part])
            face = np.empty(len(owner), np.int64)
            _list_within(points[part], limits[part], self._tree, face)
            shares = project_to_triangles(points[owner], self._corners[face])
            offset = np.einsum("nk,nkd->nd", shares, self._corners[face]) - points[owner]
            squared = (offset * offset).sum(axis=1)
            order = np.lexsort((face, squared, owner))
            best = order[np.unique(owner[order], return_index=True)[1]]
            faces[part], weights[part], distances[part] = face[best], shares[best], np.sqrt(squared[best])
        return faces, weights, distances


def _portions(counts: Ints, limit: int) -> list[Ints]:
    """Cut 0..N-1 into runs whose counts (N,) sum to about `limit` at most."""
    if not len(counts):
        return []
    run = np.cumsum(counts) // limit
    return [np.asarray(part) for part in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(run)) + 1)]


@inlined
def _to_box(point: Vector, box: Floats) -> float:
    """Return the squared distance of a point to a box (6,)."""
    dx = max(box[0] - point.x, 0.0, point.x - box[3])
    dy = max(box[1] - point.y, 0.0, point.y - box[4])
    dz = max(box[2] - point.z, 0.0, point.z - box[5])
    squared: float = dx * dx + dy * dy + dz * dz
    return squared


@inlined
def _to_side(start: Vector, along: Vector, squared: float) -> float:
    """Return the squared distance of the origin to a side; `squared` is its squared length."""
    t = min(max(-dot(start, along) / squared, 0.0), 1.0) if squared > 0.0 else 0.0
    foot = Vector(start.x + t * along.x, start.y + t * along.y, start.z + t * along.z)
    distance: float = dot(foot, foot)
    return distance


@compiled_bare
def _to_triangle(point: Vector, corners: Floats) -> float:
    """Return the squared distance of a point to a triangle (3, 3); one without area is the longest of its sides."""
    first = vector(corners[0])
    a, u, v = minus(first, point), minus(vector(corners[1]), first), minus(vector(corners[2]), first)
    n = cross(u, v)
    area2, uu, vv, uv = dot(n, n), dot(u, u), dot(v, v), dot(u, v)
    if area2 > 1e-14 * uu * vv:
        au, av = -dot(a, u), -dot(a, v)
        s, t = (vv * au - uv * av) / area2, (uu * av - uv * au) / area2
        if s >= 0.0 and t >= 0.0 and s + t <= 1.0:
            height = dot(a, n)
            plane: float = height * height / area2
            return plane
    w = minus(v, u)
    opposite = Vector(a.x + u.x, a.y + u.y, a.z + u.z)
    rim: float = min(_to_side(a, u, uu), _to_side(a, v, vv), _to_side(opposite, w, dot(w, w)))
    return rim


@compiled
def _build(corners: Floats) -> tuple[Ints, Floats, Ints]:
    """Build the tree of triangles (F, 3, 3); return order, boxes and ranges as of `_Tree`."""
    count = len(corners)
    order = np.arange(count)
    centroids = (corners[:, 0] + corners[:, 1] + corners[:, 2]) / 3.0
    boxes = np.empty((2 * count, 6))
    ranges = np.zeros((2 * count, 3), np.int64)
    ranges[0, 1] = count
    nodes, node = 1, 0
    while node < nodes:
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
            ranges[node, 2] = nodes
            ranges[nodes, 0], ranges[nodes, 1] = first, middle
            ranges[nodes + 1, 0], ranges[nodes + 1, 1] = middle, end
            nodes += 2
        node += 1
    return order, boxes[:nodes].copy(), ranges[:nodes].copy()


@compiled
def _search(points: Floats, tree: _Tree, squared: Floats, faces: Ints) -> None:
    """Fill in squared distances (N,) and nearest faces (N,) of points (N, 3)."""
    waiting = np.empty(_DEEPEST, np.int64)
    least = np.empty(_DEEPEST)
    hint = 0
    for i in range(len(points)):
        point = vector(points[i])
        # The face of the point before is often near: it spares the way down.
        best, nearest = _to_triangle(point, tree.corners[hint]), hint
        waiting[0], least[0], depth = 0, _to_box(point, tree.boxes[0]), 1
        while depth:
            depth -= 1
            node = waiting[depth]
            if least[depth] > best:
                continue
            child = tree.ranges[node, 2]
            if child:
                one, other = _to_box(point, tree.boxes[child]), _to_box(point, tree.boxes[child + 1])
                nearer = child if one <= other else child + 1
                waiting[depth], least[depth] = 2 * child + 1 - nearer, max(one, other)
                waiting[depth + 1], least[depth + 1] = nearer, min(one, other)
                depth += 2
                continue
            for k in range(tree.ranges[node, 0], tree.ranges[node, 1]):
                distance = _to_triangle(point, tree.corners[k])
                if distance < best or (distance == best and tree.order[k] < tree.order[nearest]):
                    best, nearest = distance, k
        squared[i], faces[i], hint = best, tree.order[nearest], nearest


@compiled_bare
def _visit_within(point: Vector, limit: float, tree: _Tree, waiting: Ints, faces: Ints, at: int) -> int:
    """List the faces within a squared distance in `faces` from `at` on, unless it is empty; return the end."""
    waiting[0], depth = 0, 1
    while depth:
        depth -= 1
        node = waiting[depth]
        if _to_box(point, tree.boxes[node]) > limit:
            continue
        child = tree.ranges[node, 2]
        if child:
            waiting[depth], waiting[depth + 1] = child, child + 1
            depth += 2
            continue
        for k in range(tree.ranges[node, 0], tree.ranges[node, 1]):
            if _to_triangle(point, tree.corners[k]) <= limit:
                if len(faces):
                    faces[at] = tree.order[k]
                at += 1
    return at


@compiled
def _count_within(points: Floats, limits: Floats, tree: _Tree, counts: Ints) -> None:
    """Count the faces within squared distances `limits` (N,) of points (N, 3)."""
    waiting, nothing = np.empty(_DEEPEST, np.int64), np.empty(0, np.int64)
    for i in range(len(points)):
        counts[i] = _visit_within(vector(points[i]), limits[i], tree, waiting, nothing, 0)


@compiled
def _list_within(points: Floats, limits: Floats, tree: _Tree, faces: Ints) -> None:
    """List the same faces, point after point."""
    waiting, at = np.empty(_DEEPEST, np.int64), 0
    for i in range(len(points)):
        at = _visit_within(vector(points[i]), limits[i], tree, waiting, faces, at)
