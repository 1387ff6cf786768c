"""Operators of meshes against MemBrain-pick's and against closed forms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse
from standins.picking_surfaces import sphere

from membrain_cloud.geometry import Mesh
from membrain_cloud.mesh.spectral.operators import (
    cotan_laplacian,
    directed_edges,
    surface_operators,
    tangent_gradients,
    vertex_areas,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_operators_equal_membrain_picks(reference: Path) -> None:
    with np.load(reference / "membrain-pick" / "golden_partition.npz", allow_pickle=False) as stored:
        golden = dict(stored)
    count = len(golden["mass"])

    def sparse(name: str) -> scipy.sparse.csr_matrix:
        places = (golden[f"{name}_row"], golden[f"{name}_col"])
        return scipy.sparse.csr_matrix((golden[f"{name}_val"], places), shape=(count, count))

    ours = surface_operators(
        golden["verts_orig_A"], golden["faces"], golden["normals"], eigenpairs=128, length_unit_angstrom=500.0
    )
    np.testing.assert_allclose(ours.mass, golden["mass"], rtol=1e-5)
    np.testing.assert_allclose(ours.eigenvalues, golden["evals"], atol=1e-3)
    # Signs of eigenvectors are arbitrary; what they span is not.
    np.testing.assert_allclose(ours.eigenvectors @ ours.eigenvectors.T, golden["evecs"] @ golden["evecs"].T, atol=2e-3)
    assert abs(ours.gradient_x - sparse("gradX")).max() < 1e-3
    assert abs(ours.gradient_y - sparse("gradY")).max() < 1e-3
    laplacian = cotan_laplacian(golden["verts_norm"].astype(np.float64), golden["faces"])
    assert abs(laplacian - sparse("L")).max() < 1e-5


def test_laplacian_of_a_sphere_has_its_spectrum() -> None:
    mesh = sphere(500.0)
    operators = surface_operators(
        mesh.vertices, mesh.faces, mesh.vertex_normals(), eigenpairs=16, length_unit_angstrom=500.0
    )
    expected = [level * (level + 1) for level in range(4) for _ in range(2 * level + 1)]
    np.testing.assert_allclose(operators.eigenvalues, expected, atol=0.1)
    assert operators.mass.sum() == pytest.approx(4 * math.pi, rel=0.01)
    gram = operators.eigenvectors.T @ (operators.eigenvectors * operators.mass[:, None])
    np.testing.assert_allclose(gram, np.eye(16), atol=1e-4)


def test_gradients_are_those_of_a_linear_function() -> None:
    mesh = sphere(1.0)
    normals = mesh.vertex_normals()
    slope = np.array([0.3, -1.2, 0.7])
    x, y = tangent_gradients(mesh.vertices, mesh.faces, normals)
    values = mesh.vertices @ slope
    length = np.hypot(x @ values, y @ values)
    tangential = np.linalg.norm(slope - (normals @ slope)[:, None] * normals, axis=1)
    np.testing.assert_allclose(length, tangential, atol=0.03)
    np.testing.assert_allclose(x @ np.ones(len(values)), 0, atol=1e-9)


def test_operators_are_the_same_every_time() -> None:
    mesh = sphere()
    one, two = (
        surface_operators(mesh.vertices, mesh.faces, mesh.vertex_normals(), eigenpairs=20, length_unit_angstrom=500.0)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.eigenvectors, two.eigenvectors)


@pytest.mark.parametrize("subdivisions", [0, 1])
def test_small_meshes_have_as_many_eigenpairs_as_vertices(subdivisions: int) -> None:
    mesh = sphere(30.0, subdivisions)
    operators = surface_operators(
        mesh.vertices, mesh.faces, mesh.vertex_normals(), eigenpairs=128, length_unit_angstrom=500.0
    )
    count = len(mesh.vertices)
    assert operators.eigenvectors.shape == (count, count)
    assert np.isfinite(operators.eigenvectors).all()


def test_degenerate_faces_and_lone_vertices_stay_finite() -> None:
    mesh = sphere(100.0, 1)
    vertices = np.vstack([mesh.vertices, [[500.0, 0, 0]]])
    faces = np.vstack([mesh.faces, [[0, 0, 1], [0, 1, 0]]]).astype(np.int32)
    bad = Mesh(vertices, faces)
    operators = surface_operators(vertices, faces, bad.vertex_normals(), eigenpairs=10, length_unit_angstrom=500.0)
    for values in (
        operators.mass,
        operators.eigenvalues,
        operators.eigenvectors,
        operators.gradient_x.data,
        operators.gradient_y.data,
    ):
        assert np.isfinite(values).all()


def test_vertex_areas_sum_to_the_surface() -> None:
    mesh = sphere(100.0, 2)
    assert vertex_areas(mesh.vertices, mesh.faces).sum() == pytest.approx(mesh.area_angstrom2())


def test_edges_are_those_of_the_faces() -> None:
    rng = np.random.default_rng(1)
    faces = rng.integers(0, 30, (60, 3))  # some name a vertex twice
    there = {(int(face[k]), int(face[m])) for face in faces for k in range(3) for m in range(3) if k != m}
    assert [tuple(edge) for edge in directed_edges(faces).tolist()] == sorted(there)
    assert directed_edges(np.zeros((0, 3), np.int32)).shape == (0, 2)
