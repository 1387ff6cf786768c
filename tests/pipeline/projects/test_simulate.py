"""A project of simulated tomograms: what it holds, and that complete tomograms are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.pipeline.projects.simulate import (
    HALF_THICKNESS_ANGSTROM,
    SimulatedTomogram,
    simulate_project,
    true_areas_nm2,
    true_picks,
    true_picks_at_surface,
)
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.store.refs import SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

TOMOGRAM = SimulatedTomogram("TS_1", 7, PhantomSettings(shape=(32, 64, 64), membranes=1))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("simulated")
    reports: list[str] = []
    project = simulate_project(str(folder), [TOMOGRAM], particle="psii", processes=1, report=reports.append)
    (line,) = reports
    assert line.startswith("TS_1: 32 x 64 x 64 voxels, 1 membranes")
    return project


def test_the_truth_is_stored_beside_the_tomogram(simulated: Project) -> None:
    spacing = TOMOGRAM.phantom.voxel_spacing_angstrom
    instances = simulated.read_labels(SegmentationRef("TS_1", "membrane", "truth", "0", spacing, True))
    mask = simulated.read_labels(SegmentationRef("TS_1", "membrane", "truth", "0", spacing, False))
    np.testing.assert_array_equal(mask > 0, instances > 0)
    areas = true_areas_nm2(simulated, "TS_1")
    assert areas is not None
    assert set(areas) == set(np.unique(instances).tolist()) - {0}
    assert all(area > 0 for area in areas.values())
    assert true_areas_nm2(simulated, "TS_2") is None


def test_surface_picks_are_moved_along_the_normals(simulated: Project) -> None:
    centres = simulated.read_picks(true_picks("TS_1", "psii"))
    surface = simulated.read_picks(true_picks_at_surface("TS_1", "psii"))
    assert len(centres) > 0
    assert centres.orientations is not None
    moved = surface.positions - centres.positions
    np.testing.assert_allclose(moved, HALF_THICKNESS_ANGSTROM * centres.orientations[:, :, 2], atol=1e-3)


def test_a_complete_tomogram_is_kept(simulated: Project) -> None:
    folder = simulated.config.rpartition("/")[0]
    reports: list[str] = []
    simulate_project(folder, [TOMOGRAM], particle="psii", processes=1, report=reports.append)
    assert reports == []


def test_the_same_seed_gives_the_same_tomogram(simulated: Project, tmp_path: Path) -> None:
    again = simulate_project(str(tmp_path), [TOMOGRAM], particle="psii", processes=1, report=lambda _: None)
    np.testing.assert_array_equal(again.read_density(TOMOGRAM.ref), simulated.read_density(TOMOGRAM.ref))
