"""A project that the tests of commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Picks
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.store.projects.project import Project


def vesicle(radius: float, shape: tuple[int, int, int] = (32, 36, 40)) -> NDArray[np.uint8]:
    """Return the mask of a spherical membrane, 4 voxels thick; the radius is in voxels."""
    z, y, x = np.indices(shape)
    distance = np.sqrt((z - 16) ** 2 + (y - 18) ** 2 + (x - 20) ** 2)
    return (abs(distance - radius) < 2).astype(np.uint8)


@pytest.fixture
def vesicles(tmp_path: Path) -> Project:
    """Return a project of two runs with alice's mask and expert's picks of a vesicle; TS_1 has a tomogram."""
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None), ("psii", True, None)])
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    for radius, run in ((9.0, "TS_1"), (11.0, "TS_2")):
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "3", 10.0), vesicle(radius))
        around = np.stack([20 + radius * np.cos(angles), 18 + radius * np.sin(angles), 16 + 0 * angles], 1)
        project.write_picks(ObjectRef(run, "psii", "expert", "1"), Picks(around * 10.0))
    noise = np.random.default_rng(0).normal(size=(32, 36, 40)).astype(np.float32)
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), noise - vesicle(9.0))
    return project


@pytest.fixture
def from_alice() -> list[str]:
    """Return options that process alice's masks and expert's picks."""
    return [
        *("--stages", "separate,mesh,measure"),
        *("--set", "separate.segmentation=membrane:alice/3@10.0"),
        *("--set", "measure.picks=psii:expert/1"),
    ]
