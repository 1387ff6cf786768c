"""Vertices as sources of straight paths: the true source at a vertex, and vertices at which shortest paths bend."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from membrain_cloud.jit import compiled_bare, inlined
from membrain_cloud.mesh.geodesics.state import KINDS, Buffers, Floats, HalfedgeMesh
from membrain_cloud.mesh.geodesics.windows import (
    NO_CORNER,
    VertexPath,
    Window,
    hypot,
    mark_face,
    pass_window,
    update_vertex,
)

# A source keeps this barycentric weight from the rim of its face: rays along an edge have no place in a window.
RIM = 1e-7
# Angle to the path that reached a vertex at which paths may continue from it: those of merged windows are not quite
# straight.
STRAIGHT = math.pi - 0.05


class Sector(NamedTuple):
    """Directions from a corner into its face.

    Attributes
    ----------
    corner : int
        The corner, as the halfedge that starts from it.
    begin, end : float
        First and last angle from that halfedge, radians.
    """

    corner: int
    begin: float
    end: float


@inlined
def _corner_left(mesh: HalfedgeMesh, corner: int) -> int:
    """Return the next corner about the same vertex, over its face's last edge; negative at a boundary."""
    face = corner // 3
    twin: int = mesh.links[3 * face + (corner - 3 * face + 2) % 3].twin
    return twin


@inlined
def _corner_right(mesh: HalfedgeMesh, corner: int) -> int:
    """Return the next corner about the same vertex the other way, over its face's first edge; -1 at a boundary."""
    twin = mesh.links[corner].twin
    if twin < 0:
        return -1
    face = twin // 3
    right: int = 3 * face + (twin - 3 * face + 1) % 3
    return right


@compiled_bare
def emit_sector(mesh: HalfedgeMesh, buffers: Buffers, sector: Sector, sigma: float, cutoff: float) -> None:
    """Send straight paths from a corner into its face.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Changed in place.
    sector : Sector
        The corner and the directions.
    sigma : float
        Distance of the corner from the true source, Å.
    cutoff : float
        Distance at which the propagation ends, Å.
    """
    corner, begin, end = sector.corner, sector.begin, sector.end
    face, k = corner // 3, corner % 3
    mark_face(buffers, face)
    angle, side = mesh.angle[corner], mesh.shape[corner].length
    ahead, behind = 3 * face + (k + 1) % 3, 3 * face + (k + 2) % 3
    whole_begin, whole_end = begin <= 1e-9, end >= angle - 1e-9
    if whole_begin:
        path = VertexPath(sigma + side, ahead, mesh.angle[ahead])
        update_vertex(mesh, buffers, mesh.links[ahead].start, path, cutoff)
    if whole_end:
        path = VertexPath(sigma + mesh.shape[behind].length, behind, 0.0)
        update_vertex(mesh, buffers, mesh.links[behind].start, path, cutoff)
    edge, next_angle = mesh.shape[ahead], mesh.angle[ahead]
    length = edge.length
    high = length if whole_begin else length - side * math.sin(begin) / math.sin(begin + next_angle)
    low = 0.0 if whole_end else length - side * math.sin(end) / math.sin(end + next_angle)
    low, high = min(max(low, 0.0), length), min(max(high, 0.0), length)
    window = Window(length - edge.apex_x, -edge.apex_y, sigma, low, high)
    pass_window(mesh, buffers, ahead, window, NO_CORNER, cutoff)


@compiled_bare
def bend_at_vertex(mesh: HalfedgeMesh, buffers: Buffers, vertex: int, sigma: float, cutoff: float) -> None:
    """Let paths bend at a vertex: by an angle of π or more from the path that reached it, to either side.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Changed in place.
    vertex : int
        A vertex whose total angle is above 2π, or on a boundary.
    sigma : float
        Its distance from the true source, Å.
    cutoff : float
        Distance at which the propagation ends, Å.
    """
    total, home = mesh.total_angle[vertex], buffers.corner[vertex]
    end = total - STRAIGHT
    passed, corner = mesh.angle[home] - buffers.bearing[vertex], home
    while True:
        corner = _corner_left(mesh, corner)
        if corner < 0 or corner == home or passed >= end:
            break
        angle = mesh.angle[corner]
        if passed + angle > STRAIGHT:
            sector = Sector(corner, max(STRAIGHT - passed, 0.0), min(end - passed, angle))
            emit_sector(mesh, buffers, sector, sigma, cutoff)
        passed += angle
    if total != np.inf:
        return
    passed, corner = buffers.bearing[vertex], home
    while True:
        corner = _corner_right(mesh, corner)
        if corner < 0 or corner == home:
            break
        angle = mesh.angle[corner]
        if passed + angle > STRAIGHT:
            sector = Sector(corner, 0.0, angle - max(STRAIGHT - passed, 0.0))
            emit_sector(mesh, buffers, sector, sigma, cutoff)
        passed += angle


@compiled_bare
def _add_vertex_source(mesh: HalfedgeMesh, buffers: Buffers, home: int, cutoff: float) -> None:
    """Add the vertex of a corner as a source, into all faces of its fan."""
    vertex = mesh.links[home].start
    if buffers.distance[vertex] == np.inf:
        counts = buffers.counts[0]
        buffers.vertices[counts.vertices] = vertex
        counts.vertices += 1
    buffers.distance[vertex] = 0.0
    for kind in range(KINDS):
        if mesh.on_boundary[vertex, kind]:
            buffers.to_boundary[kind] = 0.0
    corner = home
    while True:
        emit_sector(mesh, buffers, Sector(corner, 0.0, mesh.angle[corner]), 0.0, cutoff)
        corner = _corner_left(mesh, corner)
        if corner < 0 or corner == home:
            break
    if corner == home:
        return
    corner = _corner_right(mesh, home)
    while corner >= 0 and corner != home:
        emit_sector(mesh, buffers, Sector(corner, 0.0, mesh.angle[corner]), 0.0, cutoff)
        corner = _corner_right(mesh, corner)


@compiled_bare
def add_source(mesh: HalfedgeMesh, buffers: Buffers, face: int, weights: Floats, cutoff: float) -> None:
    """Add a point of a face as a source.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        Changed in place.
    face : int
        The face.
    weights : (3,) float64
        Barycentric weights of the point.
    cutoff : float
        Distance at which the propagation ends, Å.
    """
    mark_face(buffers, face)
    for k in range(3):
        if weights[k] > 1.0 - 4.0 * RIM:
            _add_vertex_source(mesh, buffers, 3 * face + k, cutoff)
            return
    total = max(weights[0], RIM) + max(weights[1], RIM) + max(weights[2], RIM)
    for k in range(3):
        h = 3 * face + k
        edge = mesh.shape[h]
        one, two = max(weights[(k + 1) % 3], RIM) / total, max(weights[(k + 2) % 3], RIM) / total
        x, y = one * edge.length + two * edge.apex_x, two * edge.apex_y
        path = VertexPath(hypot(x, y), h, math.atan2(y, x))
        update_vertex(mesh, buffers, mesh.links[h].start, path, cutoff)
        window = Window(edge.length - x, -y, 0.0, 0.0, edge.length)
        pass_window(mesh, buffers, h, window, NO_CORNER, cutoff)
