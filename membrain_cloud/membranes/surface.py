"""A triangle surface: topology, closest points, geodesic distances. Usable by itself; curvature is in `curvature`.

Lengths are in Å and points xyz, as in `Mesh`. Two faces are neighbours when they share an edge that runs in opposite
directions in them; an edge of one face, of more than two, or between faces wound against each other, is a boundary.
"""

from __future__ import annotations

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

# How far, in edge lengths, a virtual source is believed past a vertex: at most; times a saddle's angle above 2π.
# Chosen by comparison with exact distances on the meshes named in `geodesics`.
SLACK_LIMIT, SLACK_RADIANS = 2.0, 0.005
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
    to_boundary : (S,) geodesic distance to the nearest boundary vertex, inf where there is none within the cut-off.
    annulus_areas : (S, B) area of the surface in [edges[i], edges[i + 1]).
    """

    distances: NDArray[np.float64]
    to_boundary: NDArray[np.float64]
    annulus_areas: NDArray[np.float64]


class Surface:
    """A mesh with its topology. Not for concurrent use: the geodesics share their buffers between calls."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, np.int32)

    # ---------------------------------------------------------------- topology

    @cached_property
    def twins(self) -> NDArray[np.int32]:
        """(3F,) the opposite of halfedge 3 * face + k (corner k to corner k + 1), -1 at a boundary."""
        return _twins(self.faces, len(self.vertices))

    @cached_property
    def boundary_edges(self) -> NDArray[np.int32]:
        """(B, 2) vertices of the edges that have no second face, in the direction of their face."""
        start = self.faces.reshape(-1)
        end = np.roll(self.faces, -1, axis=1).reshape(-1)
        return np.stack([start, end], axis=1)[self.twins < 0]

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
        corners = self.vertices[self.faces]
        ahead = np.roll(corners, -1, axis=1) - corners
        behind = np.roll(corners, 1, axis=1) - corners
        sine = np.linalg.norm(np.cross(ahead, behind), axis=2)
        angles = np.arctan2(sine, (ahead * behind).sum(axis=2))
        return np.bincount(self.faces.reshape(-1), angles.reshape(-1), minlength=len(self.vertices)).astype(np.float64)

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
    def _net(self) -> Net:
        from membrain_cloud.membranes.geodesics import Net

        corners = self.vertices[self.faces]
        along = np.roll(corners, -1, axis=1) - corners
        to_apex = np.roll(corners, -2, axis=1) - corners
        length = np.linalg.norm(along, axis=2)
        safe = np.maximum(length, np.finfo(np.float64).tiny)
        x = (along * to_apex).sum(axis=2) / safe
        y = np.linalg.norm(np.cross(along, to_apex), axis=2) / safe
        excess = np.maximum(self.angle_sums - 2.0 * np.pi, np.finfo(np.float64).eps)
        slack = np.where(self.boundary_vertices, 0.0, np.minimum(SLACK_LIMIT, SLACK_RADIANS / excess))
        apex = np.stack([x, y], axis=2).reshape(-1, 2)
        return Net(self.faces, self.twins, length.reshape(-1), np.ascontiguousarray(apex), slack)

    @cached_property
    def _buffers(self) -> Buffers:
        from membrain_cloud.membranes.geodesics import new_buffers

        return new_buffers(len(self.vertices), len(self.faces))

    def geodesic(
        self, sources: SurfacePoints, targets: SurfacePoints, *, cutoff_angstrom: float = np.inf
    ) -> NDArray[np.float64]:
        """(S, T) distances along the surface in Å; inf beyond the cut-off or on another part.

        Approximate: relative errors are near 1e-4 on even meshes. See `geodesics` for the method and its source.
        """
        return self.survey(sources, targets, cutoff_angstrom=cutoff_angstrom, edges_angstrom=np.zeros(0)).distances

    def geodesic_to_vertices(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """(S, V) distances along the surface to the vertices in Å; inf beyond the cut-off or on another part."""
        from membrain_cloud.membranes.geodesics import vertex_distances

        out = np.full((len(sources), len(self.vertices)), np.inf)
        vertex_distances(self._net, self._buffers, sources.faces, sources.weights, float(cutoff_angstrom), out)
        return out

    def survey(
        self,
        sources: SurfacePoints,
        targets: SurfacePoints,
        *,
        cutoff_angstrom: float,
        edges_angstrom: NDArray[np.floating],
    ) -> Survey:
        """One propagation a source: distances to targets and boundary, and areas of annuli between the edges.

        edges_angstrom : (B + 1,) rising, none beyond the cut-off; empty for no areas.
        """
        from membrain_cloud.membranes.geodesics import survey

        edges = np.asarray(edges_angstrom, np.float64)
        found = Survey(
            distances=np.full((len(sources), len(targets)), np.inf),
            to_boundary=np.full(len(sources), np.inf),
            annulus_areas=np.zeros((len(sources), max(len(edges) - 1, 0))),
        )
        survey(
            self._net, self._buffers, sources.faces, sources.weights, float(cutoff_angstrom),
            targets.faces, targets.weights, self.boundary_vertices, edges,
            found.distances, found.to_boundary, found.annulus_areas,
        )  # fmt: skip
        return found


def _twins(faces: NDArray[np.int32], n_vertices: int) -> NDArray[np.int32]:
    start = faces.reshape(-1).astype(np.int64)
    end = np.roll(faces, -1, axis=1).reshape(-1).astype(np.int64)
    key = np.minimum(start, end) * n_vertices + np.maximum(start, end)
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
