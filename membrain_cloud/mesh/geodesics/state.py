"""What the geodesic kernels work on: the mesh as they see it, and the buffers of one propagation.

All buffers belong to the caller and are as long as the mesh; only what a source reached is cleared after it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled_bare

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

FREE, WAITING, N_VERTICES, N_EDGES, N_FACES, FULL, SLOT = range(7)
KINDS = 2  # of boundaries
# Of a halfedge: the vertex (fan) it starts from, and the opposite halfedge; at a boundary -1 - kind, of KINDS kinds.
START, TWIN = range(2)
LENGTH, AX, AY, PER_LENGTH = range(4)
# Of the window that brought the least distance to the halfedge's apex: that distance, and where its ray crosses it.
LEAST, GATE = range(2)
# Faces nearer to the source than NEAR_EDGES edge lengths are cut in NEAR_CUTS² when annuli are integrated.
NEAR_EDGES, NEAR_CUTS = 4.0, 4


class Net(NamedTuple):
    """What the kernels know of the mesh: halfedge h = 3 * face + k runs from corner k to corner k + 1 of its face."""

    links: NDArray[np.int32]  # (3F, 2) START and TWIN
    shape: NDArray[np.float64]  # (3F, 4) LENGTH, AX and AY: the face's third corner in the halfedge's frame, PER_LENGTH
    angle: NDArray[np.float64]  # (3F,) of the face at corner k
    total: NDArray[np.float64]  # (V,) angle about the vertex; infinite at boundaries, 0 where no way can bend
    ends: NDArray[np.bool_]  # (V, KINDS) whether boundary edges of this kind end in the vertex


class Buffers(NamedTuple):
    """The state of one propagation. Between two: distance and LEAST are inf, heads -1, counts 0 but for FREE."""

    window: NDArray[np.float64]  # (W, 5)
    edge: NDArray[np.int32]  # (W,) halfedge of the window, or -1 - vertex for a vertex that became a source
    link: NDArray[np.int32]  # (W,) next window of the bucket, or next free one
    head: NDArray[np.int32]  # (R,) first window of each bucket
    last: NDArray[np.int32]  # (3F,) the window that last came to wait at each halfedge, -1 for none
    best: NDArray[np.float64]  # (3F, 2) LEAST and GATE
    distance: NDArray[np.float64]  # (V,)
    corner: NDArray[np.int32]  # (V,) corner of the face through which the vertex was reached
    bearing: NDArray[np.float64]  # (V,) angle from that corner's first edge to the way back
    vertices: NDArray[np.int32]  # (V,) reached vertices
    edges: NDArray[np.int32]  # (3F,) halfedges with a best
    entered: NDArray[np.int32]  # (F,) reached faces
    seen: NDArray[np.bool_]  # (F,) whether among them
    to_boundary: NDArray[np.float64]  # (KINDS,) distance of the nearest boundary of each kind
    counts: NDArray[
        np.int64
    ]  # (7,) first free window, waiting windows, reached vertices, halfedges, faces; 1: full; slot
    width: NDArray[np.float64]  # (1,) of a bucket
    grid: NDArray[np.float64]  # (NEAR_CUTS + 1, NEAR_CUTS + 1) for one face's distances


def new_buffers(net: Net, n_vertices: int, n_windows: int) -> Buffers:
    lengths = net.shape[:, LENGTH]
    longest = float(lengths.max(initial=0.0))
    mean = float(lengths.mean()) if len(lengths) else 1.0
    width = max(0.25 * mean, 8.0 * longest / 2**16, 1e-12)
    ring = 2 ** math.ceil(math.log2(max(8.0 * longest / width, 16.0)))
    return Buffers(
        window=np.zeros((n_windows, 5)),
        edge=np.zeros(n_windows, np.int32),
        link=np.append(np.arange(1, n_windows, dtype=np.int32), np.int32(-1)),
        head=np.full(ring, -1, np.int32),
        last=np.full(len(lengths), -1, np.int32),
        best=np.full((len(lengths), 2), np.inf),
        distance=np.full(n_vertices, np.inf),
        corner=np.zeros(n_vertices, np.int32),
        bearing=np.zeros(n_vertices),
        vertices=np.zeros(n_vertices, np.int32),
        edges=np.zeros(len(lengths), np.int32),
        entered=np.zeros(len(lengths) // 3, np.int32),
        seen=np.zeros(len(lengths) // 3, np.bool_),
        to_boundary=np.full(KINDS, np.inf),
        counts=np.zeros(7, np.int64),
        width=np.array([width]),
        grid=np.zeros((NEAR_CUTS + 1, NEAR_CUTS + 1)),
    )


@compiled_bare
def clear(b: Buffers) -> None:
    """Forget a propagation."""
    for i in range(b.counts[N_VERTICES]):
        b.distance[b.vertices[i]] = np.inf
    for i in range(b.counts[N_EDGES]):
        b.best[b.edges[i], LEAST] = np.inf
    for i in range(b.counts[N_FACES]):
        b.seen[b.entered[i]] = False
    b.to_boundary[:] = np.inf
    if b.counts[FULL]:
        b.head[:] = -1
        b.last[:] = -1
        for i in range(len(b.link)):
            b.link[i] = i + 1
        b.link[len(b.link) - 1] = -1
        b.counts[FREE] = 0
    b.counts[WAITING:] = 0
