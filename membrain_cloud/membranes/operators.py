"""The discrete differential operators of a triangle mesh that a DiffusionNet works with.

Cotangent Laplacian, lumped mass, its lowest eigenpairs, and the gradient in each vertex's tangent plane
(Sharp, Attaiki, Crane and Ovsjanikov, DiffusionNet, ACM TOG 2022). Nothing here loops over vertices.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from membrain_cloud.geometry import FloatArray

DENSE_BELOW = 5  # the sparse solver pays off only where far fewer eigenpairs than vertices / this are wanted

_BLOCK, _SPACE = 8, 2.75  # vectors a Lanczos step, and dimension of the first space tried over that wanted
_CONVERGED = 1e-4  # residual of an eigenpair over its eigenvalue; the vectors are kept as float32
_SHIFT = 0.04  # of the highest eigenvalue wanted
_PATIENCE = 24  # steps beyond the first space that single precision is given


@dataclass(frozen=True, eq=False)
class Operators:
    """Operators of one patch of V vertices, in the network's unit of length; float32.

    mass : (V,) vertex areas.  eigenvalues : (k,).  eigenvectors : (V, k), orthonormal under the mass.
    gradient_x, gradient_y : (V, V) sparse rows; the derivative along the two axes of each vertex's tangent plane.
    """

    mass: NDArray[np.float32]
    eigenvalues: NDArray[np.float32]
    eigenvectors: NDArray[np.float32]
    gradient_x: scipy.sparse.csr_matrix
    gradient_y: scipy.sparse.csr_matrix


def surface_operators(
    vertices_angstrom: FloatArray,
    faces: NDArray[np.integer],
    normals: FloatArray,
    *,
    eigenpairs: int,
    length_unit_angstrom: float,
) -> Operators:
    """The operators of a mesh (V, 3), (F, 3) with unit normals (V, 3); lengths are divided by `length_unit_angstrom`.

    A mesh of fewer than `eigenpairs` vertices gets as many eigenpairs as it has vertices.
    """
    vertices = np.asarray(vertices_angstrom, np.float64) / length_unit_angstrom
    # Subtracting the mean keeps what float32 can hold; the operators do not depend on it otherwise.
    vertices = (vertices - vertices.mean(axis=0)).astype(np.float32).astype(np.float64)
    laplacian = cotan_laplacian(vertices, faces)
    mass = vertex_areas(vertices, faces)
    mass = mass + 1e-8 * mass.mean()
    values, vectors = eigenpairs_of(laplacian, mass, eigenpairs)
    gradient_x, gradient_y = tangent_gradients(vertices, faces, normals)
    return Operators(
        mass.astype(np.float32),
        values.astype(np.float32),
        vectors.astype(np.float32),
        gradient_x.astype(np.float32),
        gradient_y.astype(np.float32),
    )


def cached_operators(
    cache: MutableMapping[str, Operators] | None,
    vertices_angstrom: FloatArray,
    faces: NDArray[np.integer],
    normals: FloatArray,
    *,
    eigenpairs: int,
    length_unit_angstrom: float,
) -> Operators:
    """`surface_operators`, kept in `cache` under a hash of all that goes into them."""
    if cache is not None:
        content = hashlib.sha256(f"{eigenpairs} {length_unit_angstrom!r}".encode())
        for array, kind in ((vertices_angstrom, np.float64), (faces, np.int64), (normals, np.float64)):
            content.update(np.ascontiguousarray(array, kind).tobytes())
        key = content.hexdigest()
        if key in cache:
            return cache[key]
    found = surface_operators(
        vertices_angstrom, faces, normals, eigenpairs=eigenpairs, length_unit_angstrom=length_unit_angstrom
    )
    if cache is not None:
        cache[key] = found
    return found


def cotan_laplacian(vertices: FloatArray, faces: NDArray[np.integer]) -> scipy.sparse.csr_matrix:
    """(V, V) positive semi-definite cotangent Laplacian, without the mass."""
    count = len(vertices)
    rows, columns, weights = [], [], []
    for corner in range(3):
        i, j, k = (faces[:, (corner + s) % 3] for s in range(3))
        u, v = vertices[j] - vertices[i], vertices[k] - vertices[i]
        doubled_area = np.linalg.norm(np.cross(u, v), axis=1)
        # The small number bounds the cotangent of degenerate triangles.
        half_cotangent = 0.5 * (u * v).sum(axis=1) / (doubled_area + 1e-10)
        rows += [j, k]
        columns += [k, j]
        weights += [half_cotangent, half_cotangent]
    off = scipy.sparse.coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)
    ).tocsr()
    return (scipy.sparse.diags(np.asarray(off.sum(axis=1)).ravel()) - off).tocsr()


def vertex_areas(vertices: FloatArray, faces: NDArray[np.integer]) -> NDArray[np.float64]:
    """(V,) a third of the area of the faces around each vertex."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    thirds = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
    return _sums(faces.ravel(), np.repeat(thirds, 3), len(vertices))


def eigenpairs_of(
    laplacian: scipy.sparse.csr_matrix, mass: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `count` lowest solutions of L v = λ M v: (k,) values >= 0 and (V, k) vectors with vᵀ M v = 1.

    Each vector's largest entry is positive, so that the same mesh has the same eigenvectors (up to rotations within
    one eigenvalue, which a diffusion does not see).
    """
    size = laplacian.shape[0]
    count = min(count, size)
    shifted = laplacian + 1e-8 * scipy.sparse.identity(size)
    root = np.sqrt(np.maximum(mass, 1e-12))
    if size < DENSE_BELOW * count:
        dense = shifted.toarray() / root[:, None] / root[None, :]
        values, vectors = scipy.linalg.eigh(dense, subset_by_index=(0, count - 1))
    else:
        values, vectors = _lowest(shifted.tocsc(), root, count)
    vectors = vectors / root[:, None]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.maximum(values, 0.0), vectors * np.where(largest < 0, -1.0, 1.0)


def _lowest(
    stiffness: scipy.sparse.csc_matrix, root: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest eigenpairs of the stiffness over the squared root of the mass, scaled symmetric: (k,), (V, k).

    In single precision, which holds what the network is given; in double where that does not converge (triangles of
    nearly no area).
    """
    inverse_root = scipy.sparse.diags(1.0 / root)
    scaled = (inverse_root @ stiffness @ inverse_root).tocsc()
    # Eigenvalues of a surface grow by 4 pi over its area (Weyl's law): a shift of the few lowest bounds the inverse.
    shift = _SHIFT * 4.0 * np.pi * count / float((root**2).sum())
    # A BLAS's threads fight over products as small as these: with other work on the cores that takes ten times longer.
    with _threads().limit(limits=1, user_api="blas"):
        found = _lanczos(scaled, shift, count, np.dtype(np.float32))
        return found if found is not None else _lanczos(scaled, 0.0, count, np.dtype(np.float64))  # type: ignore[return-value]


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _lanczos(
    matrix: scipy.sparse.csc_matrix, shift: float, count: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The `count` lowest eigenpairs of a symmetric matrix; None where single precision does not reach them.

    Block Lanczos on the inverse with full orthogonalisation (Golub & Underwood 1977). A Laplacian's eigenvalues grow
    evenly, so a Krylov space of three times the wanted dimension holds them to rounding, and blocks let the work be
    done by matrix products: faster than ARPACK, which takes vectors one by one.
    """
    size = matrix.shape[0]
    # A positive semi-definite matrix needs no pivoting, and a symmetric ordering fills in less.
    factor = scipy.sparse.linalg.splu(
        (matrix + shift * scipy.sparse.identity(size)).astype(dtype).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    most = size // _BLOCK  # the whole space
    basis = np.empty((size, most * _BLOCK), dtype, order="F")
    small = np.zeros((most * _BLOCK, most * _BLOCK), dtype)
    start = np.random.default_rng(0).standard_normal((size, _BLOCK)).astype(dtype)
    block, _ = scipy.linalg.qr(start, mode="economic", check_finite=False)
    enough, steps = min(most, math.ceil(_SPACE * count / _BLOCK)), 0
    while True:
        basis[:, steps * _BLOCK : (steps + 1) * _BLOCK] = block
        steps += 1
        done = steps * _BLOCK
        image = factor.solve(np.asfortranarray(block))
        coefficients = np.zeros((done, _BLOCK), dtype)
        # but for rounding the image lies in the span of the last two blocks; the second time is for the rounding
        for first in (max(0, done - 2 * _BLOCK), 0):
            part = basis[:, first:done].T @ image
            image -= basis[:, first:done] @ part
            coefficients[first:] += part
        small[:done, done - _BLOCK : done] = coefficients
        if not np.isfinite(image).all():
            return None
        block, beyond = scipy.linalg.qr(image, mode="economic", check_finite=False)
        if steps < enough:
            continue
        # `small` is filled on and above its diagonal blocks
        inverses, mix = scipy.linalg.eigh(
            small[:done, :done], lower=False, subset_by_index=(done - count, done - 1), check_finite=False
        )
        residuals = np.linalg.norm(beyond @ mix[-_BLOCK:], axis=0)
        if steps == most or (residuals <= _CONVERGED * inverses).all():
            if inverses[0] <= 0:
                return None
            values = 1.0 / inverses[::-1].astype(np.float64) - shift
            return values, np.asarray(basis[:, :done] @ mix[:, ::-1], np.float64)
        if dtype == np.float32 and steps >= enough + _PATIENCE:
            return None
        enough = min(most, steps + 4)


def tangent_gradients(
    vertices: FloatArray, faces: NDArray[np.integer], normals: FloatArray
) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """Least-squares gradients over the edges at each vertex, as two (V, V) sparse matrices.

    The x axis of a vertex's tangent plane is the coordinate axis x (y where the normal is near x), projected;
    the y axis is normal cross x.
    """
    count = len(vertices)
    i, j = directed_edges(faces).T
    axis_x, axis_y = _tangent_axes(np.asarray(normals, np.float64))
    edge = vertices[j] - vertices[i]
    u, v = (edge * axis_x[i]).sum(axis=1), (edge * axis_y[i]).sum(axis=1)

    uu, uv, vv = (_sums(i, w, count) for w in (u * u, u * v, v * v))
    uu, vv = uu + 1e-5, vv + 1e-5  # keeps vertices with one edge, or with edges in one line, solvable
    determinant = uu * vv - uv * uv
    along_x = (vv[i] * u - uv[i] * v) / determinant[i]
    along_y = (uu[i] * v - uv[i] * u) / determinant[i]
    return _difference_matrix(i, j, along_x, count), _difference_matrix(i, j, along_y, count)


def directed_edges(faces: NDArray[np.integer]) -> NDArray[np.int64]:
    """(E, 2) every edge of the faces once in each direction, sorted."""
    ends = np.asarray(faces, np.int64)
    start = np.concatenate([ends[:, k] for k in (0, 1, 2, 1, 2, 0)])
    stop = np.concatenate([ends[:, k] for k in (1, 2, 0, 0, 1, 2)])
    count = int(ends.max(initial=0)) + 1
    return np.stack(np.divmod(np.unique(start * count + stop), count), axis=1)


def _tangent_axes(normals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    reference = np.where(np.abs(normals[:, :1]) < 0.9, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    axis_x = reference - (reference * normals).sum(axis=1, keepdims=True) * normals
    axis_x /= np.linalg.norm(axis_x, axis=1, keepdims=True)
    return axis_x, np.cross(normals, axis_x)


def _difference_matrix(
    i: NDArray[np.int64], j: NDArray[np.int64], weights: NDArray[np.float64], count: int
) -> scipy.sparse.csr_matrix:
    """The matrix that maps f to the sum over the edges (i, j) of weight * (f_j - f_i)."""
    away = scipy.sparse.coo_matrix((weights, (i, j)), shape=(count, count)).tocsr()
    return (away - scipy.sparse.diags(_sums(i, weights, count))).tocsr()


def _sums(index: NDArray[np.integer], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.bincount(index, weights=weights, minlength=count).astype(np.float64, copy=False)
