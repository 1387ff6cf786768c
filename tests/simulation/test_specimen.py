"""Specimens: defaults that can be simulated, and a truth that agrees with itself."""

from __future__ import annotations

import numpy as np

from membrain_cloud.simulation.phantom import make_specimen
from membrain_cloud.simulation.specimen import KINDS, PhantomSettings


def test_the_truth_of_a_specimen_agrees_with_itself() -> None:
    specimen = make_specimen(3, PhantomSettings(shape=(64, 96, 96), membranes=2))
    numbers = set(np.unique(specimen.instances).tolist()) - {0}
    assert numbers == set(specimen.membrane_areas_nm2) == set(specimen.membrane_kinds)
    assert set(specimen.membrane_kinds.values()) <= set(KINDS)
    np.testing.assert_array_equal(specimen.labels > 0, specimen.instances > 0)
    assert len(specimen.particle_classes) == len(specimen.particles)
