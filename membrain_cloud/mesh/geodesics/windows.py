r"""Windows of straight ways, carried over the faces of a mesh: the inner part of the geodesic distances.

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
- Windows are joined only where the joined one's rays lead no less far outwards. Gaps that open all the same, narrow
  ones behind a vertex, are closed in two ways: ways may go on from a vertex of more than 2π a little before π, and a
  face that no window came into is entered from its nearest corner (`geodesics`).
- Windows wait in buckets of distance, a ring that is longer than any step; a bucket's windows come in any order.

Against distances without joining (spheres, a torus, a plane with a hole, egg boxes and a rough sheet of 2 000 to 6 000
vertices, 10^6 pairs each) the largest relative error was 1.1e-3, the mean at most 4e-5. On raw marching cubes, whose
slivers make the reference as uncertain, one pair in 30 000 differed by more than 2e-3.
"""

from __future__ import annotations

import math

import numpy as np

from membrain_cloud.jit import compiled_bare, inlined
from membrain_cloud.mesh.geodesics.state import (
    AX,
    AY,
    FREE,
    FULL,
    GATE,
    KINDS,
    LEAST,
    LENGTH,
    N_EDGES,
    N_FACES,
    N_VERTICES,
    PER_LENGTH,
    SLOT,
    START,
    TWIN,
    WAITING,
    Buffers,
    Floats,
    Net,
)

X, Y, SIGMA, LOW, HIGH = range(5)
# A source is held so far (in barycentric weight) from its face's rim: rays along an edge have no place in a window.
RIM = 1e-7
# Windows at one edge are joined where that changes no distance on it by more than this share of its length; as many
# times that may distances be wrong where windows are dropped for shorter ways.
JOIN, JOINED = 2.5e-3, 5.0
# Angle from the way to a vertex at which ways may go on from it: joined windows' ways are not quite straight.
STRAIGHT = math.pi - 0.05


@inlined
def hypot(x: float, y: float) -> float:
    return math.sqrt(x * x + y * y)  # lengths of a mesh neither overflow nor vanish: no need of hypot's care


@inlined
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


@inlined
def _joined(b: Buffers, ahead: int, length: float, x: float, y: float, sigma: float, low: float, high: float,
            to_low: float, to_high: float) -> bool:  # fmt: skip
    """Join the window to the one that waits at the halfedge, if they touch and one source can stand for both.

    To a margin, and leaving no gap: at ends that become the joined window's own, its rays lead no less far outwards.
    to_low, to_high : distances of the window's ends.
    """
    i = b.last[ahead]
    if i < 0:
        return False
    w = b.window[i]
    margin = JOIN * length
    wlow, whigh = w[LOW], w[HIGH]
    if low > whigh + 1e-9 * length or high < wlow - 1e-9 * length:
        return False
    wx, wy, wsigma = w[X], w[Y], w[SIGMA]
    if high - low <= whigh - wlow:
        if abs(wsigma + hypot(wx - low, wy) - to_low) > margin or abs(wsigma + hypot(wx - high, wy) - to_high) > margin:
            return False
        if (low < wlow and (wx - low) * y > (x - low) * wy) or (high > whigh and (wx - high) * y < (x - high) * wy):
            return False
    else:
        gone = wsigma + hypot(wx - wlow, wy) - sigma - hypot(x - wlow, y)
        if abs(gone) > margin or abs(wsigma + hypot(wx - whigh, wy) - sigma - hypot(x - whigh, y)) > margin:
            return False
        if (wlow < low and (x - wlow) * wy > (wx - wlow) * y) or (whigh > high and (x - whigh) * wy < (wx - whigh) * y):
            return False
        w[X], w[Y], w[SIGMA] = x, y, sigma
    w[LOW], w[HIGH] = min(wlow, low), max(whigh, high)
    return True


@inlined
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
        _push(b, found + net.shape[corner, LENGTH], -1 - vertex, 0.0, 0.0, found, 0.0, 0.0)


@inlined
def _offer(net: Net, b: Buffers, out: int, x: float, y: float, sigma: float, low: float, high: float, behind: int,
           bx: float, by: float, on_left: bool, cutoff: float) -> None:  # fmt: skip
    """Put up a window on the twin of `out`, in the twin's frame, unless a way over a corner of its face is shorter.

    behind : the face's corner opposite of the edge, at (bx, by); it lies beyond `high` if on_left, else beyond `low`.
    """
    ahead, length = net.links[out, TWIN], net.shape[out, LENGTH]
    if not high - low > 1e-10 * length:
        return
    far = sigma + math.sqrt(max(x * x, (length - x) * (length - x)) + y * y)
    if ahead < 0 or far >= cutoff:
        key = sigma + hypot(x - min(max(x, low), high), y)
        if ahead < 0:
            b.to_boundary[-1 - ahead] = min(b.to_boundary[-1 - ahead], key)
        if ahead < 0 or key >= cutoff:
            return
    to_low, to_high = sigma + hypot(x - low, y), sigma + hypot(x - high, y)
    # A little less, for rounding; and joined windows' distances are as wrong as the margin.
    slack, margin = 1.0 - 1e-10, JOINED * JOIN * length
    at_low, at_high = (to_low - margin) * slack, (to_high - margin) * slack
    first, last = net.links[ahead, START], net.links[out, START]
    if b.distance[first] + high < at_high or b.distance[last] + length - low < at_low:
        return
    if behind >= 0:
        spare = (at_low if on_left else at_high) - b.distance[behind]
        across = bx - (low if on_left else high)
        if spare > 0.0 and across * across + by * by < spare * spare:
            return
    if _joined(b, ahead, length, x, y, sigma, low, high, to_low, to_high):
        return
    _push(b, far, ahead, x, y, sigma, low, high)


@inlined
def enter(b: Buffers, face: int) -> None:
    if not b.seen[face]:
        b.seen[face] = True
        b.entered[b.counts[N_FACES]] = face
        b.counts[N_FACES] += 1


@compiled_bare
def fan(net: Net, b: Buffers, corner: int, start: float, stop: float, sigma: float, cutoff: float) -> None:
    """Windows of a vertex that became a source, into one face: directions start..stop from its corner's first edge."""
    face, k = corner // 3, corner % 3
    enter(b, face)
    angle, side = net.angle[corner], net.shape[corner, LENGTH]
    ahead, behind = 3 * face + (k + 1) % 3, 3 * face + (k + 2) % 3
    if start <= 1e-9:
        _reach(net, b, net.links[ahead, START], sigma + side, ahead, net.angle[ahead], cutoff)
    if stop >= angle - 1e-9:
        _reach(net, b, net.links[behind, START], sigma + net.shape[behind, LENGTH], behind, 0.0, cutoff)
    length, corner_angle = net.shape[ahead, LENGTH], net.angle[ahead]
    high = length if start <= 1e-9 else length - side * math.sin(start) / math.sin(start + corner_angle)
    low = 0.0 if stop >= angle - 1e-9 else length - side * math.sin(stop) / math.sin(stop + corner_angle)
    _offer(net, b, ahead, length - net.shape[ahead, AX], -net.shape[ahead, AY], sigma,
           min(max(low, 0.0), length), min(max(high, 0.0), length), -1, 0.0, 0.0, False, cutoff)  # fmt: skip


@compiled_bare
def bend(net: Net, b: Buffers, vertex: int, sigma: float, cutoff: float) -> None:
    """Let ways bend at a vertex: by π or more from the way it was reached by, to either side."""
    total, home = net.total[vertex], b.corner[vertex]
    angle = net.angle
    end = total - STRAIGHT
    # To the left: over the last edge of each corner, which leads to its face's halfedge before.
    passed, corner = angle[home] - b.bearing[vertex], home
    while True:
        corner = net.links[3 * (corner // 3) + (corner + 2 - 3 * (corner // 3)) % 3, TWIN]
        if corner < 0 or corner == home or passed >= end:
            break
        if passed + angle[corner] > STRAIGHT:
            fan(net, b, corner, max(STRAIGHT - passed, 0.0), min(end - passed, angle[corner]), sigma, cutoff)
        passed += angle[corner]
    if total != np.inf:
        return
    passed, corner = b.bearing[vertex], home
    while True:
        across = net.links[corner, TWIN]
        if across < 0:
            break
        corner = 3 * (across // 3) + (across - 3 * (across // 3) + 1) % 3
        if corner == home:
            break
        if passed + angle[corner] > STRAIGHT:
            fan(net, b, corner, 0.0, angle[corner] - max(STRAIGHT - passed, 0.0), sigma, cutoff)
        passed += angle[corner]


@inlined
def _across(x: float, y: float, at: float, ox: float, oy: float, ux: float, uy: float) -> float:
    """Where on the line from (ox, oy) along (ux, uy) the ray from (x, y) through (at, 0) meets it."""
    rx, ry = at - x, -y
    below = ux * ry - uy * rx
    if below == 0.0:
        return 0.0
    return ((x - ox) * ry - (y - oy) * rx) / below


@inlined
def pass_on(net: Net, b: Buffers, h: int, x: float, y: float, sigma: float, low: float, high: float,
             cutoff: float) -> None:  # fmt: skip
    """Carry a window across the face of its halfedge."""
    k = h % 3
    left, right = h - 1 if k else h + 2, h + 1 if k < 2 else h - 2
    length, cx, cy = net.shape[h, LENGTH], net.shape[h, AX], net.shape[h, AY]
    a, to, c = net.links[h, START], net.links[right, START], net.links[left, START]
    gate = x + (cx - x) * (-y / (cy - y)) if cy - y > 0.0 else x
    go_left, go_right = gate > low, gate < high
    if gate < low - 1e-9 * length or gate > high + 1e-9 * length:
        # A way with a bend, if not the shortest: no vertex is lost between two windows' rounding.
        end = low if gate < low else high
        found = sigma + hypot(x - end, y) + hypot(cx - end, cy)
        if found < b.distance[c] * (1.0 - 1e-7):
            _reach(net, b, c, found, left, math.atan2(cy * abs(end), cx * (cx - end) + cy * cy), cutoff)
    else:
        found = sigma + hypot(cx - x, cy - y)
        if found < b.distance[c]:
            # Angle at c from its first edge, c to a, to the way back to (x, y).
            bearing = 0.0
            if net.total[c] > 0.0:
                bearing = math.atan2(abs(cy * (x - cx) - cx * (y - cy)), -cx * (x - cx) - cy * (y - cy))
            _reach(net, b, c, found, left, bearing, cutoff)
        if found < b.best[h, LEAST]:
            if b.best[h, LEAST] == np.inf:
                b.edges[b.counts[N_EDGES]] = h
                b.counts[N_EDGES] += 1
            b.best[h, LEAST], b.best[h, GATE] = found, gate
        elif go_left and go_right and found > b.best[h, LEAST] * (1.0 + 1e-10) + JOINED * JOIN * length:
            if gate < b.best[h, GATE]:
                go_right = False
            else:
                go_left = False
    if go_left:
        side = net.shape[left, LENGTH]
        ux, uy = cx * net.shape[left, PER_LENGTH], cy * net.shape[left, PER_LENGTH]
        n0 = 0.0 if low <= 0.0 else max(_across(x, y, low, 0.0, 0.0, ux, uy), 0.0)
        n1 = side if gate <= high else min(_across(x, y, high, 0.0, 0.0, ux, uy), side)
        _offer(net, b, left, x * ux + y * uy, min(ux * y - uy * x, 0.0), sigma, n0, n1,
               to, length * ux, -uy * length, True, cutoff)  # fmt: skip
    if go_right:
        side = net.shape[right, LENGTH]
        ux, uy = (length - cx) * net.shape[right, PER_LENGTH], -cy * net.shape[right, PER_LENGTH]
        n0 = 0.0 if gate >= low else max(_across(x, y, low, cx, cy, ux, uy), 0.0)
        n1 = side if high >= length else min(_across(x, y, high, cx, cy, ux, uy), side)
        _offer(net, b, right, (x - cx) * ux + (y - cy) * uy, min(ux * (y - cy) - uy * (x - cx), 0.0), sigma, n0, n1,
               a, -cx * ux - cy * uy, ux * -cy + uy * cx, False, cutoff)  # fmt: skip


@inlined
def place(net: Net, h: int, weights: Floats) -> tuple[float, float]:
    """The point with barycentric `weights` of a face, in the frame of its halfedge h."""
    k = h % 3
    one, two = weights[(k + 1) % 3], weights[(k + 2) % 3]
    return one * net.shape[h, LENGTH] + two * net.shape[h, AX], two * net.shape[h, AY]


@compiled_bare
def _start_at_vertex(net: Net, b: Buffers, home: int, cutoff: float) -> None:
    """Let ways begin at the vertex of a corner, into all its faces."""
    vertex = net.links[home, START]
    if b.distance[vertex] == np.inf:
        b.vertices[b.counts[N_VERTICES]] = vertex
        b.counts[N_VERTICES] += 1
    b.distance[vertex] = 0.0
    for kind in range(KINDS):
        if net.ends[vertex, kind]:
            b.to_boundary[kind] = 0.0
    corner = home
    while True:
        fan(net, b, corner, 0.0, net.angle[corner], 0.0, cutoff)
        corner = net.links[3 * (corner // 3) + (corner - 3 * (corner // 3) + 2) % 3, TWIN]
        if corner < 0 or corner == home:
            break
    if corner == home:
        return
    corner = home
    while net.links[corner, TWIN] >= 0:
        across = net.links[corner, TWIN]
        corner = 3 * (across // 3) + (across - 3 * (across // 3) + 1) % 3
        if corner == home:
            break
        fan(net, b, corner, 0.0, net.angle[corner], 0.0, cutoff)


@compiled_bare
def start(net: Net, b: Buffers, face: int, weights: Floats, cutoff: float) -> None:
    """Add a source: the point with barycentric `weights` of `face`."""
    enter(b, face)
    for k in range(3):
        if weights[k] > 1.0 - 4.0 * RIM:
            _start_at_vertex(net, b, 3 * face + k, cutoff)
            return
    total = max(weights[0], RIM) + max(weights[1], RIM) + max(weights[2], RIM)
    for k in range(3):
        h = 3 * face + k
        one, two = max(weights[(k + 1) % 3], RIM) / total, max(weights[(k + 2) % 3], RIM) / total
        px, py = one * net.shape[h, LENGTH] + two * net.shape[h, AX], two * net.shape[h, AY]
        _reach(net, b, net.links[h, START], hypot(px, py), h, math.atan2(py, px), cutoff)
        _offer(net, b, h, net.shape[h, LENGTH] - px, -py, 0.0, 0.0, net.shape[h, LENGTH], -1, 0.0, 0.0, False, cutoff)
