"""Compiled functions give what the plain ones give."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from membrain_cloud.jit import compiled, compiled_bare, compiled_fused, inlined
from membrain_cloud.version import __version__

ROOT = Path(__file__).parents[1]


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


CALLED = """
import sys
from numba.core.dispatcher import Dispatcher
from standins import kernels
kernels.compile_all()
modules = [module for name, module in sys.modules.items() if name.startswith("membrain_cloud.")]
found = {value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
print(*sorted(f"{one.__module__}.{one.__name__}" for one in found if one.signatures))
"""


@pytest.mark.slow
def test_every_kernel_is_compiled_before_the_tests(tmp_path: Path) -> None:
    """A kernel that `standins.kernels` leaves out would be compiled by the first test that needs it."""
    decorated = re.compile(r"(?m)^@(?:compiled|compiled_fused|compiled_bare|inlined)\n(?:@.*\n)*def (\w+)")
    kernels = {
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}.{name}"
        for path in (ROOT / "membrain_cloud").rglob("*.py")
        for name in decorated.findall(path.read_text())
    }
    # Without a cache: from one, a kernel is loaded without those that it calls.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", CALLED], env=environment, capture_output=True, text=True, check=True)
    assert len(kernels) > 70
    assert kernels - set(done.stdout.split()) == set()
