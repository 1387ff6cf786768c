"""Damaged files of every kind: no crash, no hang, no memory beyond a bound, and errors of ours alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from standins import fuzz

from membrain_cloud.store import formats

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_reader_refuses_damage_in_words(tmp_path: Path, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, fuzz.__file__, str(tmp_path), "60", str(seed)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "rounds of" in done.stdout


def test_damage_changes_a_file() -> None:
    import numpy as np

    assert "volume_reader" in formats.__all__
    damaged = {fuzz.damaged(b"0123456789" * 20, np.random.default_rng(seed)) for seed in range(20)}
    assert len(damaged) > 15
