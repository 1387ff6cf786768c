"""The discrete differential operators of a triangle mesh that a DiffusionNet works with.

Cotangent Laplacian, lumped mass, its lowest eigenpairs, and the gradient in each vertex's tangent plane [1]_.

References
----------
.. [1] Sharp, Attaiki, Crane and Ovsjanikov, DiffusionNet: discretization agnostic learning on surfaces, ACM TOG 41(3),
   2022.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse

from membrain_cloud.jit import compiled, inlined
from membrain_cloud.mesh.spectral.eigenpairs import eigenpairs_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from numpy.typing import NDArray

    from membrain_cloud.geometry import FloatArray


@dataclass(frozen=True, eq=False)
class Operators:
    """Operators of one patch of V vertices, in the network's unit of length.

    Attributes
    ----------
    mass : (V,) float32
        Areas of the vertices.
    eigenvalues : (k,) float32
        Lowest eigenvalues of the Laplacian, rising.
    eigenvectors : (V, k) float32
        Their eigenvectors, orthonormal under the mass.
    gradient_x, gradient_y : (V, V) csr_matrix of float32
        Derivatives along the two axes of each vertex's tangent plane.
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
    """Compute the operators of a mesh.

    Parameters
    ----------
    vertices_angstrom : (V, 3) floating
        Vertices, xyz in Å.
    faces : (F, 3) integer
        Faces.
    normals : (V, 3) floating
        Unit normals of the vertices.
    eigenpairs : int
        Number of eigenpairs; a mesh of fewer vertices gets as many as it has.
    length_unit_angstrom : float
        The network's unit of length, Å.

    Returns
    -------
    Operators
        In that unit.
    """
    vertices = np.asarray(vertices_angstrom, np.float64) / length_unit_angstrom
    # Subtracting the mean keeps the precision that float32 has; the operators do not depend on it otherwise.
    vertices = (vertices - vertices.mean(axis=0)).astype(np.float32).astype(np.float64)
    laplacian = cotan_laplacian(vertices, faces)
    mass = vertex_areas(vertices, faces)
    mass = mass + 1e-8 * mass.mean()
    values, vectors = eigenpairs_of(laplacian, mass, vertices, eigenpairs)
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
    """Return `surface_operators`, kept in a cache under a hash of all their arguments.

    Parameters
    ----------
    cache : mutable mapping of str to Operators, or None
        The cache; None for none.
    vertices_angstrom : (V, 3) floating
        Vertices, xyz in Å.
    faces : (F, 3) integer
        Faces.
    normals : (V, 3) floating
        Unit normals of the vertices.
    eigenpairs : int
        Number of eigenpairs.
    length_unit_angstrom : float
        The network's unit of length, Å.

    Returns
    -------
    Operators
        The cached ones where there are any.
    """
    if cache is not None:
        content = hashlib.sha256(f"{eigenpairs} {length_unit_angstrom!r}".encode())
        for array, kind in ((vertices_angstrom, np.float64), (faces, np.int64), (normals, np.float64)):
            content.update(np.ascontiguousarray(array, kind).tobytes())
        key = content.hexdigest()
        if key in cache:
            return cache[key]
    operators = surface_operators(
        vertices_angstrom, faces, normals, eigenpairs=eigenpairs, length_unit_angstrom=length_unit_angstrom
    )
    if cache is not None:
        cache[key] = operators
    return operators


def cotan_laplacian(vertices: FloatArray, faces: NDArray[np.integer]) -> scipy.sparse.csr_matrix:
    """Compute the cotangent Laplacian of a mesh.

    Parameters
    ----------
    vertices : (V, 3) floating
        Vertices.
    faces : (F, 3) integer
        Faces.

    Returns
    -------
    (V, V) csr_matrix of float64
        Positive semi-definite; not divided by the mass.
    """
    half_cotangents = np.empty(faces.shape)
    for corner in range(3):
        i, j, k = (faces[:, (corner + s) % 3] for s in range(3))
        u, v = vertices[j] - vertices[i], vertices[k] - vertices[i]
        doubled_area = np.linalg.norm(np.cross(u, v), axis=1)
        # The small number bounds the cotangent of degenerate triangles.
        half_cotangents[:, corner] = 0.5 * (u * v).sum(axis=1) / (doubled_area + 1e-10)
    starts, ends, weights = neighbour_rows(faces, half_cotangents, len(vertices))
    return _difference_matrix(starts, ends, -weights)


def vertex_areas(vertices: FloatArray, faces: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return a third of the area of the faces around each vertex.

    Parameters
    ----------
    vertices : (V, 3) floating
        Vertices.
    faces : (F, 3) integer
        Faces.

    Returns
    -------
    (V,) float64
        Areas, in the square of the vertices' unit.
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    thirds = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
    return _sums(faces.ravel(), np.repeat(thirds, 3), len(vertices))


def tangent_gradients(
    vertices: FloatArray, faces: NDArray[np.integer], normals: FloatArray
) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """Compute least-squares gradients over the edges at each vertex.

    The x axis of a vertex's tangent plane is the coordinate axis x (y where the normal is near x), projected;
    the y axis is normal cross x.

    Parameters
    ----------
    vertices : (V, 3) floating
        Vertices.
    faces : (F, 3) integer
        Faces.
    normals : (V, 3) floating
        Unit normals of the vertices.

    Returns
    -------
    gradient_x, gradient_y : (V, V) csr_matrix of float64
        They map a function (V,) to its derivatives along the two axes.
    """
    count = len(vertices)
    starts, j, _ = neighbour_rows(faces, np.zeros(faces.shape), count)
    i = np.repeat(np.arange(count), np.diff(starts))
    axis_x, axis_y = _tangent_axes(np.asarray(normals, np.float64))
    edge = vertices[j] - vertices[i]
    u, v = np.einsum("ek,ek->e", edge, axis_x[i]), np.einsum("ek,ek->e", edge, axis_y[i])

    uu, uv, vv = (_sums(i, w, count) for w in (u * u, u * v, v * v))
    uu, vv = uu + 1e-5, vv + 1e-5  # keeps vertices with one edge, or with edges in one line, solvable
    determinant = uu * vv - uv * uv
    along_x = (vv[i] * u - uv[i] * v) / determinant[i]
    along_y = (uu[i] * v - uv[i] * u) / determinant[i]
    return _difference_matrix(starts, j, along_x), _difference_matrix(starts, j, along_y)


def directed_edges(faces: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return every edge of the faces once in each direction.

    Parameters
    ----------
    faces : (F, 3) integer
        Faces.

    Returns
    -------
    (E, 2) int64
        Start and end, sorted.
    """
    count = int(faces.max(initial=-1)) + 1
    starts, ends, _ = neighbour_rows(faces, np.zeros(faces.shape), count)
    return np.stack([np.repeat(np.arange(count), np.diff(starts)), ends.astype(np.int64)], axis=1)


def neighbour_rows(
    faces: NDArray[np.integer], weights: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Return the neighbours of each vertex in rising order.

    Parameters
    ----------
    faces : (F, 3) integer
        Faces.
    weights : (F, 3) float64
        A weight of each corner, which belongs to the edge opposite to it.
    count : int
        Number of vertices V.

    Returns
    -------
    starts : (V + 1,) int32
        First neighbour of each vertex.
    neighbours : (E,) int32
        Neighbours, vertex after vertex.
    sums : (E,) float64
        Sum of the weights of each edge.
    """
    starts, ends, sums = _neighbour_rows(np.ascontiguousarray(faces, np.int64), weights, count)
    return starts, ends, sums


class _Rows(NamedTuple):
    """Rows of neighbours that grow: places for each, how many are used, and the entries.

    Attributes
    ----------
    begin : (V + 1,) int64
        First place of each row.
    used : (V,) int64
        Entries of each row.
    ends : (places,) int32
        Neighbours, rising within a row.
    sums : (places,) float64
        Sums of weights.
    """

    begin: NDArray[np.int64]
    used: NDArray[np.int64]
    ends: NDArray[np.int32]
    sums: NDArray[np.float64]


@inlined
def _add_neighbour(rows: _Rows, vertex: int, neighbour: int, weight: float) -> None:  # pragma: no cover - compiled
    """Add a weight to a vertex's neighbour, which is inserted in order if it is new."""
    first = rows.begin[vertex]
    place = first + rows.used[vertex]
    while place > first and rows.ends[place - 1] > neighbour:
        place -= 1
    if place > first and rows.ends[place - 1] == neighbour:
        rows.sums[place - 1] += weight
        return
    for later in range(first + rows.used[vertex], place, -1):
        rows.ends[later], rows.sums[later] = rows.ends[later - 1], rows.sums[later - 1]
    rows.ends[place], rows.sums[place] = neighbour, weight
    rows.used[vertex] += 1


@compiled
def _neighbour_rows(
    faces: NDArray[np.int64], weights: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:  # pragma: no cover - compiled
    """Return starts, neighbours and sums of `neighbour_rows`."""
    begin = np.zeros(count + 1, np.int64)
    for face in range(len(faces)):
        for k in range(3):
            begin[faces[face, k] + 1] += 2
    for vertex in range(count):
        begin[vertex + 1] += begin[vertex]
    rows = _Rows(begin, np.zeros(count, np.int64), np.empty(begin[count], np.int32), np.empty(begin[count]))
    for face in range(len(faces)):
        for k in range(3):
            one, two = faces[face, (k + 1) % 3], faces[face, (k + 2) % 3]
            _add_neighbour(rows, one, two, weights[face, k])
            _add_neighbour(rows, two, one, weights[face, k])
    ends, sums = rows.ends, rows.sums
    starts = np.zeros(count + 1, np.int32)
    for vertex in range(count):
        starts[vertex + 1] = starts[vertex] + rows.used[vertex]
        for k in range(rows.used[vertex]):
            ends[starts[vertex] + k] = ends[begin[vertex] + k]
            sums[starts[vertex] + k] = sums[begin[vertex] + k]
    return starts, ends[: starts[count]].copy(), sums[: starts[count]].copy()


def _tangent_axes(normals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the x and y axes (V, 3) of the tangent planes of `tangent_gradients`."""
    reference = np.where(np.abs(normals[:, :1]) < 0.9, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    axis_x = reference - (reference * normals).sum(axis=1, keepdims=True) * normals
    axis_x /= np.linalg.norm(axis_x, axis=1, keepdims=True)
    return axis_x, np.cross(normals, axis_x)


def _difference_matrix(
    starts: NDArray[np.int32], ends: NDArray[np.int32], weights: NDArray[np.float64]
) -> scipy.sparse.csr_matrix:
    """Return the matrix that maps f to the sum over a vertex's edges (i, j) of weight * (f_j - f_i)."""
    count = len(starts) - 1
    parts = _difference_rows(starts, ends, weights)
    matrix = scipy.sparse.csr_matrix(parts, shape=(count, count))
    matrix.has_sorted_indices = True
    return matrix


@compiled
def _difference_rows(
    starts: NDArray[np.int32], ends: NDArray[np.int32], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int32]]:  # pragma: no cover - compiled
    """Return values, columns and row starts of the matrix of `_difference_matrix`, columns rising."""
    count = len(starts) - 1
    values, columns = np.zeros(len(ends) + count), np.empty(len(ends) + count, np.int32)
    rows, at = np.zeros(count + 1, np.int32), 0
    for vertex in range(count):
        diagonal, total = -1, 0.0
        for edge in range(starts[vertex], starts[vertex + 1]):
            if diagonal < 0 and ends[edge] >= vertex:
                diagonal, at = at, at + 1
            if ends[edge] == vertex:
                continue
            values[at], columns[at] = weights[edge], ends[edge]
            total += weights[edge]
            at += 1
        if diagonal < 0:
            diagonal, at = at, at + 1
        values[diagonal], columns[diagonal] = -total, vertex
        rows[vertex + 1] = at
    return values[:at].copy(), columns[:at].copy(), rows


def _sums(index: NDArray[np.integer], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Add up weights by index, 0..count-1."""
    return np.bincount(index, weights=weights, minlength=count).astype(np.float64, copy=False)
