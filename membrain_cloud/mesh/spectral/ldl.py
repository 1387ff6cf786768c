"""LDL^T of sparse symmetric matrices that live on a surface's vertices, and solutions for eight vectors at once.

The vertices are ordered by nested dissection (George, SIAM J. Numer. Anal. 10, 1973): halves of the surface, cut
across its widest side, touch only through the vertices at the cut, which come last. The factor is made row by row
(Davis, ACM TOMS 31(4), 2005) without pivoting: matrices here are positive or, where they are shifted, their factors are
tried before they are trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.jit import compiled, compiled_fused

if TYPE_CHECKING:
    import scipy.sparse
    from numpy.typing import NDArray

    from membrain_cloud.geometry import FloatArray

BLOCK = 8
"""Vectors that are solved for at once: what a processor's widest register holds of double precision."""
_LEAF = 4  # parts of so few vertices are not cut


class Factor:
    """L D L^T of a symmetric matrix (n, n).

    below_zero : how many of its eigenvalues are negative (Sylvester's law of inertia).
    """

    def __init__(self, matrix: scipy.sparse.csr_matrix, order: NDArray[np.int64]) -> None:
        """Order : of elimination, as `dissection` gives it."""
        rows, self._order = matrix.tocsr(), order
        self._parts = _ldl(rows.indptr, rows.indices, rows.data.astype(np.float64, copy=False), order)
        self._work = np.empty((len(order), BLOCK))
        self.below_zero = int((self._parts[3] < 0).sum())

    def solve(self, right: NDArray[np.floating]) -> NDArray[np.floating]:
        """(n, 8) -> (n, 8), of the same type; reckoned in double precision."""
        found = np.empty(right.shape, right.dtype)
        _solve(*self._parts, self._order, np.ascontiguousarray(right), self._work, found)
        return found


def dissection(matrix: scipy.sparse.csr_matrix, points: FloatArray) -> NDArray[np.int64]:
    """(n,) an order of elimination that fills in little, for a matrix between neighbours among `points` (n, 3)."""
    rows = matrix.tocsr()
    return np.asarray(_dissect(rows.indptr, rows.indices, np.ascontiguousarray(points, np.float64)))


@compiled
def _dissect(starts: NDArray, columns: NDArray, points: NDArray) -> NDArray:  # pragma: no cover - compiled
    order = np.arange(len(points))
    side = np.zeros(len(points), np.int8)
    parts = [(0, len(points))]
    while parts:
        start, end = parts.pop()
        count = end - start
        if count <= _LEAF:
            continue
        here = order[start:end].copy()
        axis, widest = 0, -1.0
        for k in range(3):
            low, high = np.inf, -np.inf
            for v in here:
                low, high = min(low, points[v, k]), max(high, points[v, k])
            if high - low > widest:
                axis, widest = k, high - low
        along = np.empty(count)
        for t in range(count):
            along[t] = points[here[t], axis]
        here = here[np.argsort(along)]
        half = count // 2
        for t in range(count):
            side[here[t]] = 1 if t < half else 2
        touches, touching = np.zeros(count, np.bool_), np.zeros(3, np.int64)
        for t in range(count):
            other = 3 - side[here[t]]
            for p in range(starts[here[t]], starts[here[t] + 1]):
                if side[columns[p]] == other:
                    touches[t] = True
                    touching[3 - other] += 1
                    break
        one = 1 if touching[1] <= touching[2] else 2  # of the vertices at the cut those of one half will do
        inner, cut = 0, 0
        for t in range(count):
            if touches[t] and side[here[t]] == one:
                cut += 1
                order[end - cut] = here[t]
            else:
                order[start + inner] = here[t]
                inner += 1
        for v in here:
            side[v] = 0
        left = half - cut if one == 1 else half
        parts.append((start, start + left))
        parts.append((start + left, end - cut))
    return order


@compiled_fused
def _ldl(starts: NDArray, columns: NDArray, values: NDArray, order: NDArray) -> tuple:  # pragma: no cover - compiled
    """Columns of L (starts, rows, values), D, and rows of L (starts, columns, values); without L's diagonal of ones."""
    count = len(order)
    place = np.empty(count, np.int64)
    for k in range(count):
        place[order[k]] = k
    parent, seen, filled = np.full(count, -1), np.empty(count, np.int64), np.zeros(count, np.int64)
    for k in range(count):
        seen[k] = k
        for p in range(starts[order[k]], starts[order[k] + 1]):
            i = place[columns[p]]
            if i < k:
                while seen[i] != k:
                    if parent[i] < 0:
                        parent[i] = k
                    filled[i] += 1
                    seen[i] = k
                    i = parent[i]
    below = np.zeros(count + 1, np.int32)
    for k in range(count):
        below[k + 1] = below[k] + filled[k]
    total = below[count]
    below_rows, below_values, pivots = np.empty(total, np.int32), np.empty(total), np.empty(count)
    left, left_columns, left_values = np.zeros(count + 1, np.int32), np.empty(total, np.int32), np.empty(total)
    row, pattern, at = np.zeros(count), np.empty(count, np.int64), 0
    filled[:] = 0
    for k in range(count):
        top, pivot = count, 0.0
        seen[k] = k
        for p in range(starts[order[k]], starts[order[k] + 1]):
            i = place[columns[p]]
            if i < k:
                row[i] += values[p]
                length = 0
                while seen[i] != k:
                    pattern[length] = i
                    length += 1
                    seen[i] = k
                    i = parent[i]
                while length > 0:
                    top -= 1
                    length -= 1
                    pattern[top] = pattern[length]
            elif i == k:
                pivot += values[p]
        for t in range(top, count):
            i = pattern[t]
            value = row[i]
            row[i] = 0.0
            last = below[i] + filled[i]
            for p in range(below[i], last):
                row[below_rows[p]] -= below_values[p] * value
            entry = value / pivots[i]
            pivot -= entry * value
            below_rows[last], below_values[last] = k, entry
            filled[i] += 1
            left_columns[at], left_values[at] = i, entry
            at += 1
        pivots[k] = pivot if pivot != 0.0 else 1e-300
        left[k + 1] = at
    return below, below_rows, below_values, pivots, left, left_columns, left_values


@compiled_fused
def _eliminate(
    total: NDArray, begin: int, end: int, where: NDArray, values: NDArray, x: NDArray
) -> None:  # pragma: no cover - compiled
    """Total -= sum of values[p] * x[where[p]]; four at a time, so that they need not wait for each other."""
    p = begin
    while p + 4 <= end:
        a, b, c, d = values[p], values[p + 1], values[p + 2], values[p + 3]
        i, j, k, m = where[p], where[p + 1], where[p + 2], where[p + 3]
        for q in range(BLOCK):
            total[q] -= (a * x[i, q] + b * x[j, q]) + (c * x[k, q] + d * x[m, q])
        p += 4
    while p < end:
        a, i = values[p], where[p]
        for q in range(BLOCK):
            total[q] -= a * x[i, q]
        p += 1


@compiled_fused
def _solve(
    below: NDArray,
    below_rows: NDArray,
    below_values: NDArray,
    pivots: NDArray,
    left: NDArray,
    left_columns: NDArray,
    left_values: NDArray,
    order: NDArray,
    right: NDArray,
    x: NDArray,
    found: NDArray,
) -> None:  # pragma: no cover - compiled
    total = np.empty(BLOCK)
    for k in range(len(order)):
        for q in range(BLOCK):
            total[q] = right[order[k], q]
        _eliminate(total, left[k], left[k + 1], left_columns, left_values, x)
        for q in range(BLOCK):
            x[k, q] = total[q]
    for k in range(len(order) - 1, -1, -1):
        for q in range(BLOCK):
            total[q] = x[k, q] / pivots[k]
        _eliminate(total, below[k], below[k + 1], below_rows, below_values, x)
        for q in range(BLOCK):
            x[k, q] = total[q]
            found[order[k], q] = total[q]
