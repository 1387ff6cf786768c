r"""Windows of straight paths across a halfedge: what they hold, how they are queued, merged and passed to a neighbour.

The distances are those of the shortest paths over the faces, to about 1e-4. Windows are propagated as by Chen and Han
[1]_, in order of distance and with the filter of Xin and Wang [2]_, as far as a cut-off; neighbouring windows that
differ little are merged, after Surazhsky et al. [3]_.

                  c                The frame of a halfedge h: a at (0, 0), b at (length, 0), its face above the x axis.
                /   \              A window (x, y, sigma, low, high) says: straight paths from (x, y), y <= 0, enter
          left /     \ right       the face through low..high of h; (x, y) itself is sigma away from the true source.
             / face  \
            a == h => b            The ray to c divides a window in a left and a right one, in the frames of the next
               S = (x, y)          halfedges: unfolding the faces keeps the paths straight.

- Of all windows that see c through h, only the one with the least distance to c is divided; others continue to one
  side.
- A window is dropped when paths over a corner of its face reach its far end sooner.
- Shortest paths bend only at vertices with a total angle above 2π and at boundaries. These become sources of their own
  (`pseudosources`), for the directions that make an angle of π or more with the path that reached them.
- Windows are merged only where the rays of the merged one lead at least as far outwards. Narrow gaps that open behind a
  vertex all the same are closed in two ways: paths may continue from a vertex above 2π a little before π, and a face
  that no window entered is entered from its nearest corner (`propagation`).
- Windows wait in buckets of distance, a ring that is longer than any step; the windows of a bucket come in any order.

Against distances without merging (spheres, a torus, a plane with a hole, egg boxes and a rough sheet of 2 000 to 6 000
vertices, 10^6 pairs each) the largest relative error was 1.1e-3, the mean at most 4e-5. On raw marching cubes, whose
slivers make the reference as uncertain, one pair in 30 000 differed by more than 2e-3.

References
----------
.. [1] Chen and Han, Shortest paths on a polyhedron, SoCG 1990.
.. [2] Xin and Wang, Improving Chen and Han's algorithm on the discrete geodesic problem, ACM TOG 28(4), 2009.
.. [3] Surazhsky et al., Fast exact and approximate geodesics on meshes, ACM TOG 24(3), 2005.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from membrain_cloud.jit import inlined
from membrain_cloud.mesh.geodesics.state import KINDS, Buffers, HalfedgeMesh

# Windows at one edge are merged where that changes no distance on it by more than MERGE times its length; where windows
# are dropped for shorter paths, distances may be wrong by MERGED times that.
MERGE, MERGED = 2.5e-3, 5.0


class Window(NamedTuple):
    """Straight paths that cross an interval of a halfedge, in its frame; all lengths in Å.

    Attributes
    ----------
    x, y : float
        The (unfolded) source of the paths; y <= 0.
    sigma : float
        Distance of (x, y) from the true source.
    low, high : float
        The interval, as distances from the start of the halfedge.
    """

    x: float
    y: float
    sigma: float
    low: float
    high: float


class VertexPath(NamedTuple):
    """A path to a vertex.

    Attributes
    ----------
    distance : float
        Its length in Å.
    corner : int
        Corner of the face through which it arrives.
    bearing : float
        Angle from that corner's first edge to the path back, radians.
    """

    distance: float
    corner: int
    bearing: float


class OppositeCorner(NamedTuple):
    """The corner opposite to the edge that a window leaves its face by, in the frame of that edge's twin.

    Attributes
    ----------
    vertex : int
        Its vertex; -1 for a window that starts in the corner itself.
    x, y : float
        Its position, Å.
    beyond_high : bool
        Whether it lies beyond the window's `high`; otherwise it lies beyond its `low`.
    """

    vertex: int
    x: float
    y: float
    beyond_high: bool


NO_CORNER = OppositeCorner(-1, 0.0, 0.0, False)


@inlined
def hypot(x: float, y: float) -> float:
    """Return the length of (x, y).

    Parameters
    ----------
    x, y : float
        Lengths of a mesh: they neither overflow nor vanish, so the care of `math.hypot` is not needed.

    Returns
    -------
    float
        The length.
    """
    return math.sqrt(x * x + y * y)


@inlined
def distance_at(window: Window, at: float) -> float:
    """Return the distance of a point of the window's halfedge from the true source.

    Parameters
    ----------
    window : Window
        Paths across the halfedge.
    at : float
        Position on the halfedge, Å from its start.

    Returns
    -------
    float
        Å.
    """
    distance: float = window.sigma + hypot(window.x - at, window.y)
    return distance


@inlined
def crossing(window: Window, x: float, y: float) -> float:
    """Return where the ray from a window's source to a point of its face crosses the halfedge.

    Parameters
    ----------
    window : Window
        Paths across the halfedge.
    x, y : float
        The point, in the halfedge's frame, Å.

    Returns
    -------
    float
        Å from the start of the halfedge.
    """
    return window.x + (x - window.x) * (-window.y / (y - window.y)) if y - window.y > 0.0 else window.x


@inlined
def load_window(buffers: Buffers, i: int) -> Window:
    """Read a queued window.

    Parameters
    ----------
    buffers : Buffers
        Buffers that hold it.
    i : int
        Its place.

    Returns
    -------
    Window
        The window.
    """
    stored = buffers.windows[i]
    return Window(stored.x, stored.y, stored.sigma, stored.low, stored.high)


@inlined
def _store_window(buffers: Buffers, i: int, window: Window) -> None:
    stored = buffers.windows[i]
    stored.x = window.x
    stored.y = window.y
    stored.sigma = window.sigma
    stored.low = window.low
    stored.high = window.high


@inlined
def _enqueue(buffers: Buffers, key: float, halfedge: int, window: Window) -> None:
    """Queue a window by its distance `key`, or a vertex if `halfedge` is -1 - vertex; note an overflow."""
    counts = buffers.counts[0]
    i = counts.free_window
    if i < 0:
        counts.overflow = 1
        return
    counts.free_window = buffers.next_window[i]
    _store_window(buffers, i, window)
    buffers.edge[i] = halfedge
    bucket = max(int(key / buffers.bucket_width[0]), counts.slot) & (len(buffers.bucket) - 1)
    buffers.next_window[i] = buffers.bucket[bucket]
    buffers.bucket[bucket] = i
    counts.waiting += 1
    if halfedge >= 0:
        buffers.last[halfedge] = i


@inlined
def _covers(kept: Window, dropped: Window) -> bool:
    """Return whether the rays of `kept` lead at least as far outwards at the ends it takes over from `dropped`."""
    if dropped.low < kept.low and (kept.x - dropped.low) * dropped.y > (dropped.x - dropped.low) * kept.y:
        return False
    return not (dropped.high > kept.high and (kept.x - dropped.high) * dropped.y < (dropped.x - dropped.high) * kept.y)


@inlined
def _merge(buffers: Buffers, halfedge: int, length: float, window: Window, to_low: float, to_high: float) -> bool:
    """Merge a window with the one that waits at the halfedge, if they touch and one source can stand for both.

    `to_low` and `to_high` are the distances of the window's ends. Returns whether it was merged.
    """
    i = buffers.last[halfedge]
    if i < 0:
        return False
    margin = MERGE * length
    waiting = load_window(buffers, i)
    if window.low > waiting.high + 1e-9 * length or window.high < waiting.low - 1e-9 * length:
        return False
    if window.high - window.low <= waiting.high - waiting.low:
        kept, dropped = waiting, window
        at_low = distance_at(waiting, window.low) - to_low
        at_high = distance_at(waiting, window.high) - to_high
    else:
        kept, dropped = window, waiting
        at_low = distance_at(waiting, waiting.low) - window.sigma - hypot(window.x - waiting.low, window.y)
        at_high = distance_at(waiting, waiting.high) - window.sigma - hypot(window.x - waiting.high, window.y)
    if abs(at_low) > margin or abs(at_high) > margin or not _covers(kept, dropped):
        return False
    merged = Window(kept.x, kept.y, kept.sigma, min(waiting.low, window.low), max(waiting.high, window.high))
    _store_window(buffers, i, merged)
    return True


@inlined
def update_vertex(mesh: HalfedgeMesh, buffers: Buffers, vertex: int, path: VertexPath, cutoff: float) -> None:
    """Record a path to a vertex if it is shorter; queue the vertex as a source where paths may bend there.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Changed in place.
    vertex : int
        The vertex.
    path : VertexPath
        The path to it.
    cutoff : float
        Distance at which the propagation ends, Å.
    """
    before = buffers.distance[vertex]
    if not path.distance < before * (1.0 - 1e-12):
        return
    if before == np.inf:
        counts = buffers.counts[0]
        buffers.vertices[counts.vertices] = vertex
        counts.vertices += 1
    buffers.distance[vertex] = path.distance
    buffers.corner[vertex], buffers.bearing[vertex] = path.corner, path.bearing
    if mesh.total_angle[vertex] == np.inf:
        for kind in range(KINDS):
            if mesh.on_boundary[vertex, kind]:
                buffers.to_boundary[kind] = min(buffers.to_boundary[kind], path.distance)
    if mesh.total_angle[vertex] > 0.0 and path.distance < cutoff:
        # Windows come by their far ends: a little later, so that the shortest path is known when its turn comes.
        key = path.distance + mesh.shape[path.corner].length
        _enqueue(buffers, key, -1 - vertex, Window(0.0, 0.0, path.distance, 0.0, 0.0))


@inlined
def pass_window(
    mesh: HalfedgeMesh, buffers: Buffers, out: int, window: Window, corner: OppositeCorner, cutoff: float
) -> None:
    """Queue a window on the twin of a halfedge, unless a path over a corner of its face is shorter.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Changed in place.
    out : int
        Halfedge by which the paths leave their face.
    window : Window
        In the frame of the halfedge's twin.
    corner : OppositeCorner
        The face's corner opposite to `out`, or NO_CORNER.
    cutoff : float
        Distance at which the propagation ends, Å.
    """
    ahead, length = mesh.links[out].twin, mesh.shape[out].length
    if not window.high - window.low > 1e-10 * length:
        return
    x, y = window.x, window.y
    far = window.sigma + math.sqrt(max(x * x, (length - x) * (length - x)) + y * y)
    if ahead < 0 or far >= cutoff:
        key = distance_at(window, min(max(x, window.low), window.high))
        if ahead < 0:
            buffers.to_boundary[-1 - ahead] = min(buffers.to_boundary[-1 - ahead], key)
        if ahead < 0 or key >= cutoff:
            return
    to_low, to_high = distance_at(window, window.low), distance_at(window, window.high)
    # A little less, for rounding; and distances of merged windows are wrong by up to the margin.
    slack, margin = 1.0 - 1e-10, MERGED * MERGE * length
    at_low, at_high = (to_low - margin) * slack, (to_high - margin) * slack
    first, last = mesh.links[ahead].start, mesh.links[out].start
    if buffers.distance[first] + window.high < at_high or buffers.distance[last] + length - window.low < at_low:
        return
    if corner.vertex >= 0:
        spare = (at_low if corner.beyond_high else at_high) - buffers.distance[corner.vertex]
        across = corner.x - (window.low if corner.beyond_high else window.high)
        if spare > 0.0 and across * across + corner.y * corner.y < spare * spare:
            return
    if not _merge(buffers, ahead, length, window, to_low, to_high):
        _enqueue(buffers, far, ahead, window)


@inlined
def mark_face(buffers: Buffers, face: int) -> None:
    """Add a face to those that were reached.

    Parameters
    ----------
    buffers : Buffers
        Changed in place.
    face : int
        The face.
    """
    if not buffers.face_reached[face]:
        counts = buffers.counts[0]
        buffers.face_reached[face] = True
        buffers.faces[counts.faces] = face
        counts.faces += 1
