"""`membrain-cloud measure picks` on STAR files and picks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import starfile
from standins.command_line import call, call_json
from standins.star_project import MESHES, make_project, particles, star_text

from membrain_cloud.cli.commands.measure import picks

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SETTINGS = ("--set", MESHES, "--set", "context.bilayer=no", "--in-process")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    made = make_project(tmp_path)
    runs, positions, axes = particles(12, 7)
    names = ["elsewhere" if k == 5 else str(run) for k, run in enumerate(runs)]
    (tmp_path / "ribosomes.star").write_text(star_text(names, positions, axes, "relion4"))
    return made


def test_a_star_file_goes_round(project: Project) -> None:
    result = call("measure", "picks", project.config, "ribosomes.star", "--output", "out.star", *SETTINGS)
    assert result.exit_code == 0, result.output
    assert "measured │ a membrane in reach" in result.stdout
    assert "no_run" in result.stdout
    assert "elsewhere (1) -> give --run-of NAME=RUN" in result.stderr
    assert "wrote out.star" in result.stderr
    table = starfile.read("out.star", always_dict=True)["particles"]
    assert (table["mbc_status"] == "measured").sum() == 11
    found = call_json(
        "measure", "picks", project.config, "ribosomes.star", "--run-of", "elsewhere=TS_01", "--reach", "1.5",
        "--object", "ribosome", *SETTINGS,
    )  # fmt: skip
    assert found["picks"].startswith("ribosome:imported/")
    assert found["particles"] == 12
    assert found["status"]["measured"] + found["status"].get("no_membrane", 0) == 12
    assert found["status"].get("no_membrane", 0) > 3
    again = call_json("measure", "picks", project.config, found["picks"], *SETTINGS)
    assert again["status"] == {"measured": 12}


def test_mistakes_are_named_with_their_options(project: Project) -> None:
    assert picks.name == "picks"
    result = call("measure", "picks", project.config, "ribosomes.star", "--run-of", "TS_01", *SETTINGS)
    assert result.exit_code == 2
    assert "not of the form NAME=RUN" in result.stderr
    result = call("measure", "picks", project.config, "ribosomes.star", "-r", "TS_03", *SETTINGS)
    assert result.exit_code == 2
    assert "give --run-of for each of them" in result.stderr
    result = call("measure", "picks", project.config, "absent.star", *SETTINGS)
    assert result.exit_code != 0
    assert "absent.star" in result.stderr


def test_without_meshes_the_next_step_is_said(project: Project) -> None:
    given = "separate.segmentation=membrane:alice/1@10.0?instance=true"
    result = call("measure", "picks", project.config, "ribosomes.star", "--set", given, "--in-process")
    assert result.exit_code == 1
    assert "membrane:alice/1" in result.stderr
