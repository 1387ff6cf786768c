r"""Compiled kernels of the geodesic distances (numba; compiled at the first call, kept in numba's cache).

After "Geodesic Distance Computation via Virtual Source Propagation" (Trettner, Bommes, Kobbelt, CGF 40(5), 2021):
halfedges keep *virtual sources*, points from which distances are measured straight, in the plane of a face.

                  c                The frame of a halfedge h: a at (0, 0), b at (length, 0), its face above the x axis.
                /   \              A label (x, y, sigma, low, high) says: the way into the face comes straight from
          left /     \ right       (x, y), y <= 0, which itself is sigma away from the true source, and low..high is
              / face  \            what is seen of the edge from there.
             a == h => b
               S = (x, y)

- A halfedge has SLOTS samples, evenly spread, and each keeps the label that brings it nearest (the paper keeps one): an
  edge behind a vertex is reached on either side of that vertex, by two different labels.
- A label is handed on through `left` and `right` by turning it into their frames (unfolding the face). What is not seen
  through low..high is reached by a bend at the end of low..high, which becomes the new virtual source. So distances are
  lengths of paths, never too short, were it not for the slack:
- low..high is cut at an edge's ends, but `slack` edge lengths beyond them. Past a flat or convex vertex the straight
  continuation is right or too long by itself, and keeps a label alive that a strict cut would lose (a plane comes out
  exact); past a saddle it is too short, so the slack shrinks there, and there is none at the end of the surface.
- Slots are settled in the order of their samples' distances, and again when a better label turns up; the front stops at
  the cut-off, and at edges that were reached sooner from their other face.

Against exact distances (spheres, tori, planes, egg boxes, smoothed marching cubes of 2 500 to 13 000 vertices) the mean
relative error was 0.3e-4 to 4e-4, the largest of all pairs 2.4e-2 (between near neighbours about a hole).

All buffers belong to the caller, are as long as the mesh, and only what a source reached is cleared after it.
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
SLOTS = 2
# Faces nearer to the source than this many edge lengths are cut in NEAR_CUTS² when annuli are integrated.
NEAR_EDGES, NEAR_CUTS = 4.0, 4


class Net(NamedTuple):
    """What the kernels know of the mesh: halfedge h = 3 * face + k runs from corner k to corner k + 1 of its face."""

    faces: NDArray[np.int32]  # (F, 3)
    twin: NDArray[np.int32]  # (3F,) the opposite halfedge, -1 at a boundary
    length: NDArray[np.float64]  # (3F,)
    apex: NDArray[np.float64]  # (3F, 2) the face's third corner in the halfedge's frame
    slack: NDArray[np.float64]  # (V,) how far past a vertex a source is believed, in edge lengths


class Buffers(NamedTuple):
    """The state of one propagation; empty (inf, -1, 0, False) between two of them."""

    label: NDArray[np.float64]  # (S, 5), S = 3F * SLOTS; slot = SLOTS * halfedge + sample
    reach: NDArray[np.float64]  # (S,) distance of the sample
    heap: NDArray[np.int32]  # (S,) slots to settle
    place: NDArray[np.int32]  # (S,) where in the heap, -1 if not
    touched: NDArray[np.int32]  # (S,) slots that bear a label
    distance: NDArray[np.float64]  # (V,)
    counts: NDArray[np.int64]  # (2,) length of heap, of touched
    seen: NDArray[np.bool_]  # (F,) already integrated for this source


def new_buffers(n_vertices: int, n_faces: int) -> Buffers:
    slots = 3 * n_faces * SLOTS
    return Buffers(
        label=np.zeros((slots, 5)),
        reach=np.full(slots, np.inf),
        heap=np.zeros(slots, np.int32),
        place=np.full(slots, -1, np.int32),
        touched=np.zeros(slots, np.int32),
        distance=np.full(n_vertices, np.inf),
        counts=np.zeros(2, np.int64),
        seen=np.zeros(n_faces, np.bool_),
    )


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache can be written: compile in every process
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def _hypot(x: float, y: float) -> float:
    return math.sqrt(x * x + y * y)  # lengths of a mesh neither overflow nor vanish: no need of hypot's care


@_compiled
def _rise(heap: Ints, place: Ints, reach: Floats, i: int) -> None:
    h = heap[i]
    while i > 0:
        parent = (i - 1) >> 1
        if reach[heap[parent]] <= reach[h]:
            break
        heap[i] = heap[parent]
        place[heap[i]] = i
        i = parent
    heap[i] = h
    place[h] = i


@_compiled
def _pop(heap: Ints, place: Ints, reach: Floats, n: int) -> int:
    """Take the nearest slot from a heap of n."""
    top, h = heap[0], heap[n - 1]
    n -= 1
    i = 0
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and reach[heap[child + 1]] < reach[heap[child]]:
            child += 1
        if reach[heap[child]] >= reach[h]:
            break
        heap[i] = heap[child]
        place[heap[i]] = i
        i = child
    heap[i] = h
    place[h] = i
    place[top] = -1
    return top


@_compiled
def _offer(label: Floats, reach: Floats, heap: Ints, place: Ints, touched: Ints, counts: Ints, slot: int, at: float,
           x: float, y: float, sigma: float, low: float, high: float) -> None:  # fmt: skip
    """Give the slot this label if it brings its sample, `at` on its edge, nearer; put it up for settling."""
    gate = min(max(at, low), high)
    found = sigma + _hypot(x - gate, y) + abs(gate - at)
    if not found < reach[slot] * (1.0 - 1e-12):
        return
    if reach[slot] == np.inf:
        touched[counts[1]] = slot
        counts[1] += 1
    reach[slot] = found
    label[slot, X], label[slot, Y], label[slot, SIGMA] = x, min(y, 0.0), sigma
    label[slot, LOW], label[slot, HIGH] = low, high
    if place[slot] < 0:
        heap[counts[0]] = slot
        place[slot] = counts[0]
        counts[0] += 1
    _rise(heap, place, reach, place[slot])


@_compiled
def _settled_beside(label: Floats, place: Ints, reach: Floats, slot: int) -> bool:
    """Whether another slot of this halfedge has handed on the very same label."""
    first = slot - slot % SLOTS
    for other in range(first, first + SLOTS):
        if (
            other != slot
            and reach[other] < np.inf
            and place[other] < 0
            and label[other, X] == label[slot, X]
            and label[other, Y] == label[slot, Y]
            and label[other, SIGMA] == label[slot, SIGMA]
        ):
            return True
    return False


@_compiled
def _crossing(x: float, y: float, px: float, py: float) -> float:
    """Where the line from the source (x, y <= 0) to the point (px, py >= 0) crosses the edge's line."""
    if py - y <= 0.0:
        return x
    return x + (px - x) * (-y / (py - y))


@_compiled
def _way(x: float, y: float, sigma: float, low: float, high: float, px: float, py: float) -> float:
    """Length of the way from the true source through low..high to the point (px, py)."""
    at = _crossing(x, y, px, py)
    if low <= at <= high:
        return sigma + _hypot(px - x, py - y)
    bend = min(max(at, low), high)
    return sigma + _hypot(bend - x, y) + _hypot(px - bend, py)


@_compiled
def _limit(x: float, y: float, qx: float, qy: float, open_end: float) -> float:
    """Where the ray from the source (x, y) past the point (qx, qy) meets the edge's line; `open_end` if it does not."""
    if qy - y <= 1e-12 * abs(y):
        return open_end
    return x + (qx - x) * (-y / (qy - y))


@_compiled
def _hand_on(label: Floats, reach: Floats, heap: Ints, place: Ints, touched: Ints, counts: Ints, slot: int, out: int,
             ahead: int, cutoff: float, length: float, ox: float, oy: float, tx: float, ty: float) -> None:  # fmt: skip
    """Offer a slot's label to halfedge `ahead`, the twin of `out`: from (ox, oy) to (tx, ty) in the slot's frame."""
    x, y, sigma, low, high = label[slot, X], label[slot, Y], label[slot, SIGMA], label[slot, LOW], label[slot, HIGH]
    norm = _hypot(tx - ox, ty - oy)
    ux, uy = (tx - ox) / norm, (ty - oy) / norm
    nx, ny = (x - ox) * ux + (y - oy) * uy, ux * (y - oy) - uy * (x - ox)
    for j in range(SLOTS):
        share = (j + 0.5) / SLOTS
        new, at = SLOTS * ahead + j, share * norm
        px, py = ox + share * (tx - ox), oy + share * (ty - oy)
        # The same point seen from the other side: where that is nearer, no shortest path leads on through here.
        nearer = min(reach[new], reach[SLOTS * out + SLOTS - 1 - j] * (1.0 + 1e-9), cutoff + norm)
        if sigma + _hypot(px - x, py - y) >= nearer:
            continue
        cross = _crossing(x, y, px, py)
        if low <= cross <= high:
            if ny <= 1e-9 * norm:  # else the edge is seen from behind: the front comes to it from its other face
                new_low, new_high = -np.inf, np.inf
                if y < 0.0:
                    new_low = _limit(nx, ny, (low - ox) * ux - oy * uy, -ux * oy - uy * (low - ox), -np.inf)
                    new_high = _limit(nx, ny, (high - ox) * ux - oy * uy, -ux * oy - uy * (high - ox), np.inf)
                _offer(label, reach, heap, place, touched, counts, new, at, nx, ny, sigma, new_low, new_high)
            continue
        seen = min(max(cross, low), high)
        bend = min(max(seen, 0.0), length)
        far = sigma + _hypot(seen - x, y) + abs(seen - bend)
        if far + _hypot(px - bend, py) < nearer:
            _offer(label, reach, heap, place, touched, counts, new, at,
                   (bend - ox) * ux - oy * uy, -ux * oy - uy * (bend - ox), far, -np.inf, np.inf)  # fmt: skip


@_compiled
def propagate(net: Net, buffers: Buffers, face: int, weights: Floats, cutoff: float) -> None:
    """Spread the distances from the point with barycentric `weights` of `face` as far as `cutoff`."""
    # Plain locals: taking an array out of a tuple costs a reference count each time.
    faces, twin, lengths, apex, slack = net.faces, net.twin, net.length, net.apex, net.slack
    label, reach, heap, place = buffers.label, buffers.reach, buffers.heap, buffers.place
    touched, counts, distance = buffers.touched, buffers.counts, buffers.distance
    for k in range(3):
        h = 3 * face + k
        px = weights[(k + 1) % 3] * lengths[h] + weights[(k + 2) % 3] * apex[h, 0]
        py = weights[(k + 2) % 3] * apex[h, 1]
        distance[faces[face, k]] = _hypot(px, py)
        if twin[h] >= 0:
            for j in range(SLOTS):
                _offer(label, reach, heap, place, touched, counts, SLOTS * twin[h] + j, (j + 0.5) / SLOTS * lengths[h],
                       lengths[h] - px, -py, 0.0, -np.inf, np.inf)  # fmt: skip
    while counts[0] > 0:
        s = _pop(heap, place, reach, counts[0])
        counts[0] -= 1
        h = s // SLOTS
        f, k = h // 3, h % 3
        length, cx, cy = lengths[h], apex[h, 0], apex[h, 1]
        x, y, sigma, low, high = label[s, X], label[s, Y], label[s, SIGMA], label[s, LOW], label[s, HIGH]
        low = label[s, LOW] = max(low, -slack[faces[f, k]] * length)
        high = label[s, HIGH] = min(high, length * (1.0 + slack[faces[f, (k + 1) % 3]]))
        if _settled_beside(label, place, reach, s):
            continue
        c = faces[f, (k + 2) % 3]
        distance[c] = min(distance[c], _way(x, y, sigma, low, high, cx, cy))
        left, right = 3 * f + (k + 2) % 3, 3 * f + (k + 1) % 3
        if twin[left] >= 0:
            _hand_on(label, reach, heap, place, touched, counts, s, left, twin[left], cutoff, length, 0.0, 0.0, cx, cy)
        if twin[right] >= 0:
            _hand_on(label, reach, heap, place, touched, counts, s, right, twin[right], cutoff, length,
                     cx, cy, length, 0.0)  # fmt: skip


@_compiled
def clear(net: Net, buffers: Buffers, face: int) -> None:
    """Forget the propagation that began in `face`."""
    for i in range(buffers.counts[1]):
        slot = buffers.touched[i]
        buffers.reach[slot] = np.inf
        reached = slot // (3 * SLOTS)
        buffers.seen[reached] = False
        for k in range(3):
            buffers.distance[net.faces[reached, k]] = np.inf
    for k in range(3):
        buffers.distance[net.faces[face, k]] = np.inf
    buffers.seen[face] = False
    buffers.counts[1] = 0


@_compiled
def distance_at(net: Net, buffers: Buffers, source_face: int, source: Floats, face: int, u: float, v: float,
                w: float) -> float:  # fmt: skip
    """Distance of the point with barycentric weights (u, v, w) of `face`; inf where the front did not come."""
    h = 3 * face
    length, cx, cy = net.length[h], net.apex[h, 0], net.apex[h, 1]
    if face == source_face:
        dx = (v - source[1]) * length + (w - source[2]) * cx
        return _hypot(dx, (w - source[2]) * cy)
    label, reach = buffers.label, buffers.reach
    best = np.inf
    for k in range(3):
        b, c = (v, w) if k == 0 else ((w, u) if k == 1 else (u, v))
        h = 3 * face + k
        px, py = b * net.length[h] + c * net.apex[h, 0], c * net.apex[h, 1]
        best = min(best, buffers.distance[net.faces[face, k]] + _hypot(px, py))
        for s in range(SLOTS * h, SLOTS * (h + 1)):
            if reach[s] < np.inf:
                x, y, sigma, low, high = label[s, X], label[s, Y], label[s, SIGMA], label[s, LOW], label[s, HIGH]
                best = min(best, _way(x, y, sigma, low, high, px, py))
    return best


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
def _add_face(net: Net, buffers: Buffers, source_face: int, source: Floats, face: int,
              edges: Floats, out: Floats, grid: Floats) -> None:  # fmt: skip
    """Add the face's area to the annuli; near the source, where distances bend most, in small triangles."""
    area = 0.5 * net.length[3 * face] * net.apex[3 * face, 1]
    p, q, r = (buffers.distance[net.faces[face, 0]], buffers.distance[net.faces[face, 1]],
               buffers.distance[net.faces[face, 2]])  # fmt: skip
    ab, bc, ca = net.length[3 * face], net.length[3 * face + 1], net.length[3 * face + 2]
    longest, squares = max(ab, bc, ca), ab * ab + bc * bc + ca * ca
    nearest = min(p, q, r)
    if nearest > edges[-1]:
        return
    if nearest > NEAR_EDGES * longest:
        far = nearest + longest  # a corner beyond the front is nearer than this, and beyond the cut-off
        _add_triangle(area, squares, min(p, far), min(q, far), min(r, far), edges, out)
        return
    n = NEAR_CUTS
    part = area / (n * n)
    for i in range(n + 1):
        for j in range(n + 1 - i):
            grid[i, j] = distance_at(net, buffers, source_face, source, face, (n - i - j) / n, i / n, j / n)
    for i in range(n):
        for j in range(n - i):
            _add_triangle(part, squares / (n * n), grid[i, j], grid[i + 1, j], grid[i, j + 1], edges, out)
            if i + j < n - 1:
                _add_triangle(part, squares / (n * n), grid[i + 1, j], grid[i + 1, j + 1], grid[i, j + 1], edges, out)


@_compiled
def _annuli(net: Net, buffers: Buffers, source_face: int, source: Floats,
            edges: Floats, out: Floats, grid: Floats) -> None:  # fmt: skip
    buffers.seen[source_face] = True
    _add_face(net, buffers, source_face, source, source_face, edges, out, grid)
    for i in range(buffers.counts[1]):
        face = buffers.touched[i] // (3 * SLOTS)
        if not buffers.seen[face]:
            buffers.seen[face] = True
            _add_face(net, buffers, source_face, source, face, edges, out, grid)


@_compiled
def vertex_distances(net: Net, buffers: Buffers, faces: NDArray[np.int64], weights: Floats, cutoff: float,
                     out: Floats) -> None:  # fmt: skip
    """Fill out (S, V), which holds inf, with the distances of the vertices from each source."""
    for s in range(len(faces)):
        propagate(net, buffers, faces[s], weights[s], cutoff)
        for k in range(3):
            vertex = net.faces[faces[s], k]
            out[s, vertex] = buffers.distance[vertex]
        for i in range(buffers.counts[1]):
            for k in range(3):
                vertex = net.faces[buffers.touched[i] // (3 * SLOTS), k]
                out[s, vertex] = buffers.distance[vertex]
        clear(net, buffers, faces[s])
        for vertex in range(out.shape[1]):
            if out[s, vertex] > cutoff:
                out[s, vertex] = np.inf


@_compiled
def survey(net: Net, buffers: Buffers, faces: NDArray[np.int64], weights: Floats, cutoff: float,
           target_faces: NDArray[np.int64], target_weights: Floats, boundary: NDArray[np.bool_],
           edges: Floats, distances: Floats, to_boundary: Floats,
           areas: Floats) -> None:  # fmt: skip
    """Fill in distances (S, T) to targets, (S,) to the nearest boundary vertex, and areas (S, B) of annuli."""
    grid = np.empty((NEAR_CUTS + 1, NEAR_CUTS + 1))
    for s in range(len(faces)):
        face, source = faces[s], weights[s]
        propagate(net, buffers, face, source, cutoff)
        for t in range(len(target_faces)):
            w = target_weights[t]
            found = distance_at(net, buffers, face, source, target_faces[t], w[0], w[1], w[2])
            distances[s, t] = found if found <= cutoff else np.inf
        nearest = np.inf
        for k in range(3):
            if boundary[net.faces[face, k]]:
                nearest = min(nearest, buffers.distance[net.faces[face, k]])
        for i in range(buffers.counts[1]):
            for k in range(3):
                vertex = net.faces[buffers.touched[i] // (3 * SLOTS), k]
                if boundary[vertex]:
                    nearest = min(nearest, buffers.distance[vertex])
        to_boundary[s] = nearest if nearest <= cutoff else np.inf
        if len(edges) > 1:
            _annuli(net, buffers, face, source, edges, areas[s], grid)
        clear(net, buffers, face)
