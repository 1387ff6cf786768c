"""Propagation of windows from sources to targets, vertices and boundaries: compiled kernels.

The method is described in `windows`; `solver` calls these kernels and owns the buffers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from membrain_cloud.jit import compiled_bare, inlined
from membrain_cloud.mesh.geodesics.annuli import add_face_area
from membrain_cloud.mesh.geodesics.pseudosources import Sector, add_source, bend_at_vertex, emit_sector
from membrain_cloud.mesh.geodesics.state import (
    KINDS,
    Buffers,
    Floats,
    HalfedgeMesh,
    Points,
    Results,
    Targets,
    clear,
)
from membrain_cloud.mesh.geodesics.windows import (
    MERGE,
    MERGED,
    OppositeCorner,
    VertexPath,
    Window,
    crossing,
    distance_at,
    hypot,
    load_window,
    mark_face,
    pass_window,
    update_vertex,
)


class _Line(NamedTuple):
    """A line through (x, y) along the unit vector (ux, uy)."""

    x: float
    y: float
    ux: float
    uy: float


@inlined
def _meets_line(window: Window, at: float, line: _Line) -> float:
    """Return where on a line the ray from a window's source through its halfedge at `at` meets it."""
    rx, ry = at - window.x, -window.y
    cross = line.ux * ry - line.uy * rx
    if cross == 0.0:
        return 0.0
    return ((window.x - line.x) * ry - (window.y - line.y) * rx) / cross


@inlined
def local_position(mesh: HalfedgeMesh, halfedge: int, weights: Floats) -> tuple[float, float]:
    """Return a point of a face in the frame of one of its halfedges.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    halfedge : int
        Halfedge of the face.
    weights : (3,) float64
        Barycentric weights of the point.

    Returns
    -------
    (float, float)
        x and y, Å.
    """
    k, edge = halfedge % 3, mesh.shape[halfedge]
    one, two = weights[(k + 1) % 3], weights[(k + 2) % 3]
    return one * edge.length + two * edge.apex_x, two * edge.apex_y


@inlined
def _pass_left(mesh: HalfedgeMesh, buffers: Buffers, h: int, window: Window, gate: float, cutoff: float) -> None:
    """Pass the part of a window left of its ray to the apex, which crosses the halfedge at `gate`."""
    left, right = h - 1 if h % 3 else h + 2, h + 1 if h % 3 < 2 else h - 2
    edge, out = mesh.shape[h], mesh.shape[left]
    ux, uy = edge.apex_x * out.inverse_length, edge.apex_y * out.inverse_length
    line = _Line(0.0, 0.0, ux, uy)
    low = 0.0 if window.low <= 0.0 else max(_meets_line(window, window.low, line), 0.0)
    high = out.length if gate <= window.high else min(_meets_line(window, window.high, line), out.length)
    x, y = window.x * ux + window.y * uy, min(ux * window.y - uy * window.x, 0.0)
    corner = OppositeCorner(mesh.links[right].start, edge.length * ux, -uy * edge.length, True)
    pass_window(mesh, buffers, left, Window(x, y, window.sigma, low, high), corner, cutoff)


@inlined
def _pass_right(mesh: HalfedgeMesh, buffers: Buffers, h: int, window: Window, gate: float, cutoff: float) -> None:
    """Pass the part of a window right of its ray to the apex, which crosses the halfedge at `gate`."""
    right = h + 1 if h % 3 < 2 else h - 2
    edge, out = mesh.shape[h], mesh.shape[right]
    length, cx, cy = edge.length, edge.apex_x, edge.apex_y
    ux, uy = (length - cx) * out.inverse_length, -cy * out.inverse_length
    line = _Line(cx, cy, ux, uy)
    low = 0.0 if gate >= window.low else max(_meets_line(window, window.low, line), 0.0)
    high = out.length if window.high >= length else min(_meets_line(window, window.high, line), out.length)
    dx, dy = window.x - cx, window.y - cy
    x, y = dx * ux + dy * uy, min(ux * dy - uy * dx, 0.0)
    corner = OppositeCorner(mesh.links[h].start, -cx * ux - cy * uy, ux * -cy + uy * cx, False)
    pass_window(mesh, buffers, right, Window(x, y, window.sigma, low, high), corner, cutoff)


@inlined
def _reach_apex_bent(mesh: HalfedgeMesh, buffers: Buffers, h: int, window: Window, gate: float, cutoff: float) -> None:
    """Reach the apex by a path that bends at the window's nearer end: rounding may leave no window that sees it."""
    left, edge = h - 1 if h % 3 else h + 2, mesh.shape[h]
    cx, cy = edge.apex_x, edge.apex_y
    end = window.low if gate < window.low else window.high
    distance, apex = distance_at(window, end) + hypot(cx - end, cy), mesh.links[left].start
    if distance < buffers.distance[apex] * (1.0 - 1e-7):
        bearing = math.atan2(cy * abs(end), cx * (cx - end) + cy * cy)
        update_vertex(mesh, buffers, apex, VertexPath(distance, left, bearing), cutoff)


@inlined
def _reach_apex(mesh: HalfedgeMesh, buffers: Buffers, h: int, window: Window, cutoff: float) -> float:
    """Reach the apex by the straight path through the window; return its length."""
    left, edge = h - 1 if h % 3 else h + 2, mesh.shape[h]
    cx, cy = edge.apex_x, edge.apex_y
    distance: float = window.sigma + hypot(cx - window.x, cy - window.y)
    apex = mesh.links[left].start
    if distance < buffers.distance[apex]:
        bearing = 0.0
        if mesh.total_angle[apex] > 0.0:  # from the apex's first edge to the path back
            dx, dy = window.x - cx, window.y - cy
            bearing = math.atan2(abs(cy * dx - cx * dy), -cx * dx - cy * dy)
        update_vertex(mesh, buffers, apex, VertexPath(distance, left, bearing), cutoff)
    return distance


@inlined
def _propagate_window(mesh: HalfedgeMesh, buffers: Buffers, h: int, window: Window, cutoff: float) -> None:
    """Carry a window across the face of its halfedge."""
    edge, nearest = mesh.shape[h], buffers.nearest[h]
    length = edge.length
    gate = crossing(window, edge.apex_x, edge.apex_y)
    go_left, go_right = gate > window.low, gate < window.high
    if gate < window.low - 1e-9 * length or gate > window.high + 1e-9 * length:
        _reach_apex_bent(mesh, buffers, h, window, gate, cutoff)
    else:
        distance = _reach_apex(mesh, buffers, h, window, cutoff)
        if distance < nearest.distance:
            if nearest.distance == np.inf:
                counts = buffers.counts[0]
                buffers.halfedges[counts.halfedges] = h
                counts.halfedges += 1
            nearest.distance = distance
            nearest.crossing = gate
        elif go_left and go_right and distance > nearest.distance * (1.0 + 1e-10) + MERGED * MERGE * length:
            if gate < nearest.crossing:
                go_right = False
            else:
                go_left = False
    if go_left:
        _pass_left(mesh, buffers, h, window, gate, cutoff)
    if go_right:
        _pass_right(mesh, buffers, h, window, gate, cutoff)


@inlined
def _reach_targets(mesh: HalfedgeMesh, h: int, window: Window, targets: Targets, distances: Floats) -> None:
    """Reach the targets in the face of a window's halfedge; `distances` (T,) takes those that are less than before."""
    target = targets.first[h // 3]
    while target >= 0:
        x, y = local_position(mesh, h, targets.weights[target])
        at = crossing(window, x, y)
        margin = 1e-9 * mesh.shape[h].length
        distance = window.sigma + hypot(x - window.x, y - window.y)
        if at < window.low - margin or at > window.high + margin:  # a bent path: no target between two windows is lost
            end = window.low if at < window.low else window.high
            distance = distance_at(window, end) + hypot(x - end, y)
        distances[target] = min(distances[target], distance)
        target = targets.following[target]


@inlined
def _empty_buckets(mesh: HalfedgeMesh, buffers: Buffers, cutoff: float, targets: Targets, distances: Floats) -> None:
    """Process the queue in order of distance, until it is empty or windows run out."""
    counts = buffers.counts[0]
    mask, slot = len(buffers.bucket) - 1, counts.slot
    while counts.waiting > 0 and counts.overflow == 0:
        while buffers.bucket[slot & mask] < 0:
            slot += 1
        counts.slot = slot
        i = buffers.bucket[slot & mask]
        buffers.bucket[slot & mask] = buffers.next_window[i]
        h, window = buffers.edge[i], load_window(buffers, i)
        buffers.next_window[i] = counts.free_window
        counts.free_window = i
        counts.waiting -= 1
        if h < 0:
            if buffers.distance[-1 - h] == window.sigma:
                bend_at_vertex(mesh, buffers, -1 - h, window.sigma, cutoff)
            continue
        if buffers.last[h] == i:
            buffers.last[h] = -1
        mark_face(buffers, h // 3)
        _reach_targets(mesh, h, window, targets, distances)
        _propagate_window(mesh, buffers, h, window, cutoff)


@inlined
def _enter_missed_faces(mesh: HalfedgeMesh, buffers: Buffers, cutoff: float, checked: int) -> int:
    """Start paths at the nearest corner of faces that were missed beside those reached: merged rays may part there.

    `checked` is how many of the reached faces were checked before; returns how many are now.
    """
    counts = buffers.counts[0]
    last: int = counts.faces
    for i in range(checked, last):
        for h in range(3 * buffers.faces[i], 3 * buffers.faces[i] + 3):
            twin = mesh.links[h].twin
            if twin < 0 or buffers.face_reached[twin // 3]:
                continue
            nearest = twin - twin % 3
            for corner in range(nearest + 1, nearest + 3):
                if buffers.distance[mesh.links[corner].start] < buffers.distance[mesh.links[nearest].start]:
                    nearest = corner
            distance = buffers.distance[mesh.links[nearest].start]
            if distance < cutoff:
                emit_sector(mesh, buffers, Sector(nearest, 0.0, mesh.angle[nearest]), distance, cutoff)
    return last


@compiled_bare
def _propagate(mesh: HalfedgeMesh, buffers: Buffers, cutoff: float, targets: Targets, distances: Floats) -> bool:
    """Propagate what `add_source` queued; return False if windows ran out.

    `distances` (T,) takes the distances of the targets where they are less than what it holds.
    """
    checked, counts = 0, buffers.counts[0]
    while True:
        _empty_buckets(mesh, buffers, cutoff, targets, distances)
        if counts.overflow or checked == counts.faces:
            return bool(counts.overflow == 0)
        checked = _enter_missed_faces(mesh, buffers, cutoff, checked)


@inlined
def _finish_targets(
    mesh: HalfedgeMesh, buffers: Buffers, face: int, weights: Floats, targets: Targets, distances: Floats
) -> None:
    """Complete the distances (T,) from a source in `face`: straight ones within it, others over corners of a face."""
    for t in range(len(targets.faces)):
        other = targets.faces[t]
        if other == face:
            px, py = local_position(mesh, 3 * face, weights)
            qx, qy = local_position(mesh, 3 * face, targets.weights[t])
            distances[t] = hypot(px - qx, py - qy)
        elif buffers.face_reached[other]:
            for k in range(3):
                px, py = local_position(mesh, 3 * other + k, targets.weights[t])
                over_corner = buffers.distance[mesh.links[3 * other + k].start] + hypot(px, py)
                distances[t] = min(distances[t], over_corner)


@compiled_bare
def survey(  # noqa: PLR0917 - numba takes no keyword-only parameters
    mesh: HalfedgeMesh,
    buffers: Buffers,
    begin: int,
    sources: Points,
    targets: Targets,
    cutoff: float,
    edges: Floats,
    results: Results,
) -> int:
    """Compute distances to targets and boundaries and areas of annuli, from source number `begin` on.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Cleared buffers; they are cleared again at the end.
    begin : int
        First source to do.
    sources : Points
        S sources.
    targets : Targets
        T targets.
    cutoff : float
        Distance at which the propagation ends, Å.
    edges : (B + 1,) float64
        Rising bounds of the annuli, Å; fewer than two for no areas.
    results : Results
        Filled in place.

    Returns
    -------
    int
        How many sources are done: fewer than S when windows ran out.
    """
    for s in range(begin, len(sources.faces)):
        face, distances = sources.faces[s], results.distances[s]
        add_source(mesh, buffers, face, sources.weights[s], cutoff)
        if not _propagate(mesh, buffers, cutoff, targets, distances):
            clear(buffers)
            distances[:] = np.inf
            return s
        _finish_targets(mesh, buffers, face, sources.weights[s], targets, distances)
        for t in range(len(distances)):
            if distances[t] > cutoff:
                distances[t] = np.inf
        for kind in range(KINDS):
            nearest = buffers.to_boundary[kind]
            results.to_boundary[s, kind] = nearest if nearest <= cutoff else np.inf
        if len(edges) > 1:
            for i in range(buffers.counts[0].faces):
                add_face_area(mesh, buffers, buffers.faces[i], edges, results.areas[s])
        clear(buffers)
    return len(sources.faces)


@compiled_bare
def vertex_distances(  # noqa: PLR0917 - numba takes no keyword-only parameters
    mesh: HalfedgeMesh, buffers: Buffers, begin: int, sources: Points, no_targets: Targets, cutoff: float, out: Floats
) -> int:
    """Compute the distances of all vertices from each source, from source number `begin` on.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Cleared buffers; they are cleared again at the end.
    begin : int
        First source to do.
    sources : Points
        S sources.
    no_targets : Targets
        Of no target.
    cutoff : float
        Distance at which the propagation ends, Å.
    out : (S, V) float64
        Infinite at first; takes the distances in Å.

    Returns
    -------
    int
        As of `survey`.
    """
    for s in range(begin, len(sources.faces)):
        add_source(mesh, buffers, sources.faces[s], sources.weights[s], cutoff)
        if not _propagate(mesh, buffers, cutoff, no_targets, out[s]):
            clear(buffers)
            return s
        _read_distances(buffers, cutoff, out[s])
    return len(sources.faces)


@compiled_bare
def distances_from_any(
    mesh: HalfedgeMesh, buffers: Buffers, sources: Points, no_targets: Targets, cutoff: float, out: Floats
) -> bool:
    """Compute the distances of all vertices from the nearest source.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Cleared buffers; they are cleared again at the end.
    sources : Points
        S sources.
    no_targets : Targets
        Of no target.
    cutoff : float
        Distance at which the propagation ends, Å.
    out : (V,) float64
        Infinite at first; takes the distances in Å.

    Returns
    -------
    bool
        False if windows ran out; nothing is written then.
    """
    for s in range(len(sources.faces)):
        add_source(mesh, buffers, sources.faces[s], sources.weights[s], cutoff)
    if _propagate(mesh, buffers, cutoff, no_targets, out):
        _read_distances(buffers, cutoff, out)
        return True
    clear(buffers)
    return False


@compiled_bare
def _read_distances(buffers: Buffers, cutoff: float, out: Floats) -> None:
    """Write the distances of the vertices reached to `out` (V,), and clear the buffers."""
    for i in range(buffers.counts[0].vertices):
        vertex = buffers.vertices[i]
        if buffers.distance[vertex] <= cutoff:
            out[vertex] = buffers.distance[vertex]
    clear(buffers)
