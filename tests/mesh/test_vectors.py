"""Vectors of kernels against NumPy."""

from __future__ import annotations

import numpy as np

from membrain_cloud.mesh.vectors import cross, dot, minus, vector


def test_vectors_agree_with_numpy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3))
    np.testing.assert_array_equal(minus(vector(a), vector(b)), a - b)
    np.testing.assert_array_equal(cross(vector(a), vector(b)), np.cross(a, b))
    assert np.isclose(dot(vector(a), vector(b)), a @ b, rtol=1e-14)
