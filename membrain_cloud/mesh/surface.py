"""A triangle surface: topology, areas, closest points, geodesic distances.

Lengths are in Å and points xyz, as in `Mesh`. Neighbours and boundaries are defined in `topology`.
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
    """A triangle mesh and its properties, computed when they are first needed; not safe for several threads.

    Parameters
    ----------
    mesh : Mesh
        Vertices in Å.
    groups : (F,) integer or None
        Faces of different groups are no neighbours: the surface is cut along the seams between them. None for one
        group.
    rims : (3F,) bool or None
        Halfedges without a second face that count as seams: there the faces of a rim have been left out. None for none.
    threads : int or None
        Number of threads for geodesics; None for as many as numba may use. Results do not depend on it.

    Attributes
    ----------
    mesh : Mesh
        The mesh.
    vertices : (V, 3) float64
        Its vertices, Å.
    faces : (F, 3) int32
        Its faces.
    groups : (F,) int64 or None
        The groups.
    """

    def __init__(
        self,
        mesh: Mesh,
        groups: NDArray[np.integer] | None = None,
        *,
        rims: NDArray[np.bool_] | None = None,
        threads: int | None = None,
    ) -> None:
        self.mesh = mesh
        self._rims = rims
        self.vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self.faces = np.ascontiguousarray(mesh.faces, np.int32)
        self.groups = None if groups is None else np.asarray(groups, np.int64)
        self._threads = threads

    # ---------------------------------------------------------------- topology

    @cached_property
    def twins(self) -> NDArray[np.int32]:
        """Opposite (3F,) of halfedge 3 * face + k (corner k to corner k + 1), -1 at a boundary."""
        twins = self._uncut_twins
        return twins if self.groups is None else np.where(self._is_seam, np.int32(-1), twins)

    @cached_property
    def _uncut_twins(self) -> NDArray[np.int32]:
        return topology.twin_halfedges(self.faces, len(self.vertices))

    @cached_property
    def _is_seam(self) -> NDArray[np.bool_]:
        """Mask (3F,) of the halfedges whose neighbour is of another group, and of those at a rim that was left out."""
        twins = self._uncut_twins
        seams: NDArray[np.bool_] = (
            np.zeros(3 * len(self.faces), bool) if self._rims is None else self._rims & (twins < 0)
        )
        if self.groups is None:
            return seams
        group = np.repeat(self.groups, 3)
        cut: NDArray[np.bool_] = seams | ((twins >= 0) & (group != group[twins]))
        return cut

    @cached_property
    def boundary_edges(self) -> NDArray[np.int32]:
        """Vertices (B, 2) int32 of the edges without a second face, in the direction of their face."""
        start = self.faces.reshape(-1)
        end = np.roll(self.faces, -1, axis=1).reshape(-1)
        return np.stack([start, end], axis=1)[self.twins < 0]

    def boundary_points(self, on_each: int) -> SurfacePoints:
        """Return points spread evenly along every boundary edge, seams included.

        Parameters
        ----------
        on_each : int
            Points on each edge.

        Returns
        -------
        SurfacePoints
            The points, edge after edge.
        """
        edges = np.flatnonzero(self.twins < 0)
        share = np.tile((np.arange(on_each) + 0.5) / on_each, len(edges))
        faces, corner = np.repeat(edges // 3, on_each), np.repeat(edges % 3, on_each)
        weights = np.zeros((len(faces), 3))
        weights[np.arange(len(faces)), corner] = 1.0 - share
        weights[np.arange(len(faces)), (corner + 1) % 3] = share
        return self.points(faces, weights)

    @cached_property
    def boundary_vertices(self) -> NDArray[np.bool_]:
        """Mask (V,) of the vertices in which a boundary edge ends."""
        mask = np.zeros(len(self.vertices), bool)
        mask[self.boundary_edges.reshape(-1)] = True
        return mask

    @property
    def is_closed(self) -> bool:
        """Whether there are faces and no boundary edges."""
        return bool(len(self.faces)) and not len(self.boundary_edges)

    @cached_property
    def face_components(self) -> NDArray[np.int64]:
        """Component (F,) int64 of each face, numbered from 0 by falling number of faces, then by first face."""
        return topology.components_of_faces(self.twins)

    @property
    def n_components(self) -> int:
        """Number of connected components; faces that only share a vertex are not connected."""
        return int(self.face_components.max()) + 1 if len(self.faces) else 0

    @cached_property
    def euler_characteristic(self) -> int:
        """Vertices in use - edges + faces: 2 for a sphere, 1 for a disc, 0 for a torus."""
        return topology.euler_characteristic(self.faces, len(self.vertices))

    @cached_property
    def is_manifold(self) -> bool:
        """Whether no edge has more than two faces, or two that are wound against each other."""
        return topology.is_manifold(self.faces, self._uncut_twins, len(self.vertices))

    @cached_property
    def boundary_length(self) -> float:
        """Length of the edges where the surface ends, Å; seams are not counted."""
        return self._length_of((self.twins < 0) & ~self._is_seam)

    @cached_property
    def seam_length(self) -> float:
        """Length of the seams between groups, Å."""
        return self._length_of(self._is_seam) / 2.0

    def _length_of(self, halfedges: NDArray[np.bool_]) -> float:
        corners = self.vertices[self.faces]
        lengths = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).reshape(-1)
        return float(lengths[halfedges].sum())

    # ---------------------------------------------------------------- areas, angles, volume

    @cached_property
    def face_areas(self) -> NDArray[np.float64]:
        """Areas (F,) of the faces, Å²."""
        return self.mesh.face_areas_angstrom2()

    @cached_property
    def vertex_areas(self) -> NDArray[np.float64]:
        """Areas (V,) of the vertices, a third of the faces around each, Å²."""
        return np.bincount(
            self.faces.reshape(-1), np.repeat(self.face_areas / 3.0, 3), minlength=len(self.vertices)
        ).astype(np.float64)

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """Outward unit normals (V, 3) at the vertices."""
        return self.mesh.vertex_normals()

    @cached_property
    def angle_sums(self) -> NDArray[np.float64]:
        """Sum (V,) of the faces' angles at each vertex, radians."""
        angles = self.corner_angles.reshape(-1)
        return np.bincount(self.faces.reshape(-1), angles, minlength=len(self.vertices)).astype(np.float64)

    @cached_property
    def corner_angles(self) -> NDArray[np.float64]:
        """Angles (F, 3) of the faces at their corners, radians."""
        corners = self.vertices[self.faces]
        ahead = np.roll(corners, -1, axis=1) - corners
        behind = np.roll(corners, 1, axis=1) - corners
        sine, cosine = np.linalg.norm(np.cross(ahead, behind), axis=2), (ahead * behind).sum(axis=2)
        angles: NDArray[np.float64] = np.arctan2(sine, cosine)
        return angles

    @cached_property
    def angle_defects(self) -> NDArray[np.float64]:
        """Integral (V,) of the Gaussian curvature about each vertex, radians; the sum is 2πχ (Gauss-Bonnet).

        It is 2π minus the angles, at boundary vertices π minus the angles; 0 at vertices that no face uses.
        """
        used = np.zeros(len(self.vertices), bool)
        used[self.faces.reshape(-1)] = True
        full = np.where(self.boundary_vertices, np.pi, 2.0 * np.pi)
        return np.where(used, full - self.angle_sums, 0.0)

    @property
    def volume(self) -> float:
        """Volume inside, Å³, positive when normals point outwards; meaningful only for a closed surface."""
        if not len(self.faces):
            return 0.0
        a, b, c = (self.vertices[self.faces[:, k]] - self.vertices[self.faces[0, 0]] for k in range(3))
        return float((a * np.cross(b, c)).sum() / 6.0)

    # ---------------------------------------------------------------- points

    def points(self, faces: NDArray[np.integer], weights: NDArray[np.floating]) -> SurfacePoints:
        """Return the points of these faces with these weights.

        Parameters
        ----------
        faces : (N,) integer
            Face of each point.
        weights : (N, 3) floating
            Barycentric weights.

        Returns
        -------
        SurfacePoints
            The points, at a distance of 0.
        """
        face_ids = np.ascontiguousarray(faces, np.int64)
        shares = np.ascontiguousarray(weights, np.float64)
        positions = np.einsum("nk,nkd->nd", shares, self.vertices[self.faces[face_ids]])
        return SurfacePoints(face_ids, shares, positions, np.zeros(len(face_ids)))

    def closest_points(self, points_xyz: NDArray[np.floating]) -> SurfacePoints:
        """Return the nearest point of the surface for each given point.

        Parameters
        ----------
        points_xyz : (N, 3) floating
            xyz in Å.

        Returns
        -------
        SurfacePoints
            The nearest points and their distances; of several equally near, that of the lowest face.

        Raises
        ------
        ValueError
            If the surface has no faces or a point is not finite.
        """
        points = np.asarray(points_xyz, np.float64).reshape(-1, 3)
        if not len(self.faces):
            raise ValueError("the surface has no faces: it has no closest points")
        if not np.isfinite(points).all():
            bad = int((~np.isfinite(points).all(axis=1)).sum())
            raise ValueError(f"{bad} of {len(points)} points are not finite: they have no closest points")
        faces, weights = self._tree.project(points)
        nearest = self.points(faces, weights)
        return SurfacePoints(faces, weights, nearest.positions, np.linalg.norm(nearest.positions - points, axis=1))

    @cached_property
    def _tree(self) -> FaceTree:
        from membrain_cloud.mesh.bounding_volume_tree import FaceTree

        return FaceTree(self.vertices, self.faces)

    def interpolate(self, values: NDArray[np.floating], points: SurfacePoints) -> NDArray[np.float64]:
        """Interpolate values at the vertices linearly within faces.

        Parameters
        ----------
        values : (V,) or (V, D) floating
            Values at the vertices.
        points : SurfacePoints
            N points of this surface.

        Returns
        -------
        (N,) or (N, D) float64
            Values at the points.
        """
        corner_values = np.asarray(values, np.float64)[self.faces[points.faces]]
        at_points: NDArray[np.float64] = np.einsum("nk,nk...->n...", points.weights, corner_values)
        return at_points

    # ---------------------------------------------------------------- geodesics

    @cached_property
    def _geodesics(self) -> Geodesics:
        from membrain_cloud.mesh.geodesics.solver import Geodesics

        return Geodesics(self.vertices, self.faces, self.twins, self._is_seam, self._threads)

    def geodesic(
        self, sources: SurfacePoints, targets: SurfacePoints, *, cutoff_angstrom: float = np.inf
    ) -> NDArray[np.float64]:
        """Return the distances of targets from sources along the surface.

        They are the lengths of the shortest paths over the faces, to a few 1e-4; for the method and its sources see
        `geodesics.windows`.

        Parameters
        ----------
        sources, targets : SurfacePoints
            S and T points of this surface.
        cutoff_angstrom : float
            Distances up to here are computed, Å; default none.

        Returns
        -------
        (S, T) float64
            Å; infinite beyond the cut-off or on another component.

        Raises
        ------
        ValueError
            If the points belong to another surface.
        """
        return self.survey(sources, targets, cutoff_angstrom=cutoff_angstrom, edges_angstrom=np.zeros(0)).distances

    def geodesic_to_vertices(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """Return the distances of all vertices from each source along the surface.

        Parameters
        ----------
        sources : SurfacePoints
            S points of this surface.
        cutoff_angstrom : float
            Distances up to here are computed, Å; default none.

        Returns
        -------
        (S, V) float64
            Å; infinite beyond the cut-off or on another component.

        Raises
        ------
        ValueError
            If the points belong to another surface.
        """
        return self._geodesics.to_vertices(sources, float(cutoff_angstrom))

    def distance_from_any(self, sources: SurfacePoints, *, cutoff_angstrom: float = np.inf) -> NDArray[np.float64]:
        """Return the distances of all vertices from the nearest source along the surface.

        Parameters
        ----------
        sources : SurfacePoints
            Points of this surface.
        cutoff_angstrom : float
            Distances up to here are computed, Å; default none.

        Returns
        -------
        (V,) float64
            Å; infinite beyond the cut-off or without sources.

        Raises
        ------
        ValueError
            If the points belong to another surface.
        """
        return self._geodesics.from_any(sources, float(cutoff_angstrom))

    def survey(
        self,
        sources: SurfacePoints,
        targets: SurfacePoints,
        *,
        cutoff_angstrom: float,
        edges_angstrom: NDArray[np.floating],
    ) -> Survey:
        """Return distances to targets and boundaries and areas of annuli, with one propagation for each source.

        Parameters
        ----------
        sources, targets : SurfacePoints
            S and T points of this surface.
        cutoff_angstrom : float
            Distances up to here are computed, Å.
        edges_angstrom : (B + 1,) floating
            Bounds of the annuli, rising from 0, none beyond the cut-off, Å; empty for no areas.

        Returns
        -------
        Survey
            Results for the S sources.

        Raises
        ------
        ValueError
            If the points belong to another surface.
        """
        return self._geodesics.survey(
            sources, targets, float(cutoff_angstrom), np.ascontiguousarray(edges_angstrom, np.float64)
        )
