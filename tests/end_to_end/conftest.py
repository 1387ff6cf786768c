"""A small real project, and two light stages in place of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from standins.toy_stages import toy_project, toy_registry

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def registry() -> dict[str, Stage]:
    return toy_registry()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy_project(tmp_path / "project")
