"""A triangle surface: topology, areas, closest points, geodesic distances. Usable by itself; see also `curvature`.

Lengths are in Å and points xyz, as in `Mesh`. What is a neighbour and what a boundary is said in `topology`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.mesh import topology
from membrain_cloud.mesh.geodesics.surface_points import SurfacePoints, Survey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh
    from membrain_cloud.mesh.bounding_volume_tree import FaceTree
    from membrain_cloud.mesh.geodesics.solver import Geodesics

__all__ = ["Surface", "SurfacePoints", "Survey"]


class Surface:
    """A mesh with its topology. Not to be used by several threads at once.

    groups : (F,) faces of different groups are no neighbours: the surface is cut along the seams between them.
    threads : that its geodesics are found on; None: as many as numba may use. Results do not depend on it.
    """

    def __init__(self, mesh: Mesh, groups: NDArray[np.integer] | None = None, *, threads: int | None = None) -> None:
        self.mesh = mesh
        self.vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, np.int32)
        self.groups = None if groups is None else np.asarray(groups, np.int64)
        self._threads = threads

    # ---------------------------------------------------------------- topology

    @cached_property
    def twins(self) -> NDArray[np.int32]:
        """(3F,) the opposite of halfedge 3 * face + k (corner k to corner k + 1), -1 at a boundary."""
        twins = self._uncut_twins
        return twins if self.groups is None else np.where(self._is_seam, np.int32(-1), twins)

    @cached_property
    def _uncut_twins(self) -> NDArray[np.int32]:
        return topology.twin_halfedges(self.faces, len(self.vertices))

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
        """(F,) component of each face, numbered from 0 by falling number of faces, then by first face."""
        return topology.components_of_faces(self.twins)

    @property
    def n_components(self) -> int:
        return int(self.face_components.max()) + 1 if len(self.faces) else 0

    @cached_property
    def euler_characteristic(self) -> int:
        """Vertices - edges + faces, of the vertices that faces use: 2 for a sphere, 1 for a disc, 0 for a torus."""
        return topology.euler_characteristic(self.faces, len(self.vertices))

    @cached_property
    def is_manifold(self) -> bool:
        """No edge has more than two faces, or two that are wound against each other."""
        return topology.is_manifold(self.faces, self._uncut_twins, len(self.vertices))

    @cached_property
    def boundary_length(self) -> float:
        """Å, of the edges where the surface ends; seams are not counted."""
        return self._length_of((self.twins < 0) & ~self._is_seam)

    @cached_property
    def seam_length(self) -> float:
        """Å, of the seams between groups."""
        return self._length_of(self._is_seam) / 2.0

    def _length_of(self, halfedges: NDArray[np.bool_]) -> float:
        corners = self.vertices[self.faces]
        lengths = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).reshape(-1)
        return float(lengths[halfedges].sum())

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
        faces, weights = self._tree.project(points)
        found = self.points(faces, weights)
        return SurfacePoints(faces, weights, found.positions, np.linalg.norm(found.positions - points, axis=1))

    @cached_property
    def _tree(self) -> FaceTree:
        from membrain_cloud.mesh.bounding_volume_tree import FaceTree

        return FaceTree(self.vertices, self.faces)

    def interpolate(self, values: NDArray[np.floating], points: SurfacePoints) -> NDArray[np.float64]:
        """Values at the vertices, (V,) or (V, D), interpolated at surface points -> (N,) or (N, D)."""
        corner_values = np.asarray(values, np.float64)[self.faces[points.faces]]
        return np.einsum("nk,nk...->n...", points.weights, corner_values)

    # ---------------------------------------------------------------- geodesics

    @cached_property
    def _geodesics(self) -> Geodesics:
        from membrain_cloud.mesh.geodesics.solver import Geodesics

        return Geodesics(self.vertices, self.faces, self.twins, self._is_seam, self._threads)

    def geodesic(
        self, sources: SurfacePoints, targets: SurfacePoints, *, cutoff_angstrom: float = np.inf
    ) -> NDArray[np.float64]:
        """(S, T) distances along the surface in Å; inf beyond the cut-off or on another part.

        Of the shortest ways over the faces, to a few 1e-4. See `windows` for the method and its source.
        """
        return self.survey(sources, targets, cutoff_angstrom=cutoff_angstrom, edges_angstrom=np.zeros(0)).distances

    def geodesic_to_vertices(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """(S, V) distances along the surface to the vertices in Å; inf beyond the cut-off or on another part."""
        return self._geodesics.to_vertices(sources, float(cutoff_angstrom))

    def distance_from_any(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """(V,) distances along the surface from the nearest of the sources, in Å; inf beyond the cut-off."""
        return self._geodesics.from_any(sources, float(cutoff_angstrom))

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
        Raises ValueError for points of another surface.
        """
        return self._geodesics.survey(
            sources, targets, float(cutoff_angstrom), np.ascontiguousarray(edges_angstrom, np.float64)
        )
