"""CONFIG may be a folder, and names of runs may be patterns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from membrain_cloud.cli.app import Command
from membrain_cloud.cli.project_options import config_argument, runs_option
from membrain_cloud.errors import UsageError
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None)])
    for run in ("TS_1", "TS_2", "other", "odd[1]", "odd1"):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), np.zeros((4, 4, 4), np.float32))
    return project


def runs_given(*words: str) -> tuple[str, tuple[str, ...]]:
    """Return the config and the runs that a command gets for the words of a command line."""
    got: list[Any] = []

    @click.command(cls=Command)
    @config_argument
    @runs_option
    def command(config: str, *, runs: tuple[str, ...]) -> None:
        got.extend((config, runs))

    result = CliRunner().invoke(command, words, catch_exceptions=False, standalone_mode=False)
    assert result.exception is None
    return got[0], got[1]


def test_a_folder_stands_for_the_config_in_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(project.config).parent
    assert runs_given(str(folder)) == (project.config, ())
    monkeypatch.chdir(folder.parent)
    assert runs_given("project/") == (project.config, ())
    monkeypatch.chdir(folder)
    assert runs_given(".") == (project.config, ())


@pytest.mark.parametrize("config", ["s3://bucket/folder", "/no/such/folder", "/no/such/config.json"])
def test_other_paths_and_urls_are_left_as_they_are(config: str) -> None:
    assert runs_given(config) == (config, ())


@pytest.mark.parametrize(
    ("names", "runs"),
    [
        (("TS_*",), ("TS_1", "TS_2")),
        (("other", "TS_[2-9]", "TS_?"), ("other", "TS_2", "TS_1")),
        (("odd[1]",), ("odd[1]",)),
        (("no-pattern",), ("no-pattern",)),
    ],
)
def test_a_pattern_stands_for_the_runs_that_match(
    project: Project, names: tuple[str, ...], runs: tuple[str, ...]
) -> None:
    words = [word for name in names for word in ("-r", name)]
    assert runs_given(project.config, *words) == (project.config, runs)


def test_a_pattern_that_no_run_matches_is_refused(project: Project) -> None:
    with pytest.raises(UsageError, match=r"no run matches TS-\*"):
        runs_given(project.config, "-r", "TS_1", "-r", "TS-*")
