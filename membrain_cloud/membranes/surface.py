"""A triangle surface: topology, closest points, geodesic distances. Usable by itself; curvature is in `curvature`.

Lengths are in Å and points xyz, as in `Mesh`. Two faces are neighbours when they share an edge that runs in opposite
directions in them; an edge of one face, of more than two, or between faces wound against each other, is a boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from membrain_cloud.geometry import Mesh

if TYPE_CHECKING:
    from membrain_cloud.membranes.geodesics import Buffers, Net

# By how much of the mean edge two edges of a triangle are together longer than the third, at least.
LEAST_SPARE = 1e-6
# Point-triangle pairs projected at once: bounds the memory of `closest_points`.
PAIRS_AT_ONCE = 500_000


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points on a surface, held by faces: nothing is snapped to vertices.

    faces : (N,) int64.  weights : (N, 3) float64, barycentric, non-negative, sum 1.
    positions : (N, 3) float64, xyz in Å.  distances : (N,) float64, Å from the points they were projected from.
    """

    faces: NDArray[np.int64]
    weights: NDArray[np.float64]
    positions: NDArray[np.float64]
    distances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.faces)


@dataclass(frozen=True, eq=False)
class Survey:
    """What `Surface.survey` finds about each of S sources; lengths in Å, areas in Å².

    distances : (S, T) geodesic, inf beyond the cut-off or on another part.
    to_boundary : (S,) geodesic distance to the nearest boundary, inf where there is none within the cut-off; seams do
    not count, they have their own in to_seam.
    annulus_areas : (S, B) area of the surface in [edges[i], edges[i + 1]).
    """

    distances: NDArray[np.float64]
    to_boundary: NDArray[np.float64]
    to_seam: NDArray[np.float64]
    annulus_areas: NDArray[np.float64]


class Surface:
    """A mesh with its topology. Not for concurrent use: the geodesics share their buffers between calls.

    groups : (F,) faces of different groups are no neighbours: the surface is cut along the seams between them.
    """

    def __init__(self, mesh: Mesh, groups: NDArray[np.integer] | None = None) -> None:
        self.mesh = mesh
        self.vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, np.int32)
        self.groups = None if groups is None else np.asarray(groups, np.int64)
        self._buffers: Buffers | None = None
        self._n_windows = 4096

    # ---------------------------------------------------------------- topology

    @cached_property
    def twins(self) -> NDArray[np.int32]:
        """(3F,) the opposite of halfedge 3 * face + k (corner k to corner k + 1), -1 at a boundary."""
        twins = self._uncut_twins
        return twins if self.groups is None else np.where(self._is_seam, np.int32(-1), twins)

    @cached_property
    def _uncut_twins(self) -> NDArray[np.int32]:
        return _twins(self.faces, len(self.vertices))

    @cached_property
    def _is_seam(self) -> NDArray[np.bool_]:
        """(3F,) halfedges whose neighbour is of another group."""
        if self.groups is None:
            return np.zeros(3 * len(self.faces), bool)
        group = np.repeat(self.groups, 3)
        twins = self._uncut_twins
        return (twins >= 0) & (group != group[twins])

    @cached_property
    def boundary_edges(self) -> NDArray[np.int32]:
        """(B, 2) vertices of the edges that have no second face, in the direction of their face."""
        start = self.faces.reshape(-1)
        end = np.roll(self.faces, -1, axis=1).reshape(-1)
        return np.stack([start, end], axis=1)[self.twins < 0]

    def boundary_points(self, on_each: int) -> SurfacePoints:
        """Points evenly spread on every boundary edge, seams included, `on_each` a piece."""
        edges = np.flatnonzero(self.twins < 0)
        share = np.tile((np.arange(on_each) + 0.5) / on_each, len(edges))
        faces, corner = np.repeat(edges // 3, on_each), np.repeat(edges % 3, on_each)
        weights = np.zeros((len(faces), 3))
        weights[np.arange(len(faces)), corner] = 1.0 - share
        weights[np.arange(len(faces)), (corner + 1) % 3] = share
        return self.points(faces, weights)

    @cached_property
    def boundary_vertices(self) -> NDArray[np.bool_]:
        """(V,) True where a boundary edge ends."""
        mask = np.zeros(len(self.vertices), bool)
        mask[self.boundary_edges.reshape(-1)] = True
        return mask

    @property
    def is_closed(self) -> bool:
        return bool(len(self.faces)) and not len(self.boundary_edges)

    @cached_property
    def face_components(self) -> NDArray[np.int64]:
        """(F,) component of each face, numbered from 0 by falling number of faces, then by first face.

        Faces that only share a vertex are apart: no distance leads through a point.
        """
        count = len(self.faces)
        inner = np.flatnonzero(self.twins >= 0)
        graph = coo_matrix((np.ones(len(inner), bool), (inner // 3, self.twins[inner] // 3)), shape=(count, count))
        _, raw = connected_components(graph, directed=False)
        _, first, label, sizes = np.unique(raw, return_index=True, return_inverse=True, return_counts=True)
        rank = np.empty(len(sizes), np.int64)
        rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
        return rank[label]

    @property
    def n_components(self) -> int:
        return int(self.face_components.max()) + 1 if len(self.faces) else 0

    @cached_property
    def euler_characteristic(self) -> int:
        """Vertices - edges + faces, of the vertices that faces use: 2 for a sphere, 1 for a disc, 0 for a torus."""
        ends = np.sort(np.stack([self.faces, np.roll(self.faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
        edges = len(np.unique(ends[:, 0].astype(np.int64) * len(self.vertices) + ends[:, 1]))
        return len(np.unique(self.faces)) - edges + len(self.faces)

    # ---------------------------------------------------------------- areas, angles, volume

    @cached_property
    def face_areas(self) -> NDArray[np.float64]:
        """(F,) Å²."""
        return self.mesh.face_areas_angstrom2()

    @cached_property
    def vertex_areas(self) -> NDArray[np.float64]:
        """(V,) Å², a third of the faces around each vertex."""
        return np.bincount(
            self.faces.reshape(-1), np.repeat(self.face_areas / 3.0, 3), minlength=len(self.vertices)
        ).astype(np.float64)

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """(V, 3) outward unit normals."""
        return self.mesh.vertex_normals()

    @cached_property
    def angle_sums(self) -> NDArray[np.float64]:
        """(V,) sum of the faces' angles at each vertex, radians."""
        angles = self._corner_angles.reshape(-1)
        return np.bincount(self.faces.reshape(-1), angles, minlength=len(self.vertices)).astype(np.float64)

    @cached_property
    def _corner_angles(self) -> NDArray[np.float64]:
        """(F, 3) radians."""
        corners = self.vertices[self.faces]
        ahead = np.roll(corners, -1, axis=1) - corners
        behind = np.roll(corners, 1, axis=1) - corners
        return np.arctan2(np.linalg.norm(np.cross(ahead, behind), axis=2), (ahead * behind).sum(axis=2))

    @cached_property
    def angle_defects(self) -> NDArray[np.float64]:
        """(V,) integral of the Gaussian curvature about each vertex, radians; sums to 2πχ over a closed surface.

        At boundary vertices it is π minus the angles, so the sum is 2πχ (Gauss-Bonnet) there too; 0 at unused vertices.
        """
        used = np.zeros(len(self.vertices), bool)
        used[self.faces.reshape(-1)] = True
        full = np.where(self.boundary_vertices, np.pi, 2.0 * np.pi)
        return np.where(used, full - self.angle_sums, 0.0)

    @property
    def volume(self) -> float:
        """Å³ inside, positive when normals point outwards. Means something only for a closed surface."""
        if not len(self.faces):
            return 0.0
        a, b, c = (self.vertices[self.faces[:, k]] - self.vertices[self.faces[0, 0]] for k in range(3))
        return float((a * np.cross(b, c)).sum() / 6.0)

    # ---------------------------------------------------------------- points

    def points(self, faces: NDArray[np.integer], weights: NDArray[np.floating]) -> SurfacePoints:
        """Surface points from faces (N,) and barycentric weights (N, 3)."""
        face_ids = np.ascontiguousarray(faces, np.int64)
        shares = np.ascontiguousarray(weights, np.float64)
        positions = np.einsum("nk,nkd->nd", shares, self.vertices[self.faces[face_ids]])
        return SurfacePoints(face_ids, shares, positions, np.zeros(len(face_ids)))

    def closest_points(self, points_xyz: NDArray[np.floating]) -> SurfacePoints:
        """The nearest point of the surface for each of (N, 3) points in Å; of several equally near, the lowest face's.

        Raises ValueError for a surface without faces and for points that are not finite.
        """
        points = np.asarray(points_xyz, np.float64).reshape(-1, 3)
        if not len(self.faces):
            raise ValueError("a surface without faces has no closest points")
        if not np.isfinite(points).all():
            raise ValueError("closest_points needs finite coordinates")
        centroids, radii, centroid_tree, vertex_tree = self._search_trees
        # No face whose centroid is farther than the nearest vertex plus the face's own radius can be nearer.
        bound = vertex_tree.query(points)[0] * (1.0 + 1e-9)
        reach = bound + radii.max()
        counts = np.asarray(centroid_tree.query_ball_point(points, reach, return_length=True), np.int64)
        faces = np.empty(len(points), np.int64)
        weights = np.empty((len(points), 3))
        for part in _parts(counts, PAIRS_AT_ONCE):
            lists = centroid_tree.query_ball_point(points[part], reach[part])
            owner = np.repeat(part, [len(found) for found in lists])
            face = np.concatenate([np.asarray(found, np.int64) for found in lists])
            away = np.linalg.norm(points[owner] - centroids[face], axis=1)
            near = away <= bound[owner] + radii[face]
            owner, face = owner[near], face[near]
            found_weights = _project_to_triangles(points[owner], self.vertices[self.faces[face]])
            offset = np.einsum("nk,nkd->nd", found_weights, self.vertices[self.faces[face]]) - points[owner]
            order = np.lexsort((face, (offset * offset).sum(axis=1), owner))
            best = order[np.unique(owner[order], return_index=True)[1]]
            faces[part], weights[part] = face[best], found_weights[best]
        found = self.points(faces, weights)
        return SurfacePoints(faces, weights, found.positions, np.linalg.norm(found.positions - points, axis=1))

    @cached_property
    def _search_trees(self) -> tuple[NDArray[np.float64], NDArray[np.float64], cKDTree, cKDTree]:
        corners = self.vertices[self.faces]
        centroids = corners.mean(axis=1)
        radii = np.linalg.norm(corners - centroids[:, None], axis=2).max(axis=1)
        return centroids, radii, cKDTree(centroids), cKDTree(self.vertices[np.unique(self.faces)])

    def interpolate(self, values: NDArray[np.floating], points: SurfacePoints) -> NDArray[np.float64]:
        """Values at the vertices, (V,) or (V, D), interpolated at surface points -> (N,) or (N, D)."""
        corner_values = np.asarray(values, np.float64)[self.faces[points.faces]]
        return np.einsum("nk,nk...->n...", points.weights, corner_values)

    # ---------------------------------------------------------------- geodesics

    @cached_property
    def _fans(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(F, 3) fan that each corner belongs to, and (N,) vertex of each fan: faces about a vertex, edge to edge.

        A vertex has one fan, unless several sheets touch in it; no way leads from one sheet to another there.
        """
        corners = 3 * len(self.faces)
        inner = np.flatnonzero(self.twins >= 0)
        ahead = self.twins[inner].astype(np.int64)
        # The start of a halfedge is the same corner as the end of its twin.
        ends = 3 * (ahead // 3) + (ahead % 3 + 1) % 3
        graph = coo_matrix((np.ones(len(inner), bool), (inner, ends)), shape=(corners, corners))
        _, label = connected_components(graph, directed=False)
        used = self.faces.reshape(-1).astype(np.int64)
        _, first, number = np.unique(used * (label.max(initial=0) + 1) + label, return_index=True, return_inverse=True)
        return number.reshape(-1, 3).astype(np.int32), used[first]

    @cached_property
    def _lengths(self) -> NDArray[np.float64]:
        """(F, 3) of the halfedges. Where faces are degenerate, all edges are longer by a little.

        So that each triangle has an inside and the sheet stays in one piece: intrinsic mollification, Sharp and Crane,
        CGF 39(5), 2020, section 4.5.
        """
        corners = self.vertices[self.faces]
        length = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
        if not len(length):
            return length
        spare = length.sum(axis=1, keepdims=True) - 2.0 * length
        return length + max(LEAST_SPARE * float(length.mean()) - float(spare.min()), 0.0)

    @cached_property
    def _net(self) -> Net:
        from membrain_cloud.membranes.geodesics import KINDS, Net

        length = self._lengths
        after, before = np.roll(length, -1, axis=1), np.roll(length, -2, axis=1)
        x = (length**2 + before**2 - after**2) / (2.0 * length)
        half = length.sum(axis=1, keepdims=True) / 2.0
        area = np.sqrt(half * ((half - length) * (half - after) * (half - before)).clip(min=0.0))
        y = 2.0 * area / length
        angles = np.arctan2(y, x)
        fans, vertex_of = self._fans
        total = np.bincount(fans.reshape(-1), angles.reshape(-1), minlength=len(vertex_of)).astype(np.float64)
        total[total <= 2.0 * np.pi + 1e-7] = 0.0
        twin = np.where(self.twins >= 0, self.twins, -1 - self._is_seam.astype(np.int32)).astype(np.int32)
        ends = np.zeros((len(vertex_of), KINDS), bool)
        for kind in range(KINDS):
            edge = np.flatnonzero(twin == -1 - kind)
            ends[fans.reshape(-1)[edge], kind] = True
            ends[np.roll(fans, -1, axis=1).reshape(-1)[edge], kind] = True
        total[ends.any(axis=1)] = np.inf
        apex = np.stack([x, y], axis=2).reshape(-1, 2)
        return Net(fans, twin, length.reshape(-1), np.ascontiguousarray(apex), angles.reshape(-1), total, ends)

    def _until_done(self, kernel: Callable[[Buffers, int], int], count: int, *some: SurfacePoints) -> None:
        """Call kernel(buffers, first source) until it has done `count` sources, with more windows when they run out."""
        from membrain_cloud.membranes.geodesics import new_buffers

        for points in some:
            if len(points) and not 0 <= points.faces.min() <= points.faces.max() < len(self.faces):
                raise ValueError("these points are of another surface: it has no such faces")
        done = 0
        while done < count:
            if self._buffers is None:
                self._buffers = new_buffers(self._net, len(self._fans[1]), self._n_windows)
            done = kernel(self._buffers, done)
            if done < count:
                self._buffers, self._n_windows = None, 4 * self._n_windows

    def geodesic(
        self, sources: SurfacePoints, targets: SurfacePoints, *, cutoff_angstrom: float = np.inf
    ) -> NDArray[np.float64]:
        """(S, T) distances along the surface in Å; inf beyond the cut-off or on another part.

        Exact on the mesh, to rounding. See `geodesics` for the method and its source.
        """
        return self.survey(sources, targets, cutoff_angstrom=cutoff_angstrom, edges_angstrom=np.zeros(0)).distances

    def geodesic_to_vertices(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """(S, V) distances along the surface to the vertices in Å; inf beyond the cut-off or on another part."""
        from membrain_cloud.membranes.geodesics import vertex_distances

        out = np.full((len(sources), len(self._fans[1])), np.inf)
        self._until_done(
            lambda buffers, begin: vertex_distances(
                self._net,
                buffers,
                begin,
                sources.faces,
                sources.weights,
                float(cutoff_angstrom),
                *_no_targets(self),
                out,
            ),
            len(sources),
            sources,
        )
        return self._at_vertices(out)

    def distance_from_any(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """(V,) distances along the surface from the nearest of the sources, in Å; inf beyond the cut-off."""
        from membrain_cloud.membranes.geodesics import distances_from_any

        out = np.full((1, len(self._fans[1])), np.inf)
        if len(sources):
            self._until_done(
                lambda buffers, begin: int(
                    distances_from_any(
                        self._net,
                        buffers,
                        sources.faces,
                        sources.weights,
                        float(cutoff_angstrom),
                        *_no_targets(self),
                        out[0],
                    )
                ),
                1,
                sources,
            )
        return self._at_vertices(out)[0]

    def _at_vertices(self, at_fans: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full((len(self.vertices), len(at_fans)), np.inf)
        np.minimum.at(out, self._fans[1], at_fans.T)
        return np.ascontiguousarray(out.T)

    def survey(
        self,
        sources: SurfacePoints,
        targets: SurfacePoints,
        *,
        cutoff_angstrom: float,
        edges_angstrom: NDArray[np.floating],
    ) -> Survey:
        """One propagation a source: distances to targets and boundary, and areas of annuli between the edges.

        edges_angstrom : (B + 1,) rising from 0, none beyond the cut-off; empty for no areas.
        """
        from membrain_cloud.membranes.geodesics import KINDS, survey

        edges = np.asarray(edges_angstrom, np.float64)
        first, following = _by_face(targets.faces, len(self.faces))
        distances = np.full((len(sources), len(targets)), np.inf)
        to_boundary = np.full((len(sources), KINDS), np.inf)
        areas = np.zeros((len(sources), max(len(edges) - 1, 0)))
        self._until_done(
            lambda buffers, begin: survey(
                self._net, buffers, begin, sources.faces, sources.weights, float(cutoff_angstrom),
                targets.faces, targets.weights, first, following, edges, distances, to_boundary, areas,
            ),
            len(sources),
            sources,
            targets,
        )  # fmt: skip
        return Survey(distances, to_boundary[:, 0], to_boundary[:, 1], areas)


def _no_targets(surface: Surface) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    return np.full(len(surface.faces), -1, np.int32), np.zeros((0, 3))


def _by_face(faces: NDArray[np.int64], n_faces: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Chains of the points in each face: (F,) the first one, (N,) the next one; -1 for none."""
    first, following = np.full(n_faces, -1, np.int32), np.full(len(faces), -1, np.int32)
    order = np.argsort(faces, kind="stable").astype(np.int32)
    same = faces[order[1:]] == faces[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    starts = order[np.concatenate([[True], ~same])] if len(order) else order
    first[faces[starts]] = starts
    return first, following


def _twins(faces: NDArray[np.int32], n_vertices: int) -> NDArray[np.int32]:
    start = faces.reshape(-1).astype(np.int64)
    end = np.roll(faces, -1, axis=1).reshape(-1).astype(np.int64)
    key = np.minimum(start, end) * n_vertices + np.maximum(start, end)
    # Faces that name a vertex twice have no sides: each of their edges is alone.
    alone = np.repeat((faces == np.roll(faces, 1, axis=1)).any(axis=1), 3)
    key[alone] = -1 - np.arange(np.count_nonzero(alone))
    order = np.argsort(key, kind="stable")
    _, first, counts = np.unique(key[order], return_index=True, return_counts=True)
    pairs = first[counts == 2]
    one, other = order[pairs], order[pairs + 1]
    opposed = start[one] == end[other]
    one, other = one[opposed], other[opposed]
    twins = np.full(len(key), -1, np.int32)
    twins[one], twins[other] = other, one
    return twins


def _parts(counts: NDArray[np.int64], limit: int) -> list[NDArray[np.int64]]:
    """Cut 0..N-1 into runs whose counts sum to about `limit` at most."""
    if not len(counts):
        return []
    run = np.cumsum(counts) // limit
    return [np.asarray(part) for part in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(run)) + 1)]


def _project_to_triangles(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) barycentric weights of the point of triangle (N, 3, 3) nearest to each of (N, 3) points."""
    a = corners[:, 0]
    ab, ac, ap = corners[:, 1] - a, corners[:, 2] - a, points - a
    d11, d12, d22 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    p1, p2 = (ap * ab).sum(1), (ap * ac).sum(1)
    determinant = d11 * d22 - d12 * d12
    flat = determinant <= 1e-14 * d11 * d22
    safe = np.where(flat, 1.0, determinant)
    v, w = (d22 * p1 - d12 * p2) / safe, (d11 * p2 - d12 * p1) / safe
    inside = ~flat & (v >= 0.0) & (w >= 0.0) & (v + w <= 1.0)
    weights = np.stack([1.0 - v - w, v, w], axis=1)
    outside = np.flatnonzero(~inside)
    weights[outside] = _project_to_edges(points[outside], corners[outside])
    return weights


def _project_to_edges(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for points whose nearest one lies on the triangle's rim."""
    best = np.full(len(points), np.inf)
    weights = np.zeros((len(points), 3))
    for k in range(3):
        start, along = corners[:, k], corners[:, (k + 1) % 3] - corners[:, k]
        squared = (along * along).sum(axis=1)
        t = np.clip(((points - start) * along).sum(axis=1) / np.where(squared > 0.0, squared, 1.0), 0.0, 1.0)
        gap = ((start + t[:, None] * along - points) ** 2).sum(axis=1)
        nearer = gap < best
        best[nearer] = gap[nearer]
        weights[nearer] = 0.0
        weights[nearer, k], weights[nearer, (k + 1) % 3] = 1.0 - t[nearer], t[nearer]
    return weights
