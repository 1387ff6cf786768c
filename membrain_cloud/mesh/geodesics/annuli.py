"""Areas of annuli: how much of a surface lies within each interval of distances from a source, face by face."""

from __future__ import annotations

import math
from typing import NamedTuple

from membrain_cloud.jit import inlined
from membrain_cloud.mesh.geodesics.state import NEAR_CUTS, NEAR_EDGES, Buffers, Floats, HalfedgeMesh


class _Triangle(NamedTuple):
    """A triangle's area, the sum of its squared edges (Å²), and the distances of its corners from the source (Å)."""

    area: float
    squares: float
    p: float
    q: float
    r: float


@inlined
def _share_below(r: float, d0: float, d1: float, d2: float) -> float:
    """Return the share of a triangle where a linear function with corner values d0 <= d1 <= d2 is below r."""
    if r <= d0:
        return 0.0
    if r >= d2:
        return 1.0
    if r < d1:
        return (r - d0) * (r - d0) / ((d1 - d0) * (d2 - d0))
    return 1.0 - (d2 - r) * (d2 - r) / ((d2 - d0) * (d2 - d1))


@inlined
def _add_triangle(triangle: _Triangle, edges: Floats, areas: Floats) -> None:
    """Add a triangle to the annuli."""
    p, q, r = triangle.p, triangle.q, triangle.r
    # Distances are those of a cone: between the corners they lie below the plane through them, on average by this.
    across = max(triangle.squares - (p - q) ** 2 - (q - r) ** 2 - (r - p) ** 2, 0.0)
    dip = across / max(8.0 * (p + q + r), 1e-300)
    d0, d2 = min(p, q, r) - dip, max(p, q, r) - dip
    d1 = max(min(p, q), min(max(p, q), r)) - dip
    i, before = 1, 0.0
    while i < len(edges) and edges[i] <= d0:
        i += 1
    while i < len(edges):
        below = _share_below(edges[i], d0, d1, d2)
        areas[i - 1] += triangle.area * (below - before)
        if edges[i] >= d2:
            return
        before = below
        i += 1


@inlined
def add_face_area(mesh: HalfedgeMesh, buffers: Buffers, face: int, edges: Floats, areas: Floats) -> None:
    """Add the area of a face to the annuli; near the source, where distances bend most, in small triangles.

    Parameters
    ----------
    mesh : HalfedgeMesh
        The mesh.
    buffers : Buffers
        A finished propagation.
    face : int
        The face.
    edges : (B + 1,) float64
        Rising bounds of the annuli, Å.
    areas : (B,) float64
        Area of each annulus, Å²; changed in place.
    """
    h = 3 * face
    ab, bc, ca = mesh.shape[h].length, mesh.shape[h + 1].length, mesh.shape[h + 2].length
    area = 0.5 * ab * mesh.shape[h].apex_y
    p = buffers.distance[mesh.links[h].start]
    q = buffers.distance[mesh.links[h + 1].start]
    r = buffers.distance[mesh.links[h + 2].start]
    longest, squares = max(ab, bc, ca), ab * ab + bc * bc + ca * ca
    nearest = min(p, q, r)
    if nearest > edges[-1] + longest:
        return
    far = nearest + longest  # a corner that was not reached lies beyond the cut-off
    p, q, r = min(p, far), min(q, far), min(r, far)
    if nearest > NEAR_EDGES * longest:
        _add_triangle(_Triangle(area, squares, p, q, r), edges, areas)
        return
    n = NEAR_CUTS
    part, part_squares, grid = area / (n * n), squares / (n * n), buffers.grid
    for i in range(n + 1):
        for j in range(n + 1 - i):
            # The distance from one point in the plane is exactly this, between any three corners' distances.
            u, v, w = (n - i - j) / n, i / n, j / n
            square = u * p * p + v * q * q + w * r * r - u * v * ab * ab - v * w * bc * bc - w * u * ca * ca
            grid[i, j] = math.sqrt(max(square, 0.0))
    for i in range(n):
        for j in range(n - i):
            small = _Triangle(part, part_squares, grid[i, j], grid[i + 1, j], grid[i, j + 1])
            _add_triangle(small, edges, areas)
            if i + j < n - 1:
                small = _Triangle(part, part_squares, grid[i + 1, j], grid[i + 1, j + 1], grid[i, j + 1])
                _add_triangle(small, edges, areas)
