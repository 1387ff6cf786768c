"""LDL^T factors of sparse symmetric matrices on a surface's vertices, and solutions for eight vectors at once.

The vertices are ordered by nested dissection [1]_: halves of the surface, cut across its widest side, touch only
through the vertices at the cut, which come last. The factor is made row by row [2]_ without pivoting: matrices here are
positive or, where they are shifted, their factors are tested before use.

References
----------
.. [1] George, Nested dissection of a regular finite element mesh, SIAM J. Numer. Anal. 10, 1973.
.. [2] Davis, Algorithm 849: a concise sparse Cholesky factorization package, ACM TOMS 31(4), 2005.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.jit import compiled, compiled_fused

if TYPE_CHECKING:
    import scipy.sparse

    from membrain_cloud.geometry import FloatArray

BLOCK = 8
"""Vectors that are solved for at once: what a processor's widest register holds of double precision."""
_LEAF = 4  # parts of so few vertices are not cut

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Csr(NamedTuple):
    """The arrays of a sparse matrix (n, n) by rows.

    Attributes
    ----------
    starts : (n + 1,) int32
        First entry of each row.
    columns : (entries,) int32
        Column of each entry.
    values : (entries,) float64
        Value of each entry.
    """

    starts: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: Floats


class Triangle(NamedTuple):
    """L, without its diagonal of ones, and D.

    Attributes
    ----------
    by_column : Csr
        L by columns: `columns` holds the rows of the entries.
    pivots : (n,) float64
        D.
    by_row : Csr
        L by rows.
    """

    by_column: Csr
    pivots: Floats
    by_row: Csr


class _Work(NamedTuple):
    """Arrays (n,) of a factorisation; `seen[i] == k` marks column i as visited for row k.

    Attributes
    ----------
    place : (n,) int64
        Place of each row of the matrix in the order of elimination.
    parent : (n,) int64
        Elimination tree, -1 for roots.
    seen : (n,) int64
        Last row that visited the column.
    filled : (n,) int64
        Entries of each column of L.
    row : (n,) float64
        The row that is eliminated, dense.
    pattern : (n,) int64
        Its columns; in use from some place to the end.
    """

    place: Ints
    parent: Ints
    seen: Ints
    filled: Ints
    row: Floats
    pattern: Ints


class Factor:
    """The factorisation L D L^T of a symmetric matrix.

    Parameters
    ----------
    matrix : (n, n) csr_matrix of float64
        The matrix.
    order : (n,) int64
        Order of elimination, as `dissection` gives it.

    Attributes
    ----------
    below_zero : int
        Number of negative eigenvalues of the matrix (Sylvester's law of inertia).
    """

    def __init__(self, matrix: scipy.sparse.csr_matrix, order: NDArray[np.int64]) -> None:
        rows = matrix.tocsr()
        self._order = order
        self._triangle = _ldl(Csr(rows.indptr, rows.indices, rows.data.astype(np.float64, copy=False)), order)
        self._work = np.empty((len(order), BLOCK))
        self.below_zero = int((self._triangle.pivots < 0).sum())

    @property
    def entries(self) -> int:
        """Number of entries of L below its diagonal."""
        return len(self._triangle.by_column.values)

    def solve(self, right: NDArray[np.floating]) -> NDArray[np.floating]:
        """Solve for eight vectors at once, in double precision.

        Parameters
        ----------
        right : (n, 8) floating
            Right sides.

        Returns
        -------
        (n, 8) floating
            Solutions, of the right sides' type.
        """
        solution = np.empty(right.shape, right.dtype)
        _solve(self._triangle, self._order, np.ascontiguousarray(right), self._work, solution)
        return solution


def dissection(matrix: scipy.sparse.csr_matrix, points: FloatArray) -> NDArray[np.int64]:
    """Return an order of elimination that fills in little, for a matrix between neighbours among points.

    Parameters
    ----------
    matrix : (n, n) csr_matrix
        Its entries say which points are neighbours.
    points : (n, 3) floating
        Positions.

    Returns
    -------
    (n,) int64
        Points in the order of elimination.
    """
    rows = matrix.tocsr()
    return np.asarray(_dissect(rows.indptr, rows.indices, np.ascontiguousarray(points, np.float64)))


@compiled
def _sorted_along_widest(members: Ints, points: Floats) -> Ints:  # pragma: no cover - compiled
    """Sort the members of `points` (n, 3) along the axis on which they spread most."""
    axis, widest = 0, -1.0
    for k in range(3):
        low, high = np.inf, -np.inf
        for v in members:
            low, high = min(low, points[v, k]), max(high, points[v, k])
        if high - low > widest:
            axis, widest = k, high - low
    along = np.empty(len(members))
    for t in range(len(members)):
        along[t] = points[members[t], axis]
    return members[np.argsort(along)]


@compiled
def _at_cut(
    members: Ints, side: NDArray[np.int8], starts: NDArray[np.int32], columns: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], int]:  # pragma: no cover - compiled
    """Return which members have a neighbour on the other side, 1 or 2, and the side with fewer of them."""
    touches, touching = np.zeros(len(members), np.bool_), np.zeros(3, np.int64)
    for t in range(len(members)):
        other = 3 - side[members[t]]
        for p in range(starts[members[t]], starts[members[t] + 1]):
            if side[columns[p]] == other:
                touches[t] = True
                touching[3 - other] += 1
                break
    return touches, 1 if touching[1] <= touching[2] else 2


@compiled
def _dissect(
    starts: NDArray[np.int32], columns: NDArray[np.int32], points: Floats
) -> Ints:  # pragma: no cover - compiled
    """Return the order (n,) of `dissection`, from the matrix' row starts and columns."""
    order = np.arange(len(points))
    side = np.zeros(len(points), np.int8)
    parts = [(0, len(points))]
    while parts:
        start, end = parts.pop()
        count = end - start
        if count <= _LEAF:
            continue
        members = _sorted_along_widest(order[start:end].copy(), points)
        half = count // 2
        for t in range(count):
            side[members[t]] = 1 if t < half else 2
        # the vertices at the cut of one half suffice: they come last
        touches, cut_side = _at_cut(members, side, starts, columns)
        inner, cut = 0, 0
        for t in range(count):
            if touches[t] and side[members[t]] == cut_side:
                cut += 1
                order[end - cut] = members[t]
            else:
                order[start + inner] = members[t]
                inner += 1
        for v in members:
            side[v] = 0
        left = half - cut if cut_side == 1 else half
        parts.append((start, start + left))
        parts.append((start + left, end - cut))
    return order


@compiled_fused
def _analyse(matrix: Csr, order: Ints, work: _Work) -> None:  # pragma: no cover - compiled
    """Fill in the elimination tree and the number of entries of each column of L."""
    for k in range(len(order)):
        work.seen[k] = k
        for p in range(matrix.starts[order[k]], matrix.starts[order[k] + 1]):
            i = work.place[matrix.columns[p]]
            if i < k:
                while work.seen[i] != k:
                    if work.parent[i] < 0:
                        work.parent[i] = k
                    work.filled[i] += 1
                    work.seen[i] = k
                    i = work.parent[i]


@compiled_fused
def _scatter(matrix: Csr, order: Ints, k: int, work: _Work) -> tuple[int, float]:  # pragma: no cover - compiled
    """Write row k to `work.row` and the columns of L's row to the end of `work.pattern`, in order of elimination.

    Returns where the pattern begins, and the diagonal entry.
    """
    top, diagonal = len(order), 0.0
    work.seen[k] = k
    for p in range(matrix.starts[order[k]], matrix.starts[order[k] + 1]):
        i = work.place[matrix.columns[p]]
        if i < k:
            work.row[i] += matrix.values[p]
            length = 0
            while work.seen[i] != k:
                work.pattern[length] = i
                length += 1
                work.seen[i] = k
                i = work.parent[i]
            while length > 0:
                top -= 1
                length -= 1
                work.pattern[top] = work.pattern[length]
        elif i == k:
            diagonal += matrix.values[p]
    return top, diagonal


@compiled_fused
def _ldl(matrix: Csr, order: Ints) -> Triangle:  # pragma: no cover - compiled
    """Factorise a symmetric matrix (n, n), its rows in this order."""
    count = len(order)
    work = _Work(
        np.empty(count, np.int64),
        np.full(count, -1),
        np.empty(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count),
        np.empty(count, np.int64),
    )
    for k in range(count):
        work.place[order[k]] = k
    _analyse(matrix, order, work)
    below = np.zeros(count + 1, np.int32)
    for k in range(count):
        below[k + 1] = below[k] + work.filled[k]
    total = below[count]
    by_column = Csr(below, np.empty(total, np.int32), np.empty(total))
    by_row = Csr(np.zeros(count + 1, np.int32), np.empty(total, np.int32), np.empty(total))
    pivots, at = np.empty(count), 0
    work.filled[:] = 0
    for k in range(count):
        top, pivot = _scatter(matrix, order, k, work)
        for t in range(top, count):
            i = work.pattern[t]
            value = work.row[i]
            work.row[i] = 0.0
            last = below[i] + work.filled[i]
            for p in range(below[i], last):
                work.row[by_column.columns[p]] -= by_column.values[p] * value
            entry = value / pivots[i]
            pivot -= entry * value
            by_column.columns[last], by_column.values[last] = k, entry
            work.filled[i] += 1
            by_row.columns[at], by_row.values[at] = i, entry
            at += 1
        pivots[k] = pivot if pivot != 0.0 else 1e-300
        by_row.starts[k + 1] = at
    return Triangle(by_column, pivots, by_row)


@compiled_fused
def _eliminate(total: Floats, triangle: Csr, line: int, x: Floats) -> None:  # pragma: no cover - compiled
    """Subtract from `total` (8,) the products of one line of a triangle with the rows of x (n, 8).

    Four at a time, so that they need not wait for each other.
    """
    p, end = triangle.starts[line], triangle.starts[line + 1]
    where, values = triangle.columns, triangle.values
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
    triangle: Triangle, order: Ints, right: NDArray[np.floating], x: Floats, solution: NDArray[np.floating]
) -> None:  # pragma: no cover - compiled
    """Solve for the right sides (n, 8); x (n, 8) is scratch space."""
    total = np.empty(BLOCK)
    for k in range(len(order)):
        for q in range(BLOCK):
            total[q] = right[order[k], q]
        _eliminate(total, triangle.by_row, k, x)
        for q in range(BLOCK):
            x[k, q] = total[q]
    for k in range(len(order) - 1, -1, -1):
        for q in range(BLOCK):
            total[q] = x[k, q] / triangle.pivots[k]
        _eliminate(total, triangle.by_column, k, x)
        for q in range(BLOCK):
            x[k, q] = total[q]
            solution[order[k], q] = total[q]
