r"""Compiled kernels of the geodesic distances (numba; compiled at the first call, kept in numba's cache).

The distances are those of the shortest ways over the faces, to about 1e-4. Windows are propagated as by Chen and Han
(SoCG 1990), in order of distance and with the filter of Xin and Wang (ACM TOG 28(4), 2009), as far as a cut-off;
neighbouring windows that differ little are joined, after Surazhsky et al. (ACM TOG 24(3), 2005).

                  c                The frame of a halfedge h: a at (0, 0), b at (length, 0), its face above the x axis.
                /   \              A window (x, y, sigma, low, high) says: straight ways from (x, y), y <= 0, come into
          left /     \ right       the face through low..high of h; (x, y) itself is sigma away from the true source.
             / face  \
            a == h => b            The ray to c parts a window in a left and a right one, in the frames of the next
               S = (x, y)          halfedges: unfolding the faces keeps the ways straight.

- Of all windows that see c through h only the one that brings it nearest is parted; others go on along one side.
- A window is dropped when ways over a corner of its face reach its far end sooner.
- Shortest ways bend only at vertices with more than 2π of angle and at the surface's ends. These become sources of
  their own, for the directions that make an angle of π or more with the way they were reached by.
- Windows are joined only where the joined one's rays lead no less far outwards: joining opens no gap.
- Windows wait in buckets of distance, a ring that is longer than any step; a bucket's windows come in any order.

Against distances without joining (spheres, tori, planes with a hole, egg boxes, rough sheets, marching cubes of 2 000
to 6 000 vertices) the largest relative error of all pairs of vertices was 1e-3, the mean below 2e-5.

All buffers belong to the caller and are as long as the mesh; only what a source reached is cleared after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

X, Y, SIGMA, LOW, HIGH = range(5)
FREE, WAITING, N_VERTICES, N_EDGES, N_FACES, FULL, SLOT = range(7)
KINDS = 2  # of boundaries
# A source is held so far (in barycentric weight) from its face's rim: rays along an edge have no place in a window.
RIM = 1e-7
# Windows at one edge are joined where that changes no distance on it by more than this share of its length; as many
# times that may distances be wrong where windows are dropped for shorter ways.
JOIN, JOINED = 1e-3, 5.0
# Faces nearer to the source than this many edge lengths are cut in NEAR_CUTS² when annuli are integrated.
NEAR_EDGES, NEAR_CUTS = 4.0, 4


class Net(NamedTuple):
    """What the kernels know of the mesh: halfedge h = 3 * face + k runs from corner k to corner k + 1 of its face."""

    faces: NDArray[np.int32]  # (F, 3)
    twin: NDArray[np.int32]  # (3F,) the opposite halfedge; at a boundary -1 - kind, of KINDS kinds
    length: NDArray[np.float64]  # (3F,)
    apex: NDArray[np.float64]  # (3F, 2) the face's third corner in the halfedge's frame
    angle: NDArray[np.float64]  # (3F,) of the face at corner k
    total: NDArray[np.float64]  # (V,) angle about the vertex; infinite at boundaries, 0 where no way can bend
    ends: NDArray[np.bool_]  # (V, KINDS) whether boundary edges of this kind end in the vertex


class Buffers(NamedTuple):
    """The state of one propagation. Between two: distance and best are inf, heads -1, counts 0 but for FREE."""

    window: NDArray[np.float64]  # (W, 5)
    edge: NDArray[np.int32]  # (W,) halfedge of the window, or -1 - vertex for a vertex that became a source
    link: NDArray[np.int32]  # (W,) next window of the bucket, or next free one
    head: NDArray[np.int32]  # (R,) first window of each bucket
    last: NDArray[np.int32]  # (3F,) the window that last came to wait at each halfedge, -1 for none
    best: NDArray[np.float64]  # (3F,) least distance that a window brought to the halfedge's apex
    gate: NDArray[np.float64]  # (3F,) where that window's ray crosses the halfedge
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
    longest = float(net.length.max(initial=0.0))
    mean = float(net.length.mean()) if len(net.length) else 1.0
    width = max(0.25 * mean, 8.0 * longest / 2**16, 1e-12)
    ring = 2 ** math.ceil(math.log2(max(8.0 * longest / width, 16.0)))
    return Buffers(
        window=np.zeros((n_windows, 5)),
        edge=np.zeros(n_windows, np.int32),
        link=np.append(np.arange(1, n_windows, dtype=np.int32), np.int32(-1)),
        head=np.full(ring, -1, np.int32),
        last=np.full(len(net.twin), -1, np.int32),
        best=np.full(len(net.twin), np.inf),
        gate=np.zeros(len(net.twin)),
        distance=np.full(n_vertices, np.inf),
        corner=np.zeros(n_vertices, np.int32),
        bearing=np.zeros(n_vertices),
        vertices=np.zeros(n_vertices, np.int32),
        edges=np.zeros(len(net.twin), np.int32),
        entered=np.zeros(len(net.faces), np.int32),
        seen=np.zeros(len(net.faces), np.bool_),
        to_boundary=np.full(KINDS, np.inf),
        counts=np.zeros(7, np.int64),
        width=np.array([width]),
        grid=np.zeros((NEAR_CUTS + 1, NEAR_CUTS + 1)),
    )


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    except RuntimeError:  # no folder for the cache can be written: compile in every process
        return numba.njit(nogil=True, error_model="numpy", _nrt=False)(function)


@_compiled
def _hypot(x: float, y: float) -> float:
    return math.sqrt(x * x + y * y)  # lengths of a mesh neither overflow nor vanish: no need of hypot's care


@_compiled
def _push(b: Buffers, key: float, halfedge: int, x: float, y: float, sigma: float, low: float,
          high: float) -> None:  # fmt: skip
    i = b.counts[FREE]
    if i < 0:
        b.counts[FULL] = 1
        return
    b.counts[FREE] = b.link[i]
    b.window[i, X], b.window[i, Y], b.window[i, SIGMA], b.window[i, LOW], b.window[i, HIGH] = x, y, sigma, low, high
    b.edge[i] = halfedge
    slot = max(int(key / b.width[0]), b.counts[SLOT]) & (len(b.head) - 1)
    b.link[i] = b.head[slot]
    b.head[slot] = i
    b.counts[WAITING] += 1
    if halfedge >= 0:
        b.last[halfedge] = i


@_compiled
def _takes_in(px: float, py: float, sigma: float, x: float, y: float, other: float, low: float, high: float,
              on_low: bool, on_high: bool, margin: float) -> bool:  # fmt: skip
    """Whether the source (px, py, sigma) can stand in for (x, y, other) on low..high: to `margin`, and leaving no gap.

    No gap: at the ends that become the joined window's own, its rays lead no less far outwards.
    """
    if abs(sigma + _hypot(px - low, py) - other - _hypot(x - low, y)) > margin:
        return False
    if abs(sigma + _hypot(px - high, py) - other - _hypot(x - high, y)) > margin:
        return False
    if on_low and (low - px) * -y > (low - x) * -py:
        return False
    return not (on_high and (high - px) * -y < (high - x) * -py)


@_compiled
def _joined(b: Buffers, ahead: int, length: float, x: float, y: float, sigma: float, low: float, high: float) -> bool:
    """Join the window to the one that waits at the halfedge, if they touch and one source can stand for both."""
    i = b.last[ahead]
    if i < 0:
        return False
    w = b.window[i]
    margin = JOIN * length
    if low > w[HIGH] + 1e-9 * length or high < w[LOW] - 1e-9 * length:
        return False
    if high - low <= w[HIGH] - w[LOW]:
        if not _takes_in(w[X], w[Y], w[SIGMA], x, y, sigma, low, high, low < w[LOW], high > w[HIGH], margin):
            return False
    else:
        if not _takes_in(x, y, sigma, w[X], w[Y], w[SIGMA], w[LOW], w[HIGH], w[LOW] < low, w[HIGH] > high, margin):
            return False
        w[X], w[Y], w[SIGMA] = x, y, sigma
    w[LOW], w[HIGH] = min(w[LOW], low), max(w[HIGH], high)
    return True


@_compiled
def _reach(net: Net, b: Buffers, vertex: int, found: float, corner: int, bearing: float, cutoff: float) -> None:
    """Note a shorter way to a vertex; where ways may bend there, put it up as a source."""
    known = b.distance[vertex]
    if not found < known * (1.0 - 1e-12):
        return
    if known == np.inf:
        b.vertices[b.counts[N_VERTICES]] = vertex
        b.counts[N_VERTICES] += 1
    b.distance[vertex] = found
    b.corner[vertex], b.bearing[vertex] = corner, bearing
    if net.total[vertex] == np.inf:
        for kind in range(KINDS):
            if net.ends[vertex, kind]:
                b.to_boundary[kind] = min(b.to_boundary[kind], found)
    if net.total[vertex] > 0.0 and found < cutoff:
        # Windows come by their far ends: a little later, so that the shortest way is known when its turn comes.
        _push(b, found + net.length[corner], -1 - vertex, 0.0, 0.0, found, 0.0, 0.0)


@_compiled
def _offer(net: Net, b: Buffers, out: int, x: float, y: float, sigma: float, low: float, high: float, behind: int,
           bx: float, by: float, on_left: bool, cutoff: float) -> None:  # fmt: skip
    """Put up a window on the twin of `out`, in the twin's frame, unless a way over a corner of its face is shorter.

    behind : the face's corner opposite of the edge, at (bx, by); it lies beyond `high` if on_left, else beyond `low`.
    """
    ahead, length = net.twin[out], net.length[out]
    if not high - low > 1e-10 * length:
        return
    near = min(max(x, low), high)
    key = sigma + _hypot(x - near, y)
    if ahead < 0:
        b.to_boundary[-1 - ahead] = min(b.to_boundary[-1 - ahead], key)
        return
    if key >= cutoff:
        return
    to_low, to_high = sigma + _hypot(x - low, y), sigma + _hypot(x - high, y)
    first, last = net.faces[ahead // 3, ahead % 3], net.faces[ahead // 3, (ahead % 3 + 1) % 3]
    slack, margin = 1.0 - 1e-10, JOINED * JOIN * length  # joined windows' distances are as wrong as that
    to_low, to_high = to_low - margin, to_high - margin
    if b.distance[first] + high < to_high * slack or b.distance[last] + length - low < to_low * slack:
        return
    if behind >= 0:
        if on_left:
            if b.distance[behind] + _hypot(bx - low, by) < to_low * slack:
                return
        elif b.distance[behind] + _hypot(bx - high, by) < to_high * slack:
            return
    if _joined(b, ahead, length, x, y, sigma, low, high):
        return
    far = sigma + max(_hypot(x, y), _hypot(x - length, y))
    _push(b, far, ahead, x, y, sigma, low, high)


@_compiled
def _enter(b: Buffers, face: int) -> None:
    if not b.seen[face]:
        b.seen[face] = True
        b.entered[b.counts[N_FACES]] = face
        b.counts[N_FACES] += 1


@_compiled
def _fan(net: Net, b: Buffers, corner: int, start: float, stop: float, sigma: float, cutoff: float) -> None:
    """Windows of a vertex that became a source, into one face: directions start..stop from its corner's first edge."""
    face, k = corner // 3, corner % 3
    _enter(b, face)
    angle, side = net.angle[corner], net.length[corner]
    ahead, behind = 3 * face + (k + 1) % 3, 3 * face + (k + 2) % 3
    if start <= 1e-9:
        _reach(net, b, net.faces[face, (k + 1) % 3], sigma + side, ahead, net.angle[ahead], cutoff)
    if stop >= angle - 1e-9:
        _reach(net, b, net.faces[face, (k + 2) % 3], sigma + net.length[behind], behind, 0.0, cutoff)
    length, corner_angle = net.length[ahead], net.angle[ahead]
    high = length if start <= 1e-9 else length - side * math.sin(start) / math.sin(start + corner_angle)
    low = 0.0 if stop >= angle - 1e-9 else length - side * math.sin(stop) / math.sin(stop + corner_angle)
    _offer(net, b, ahead, length - net.apex[ahead, 0], -net.apex[ahead, 1], sigma,
           min(max(low, 0.0), length), min(max(high, 0.0), length), -1, 0.0, 0.0, False, cutoff)  # fmt: skip


@_compiled
def _bend(net: Net, b: Buffers, vertex: int, sigma: float, cutoff: float) -> None:
    """Let ways bend at a vertex: by π or more from the way it was reached by, to either side."""
    total, home = net.total[vertex], b.corner[vertex]
    twin, angle = net.twin, net.angle
    end = total - math.pi
    # To the left: over the last edge of each corner, which leads to its face's halfedge before.
    passed, corner = angle[home] - b.bearing[vertex], home
    while True:
        corner = twin[3 * (corner // 3) + (corner + 2 - 3 * (corner // 3)) % 3]
        if corner < 0 or corner == home or passed >= end:
            break
        if passed + angle[corner] > math.pi:
            _fan(net, b, corner, max(math.pi - passed, 0.0), min(end - passed, angle[corner]), sigma, cutoff)
        passed += angle[corner]
    if total != np.inf:
        return
    passed, corner = b.bearing[vertex], home
    while True:
        across = twin[corner]
        if across < 0:
            break
        corner = 3 * (across // 3) + (across - 3 * (across // 3) + 1) % 3
        if corner == home:
            break
        if passed + angle[corner] > math.pi:
            _fan(net, b, corner, 0.0, angle[corner] - max(math.pi - passed, 0.0), sigma, cutoff)
        passed += angle[corner]


@_compiled
def _across(x: float, y: float, at: float, ox: float, oy: float, ux: float, uy: float) -> float:
    """Where on the line from (ox, oy) along (ux, uy) the ray from (x, y) through (at, 0) meets it."""
    rx, ry = at - x, -y
    below = ux * ry - uy * rx
    if below == 0.0:
        return 0.0
    return ((x - ox) * ry - (y - oy) * rx) / below


@_compiled
def _pass_on(net: Net, b: Buffers, h: int, x: float, y: float, sigma: float, low: float, high: float,
             cutoff: float) -> None:  # fmt: skip
    """Carry a window across the face of its halfedge."""
    face = h // 3
    k = h - 3 * face
    length, cx, cy = net.length[h], net.apex[h, 0], net.apex[h, 1]
    left, right = 3 * face + (k + 2) % 3, 3 * face + (k + 1) % 3
    a, to, c = net.faces[face, k], net.faces[face, (k + 1) % 3], net.faces[face, (k + 2) % 3]
    gate = x + (cx - x) * (-y / (cy - y)) if cy - y > 0.0 else x
    go_left, go_right = gate > low, gate < high
    if gate < low - 1e-9 * length or gate > high + 1e-9 * length:
        # A way with a bend, if not the shortest: no vertex is lost between two windows' rounding.
        end = low if gate < low else high
        found = sigma + _hypot(x - end, y) + _hypot(cx - end, cy)
        if found < b.distance[c] * (1.0 - 1e-7):
            _reach(net, b, c, found, left, math.atan2(cy * abs(end), cx * (cx - end) + cy * cy), cutoff)
    else:
        found = sigma + _hypot(cx - x, cy - y)
        if found < b.distance[c]:
            # Angle at c from its first edge, c to a, to the way back to (x, y).
            bearing = 0.0
            if net.total[c] > 0.0:
                bearing = math.atan2(abs(cy * (x - cx) - cx * (y - cy)), -cx * (x - cx) - cy * (y - cy))
            _reach(net, b, c, found, left, bearing, cutoff)
        if found < b.best[h]:
            if b.best[h] == np.inf:
                b.edges[b.counts[N_EDGES]] = h
                b.counts[N_EDGES] += 1
            b.best[h], b.gate[h] = found, gate
        elif go_left and go_right and found > b.best[h] * (1.0 + 1e-10) + JOINED * JOIN * length:
            if gate < b.gate[h]:
                go_right = False
            else:
                go_left = False
    if go_left:
        side = net.length[left]
        ux, uy = cx / side, cy / side
        n0 = 0.0 if low <= 0.0 else max(_across(x, y, low, 0.0, 0.0, ux, uy), 0.0)
        n1 = side if gate <= high else min(_across(x, y, high, 0.0, 0.0, ux, uy), side)
        _offer(net, b, left, x * ux + y * uy, min(ux * y - uy * x, 0.0), sigma, n0, n1,
               to, length * ux, -uy * length, True, cutoff)  # fmt: skip
    if go_right:
        side = net.length[right]
        ux, uy = (length - cx) / side, -cy / side
        n0 = 0.0 if gate >= low else max(_across(x, y, low, cx, cy, ux, uy), 0.0)
        n1 = side if high >= length else min(_across(x, y, high, cx, cy, ux, uy), side)
        _offer(net, b, right, (x - cx) * ux + (y - cy) * uy, min(ux * (y - cy) - uy * (x - cx), 0.0), sigma, n0, n1,
               a, -cx * ux - cy * uy, ux * -cy + uy * cx, False, cutoff)  # fmt: skip


@_compiled
def _place(net: Net, h: int, weights: Floats) -> tuple[float, float]:
    """The point with barycentric `weights` of a face, in the frame of its halfedge h."""
    k = h % 3
    one, two = weights[(k + 1) % 3], weights[(k + 2) % 3]
    return one * net.length[h] + two * net.apex[h, 0], two * net.apex[h, 1]


@_compiled
def _start_at_vertex(net: Net, b: Buffers, home: int, cutoff: float) -> None:
    """Let ways begin at the vertex of a corner, into all its faces."""
    vertex = net.faces[home // 3, home % 3]
    if b.distance[vertex] == np.inf:
        b.vertices[b.counts[N_VERTICES]] = vertex
        b.counts[N_VERTICES] += 1
    b.distance[vertex] = 0.0
    for kind in range(KINDS):
        if net.ends[vertex, kind]:
            b.to_boundary[kind] = 0.0
    corner = home
    while True:
        _fan(net, b, corner, 0.0, net.angle[corner], 0.0, cutoff)
        corner = net.twin[3 * (corner // 3) + (corner - 3 * (corner // 3) + 2) % 3]
        if corner < 0 or corner == home:
            break
    if corner == home:
        return
    corner = home
    while net.twin[corner] >= 0:
        across = net.twin[corner]
        corner = 3 * (across // 3) + (across - 3 * (across // 3) + 1) % 3
        if corner == home:
            break
        _fan(net, b, corner, 0.0, net.angle[corner], 0.0, cutoff)


@_compiled
def start(net: Net, b: Buffers, face: int, weights: Floats, cutoff: float) -> None:
    """Add a source: the point with barycentric `weights` of `face`."""
    _enter(b, face)
    for k in range(3):
        if weights[k] > 1.0 - 4.0 * RIM:
            _start_at_vertex(net, b, 3 * face + k, cutoff)
            return
    total = max(weights[0], RIM) + max(weights[1], RIM) + max(weights[2], RIM)
    for k in range(3):
        h = 3 * face + k
        one, two = max(weights[(k + 1) % 3], RIM) / total, max(weights[(k + 2) % 3], RIM) / total
        px, py = one * net.length[h] + two * net.apex[h, 0], two * net.apex[h, 1]
        _reach(net, b, net.faces[face, k], _hypot(px, py), h, math.atan2(py, px), cutoff)
        _offer(net, b, h, net.length[h] - px, -py, 0.0, 0.0, net.length[h], -1, 0.0, 0.0, False, cutoff)


@_compiled
def spread(net: Net, b: Buffers, cutoff: float, first: Ints, following: Ints, weights: Floats,
           found: Floats) -> bool:  # fmt: skip
    """Propagate what `start` put up; False if there were too few windows.

    first : (F,) a target in each face, -1 for none.  following : (T,) the next target in the same face, or -1.
    weights : (T, 3) of the targets.  found : (T,) takes their distances, where they are less than what it holds.
    """
    mask, turn = len(b.head) - 1, 0
    while b.counts[WAITING] > 0 and b.counts[FULL] == 0:
        while b.head[turn & mask] < 0:
            turn += 1
        b.counts[SLOT] = turn
        slot = turn & mask
        i = b.head[slot]
        b.head[slot] = b.link[i]
        h = b.edge[i]
        x, y, sigma, low, high = b.window[i, X], b.window[i, Y], b.window[i, SIGMA], b.window[i, LOW], b.window[i, HIGH]
        b.link[i] = b.counts[FREE]
        b.counts[FREE] = i
        b.counts[WAITING] -= 1
        if h < 0:
            if b.distance[-1 - h] == sigma:
                _bend(net, b, -1 - h, sigma, cutoff)
            continue
        if b.last[h] == i:
            b.last[h] = -1
        face = h // 3
        _enter(b, face)
        target = first[face]
        while target >= 0:
            px, py = _place(net, h, weights[target])
            at = x + (px - x) * (-y / (py - y)) if py - y > 0.0 else x
            margin = 1e-9 * net.length[h]
            way = sigma + _hypot(px - x, py - y)
            if at < low - margin or at > high + margin:  # a way with a bend: no point is lost between two windows
                end = low if at < low else high
                way = sigma + _hypot(x - end, y) + _hypot(px - end, py)
            found[target] = min(found[target], way)
            target = following[target]
        _pass_on(net, b, h, x, y, sigma, low, high, cutoff)
    return bool(b.counts[FULL] == 0)


@_compiled
def clear(b: Buffers) -> None:
    """Forget a propagation."""
    for i in range(b.counts[N_VERTICES]):
        b.distance[b.vertices[i]] = np.inf
    for i in range(b.counts[N_EDGES]):
        b.best[b.edges[i]] = np.inf
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


@_compiled
def _share_below(r: float, d0: float, d1: float, d2: float) -> float:
    """Share of a triangle's area where a linear function with corner values d0 <= d1 <= d2 is below r."""
    if r <= d0:
        return 0.0
    if r >= d2:
        return 1.0
    if r < d1:
        return (r - d0) * (r - d0) / ((d1 - d0) * (d2 - d0))
    return 1.0 - (d2 - r) * (d2 - r) / ((d2 - d0) * (d2 - d1))


@_compiled
def _add_triangle(area: float, squares: float, p: float, q: float, r: float, edges: Floats, out: Floats) -> None:
    """Add a triangle with corner distances p, q, r and this sum of squared edges to the annuli."""
    # Distances are those of a cone: between the corners they lie below the plane through them, on average by this.
    across = max(squares - (p - q) ** 2 - (q - r) ** 2 - (r - p) ** 2, 0.0)
    dip = across / max(8.0 * (p + q + r), 1e-300)
    d0, d2 = min(p, q, r) - dip, max(p, q, r) - dip
    d1 = max(min(p, q), min(max(p, q), r)) - dip
    before = 0.0
    for i in range(1, len(edges)):
        below = 0.0 if edges[i] <= d0 else _share_below(edges[i], d0, d1, d2)
        out[i - 1] += area * (below - before)
        before = below
        if edges[i] >= d2:
            return


@_compiled
def _add_face(net: Net, b: Buffers, face: int, edges: Floats, out: Floats) -> None:
    """Add the face's area to the annuli; near the source, where distances bend most, in small triangles."""
    h = 3 * face
    area = 0.5 * net.length[h] * net.apex[h, 1]
    p, q, r = b.distance[net.faces[face, 0]], b.distance[net.faces[face, 1]], b.distance[net.faces[face, 2]]
    ab, bc, ca = net.length[h], net.length[h + 1], net.length[h + 2]
    longest, squares = max(ab, bc, ca), ab * ab + bc * bc + ca * ca
    nearest = min(p, q, r)
    if nearest > edges[-1] + longest:
        return
    far = nearest + longest  # a corner that the front did not come to lies beyond the cut-off
    p, q, r = min(p, far), min(q, far), min(r, far)
    if nearest > NEAR_EDGES * longest:
        _add_triangle(area, squares, p, q, r, edges, out)
        return
    n = NEAR_CUTS
    part, grid = area / (n * n), b.grid
    for i in range(n + 1):
        for j in range(n + 1 - i):
            # The distance from one point in the plane is exactly this, between any three corners' distances.
            u, v, w = (n - i - j) / n, i / n, j / n
            square = u * p * p + v * q * q + w * r * r - u * v * ab * ab - v * w * bc * bc - w * u * ca * ca
            grid[i, j] = math.sqrt(max(square, 0.0))
    for i in range(n):
        for j in range(n - i):
            _add_triangle(part, squares / (n * n), grid[i, j], grid[i + 1, j], grid[i, j + 1], edges, out)
            if i + j < n - 1:
                _add_triangle(part, squares / (n * n), grid[i + 1, j], grid[i + 1, j + 1], grid[i, j + 1], edges, out)


@_compiled
def survey(net: Net, b: Buffers, begin: int, faces: NDArray[np.int64], weights: Floats, cutoff: float,
           target_faces: NDArray[np.int64], target_weights: Floats, first: Ints, following: Ints, edges: Floats,
           distances: Floats, to_boundary: Floats, areas: Floats) -> int:  # fmt: skip
    """Fill in distances (S, T) to targets, (S, KINDS) to boundaries, and areas (S, B) of annuli, from source `begin`.

    Returns how many sources are done: fewer than all when windows ran out, and then nothing is left in the buffers.
    """
    for s in range(begin, len(faces)):
        face = faces[s]
        start(net, b, face, weights[s], cutoff)
        if not spread(net, b, cutoff, first, following, target_weights, distances[s]):
            clear(b)
            distances[s] = np.inf
            return s
        for t in range(len(target_faces)):
            other = target_faces[t]
            if other == face:
                px, py = _place(net, 3 * face, weights[s])
                qx, qy = _place(net, 3 * face, target_weights[t])
                distances[s, t] = _hypot(px - qx, py - qy)
            elif b.seen[other]:
                for k in range(3):
                    px, py = _place(net, 3 * other + k, target_weights[t])
                    distances[s, t] = min(distances[s, t], b.distance[net.faces[other, k]] + _hypot(px, py))
            if distances[s, t] > cutoff:
                distances[s, t] = np.inf
        for kind in range(KINDS):
            to_boundary[s, kind] = b.to_boundary[kind] if b.to_boundary[kind] <= cutoff else np.inf
        if len(edges) > 1:
            for i in range(b.counts[N_FACES]):
                _add_face(net, b, b.entered[i], edges, areas[s])
        clear(b)
    return len(faces)


@_compiled
def vertex_distances(net: Net, b: Buffers, begin: int, faces: NDArray[np.int64], weights: Floats, cutoff: float,
                     no_target: Ints, nothing: Floats, out: Floats) -> int:  # fmt: skip
    """Fill out (S, V), which holds inf, with the distances of the vertices from each source; returns as `survey`.

    no_target : (F,) of -1.  nothing : (0, 3).
    """
    for s in range(begin, len(faces)):
        start(net, b, faces[s], weights[s], cutoff)
        if not spread(net, b, cutoff, no_target, no_target, nothing, out[s]):
            clear(b)
            return s
        _read_out(b, cutoff, out[s])
    return len(faces)


@_compiled
def distances_from_any(net: Net, b: Buffers, faces: NDArray[np.int64], weights: Floats, cutoff: float,
                       no_target: Ints, nothing: Floats, out: Floats) -> bool:  # fmt: skip
    """Fill out (V,), which holds inf, with the distances of the vertices from the nearest source; False as `spread`."""
    for s in range(len(faces)):
        start(net, b, faces[s], weights[s], cutoff)
    if spread(net, b, cutoff, no_target, no_target, nothing, out):
        _read_out(b, cutoff, out)
        return True
    clear(b)
    return False


@_compiled
def _read_out(b: Buffers, cutoff: float, out: Floats) -> None:
    for i in range(b.counts[N_VERTICES]):
        if b.distance[b.vertices[i]] <= cutoff:
            out[b.vertices[i]] = b.distance[b.vertices[i]]
    clear(b)
