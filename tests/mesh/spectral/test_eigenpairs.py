"""Eigenpairs of surfaces against those of a dense solver: one component, many components, single precision refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from membrain_cloud.mesh.spectral import eigenpairs
from membrain_cloud.mesh.spectral.eigenpairs import eigenpairs_of
from membrain_cloud.mesh.spectral.ldl import BLOCK, Factor
from membrain_cloud.mesh.spectral.operators import cotan_laplacian, vertex_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

COUNT = 24


@pytest.fixture
def surface(shapes: Any) -> Mesh:
    return shapes.sphere(700, 1.0)


@pytest.fixture
def components(shapes: Any) -> Mesh:
    """Return more components than a block has vectors, all alike: eigenvalues of a high multiplicity."""
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
    # no vector that is surely wanted is missing; of equal eigenvalues at the end any vectors will do
    sure = exact[:, : np.searchsorted(true, 0.99 * true[COUNT])]
    ours = vectors * root[:, None]
    assert np.linalg.norm(sure - ours @ (ours.T @ sure), axis=0).max() < 1e-3


def test_eigenpairs_are_those_of_a_dense_solver(surface: Mesh) -> None:
    same_as_dense(surface)


def test_no_component_is_missed(components: Mesh) -> None:
    same_as_dense(components)


def test_more_components_than_wanted_eigenpairs(shapes: Any) -> None:
    mesh = shapes.sphere(100, 1.0)
    for number in range(COUNT):
        mesh = shapes.joined(mesh, shapes.sphere(14, 0.2, (3.0 + number, 0.0, 0.0)))
    laplacian, mass = operators_of(mesh)
    values, vectors = eigenpairs_of(laplacian, mass, mesh.vertices, COUNT)
    np.testing.assert_allclose(values, 0.0, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ (vectors * mass[:, None]), np.eye(COUNT), atol=1e-6)
    assert abs(laplacian @ vectors).max() < 1e-6


def test_double_precision_takes_over_where_single_fails(surface: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[float] = []

    def never(_factor: Factor, _matrix: object, shift: float, _right: object) -> bool:
        refused.append(shift)
        return False

    monkeypatch.setattr(eigenpairs, "_solves", never)
    same_as_dense(surface)
    assert len(refused) == 1
