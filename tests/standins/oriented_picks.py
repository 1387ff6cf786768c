"""Picks with known orientations, and an asymmetric structure to place at them: for tests of angle conventions."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from membrain_cloud.geometry import Picks

STRUCTURE = np.array([[10.0, 0, 0], [0, 20, 0], [0, 0, 30], [5, 6, 7]])
"""Points (4, 3) in the particle's frame, Å, without any symmetry."""


def random_picks(count: int = 40) -> Picks:
    """Return picks with random orientations; the first two are upright and upside down, where angles are ambiguous."""
    rng = np.random.default_rng(0)
    orientations = Rotation.random(max(count, 2), random_state=1).as_matrix()
    orientations[0] = np.eye(3)
    orientations[1] = np.diag([1.0, -1.0, -1.0])
    return Picks(
        rng.uniform(0, 800, (count, 3)),
        orientations[:count],
        rng.uniform(size=count),
        rng.integers(1, 9, count),
        rng.random(count) > 0.5,
    )


def placed_structures(picks: Picks) -> np.ndarray:
    """Return the structure's points (N, 4, 3) as they lie in the tomogram at each pick."""
    assert picks.orientations is not None
    return picks.positions[:, None] + STRUCTURE @ picks.orientations.transpose(0, 2, 1)
