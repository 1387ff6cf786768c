"""Geodesic distances on a surface: calls the compiled kernels, on several threads, with buffers that grow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numba
import numpy as np

from membrain_cloud.mesh.geodesics import propagation as geodesics
from membrain_cloud.mesh.geodesics.state import KINDS, Buffers, Net, new_buffers
from membrain_cloud.mesh.geodesics.surface_points import SurfacePoints, Survey
from membrain_cloud.mesh.geodesics.vertex_fans import fans_about_vertices

if TYPE_CHECKING:
    from numpy.typing import NDArray

# By how much of the mean edge two edges of a triangle are together longer than the third, at least.
LEAST_SPARE = 1e-6
# Sources that a thread takes at a time, and windows that it has room for at first.
SOURCES_A_TURN, FIRST_WINDOWS = 8, 4096

Kernel = Callable[[Buffers, slice, int], int]


class Geodesics:
    """The distances of one mesh. Its threads share nothing but the mesh: the result does not depend on their number.

    vertices : (V, 3) Å.  faces : (F, 3).  twins : (3F,) as `topology.twin_halfedges` has them, cut at seams.
    seams : (3F,) halfedges without a twin that are a cut between groups of faces, and no end of the mesh.
    threads : how many sources are propagated at once; None: as many as numba may use (NUMBA_NUM_THREADS).
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
        self._net = _net(_lengths(vertices, faces), fans, len(self._vertex_of), twins, seams)
        self._threads = threads or int(numba.config.NUMBA_NUM_THREADS)
        self._idle: list[Buffers] = []
        self._n_windows = FIRST_WINDOWS

    def survey(
        self, sources: SurfacePoints, targets: SurfacePoints, cutoff: float, edges: NDArray[np.float64]
    ) -> Survey:
        """As `Surface.survey`."""
        first, following = _by_face(targets.faces, self._n_faces)
        distances = np.full((len(sources), len(targets)), np.inf)
        to_boundary = np.full((len(sources), KINDS), np.inf)
        areas = np.zeros((len(sources), max(len(edges) - 1, 0)))

        def kernel(buffers: Buffers, part: slice, begin: int) -> int:
            return int(
                geodesics.survey(
                    self._net, buffers, begin, sources.faces[part], sources.weights[part], cutoff,
                    targets.faces, targets.weights, first, following, edges,
                    distances[part], to_boundary[part], areas[part],
                )
            )  # fmt: skip

        self._check(sources, targets)
        self._all(kernel, len(sources))
        return Survey(distances, to_boundary[:, 0], to_boundary[:, 1], areas)

    def to_vertices(self, sources: SurfacePoints, cutoff: float) -> NDArray[np.float64]:
        """(S, V) from each source."""
        out = np.full((len(sources), len(self._vertex_of)), np.inf)
        no_target, nothing = self._no_targets()

        def kernel(buffers: Buffers, part: slice, begin: int) -> int:
            return int(
                geodesics.vertex_distances(
                    self._net, buffers, begin, sources.faces[part], sources.weights[part], cutoff,
                    no_target, nothing, out[part],
                )
            )  # fmt: skip

        self._check(sources)
        self._all(kernel, len(sources))
        return self._at_vertices(out)

    def from_any(self, sources: SurfacePoints, cutoff: float) -> NDArray[np.float64]:
        """(V,) from the nearest source."""
        out = np.full((1, len(self._vertex_of)), np.inf)
        no_target, nothing = self._no_targets()

        def kernel(buffers: Buffers, part: slice, begin: int) -> int:
            return int(
                geodesics.distances_from_any(
                    self._net, buffers, sources.faces, sources.weights, cutoff, no_target, nothing, out[0]
                )
            )

        self._check(sources)
        if len(sources):
            self._all(kernel, 1)
        return self._at_vertices(out)[0]

    # ---------------------------------------------------------------- inside

    def _all(self, kernel: Kernel, count: int) -> None:
        """Call the kernel for 0..count-1, a few at a time and several of these at once."""
        parts = [slice(begin, min(begin + SOURCES_A_TURN, count)) for begin in range(0, count, SOURCES_A_TURN)]
        threads = min(self._threads, len(parts))
        if threads <= 1:
            for part in parts:
                self._some(kernel, part)
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda part: self._some(kernel, part), parts):
                pass

    def _some(self, kernel: Kernel, part: slice) -> None:
        """Call kernel(buffers, part, first of it) until all of the part is done, with more windows as they run out."""
        try:
            buffers = self._idle.pop()
        except IndexError:
            buffers = new_buffers(self._net, len(self._vertex_of), self._n_windows)
        done, count = 0, part.stop - part.start
        while True:
            done = kernel(buffers, part, done)
            if done == count:
                break
            windows = 4 * len(buffers.link)
            self._n_windows = max(self._n_windows, windows)
            buffers = new_buffers(self._net, len(self._vertex_of), windows)
        self._idle.append(buffers)

    def _check(self, *points: SurfacePoints) -> None:
        for some in points:
            if len(some) and not 0 <= some.faces.min() <= some.faces.max() < self._n_faces:
                raise ValueError("these points are of another surface: it has no such faces")

    def _no_targets(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        return np.full(self._n_faces, -1, np.int32), np.zeros((0, 3))

    def _at_vertices(self, at_fans: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full((self._n_vertices, len(at_fans)), np.inf)
        np.minimum.at(out, self._vertex_of, at_fans.T)
        return np.ascontiguousarray(out.T)


def _lengths(vertices: NDArray[np.float64], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """(F, 3) of the halfedges. Where faces are degenerate, all edges are longer by a little.

    So that each triangle has an inside and the sheet stays in one piece: intrinsic mollification, Sharp and Crane,
    CGF 39(5), 2020, section 4.5.
    """
    corners = vertices[faces]
    length = np.empty(faces.shape)
    for k in range(3):
        along = corners[:, (k + 1) % 3] - corners[:, k]
        length[:, k] = np.sqrt(np.einsum("ij,ij->i", along, along))
    if not len(length):
        return length
    spare = length.sum(axis=1, keepdims=True) - 2.0 * length
    return length + max(LEAST_SPARE * float(length.mean()) - float(spare.min()), 0.0)


def _net(
    length: NDArray[np.float64],
    fans: NDArray[np.int32],
    n_fans: int,
    twins: NDArray[np.int32],
    seams: NDArray[np.bool_],
) -> Net:
    after, before = np.roll(length, -1, axis=1), np.roll(length, -2, axis=1)
    x = (length**2 + before**2 - after**2) / (2.0 * length)
    half = length.sum(axis=1, keepdims=True) / 2.0
    area = np.sqrt(half * ((half - length) * (half - after) * (half - before)).clip(min=0.0))
    y = 2.0 * area / length
    angles = np.arctan2(y, x)
    total = np.bincount(fans.reshape(-1), angles.reshape(-1), minlength=n_fans).astype(np.float64)
    total[total <= 2.0 * np.pi + 1e-7] = 0.0
    twin = np.where(twins >= 0, twins, -1 - seams.astype(np.int32)).astype(np.int32)
    ends = np.zeros((n_fans, KINDS), bool)
    for kind in range(KINDS):
        edge = np.flatnonzero(twin == -1 - kind)
        ends[fans.reshape(-1)[edge], kind] = True
        ends[np.roll(fans, -1, axis=1).reshape(-1)[edge], kind] = True
    total[ends.any(axis=1)] = np.inf
    shape = np.stack([length, x, y, 1.0 / length], axis=2).reshape(-1, 4)
    links = np.stack([fans.reshape(-1), twin], axis=1)
    return Net(links, shape, angles.reshape(-1), total, ends)


def _by_face(faces: NDArray[np.int64], n_faces: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Chains of the points in each face: (F,) the first one, (N,) the next one; -1 for none."""
    first, following = np.full(n_faces, -1, np.int32), np.full(len(faces), -1, np.int32)
    order = np.argsort(faces, kind="stable").astype(np.int32)
    same = faces[order[1:]] == faces[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    starts = order[np.concatenate([[True], ~same])] if len(order) else order
    first[faces[starts]] = starts
    return first, following
