"""LDL^T factors against the matrices they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import scipy.sparse
from standins.shapes import Shapes

from membrain_cloud.mesh.spectral.ldl import BLOCK, Factor, dissection
from membrain_cloud.mesh.spectral.operators import cotan_laplacian, vertex_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh


SURFACE = Shapes().sphere(700, 1.0)


def operators_of(mesh: Mesh) -> tuple[scipy.sparse.csr_matrix, NDArray[np.float64]]:
    return cotan_laplacian(mesh.vertices, mesh.faces), vertex_areas(mesh.vertices, mesh.faces)


def test_a_factor_solves_and_counts_what_is_below_zero() -> None:
    laplacian, mass = operators_of(SURFACE)
    order = dissection(laplacian, SURFACE.vertices)
    assert np.array_equal(np.sort(order), np.arange(len(mass)))
    shift = 10.0
    matrix = (laplacian - shift * scipy.sparse.diags(mass)).tocsr()
    factor = Factor(matrix, order)
    assert factor.below_zero == (scipy.linalg.eigvalsh(matrix.toarray()) < 0).sum() > 0
    right = np.random.default_rng(0).standard_normal((len(mass), BLOCK))
    np.testing.assert_allclose(matrix @ factor.solve(right), right, atol=1e-8)
    assert factor.solve(right.astype(np.float32)).dtype == np.float32


def test_dissection_fills_in_little() -> None:
    laplacian, _ = operators_of(SURFACE)
    plain = Factor(laplacian + scipy.sparse.identity(700), np.arange(700))
    ordered = Factor(laplacian + scipy.sparse.identity(700), dissection(laplacian, SURFACE.vertices))
    assert ordered.entries < 0.6 * plain.entries
