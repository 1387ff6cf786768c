"""Geodesic distances from sources to targets, vertices and boundaries: compiled kernels (numba, kept in its cache).

The method is described in `windows`. `distances` calls these and owns the buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.jit import compiled_bare, inlined
from membrain_cloud.mesh.geodesics.annuli import add_face
from membrain_cloud.mesh.geodesics.state import (
    FREE,
    FULL,
    KINDS,
    LENGTH,
    N_FACES,
    N_VERTICES,
    SLOT,
    START,
    TWIN,
    WAITING,
    Buffers,
    Floats,
    Ints,
    Net,
    clear,
)
from membrain_cloud.mesh.geodesics.windows import HIGH, LOW, SIGMA, X, Y, bend, enter, fan, hypot, pass_on, place, start

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled_bare
def spread(net: Net, b: Buffers, cutoff: float, first: Ints, following: Ints, weights: Floats,
           found: Floats) -> bool:  # fmt: skip
    """Propagate what `start` put up; False if there were too few windows.

    first : (F,) a target in each face, -1 for none.  following : (T,) the next target in the same face, or -1.
    weights : (T, 3) of the targets.  found : (T,) takes their distances, where they are less than what it holds.
    """
    checked = 0
    while True:
        _empty_buckets(net, b, cutoff, first, following, weights, found)
        if b.counts[FULL] or checked == b.counts[N_FACES]:
            return bool(b.counts[FULL] == 0)
        checked = _fill_gaps(net, b, cutoff, checked)


@inlined
def _fill_gaps(net: Net, b: Buffers, cutoff: float, checked: int) -> int:
    """Let ways begin at the nearest corner of faces left out beside those reached: joined rays may part there.

    checked : how many of the reached faces were looked at before; returns how many are now.
    """
    last = b.counts[N_FACES]
    for i in range(checked, last):
        for h in range(3 * b.entered[i], 3 * b.entered[i] + 3):
            twin = net.links[h, TWIN]
            if twin < 0 or b.seen[twin // 3]:
                continue
            nearest = twin - twin % 3
            for corner in range(nearest + 1, nearest + 3):
                if b.distance[net.links[corner, START]] < b.distance[net.links[nearest, START]]:
                    nearest = corner
            known = b.distance[net.links[nearest, START]]
            if known < cutoff:
                fan(net, b, nearest, 0.0, net.angle[nearest], known, cutoff)
    return last


@inlined
def _empty_buckets(net: Net, b: Buffers, cutoff: float, first: Ints, following: Ints, weights: Floats,
                   found: Floats) -> None:  # fmt: skip
    mask, turn = len(b.head) - 1, b.counts[SLOT]
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
                bend(net, b, -1 - h, sigma, cutoff)
            continue
        if b.last[h] == i:
            b.last[h] = -1
        face = h // 3
        enter(b, face)
        target = first[face]
        while target >= 0:
            px, py = place(net, h, weights[target])
            at = x + (px - x) * (-y / (py - y)) if py - y > 0.0 else x
            margin = 1e-9 * net.shape[h, LENGTH]
            way = sigma + hypot(px - x, py - y)
            if at < low - margin or at > high + margin:  # a way with a bend: no point is lost between two windows
                end = low if at < low else high
                way = sigma + hypot(x - end, y) + hypot(px - end, py)
            found[target] = min(found[target], way)
            target = following[target]
        pass_on(net, b, h, x, y, sigma, low, high, cutoff)


@compiled_bare
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
                px, py = place(net, 3 * face, weights[s])
                qx, qy = place(net, 3 * face, target_weights[t])
                distances[s, t] = hypot(px - qx, py - qy)
            elif b.seen[other]:
                for k in range(3):
                    px, py = place(net, 3 * other + k, target_weights[t])
                    distances[s, t] = min(distances[s, t], b.distance[net.links[3 * other + k, START]] + hypot(px, py))
            if distances[s, t] > cutoff:
                distances[s, t] = np.inf
        for kind in range(KINDS):
            to_boundary[s, kind] = b.to_boundary[kind] if b.to_boundary[kind] <= cutoff else np.inf
        if len(edges) > 1:
            for i in range(b.counts[N_FACES]):
                add_face(net, b, b.entered[i], edges, areas[s])
        clear(b)
    return len(faces)


@compiled_bare
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


@compiled_bare
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


@compiled_bare
def _read_out(b: Buffers, cutoff: float, out: Floats) -> None:
    for i in range(b.counts[N_VERTICES]):
        if b.distance[b.vertices[i]] <= cutoff:
            out[b.vertices[i]] = b.distance[b.vertices[i]]
    clear(b)
