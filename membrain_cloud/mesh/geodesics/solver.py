"""Geodesic distances on a surface: calls the compiled kernels, on several threads, with buffers that grow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numba
import numpy as np

from membrain_cloud.mesh.geodesics import propagation
from membrain_cloud.mesh.geodesics.state import (
    KINDS,
    LINK,
    OPEN_EDGE,
    SEAM,
    SHAPE,
    Buffers,
    HalfedgeMesh,
    Points,
    Results,
    Targets,
    new_buffers,
)
from membrain_cloud.mesh.geodesics.surface_points import SurfacePoints, Survey
from membrain_cloud.mesh.geodesics.vertex_fans import fans_about_vertices

if TYPE_CHECKING:
    from numpy.typing import NDArray

# By how much of the mean edge two edges of a triangle are together longer than the third, at least.
LEAST_SPARE = 1e-6
# Sources that a thread takes at a time, and windows of its first buffers.
SOURCES_AT_ONCE, FIRST_WINDOWS = 8, 4096

Kernel = Callable[[Buffers, slice, int], int]
"""Does the sources of a slice from a number on; returns how many of the slice are done."""


class Geodesics:
    """Geodesic distances on one mesh. Threads share nothing but the mesh, so results do not depend on their number.

    Parameters
    ----------
    vertices : (V, 3) float64
        Positions in Å.
    faces : (F, 3) int32
        Vertices of each face.
    twins : (3F,) int32
        Opposite of each halfedge as `topology.twin_halfedges` gives it, cut at seams.
    seams : (3F,) bool
        Halfedges without a twin that are a cut between groups of faces, and no end of the mesh.
    threads : int or None
        Number of sources that are propagated at once; None for as many as numba may use (NUMBA_NUM_THREADS).
    """

    def __init__(
        self,
        vertices: NDArray[np.float64],
        faces: NDArray[np.int32],
        twins: NDArray[np.int32],
        seams: NDArray[np.bool_],
        threads: int | None = None,
    ) -> None:
        self._n_vertices, self._n_faces = len(vertices), len(faces)
        fans, self._vertex_of = fans_about_vertices(faces, twins)
        self._mesh = _halfedge_mesh(_edge_lengths(vertices, faces), fans, len(self._vertex_of), twins, seams)
        self._threads = threads or int(numba.config.NUMBA_NUM_THREADS)
        self._idle: list[Buffers] = []
        self._n_windows = FIRST_WINDOWS

    def survey(
        self, sources: SurfacePoints, targets: SurfacePoints, cutoff: float, edges: NDArray[np.float64]
    ) -> Survey:
        """Return distances to targets and boundaries and areas of annuli, as `Surface.survey`.

        Parameters
        ----------
        sources, targets : SurfacePoints
            S and T points of this mesh.
        cutoff : float
            Distance at which the propagation ends, Å.
        edges : (B + 1,) float64
            Rising bounds of the annuli, Å; empty for no areas.

        Returns
        -------
        Survey
            Results for the S sources.

        Raises
        ------
        ValueError
            If the points name faces that this mesh does not have.
        """
        self._check(sources, targets)
        wanted = _with_lists(targets, self._n_faces)
        distances = np.full((len(sources), len(targets)), np.inf)
        to_boundary = np.full((len(sources), KINDS), np.inf)
        areas = np.zeros((len(sources), max(len(edges) - 1, 0)))

        def kernel(buffers: Buffers, part: slice, begin: int) -> int:
            results = Results(distances[part], to_boundary[part], areas[part])
            points = _part(sources, part)
            return int(propagation.survey(self._mesh, buffers, begin, points, wanted, cutoff, edges, results))

        self._run(kernel, len(sources))
        return Survey(distances, to_boundary[:, OPEN_EDGE], to_boundary[:, SEAM], areas)

    def to_vertices(self, sources: SurfacePoints, cutoff: float) -> NDArray[np.float64]:
        """Return the distances of all vertices from each source.

        Parameters
        ----------
        sources : SurfacePoints
            S points of this mesh.
        cutoff : float
            Distance at which the propagation ends, Å.

        Returns
        -------
        (S, V) float64
            Å; infinite beyond the cut-off or on another component.

        Raises
        ------
        ValueError
            If the points name faces that this mesh does not have.
        """
        self._check(sources)
        out = np.full((len(sources), len(self._vertex_of)), np.inf)
        none = self._no_targets()

        def kernel(buffers: Buffers, part: slice, begin: int) -> int:
            points = _part(sources, part)
            return int(propagation.vertex_distances(self._mesh, buffers, begin, points, none, cutoff, out[part]))

        self._run(kernel, len(sources))
        return self._at_vertices(out)

    def from_any(self, sources: SurfacePoints, cutoff: float) -> NDArray[np.float64]:
        """Return the distances of all vertices from the nearest source.

        Parameters
        ----------
        sources : SurfacePoints
            Points of this mesh.
        cutoff : float
            Distance at which the propagation ends, Å.

        Returns
        -------
        (V,) float64
            Å; infinite beyond the cut-off or without sources.

        Raises
        ------
        ValueError
            If the points name faces that this mesh does not have.
        """
        self._check(sources)
        out = np.full((1, len(self._vertex_of)), np.inf)
        points, none = _part(sources, slice(None)), self._no_targets()

        def kernel(buffers: Buffers, _part: slice, _begin: int) -> int:
            return int(propagation.distances_from_any(self._mesh, buffers, points, none, cutoff, out[0]))

        if len(sources):
            self._run(kernel, 1)
        nearest: NDArray[np.float64] = self._at_vertices(out)[0]
        return nearest

    # ---------------------------------------------------------------- threads and buffers

    def _run(self, kernel: Kernel, count: int) -> None:
        """Call the kernel for sources 0..count-1, a few at a time and several of these at once."""
        parts = [slice(begin, min(begin + SOURCES_AT_ONCE, count)) for begin in range(0, count, SOURCES_AT_ONCE)]
        threads = min(self._threads, len(parts))
        if threads <= 1:
            for part in parts:
                self._run_part(kernel, part)
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda part: self._run_part(kernel, part), parts):
                pass

    def _run_part(self, kernel: Kernel, part: slice) -> None:
        """Call the kernel until all sources of the part are done, with more windows as they run out."""
        try:
            buffers = self._idle.pop()
        except IndexError:
            buffers = new_buffers(self._mesh, self._n_windows)
        done, count = 0, part.stop - part.start
        while True:
            done = kernel(buffers, part, done)
            if done == count:
                break
            windows = 4 * len(buffers.windows)
            self._n_windows = max(self._n_windows, windows)
            buffers = new_buffers(self._mesh, windows)
        self._idle.append(buffers)

    def _check(self, *points: SurfacePoints) -> None:
        for some in points:
            if len(some) and not 0 <= some.faces.min() <= some.faces.max() < self._n_faces:
                raise ValueError(
                    f"points lie on faces {some.faces.min()} to {some.faces.max()} but there are {self._n_faces}: "
                    "they belong to another surface; project them onto this one with closest_points"
                )

    def _no_targets(self) -> Targets:
        none = np.full(self._n_faces, -1, np.int32)
        return Targets(np.zeros(0, np.int64), np.zeros((0, 3)), none, none[:0])

    def _at_vertices(self, at_fans: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return distances (S, V) at vertices, the least of their fans', from those at fans (S, N)."""
        out = np.full((self._n_vertices, len(at_fans)), np.inf)
        np.minimum.at(out, self._vertex_of, at_fans.T)
        at_vertices: NDArray[np.float64] = np.ascontiguousarray(out.T)
        return at_vertices


def _edge_lengths(vertices: NDArray[np.float64], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the lengths (F, 3) of the halfedges; where faces are degenerate, all edges are a little longer.

    So each triangle has an inside and the sheet stays connected: intrinsic mollification, Sharp and Crane, A Laplacian
    for nonmanifold triangle meshes, CGF 39(5), 2020, section 4.5.
    """
    corners = vertices[faces]
    length = np.empty(faces.shape)
    for k in range(3):
        along = corners[:, (k + 1) % 3] - corners[:, k]
        length[:, k] = np.sqrt(np.einsum("ij,ij->i", along, along))
    if not len(length):
        return length
    spare = length.sum(axis=1, keepdims=True) - 2.0 * length
    longer: NDArray[np.float64] = length + max(LEAST_SPARE * float(length.mean()) - float(spare.min()), 0.0)
    return longer


def _halfedge_mesh(
    length: NDArray[np.float64],
    fans: NDArray[np.int32],
    n_fans: int,
    twins: NDArray[np.int32],
    seams: NDArray[np.bool_],
) -> HalfedgeMesh:
    """Build the kernels' mesh from edge lengths (F, 3) alone; fans (F, 3) are its vertices."""
    after, before = np.roll(length, -1, axis=1), np.roll(length, -2, axis=1)
    half = length.sum(axis=1, keepdims=True) / 2.0
    area = np.sqrt(half * ((half - length) * (half - after) * (half - before)).clip(min=0.0))
    shape = np.zeros(length.size, SHAPE)
    apex_x = (length**2 + before**2 - after**2) / (2.0 * length)
    apex_y = 2.0 * area / length
    shape["length"], shape["inverse_length"] = length.reshape(-1), (1.0 / length).reshape(-1)
    shape["apex_x"], shape["apex_y"] = apex_x.reshape(-1), apex_y.reshape(-1)

    angles = np.arctan2(apex_y, apex_x)
    total = np.bincount(fans.reshape(-1), angles.reshape(-1), minlength=n_fans).astype(np.float64)
    total[total <= 2.0 * np.pi + 1e-7] = 0.0
    links = np.zeros(length.size, LINK)
    links["start"] = fans.reshape(-1)
    links["twin"] = np.where(twins >= 0, twins, -1 - np.where(seams, SEAM, OPEN_EDGE))
    on_boundary = np.zeros((n_fans, KINDS), bool)
    for kind in (OPEN_EDGE, SEAM):
        edge = np.flatnonzero(links["twin"] == -1 - kind)
        on_boundary[fans.reshape(-1)[edge], kind] = True
        on_boundary[np.roll(fans, -1, axis=1).reshape(-1)[edge], kind] = True
    total[on_boundary.any(axis=1)] = np.inf
    return HalfedgeMesh(links, shape, angles.reshape(-1), total, on_boundary)


def _part(points: SurfacePoints, part: slice) -> Points:
    return Points(points.faces[part], points.weights[part])


def _with_lists(points: SurfacePoints, n_faces: int) -> Targets:
    """Return points as targets, with linked lists of those in each face."""
    faces = points.faces
    first, following = np.full(n_faces, -1, np.int32), np.full(len(faces), -1, np.int32)
    order = np.argsort(faces, kind="stable").astype(np.int32)
    same = faces[order[1:]] == faces[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    starts = order[np.concatenate([[True], ~same])] if len(order) else order
    first[faces[starts]] = starts
    return Targets(faces, points.weights, first, following)
