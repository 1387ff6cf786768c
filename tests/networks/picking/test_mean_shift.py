"""The mean shift on a device of torch's equals the compiled one (here on its CPU device)."""

from __future__ import annotations

import numpy as np
import pytest

from membrain_cloud.networks.picking import mean_shift as on_device
from membrain_cloud.networks.picking.mean_shift import DeviceMeanShift
from membrain_cloud.picking.clustering import mean_shift


def sheet(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(0, 900, (count, 2)), rng.normal(0, 30, count)])
    return points, rng.uniform(-1, 9, count)


@pytest.mark.parametrize("at_once", [1, 5000, 10**7])
@pytest.mark.parametrize("iterations", [1, 40])
def test_it_equals_the_compiled_one(monkeypatch: pytest.MonkeyPatch, at_once: int, iterations: int) -> None:
    monkeypatch.setitem(on_device._PAIRS_AT_ONCE, "cpu", at_once)
    points, scores = sheet(60 if at_once == 1 else 600)
    want = mean_shift(points, scores, bandwidth_angstrom=70.0, max_iterations=iterations)
    found = DeviceMeanShift("cpu")(points, scores, bandwidth_angstrom=70.0, max_iterations=iterations)
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_it_is_the_same_every_time_and_takes_nothing_and_one() -> None:
    shift, (points, scores) = DeviceMeanShift("cpu"), sheet(300)
    first = shift(points, scores, bandwidth_angstrom=60.0, max_iterations=20)
    np.testing.assert_array_equal(shift(points, scores, bandwidth_angstrom=60.0, max_iterations=20), first)
    assert shift(points[:0], scores[:0], bandwidth_angstrom=60.0, max_iterations=20).shape == (0, 3)
    np.testing.assert_allclose(shift(points[:1], scores[:1], bandwidth_angstrom=60.0, max_iterations=5), points[:1])
