"""The lowest eigenpairs of a surface's Laplacian, by block Lanczos about a shift in the middle of those wanted."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from threadpoolctl import ThreadpoolController

from membrain_cloud.mesh.spectral.ldl import BLOCK, Factor, dissection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import FloatArray

DENSE_BELOW = 5  # the sparse solver pays off only where far fewer eigenpairs than vertices / this are wanted

_SPACE, _MORE = 1.95, 2  # dimension of the first space tried over that wanted; steps added where it is not enough
_CONVERGED = 1e-4  # residual of an inverse eigenvalue over it; the vectors are kept as float32
_SHIFT, _LOW_SHIFT = 0.5, -0.04  # of the highest eigenvalue that Weyl's law expects
_MOST_BELOW, _ATTEMPTS = 0.7, 8  # wanted eigenvalues below the shift; shifts tried
_PATIENCE = 12  # steps beyond the first space before the careful way is taken
_SOLVED = 1e-6  # what a solution may leave over, in parts of the right side


def eigenpairs_of(
    laplacian: scipy.sparse.csr_matrix, mass: NDArray[np.float64], vertices: FloatArray, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `count` lowest solutions of L v = λ M v: (k,) values >= 0 and (V, k) vectors with vᵀ M v = 1.

    vertices : (V, 3) where they lie, which only serves to eliminate them in a good order.

    Each vector's largest entry is positive, so that the same mesh has the same eigenvectors (up to rotations within
    one eigenvalue, which a diffusion does not see).
    """
    size = laplacian.shape[0]
    count = min(count, size)
    root = np.sqrt(np.maximum(mass, 1e-12))
    scaled = laplacian.tocsr().astype(np.float64)
    rows = np.repeat(np.arange(size), np.diff(scaled.indptr))
    scaled.data /= root[rows] * root[scaled.indices]
    scaled = scaled + scipy.sparse.diags(1e-8 / root**2, format="csr")
    # A BLAS's threads fight over products as small as these: with other work on the cores that takes ten times longer.
    with _threads().limit(limits=1, user_api="blas"):
        if size < DENSE_BELOW * count:
            values, vectors = scipy.linalg.eigh(scaled.toarray(), subset_by_index=(0, count - 1))
        else:
            values, vectors = _lowest(scaled, vertices, root, count)
    vectors = vectors / root[:, None]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.maximum(values, 0.0), vectors * np.where(largest < 0, -1.0, 1.0)


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _lowest(
    matrix: scipy.sparse.csr_matrix, vertices: FloatArray, root: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """The lowest eigenpairs of the symmetric matrix of a surface, `root` (V,) of whose mass scaled it: (k,), (V, k).

    The eigenvalues nearest to a shift come first, on both of its sides. So with a shift amid those wanted a smaller
    space holds them all, and the signs of the factor's pivots say how many lie below it: none is overlooked. Where
    that is not to be had (triangles of nearly no area), the shift is below all, and all is in double precision.
    """
    constants = _constants(matrix, root)[:, :count]
    zeros = constants.shape[1]
    if zeros == count:
        return np.zeros(count), constants
    wanted, order = count - zeros, dissection(matrix, vertices)
    # Eigenvalues of a surface grow by 4 pi over its area (Weyl's law).
    highest = 4.0 * np.pi * wanted / float((root**2).sum())
    shift, found = _SHIFT * highest, None
    for _ in range(_ATTEMPTS):
        factor = Factor(_shifted(matrix, shift), order)
        if factor.below_zero - zeros <= _MOST_BELOW * wanted:
            found = _lanczos(matrix, factor, shift, wanted, constants.astype(np.float32))
            break
        shift *= 0.5 * wanted / (factor.below_zero - zeros)
    if found is None:
        shift = _LOW_SHIFT * highest
        found = _lanczos(matrix, Factor(_shifted(matrix, shift), order), shift, wanted, constants)
    assert found is not None
    return np.r_[np.zeros(zeros), found[0]], np.concatenate([constants.astype(found[1].dtype), found[1]], axis=1)


def _constants(matrix: scipy.sparse.csr_matrix, root: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V, c) eigenvectors of eigenvalue 0: what is constant on a piece of the surface. As many of them as there are
    loose pieces share that eigenvalue, and Lanczos finds no more of a kind than a block has vectors.
    """
    _, piece = connected_components(matrix, directed=False)
    # a vertex without a face has no area: its eigenvalue is high
    kept = np.flatnonzero(np.bincount(piece) > 1)
    constants = np.where(piece[:, None] == kept, root[:, None], 0.0)
    return constants / np.linalg.norm(constants, axis=0)


def _shifted(matrix: scipy.sparse.csr_matrix, shift: float) -> scipy.sparse.csr_matrix:
    return matrix - shift * scipy.sparse.identity(matrix.shape[0], format="csr")


def _lanczos(
    matrix: scipy.sparse.csr_matrix, factor: Factor, shift: float, count: int, zeros: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.floating]] | None:
    """The `count` lowest eigenpairs of the matrix, of whose shift by `shift` this is the factor, beside `zeros` (V, c),
    its eigenvectors of eigenvalue 0, whose type is the basis's.

    Block Lanczos on the inverse with full orthogonalisation (Golub & Underwood 1977): blocks let the work be done by
    matrix products, faster than ARPACK, which takes vectors one by one. None where single precision does not get
    there. Solutions and the small matrix are in double precision, since the inverse's eigenvalues differ by thousands.
    """
    size, known = zeros.shape
    most, single = (size - known) // BLOCK, zeros.dtype == np.float32  # the whole space
    first_space = min(most, math.ceil(_SPACE * count / BLOCK))
    room = min(most, first_space + _PATIENCE + _MORE) if single else most
    basis = np.empty((size, known + room * BLOCK), zeros.dtype, order="F")
    basis[:, :known] = zeros
    small = np.zeros((room * BLOCK, room * BLOCK))
    start = np.random.default_rng(0).standard_normal((size, BLOCK)).astype(zeros.dtype)
    if single and not _solves(factor, matrix, shift, start):
        return None
    block, _ = scipy.linalg.qr(start - zeros @ (zeros.T @ start), mode="economic", check_finite=False)
    enough, steps = first_space, 0
    while True:
        done = (steps + 1) * BLOCK
        basis[:, known + done - BLOCK : known + done] = block
        steps += 1
        image, coefficients = factor.solve(block), np.zeros((known + done, BLOCK))
        # but for rounding the image lies in the span of the last two blocks; the second time is for the rounding
        for first in (max(0, known + done - 2 * BLOCK), 0):
            part = basis[:, first : known + done].T @ image
            image -= basis[:, first : known + done] @ part
            coefficients[first:] += part
        small[:done, done - BLOCK : done] = coefficients[known:]
        if single and not np.isfinite(image).all():
            return None
        block, beyond = scipy.linalg.qr(image, mode="economic", check_finite=False)
        if steps < enough:
            continue
        found = _wanted(small[:done, :done], beyond, shift, count)
        whole = steps == most
        if found and (whole or (found.residual <= _CONVERGED and found.below + known == factor.below_zero)):
            return found.values, basis[:, known : known + done] @ found.mix.astype(zeros.dtype)
        if whole or (single and steps >= first_space + _PATIENCE):
            return None
        enough = min(most, steps + (_MORE if single else steps // 4))


def _solves(factor: Factor, matrix: scipy.sparse.csr_matrix, shift: float, right: NDArray[np.floating]) -> bool:
    """Whether the factor, made without pivoting, is one of the shifted matrix."""
    right = right.astype(np.float64)
    found = factor.solve(right)
    return bool(np.abs(matrix @ found - shift * found - right).max() <= _SOLVED)  # false for NaN too


class _Wanted(NamedTuple):
    """Eigenvalues in a space, their vectors in its basis, their largest residual, how many are below the shift."""

    values: NDArray[np.float64]
    mix: NDArray[np.float64]
    residual: float
    below: int


def _wanted(small: NDArray[np.float64], beyond: NDArray[np.floating], shift: float, count: int) -> _Wanted | None:
    """The `count` lowest in the space; None where there are not as many. `small` is filled above its diagonal."""
    inverses, mix = scipy.linalg.eigh(small, lower=False, driver="evd", check_finite=False)
    with np.errstate(divide="ignore"):
        values = shift + 1.0 / inverses
    # a value below zero, between the inverses' two sides, belongs to no eigenvector
    possible = np.flatnonzero(np.isfinite(values) & (values > -_CONVERGED * abs(shift)))
    if len(possible) < count:
        return None
    chosen = possible[np.argsort(values[possible], kind="stable")[:count]]
    values, mix = values[chosen], mix[:, chosen]
    residuals = np.linalg.norm(beyond @ mix[-BLOCK:], axis=0) / np.abs(inverses[chosen])
    return _Wanted(values, mix, float(residuals.max()), int((values < shift).sum()))
