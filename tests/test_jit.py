"""Compiled functions give what the plain ones give."""

from __future__ import annotations

import numpy as np

from membrain_cloud.jit import compiled, compiled_bare, compiled_fused, inlined
from membrain_cloud.version import __version__


def _sum(values: np.ndarray) -> float:
    total = 0.0
    for value in values:
        total += value * value
    return total


def test_every_way_of_compiling_computes_the_same() -> None:
    values = np.arange(10, dtype=np.float64)
    assert [way(_sum)(values) for way in (compiled, compiled_fused, compiled_bare, inlined)] == [285.0] * 4


def test_the_version_is_that_of_the_package() -> None:
    import membrain_cloud

    assert membrain_cloud.__version__ == __version__
