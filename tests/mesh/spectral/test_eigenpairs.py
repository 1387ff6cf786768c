"""Eigenpairs of surfaces against dense ones: one piece, many pieces, faces of no area; factors against solutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from membrain_cloud.mesh.spectral import eigenpairs
from membrain_cloud.mesh.spectral.eigenpairs import eigenpairs_of
from membrain_cloud.mesh.spectral.ldl import BLOCK, Factor, dissection
from membrain_cloud.mesh.spectral.operators import cotan_laplacian, directed_edges, vertex_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

COUNT = 24


@pytest.fixture
def surface(shapes: Any) -> Mesh:
    return shapes.sphere(700, 1.0)


@pytest.fixture
def pieces(shapes: Any) -> Mesh:
    """More loose pieces than a block has vectors, all alike: eigenvalues of a high multiplicity."""
    mesh = shapes.sphere(500, 1.0)
    for number in range(2 * BLOCK):
        mesh = shapes.joined(mesh, shapes.sphere(14, 0.2, (3.0 + number, 0.0, 0.0)))
    return mesh


def operators_of(mesh: Mesh) -> tuple[scipy.sparse.csr_matrix, NDArray[np.float64]]:
    return cotan_laplacian(mesh.vertices, mesh.faces), vertex_areas(mesh.vertices, mesh.faces)


def same_as_dense(mesh: Mesh) -> None:
    laplacian, mass = operators_of(mesh)
    values, vectors = eigenpairs_of(laplacian, mass, mesh.vertices, COUNT)
    root = np.sqrt(mass)
    true, exact = scipy.linalg.eigh(laplacian.toarray() / root[:, None] / root)
    np.testing.assert_allclose(values, true[:COUNT], atol=1e-3 * true[COUNT - 1])
    gram = vectors.T @ (vectors * mass[:, None])
    np.testing.assert_allclose(gram, np.eye(COUNT), atol=1e-4)
    # nothing of what is surely wanted is missing; of equal eigenvalues at the end any vectors will do
    sure = exact[:, : np.searchsorted(true, 0.99 * true[COUNT])]
    ours = vectors * root[:, None]
    assert np.linalg.norm(sure - ours @ (ours.T @ sure), axis=0).max() < 1e-3


def test_eigenpairs_are_those_of_a_dense_solver(surface: Mesh) -> None:
    same_as_dense(surface)


def test_no_loose_piece_is_overlooked(pieces: Mesh) -> None:
    same_as_dense(pieces)


def test_more_pieces_than_are_wanted(shapes: Any) -> None:
    mesh = shapes.sphere(100, 1.0)
    for number in range(COUNT):
        mesh = shapes.joined(mesh, shapes.sphere(14, 0.2, (3.0 + number, 0.0, 0.0)))
    laplacian, mass = operators_of(mesh)
    values, vectors = eigenpairs_of(laplacian, mass, mesh.vertices, COUNT)
    np.testing.assert_allclose(values, 0.0, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ (vectors * mass[:, None]), np.eye(COUNT), atol=1e-6)
    assert abs(laplacian @ vectors).max() < 1e-6


def test_what_single_precision_does_not_reach_is_found_in_double(
    surface: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[float] = []

    def never(_factor: Factor, _matrix: object, shift: float, _right: object) -> bool:
        refused.append(shift)
        return False

    monkeypatch.setattr(eigenpairs, "_solves", never)
    same_as_dense(surface)
    assert len(refused) == 1


def test_a_factor_solves_and_counts_what_is_below_zero(surface: Mesh) -> None:
    laplacian, mass = operators_of(surface)
    order = dissection(laplacian, surface.vertices)
    assert np.array_equal(np.sort(order), np.arange(len(mass)))
    shift = 10.0
    matrix = (laplacian - shift * scipy.sparse.diags(mass)).tocsr()
    factor = Factor(matrix, order)
    assert factor.below_zero == (scipy.linalg.eigvalsh(matrix.toarray()) < 0).sum() > 0
    right = np.random.default_rng(0).standard_normal((len(mass), BLOCK))
    np.testing.assert_allclose(matrix @ factor.solve(right), right, atol=1e-8)
    assert factor.solve(right.astype(np.float32)).dtype == np.float32


def test_dissection_fills_in_little(surface: Mesh) -> None:
    laplacian, _ = operators_of(surface)
    plain = Factor(laplacian + scipy.sparse.identity(700), np.arange(700))
    ordered = Factor(laplacian + scipy.sparse.identity(700), dissection(laplacian, surface.vertices))
    assert len(ordered._parts[1]) < 0.6 * len(plain._parts[1])


def test_edges_are_those_of_the_faces() -> None:
    rng = np.random.default_rng(1)
    faces = rng.integers(0, 30, (60, 3))  # some name a vertex twice
    there = {(int(face[k]), int(face[m])) for face in faces for k in range(3) for m in range(3) if k != m}
    assert [tuple(edge) for edge in directed_edges(faces).tolist()] == sorted(there)
    assert directed_edges(np.zeros((0, 3), np.int32)).shape == (0, 2)
