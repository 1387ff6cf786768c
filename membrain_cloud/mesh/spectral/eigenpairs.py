"""The lowest eigenpairs of a surface's Laplacian, by block Lanczos about a shift in the middle of those wanted.

scipy's `eigsh`, with SuperLU, takes 2 to 7 times as long for the same eigenvalues to 3e-8: 0.49 / 0.89 / 5.3 s against
0.22 / 0.35 / 0.70 s for 128, 128 and 200 eigenpairs of 1 000, 2 000 and 4 000 vertices (one thread).
"""

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
_MOST_BELOW, _ATTEMPTS = 0.7, 8  # largest share of wanted eigenvalues below the shift; shifts tried
_PATIENCE = 12  # steps beyond the first space before double precision is taken
_SOLVED = 1e-6  # largest residual of a solution, over the right side


def eigenpairs_of(
    laplacian: scipy.sparse.csr_matrix, mass: NDArray[np.float64], vertices: FloatArray, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the lowest solutions of L v = λ M v.

    Each vector's largest entry is positive, so that the same mesh has the same eigenvectors (up to rotations within
    one eigenvalue, which do not affect a diffusion).

    Parameters
    ----------
    laplacian : (V, V) csr_matrix of float64
        L, positive semi-definite.
    mass : (V,) float64
        Diagonal of M, areas of the vertices.
    vertices : (V, 3) floating
        Their positions, which only serve to eliminate them in a good order.
    count : int
        Number of eigenpairs k; at most V are returned.

    Returns
    -------
    values : (k,) float64
        Eigenvalues, rising from 0.
    vectors : (V, k) floating
        Eigenvectors, vᵀ M v = 1.
    """
    size = laplacian.shape[0]
    count = min(count, size)
    root = np.sqrt(np.maximum(mass, 1e-12))
    scaled = laplacian.tocsr().astype(np.float64)
    rows = np.repeat(np.arange(size), np.diff(scaled.indptr))
    scaled.data /= root[rows] * root[scaled.indices]
    scaled = scaled + scipy.sparse.diags(1e-8 / root**2, format="csr")
    # Threads of a BLAS do not pay for products this small: with other work on the cores they take ten times longer.
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
    """Return the lowest eigenpairs (k,), (V, k) of a surface's matrix, scaled by the roots (V,) of its masses.

    The eigenvalues nearest to a shift converge first, on both of its sides. With a shift among those wanted a smaller
    space holds them all, and the signs of the factor's pivots say how many lie below it: none is missed. Where this
    fails (triangles of nearly no area), the shift is below all eigenvalues, and double precision is used throughout.
    """
    constants = _constants(matrix, root)[:, :count]
    zeros = constants.shape[1]
    if zeros == count:
        return np.zeros(count), constants
    wanted, order = count - zeros, dissection(matrix, vertices)
    # Eigenvalues of a surface grow by 4 pi over its area (Weyl's law).
    highest = 4.0 * np.pi * wanted / float((root**2).sum())
    shift, pairs = _SHIFT * highest, None
    for _ in range(_ATTEMPTS):
        factor = Factor(_shifted(matrix, shift), order)
        if factor.below_zero - zeros <= _MOST_BELOW * wanted:
            pairs = _lanczos(matrix, factor, shift, wanted, constants.astype(np.float32))
            break
        shift *= 0.5 * wanted / (factor.below_zero - zeros)
    if pairs is None:
        shift = _LOW_SHIFT * highest
        pairs = _lanczos(matrix, Factor(_shifted(matrix, shift), order), shift, wanted, constants)
    assert pairs is not None
    values, vectors = pairs
    return np.r_[np.zeros(zeros), values], np.concatenate([constants.astype(vectors.dtype), vectors], axis=1)


def _constants(matrix: scipy.sparse.csr_matrix, root: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvectors (V, c) of eigenvalue 0: functions that are constant on a connected component.

    As many of them as there are components share that eigenvalue, and Lanczos finds no more of a kind than a block has
    vectors.
    """
    _, component = connected_components(matrix, directed=False)
    # a vertex without a face has no area: its eigenvalue is high
    kept = np.flatnonzero(np.bincount(component) > 1)
    constants = np.where(component[:, None] == kept, root[:, None], 0.0)
    unit: NDArray[np.float64] = constants / np.linalg.norm(constants, axis=0)
    return unit


def _shifted(matrix: scipy.sparse.csr_matrix, shift: float) -> scipy.sparse.csr_matrix:
    return matrix - shift * scipy.sparse.identity(matrix.shape[0], format="csr")


def _lanczos(
    matrix: scipy.sparse.csr_matrix, factor: Factor, shift: float, count: int, zeros: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.floating]] | None:
    """Return the `count` lowest eigenpairs beside `zeros` (V, c), the eigenvectors of eigenvalue 0; None if it fails.

    `factor` is the LDL^T factorisation of `matrix - shift * I`; the type of `zeros` is the basis's.

    Block Lanczos on the inverse with full orthogonalisation (Golub and Underwood, The block Lanczos method for
    computing eigenvalues, 1977): blocks let the work be done by matrix products, faster than ARPACK, which takes
    vectors one by one. It may fail in single precision only. Solutions and the small matrix are in double precision,
    since the inverse's eigenvalues differ by thousands.
    """
    size, n_zeros = zeros.shape
    most, single = (size - n_zeros) // BLOCK, zeros.dtype == np.float32  # of the whole space
    first_space = min(most, math.ceil(_SPACE * count / BLOCK))
    most_steps = min(most, first_space + _PATIENCE + _MORE) if single else most
    basis = np.empty((size, n_zeros + most_steps * BLOCK), zeros.dtype, order="F")
    basis[:, :n_zeros] = zeros
    small = np.zeros((most_steps * BLOCK, most_steps * BLOCK))
    start = np.random.default_rng(0).standard_normal((size, BLOCK)).astype(zeros.dtype)
    if single and not _solves(factor, matrix, shift, start):
        return None
    block, _ = scipy.linalg.qr(start - zeros @ (zeros.T @ start), mode="economic", check_finite=False)
    enough, steps = first_space, 0
    while True:
        done = (steps + 1) * BLOCK
        basis[:, n_zeros + done - BLOCK : n_zeros + done] = block
        steps += 1
        image, coefficients = factor.solve(block), np.zeros((n_zeros + done, BLOCK))
        # but for rounding the image lies in the span of the last two blocks; the second pass removes the rounding
        for first in (max(0, n_zeros + done - 2 * BLOCK), 0):
            part = basis[:, first : n_zeros + done].T @ image
            image -= basis[:, first : n_zeros + done] @ part
            coefficients[first:] += part
        small[:done, done - BLOCK : done] = coefficients[n_zeros:]
        if single and not np.isfinite(image).all():
            return None
        block, beyond = scipy.linalg.qr(image, mode="economic", check_finite=False)
        if steps < enough:
            continue
        pairs = _wanted(small[:done, :done], beyond, shift, count)
        whole = steps == most
        if pairs and (whole or (pairs.residual <= _CONVERGED and pairs.below + n_zeros == factor.below_zero)):
            return pairs.values, basis[:, n_zeros : n_zeros + done] @ pairs.mix.astype(zeros.dtype)
        if whole or (single and steps >= first_space + _PATIENCE):
            return None
        enough = min(most, steps + (_MORE if single else steps // 4))


def _solves(factor: Factor, matrix: scipy.sparse.csr_matrix, shift: float, right: NDArray[np.floating]) -> bool:
    """Return whether the factor, made without pivoting, solves the shifted matrix for the right sides (V, 8)."""
    right = right.astype(np.float64)
    solution = factor.solve(right)
    return bool(np.abs(matrix @ solution - shift * solution - right).max() <= _SOLVED)  # false for NaN too


class _Wanted(NamedTuple):
    """Eigenpairs in a space of dimension d.

    Attributes
    ----------
    values : (k,) float64
        Eigenvalues.
    mix : (d, k) float64
        Eigenvectors in the basis of the space.
    residual : float
        Their largest residual, relative.
    below : int
        Number of eigenvalues below the shift.
    """

    values: NDArray[np.float64]
    mix: NDArray[np.float64]
    residual: float
    below: int


def _wanted(small: NDArray[np.float64], beyond: NDArray[np.floating], shift: float, count: int) -> _Wanted | None:
    """Return the `count` lowest eigenpairs in the space, None where there are fewer; `small` is an upper triangle."""
    inverses, mix = scipy.linalg.eigh(small, lower=False, driver="evd", check_finite=False)
    with np.errstate(divide="ignore"):
        values = shift + 1.0 / inverses
    # a value below zero, between the inverses' two sides, belongs to no eigenvector
    possible = np.flatnonzero(np.isfinite(values) & (values > -_CONVERGED * abs(shift)))
    if len(possible) < count:
        return None
    lowest = possible[np.argsort(values[possible], kind="stable")[:count]]
    values, mix = values[lowest], mix[:, lowest]
    residuals = np.linalg.norm(beyond @ mix[-BLOCK:], axis=0) / np.abs(inverses[lowest])
    return _Wanted(values, mix, float(residuals.max()), int((values < shift).sum()))
