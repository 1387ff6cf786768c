"""Operators are read back as they were computed, and torn files count as absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from membrain_cloud.mesh.spectral.operators import Operators, cached_operators
from membrain_cloud.store.operator_cache import OperatorFiles

if TYPE_CHECKING:
    from pathlib import Path


def operators_of(cache: OperatorFiles | None, radius: float = 100.0) -> Operators:
    shape = trimesh.creation.icosphere(2, radius=radius)
    return cached_operators(
        cache, shape.vertices, shape.faces, shape.vertex_normals, eigenpairs=12, length_unit_angstrom=500.0
    )


def test_operators_come_back(tmp_path: Path) -> None:
    cache = OperatorFiles(tmp_path / "deep" / "cache")
    made, read, plain = operators_of(cache), operators_of(cache), operators_of(None)
    assert len(cache) == 1
    for other in (made, read):
        for name in ("mass", "eigenvalues", "eigenvectors"):
            np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))
        for name in ("gradient_x", "gradient_y"):
            np.testing.assert_array_equal(getattr(other, name).toarray(), getattr(plain, name).toarray())
    operators_of(cache, radius=101.0)
    assert len(cache) == 2
    assert not list((tmp_path / "deep" / "cache").glob(".*"))


def test_torn_files_count_as_absent(tmp_path: Path) -> None:
    cache = OperatorFiles(tmp_path)
    operators_of(cache)
    (key,) = cache
    file = tmp_path / f"{key}.npz"
    for content in (b"", b"torn", file.read_bytes()[:-200]):
        file.write_bytes(content)
        assert key not in cache
        with pytest.raises(KeyError):
            cache[key]
        operators_of(cache)
        assert key in cache
    del cache[key]
    with pytest.raises(KeyError):
        del cache[key]
    assert list(cache) == []
