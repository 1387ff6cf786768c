"""Fixtures: a small project on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

OBJECTS = [("membrane", False, "GO:0016020"), ("ribosome", True, None)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Make a project with the objects membrane and ribosome and no run."""
    return create_project(str(tmp_path / "project"), objects=OBJECTS)


@pytest.fixture
def density() -> np.ndarray:
    """Return noise, shape (40, 37, 50), float32: chunks of 16 divide no axis evenly."""
    return np.random.default_rng(1).normal(size=(40, 37, 50)).astype(np.float32)


@pytest.fixture
def tomogram(project: Project, density: np.ndarray) -> TomogramRef:
    """Write the density as tomogram `wbp` at 10 Å of run TS_1, in chunks of 16."""
    ref = TomogramRef("TS_1", "wbp", 10.0)
    project.write_tomogram(ref, density, chunk=16)
    return ref
