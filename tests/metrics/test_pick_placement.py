"""Medians of what picks that were moved and turned on purpose are off by."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from membrain_cloud.geometry import Picks
from membrain_cloud.metrics.pick_placement import Placement, placement


def particles(count: int = 50) -> Picks:
    rng = np.random.default_rng(0)
    return Picks(rng.uniform(0, 1e5, (count, 3)), Rotation.random(count, random_state=1).as_matrix())


def turned(picks: Picks, axis: str, degrees: float) -> Picks:
    """Each turned about an axis of its own."""
    assert picks.orientations is not None
    by = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return Picks(picks.positions + np.array([0.0, 9.0, 0.0]), picks.orientations @ by)


@pytest.mark.parametrize(("degrees", "expected"), [(20.0, 20.0), (-20.0, 20.0), (170.0, 10.0), (90.0, 90.0)])
def test_in_plane_angles_are_known_up_to_half_a_turn(degrees: float, expected: float) -> None:
    true = particles()
    found = placement(turned(true, "z", degrees), true, 60.0)
    assert found.center_angstrom == pytest.approx(9.0)
    assert found.normal_degrees == pytest.approx(0.0, abs=1e-4)
    assert found.in_plane_degrees == pytest.approx(expected)


def test_normals_count_over_half_a_turn() -> None:
    true = particles()
    assert placement(turned(true, "y", 160.0), true, 60.0).normal_degrees == pytest.approx(160.0)


def test_only_what_is_known_and_near_counts() -> None:
    true = particles()
    found = turned(true, "z", 30.0)
    half = np.arange(50) < 25
    off = Picks(found.positions + np.where(half, 0.0, 500.0)[:, None], found.orientations, in_plane=half)
    assert placement(off, true, 60.0).in_plane_degrees == pytest.approx(30.0)
    nothing = Picks(found.positions, found.orientations, in_plane=np.zeros(50, bool))
    assert placement(nothing, true, 60.0).in_plane_degrees is None
    assert placement(Picks(found.positions), true, 60.0) == Placement(pytest.approx(9.0), None, None)
    assert placement(Picks(np.zeros((0, 3))), true, 60.0) == Placement(None, None, None)
    assert placement(found, true, 1.0) == Placement(None, None, None)
