"""Under complete spatial randomness p-values of pooled tables are uniform, envelopes cover; clusters are found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "null_distribution.py"


@pytest.fixture(scope="module")
def null() -> Any:
    """Return the module that simulates the null."""
    spec = importlib.util.spec_from_file_location("null_distribution", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["null_distribution"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def surface(null: Any) -> Any:
    """Return a flat membrane of 100 x 80 nm, with ends all around."""
    return null.flat_membrane(100.0, 80.0)


def test_p_of_pooled_membranes_is_uniform(null: Any, surface: Any) -> None:
    experiments = [null.run_experiment(surface, n_membranes=2, n_particles=12, seed=seed) for seed in range(40)]
    p = np.array([experiment.p for experiment in experiments])
    assert null.uniformity(p) > 0.01
    assert 0.35 < p.mean() < 0.65
    assert np.mean([experiment.inside for experiment in experiments]) > 0.9


def test_clusters_that_are_few_on_each_membrane_are_found(null: Any, surface: Any) -> None:
    place = null.in_pairs(0.3, 8.0)
    p = [null.run_experiment(surface, n_membranes=8, n_particles=15, seed=s, place=place).p for s in range(6)]
    assert np.mean(np.array(p) <= 0.05) >= 0.7


@pytest.mark.slow
def test_weak_clusters_of_many_membranes_are_found(null: Any) -> None:
    surface, place = null.flat_membrane(140.0, 100.0), null.in_pairs(0.12, 8.0)
    p = [null.run_experiment(surface, n_membranes=24, n_particles=15, seed=s, place=place).p for s in range(60)]
    assert np.mean(np.array(p) <= 0.05) >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_membranes", "n_particles", "draws"), [(1, 5, 400), (1, 40, 400), (1, 200, 400), (20, 40, 400)]
)
def test_the_null_holds_at_all_sizes(null: Any, n_membranes: int, n_particles: int, draws: int) -> None:
    surface = null.flat_membrane(140.0, 100.0)
    experiments = [
        null.run_experiment(surface, n_membranes=n_membranes, n_particles=n_particles, seed=seed)
        for seed in range(draws)
    ]
    p = np.array([experiment.p for experiment in experiments])
    assert 0.03 <= np.mean(p <= 0.05) <= 0.07
    assert null.uniformity(p) > 0.01
    coverage = np.mean([experiment.inside for experiment in experiments], axis=0)
    # counts of few particles are whole numbers: their envelopes hold more
    assert coverage.min() > 0.91
    assert coverage.max() < (1.01 if n_particles == 5 else 0.98)
