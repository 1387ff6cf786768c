"""Arrays that the geodesic kernels share: the mesh, the buffers of one propagation, sources, targets and results.

Rows of several values are structured arrays, so that a kernel reads `mesh.links[h].twin` and finds the values of one
halfedge in one cache line. The buffers are as long as the mesh; only what a source reached is cleared after it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled_bare

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Records = NDArray[np.void]

OPEN_EDGE, SEAM = range(2)
"""Kinds of boundary edges: ends of the surface, and cuts between groups of faces."""
KINDS = 2

LINK = np.dtype([("start", np.int32), ("twin", np.int32)], align=True)
SHAPE = np.dtype([(name, np.float64) for name in ("length", "apex_x", "apex_y", "inverse_length")], align=True)
WINDOW = np.dtype([(name, np.float64) for name in ("x", "y", "sigma", "low", "high")], align=True)
NEAREST = np.dtype([("distance", np.float64), ("crossing", np.float64)], align=True)
COUNTS = np.dtype(
    [(name, np.int64) for name in ("free_window", "waiting", "vertices", "halfedges", "faces", "overflow", "slot")],
    align=True,
)

# Faces nearer to the source than NEAR_EDGES edge lengths are cut in NEAR_CUTS² when annuli are integrated.
NEAR_EDGES, NEAR_CUTS = 4.0, 4


class HalfedgeMesh(NamedTuple):
    """A triangle mesh as halfedges: number 3 * face + k runs from corner k to corner k + 1 of its face.

    A vertex at which several sheets touch is several vertices here, one for each fan of faces.

    Attributes
    ----------
    links : (3F,) LINK
        `start`: vertex that the halfedge starts from. `twin`: opposite halfedge; at a boundary -1 - kind.
    shape : (3F,) SHAPE
        `length` in Å; `apex_x`, `apex_y`: third corner of the face in the halfedge's frame, Å; `inverse_length`, 1/Å.
    angle : (3F,) float64
        Angle of the face at corner k, radians.
    total_angle : (V,) float64
        Sum of the angles at a vertex, radians; infinite at boundaries, 0 where shortest paths cannot bend.
    on_boundary : (V, KINDS) bool
        Whether boundary edges of this kind end in the vertex.
    """

    links: Records
    shape: Records
    angle: Floats
    total_angle: Floats
    on_boundary: NDArray[np.bool_]


class Buffers(NamedTuple):
    """The state of one propagation over a mesh of F faces and V vertices, with at most W waiting windows.

    Between propagations distances are infinite, bucket heads -1, and all counts but `free_window` are 0.

    Attributes
    ----------
    windows : (W,) WINDOW
        As `windows.Window`.
    edge : (W,) int32
        Halfedge of a window, or -1 - vertex for a vertex that became a source.
    next_window : (W,) int32
        Next window of the same bucket, or next free one.
    bucket : (R,) int32
        First window of each bucket of distances.
    last : (3F,) int32
        Window that was queued last at each halfedge, -1 for none.
    nearest : (3F,) NEAREST
        Of the window that brought the least distance to the halfedge's apex: that distance in Å, and where its ray to
        the apex crosses the halfedge, in Å from its start.
    distance : (V,) float64
        Least distance found so far, Å.
    corner : (V,) int32
        Corner of the face through which the vertex was reached.
    bearing : (V,) float64
        Angle from that corner's first edge to the path back, radians.
    vertices, halfedges, faces : (V,), (3F,), (F,) int32
        Vertices reached, halfedges with a `nearest`, faces reached; as many as `counts` says.
    face_reached : (F,) bool
        Whether the face is among `faces`.
    to_boundary : (KINDS,) float64
        Distance of the nearest boundary of each kind, Å.
    counts : (1,) COUNTS
        `free_window`: first free window, -1 for none; `waiting`: queued windows; `vertices`, `halfedges`, `faces`:
        lengths of these lists; `overflow`: 1 when windows ran out; `slot`: number of the current bucket.
    bucket_width : (1,) float64
        Å.
    grid : (NEAR_CUTS + 1, NEAR_CUTS + 1) float64
        Scratch space for the distances within one face.
    """

    windows: Records
    edge: Ints
    next_window: Ints
    bucket: Ints
    last: Ints
    nearest: Records
    distance: Floats
    corner: Ints
    bearing: Floats
    vertices: Ints
    halfedges: Ints
    faces: Ints
    face_reached: NDArray[np.bool_]
    to_boundary: Floats
    counts: Records
    bucket_width: Floats
    grid: Floats


class Points(NamedTuple):
    """N points on the surface.

    Attributes
    ----------
    faces : (N,) int64
        Face of each point.
    weights : (N, 3) float64
        Barycentric weights.
    """

    faces: NDArray[np.int64]
    weights: Floats


class Targets(NamedTuple):
    """T points whose distances are wanted, and which of them lie in a face.

    Attributes
    ----------
    faces, weights
        As of `Points`.
    first : (F,) int32
        First target in each face, -1 for none.
    following : (T,) int32
        Next target in the same face, -1 for none.
    """

    faces: NDArray[np.int64]
    weights: Floats
    first: Ints
    following: Ints


class Results(NamedTuple):
    """Arrays that `survey` fills for S sources.

    Attributes
    ----------
    distances : (S, T) float64
        Distance of each target, Å; infinite at first.
    to_boundary : (S, KINDS) float64
        Distance of the nearest boundary of each kind, Å.
    areas : (S, B) float64
        Area of the surface within each annulus, Å²; 0 at first.
    """

    distances: Floats
    to_boundary: Floats
    areas: Floats


def new_buffers(mesh: HalfedgeMesh, n_windows: int) -> Buffers:
    """Return the buffers for propagations over a mesh.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    n_windows : int
        Number of windows that can wait at once.

    Returns
    -------
    Buffers
        Cleared buffers.
    """
    lengths, n_vertices = mesh.shape["length"], len(mesh.total_angle)
    longest = float(lengths.max(initial=0.0))
    mean = float(lengths.mean()) if len(lengths) else 1.0
    width = max(0.25 * mean, 8.0 * longest / 2**16, 1e-12)
    ring = 2 ** math.ceil(math.log2(max(8.0 * longest / width, 16.0)))
    nearest = np.zeros(len(lengths), NEAREST)
    nearest["distance"] = np.inf
    return Buffers(
        windows=np.zeros(n_windows, WINDOW),
        edge=np.zeros(n_windows, np.int32),
        next_window=np.append(np.arange(1, n_windows, dtype=np.int32), np.int32(-1)),
        bucket=np.full(ring, -1, np.int32),
        last=np.full(len(lengths), -1, np.int32),
        nearest=nearest,
        distance=np.full(n_vertices, np.inf),
        corner=np.zeros(n_vertices, np.int32),
        bearing=np.zeros(n_vertices),
        vertices=np.zeros(n_vertices, np.int32),
        halfedges=np.zeros(len(lengths), np.int32),
        faces=np.zeros(len(lengths) // 3, np.int32),
        face_reached=np.zeros(len(lengths) // 3, np.bool_),
        to_boundary=np.full(KINDS, np.inf),
        counts=np.zeros(1, COUNTS),
        bucket_width=np.array([width]),
        grid=np.zeros((NEAR_CUTS + 1, NEAR_CUTS + 1)),
    )


@compiled_bare
def clear(buffers: Buffers) -> None:  # pragma: no cover - compiled
    """Reset the buffers after a propagation.

    Parameters
    ----------
    buffers : Buffers
        Buffers of any state; changed in place.
    """
    counts = buffers.counts[0]
    for i in range(counts.vertices):
        buffers.distance[buffers.vertices[i]] = np.inf
    for i in range(counts.halfedges):
        buffers.nearest[buffers.halfedges[i]].distance = np.inf
    for i in range(counts.faces):
        buffers.face_reached[buffers.faces[i]] = False
    buffers.to_boundary[:] = np.inf
    if counts.overflow:
        buffers.bucket[:] = -1
        buffers.last[:] = -1
        for i in range(len(buffers.next_window)):
            buffers.next_window[i] = i + 1
        buffers.next_window[len(buffers.next_window) - 1] = -1
        counts.free_window = 0
    counts.waiting = 0
    counts.vertices = 0
    counts.halfedges = 0
    counts.faces = 0
    counts.overflow = 0
    counts.slot = 0
