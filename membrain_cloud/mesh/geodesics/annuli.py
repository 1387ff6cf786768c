"""Areas of annuli: how much of a surface lies at which distance from a source, face by face."""

from __future__ import annotations

import math

from membrain_cloud.jit import inlined
from membrain_cloud.mesh.geodesics.state import AY, LENGTH, NEAR_CUTS, NEAR_EDGES, START, Buffers, Floats, Net


@inlined
def _share_below(r: float, d0: float, d1: float, d2: float) -> float:
    """Share of a triangle's area where a linear function with corner values d0 <= d1 <= d2 is below r."""
    if r <= d0:
        return 0.0
    if r >= d2:
        return 1.0
    if r < d1:
        return (r - d0) * (r - d0) / ((d1 - d0) * (d2 - d0))
    return 1.0 - (d2 - r) * (d2 - r) / ((d2 - d0) * (d2 - d1))


@inlined
def _add_triangle(area: float, squares: float, p: float, q: float, r: float, edges: Floats, out: Floats) -> None:
    """Add a triangle with corner distances p, q, r and this sum of squared edges to the annuli."""
    # Distances are those of a cone: between the corners they lie below the plane through them, on average by this.
    across = max(squares - (p - q) ** 2 - (q - r) ** 2 - (r - p) ** 2, 0.0)
    dip = across / max(8.0 * (p + q + r), 1e-300)
    d0, d2 = min(p, q, r) - dip, max(p, q, r) - dip
    d1 = max(min(p, q), min(max(p, q), r)) - dip
    i, before = 1, 0.0
    while i < len(edges) and edges[i] <= d0:
        i += 1
    while i < len(edges):
        below = _share_below(edges[i], d0, d1, d2)
        out[i - 1] += area * (below - before)
        if edges[i] >= d2:
            return
        before = below
        i += 1


@inlined
def add_face(net: Net, b: Buffers, face: int, edges: Floats, out: Floats) -> None:
    """Add the face's area to the annuli; near the source, where distances bend most, in small triangles."""
    h = 3 * face
    ab, bc, ca = net.shape[h, LENGTH], net.shape[h + 1, LENGTH], net.shape[h + 2, LENGTH]
    area = 0.5 * ab * net.shape[h, AY]
    p, q, r = b.distance[net.links[h, START]], b.distance[net.links[h + 1, START]], b.distance[net.links[h + 2, START]]
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
