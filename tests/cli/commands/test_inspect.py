"""plan, status, failures, verify, clean and report on a project of two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from standins.command_line import call, call_json

from membrain_cloud.cli.commands.inspect import OutputsOptions
from membrain_cloud.store.refs import SegmentationRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project


def test_plan_lists_tasks_and_writes_nothing(vesicles: Project, from_alice: list[str]) -> None:
    before = sorted(str(path) for path in Path(vesicles.root_url).rglob("*"))
    planned = call_json("plan", vesicles.config, *from_alice)
    assert [(task["stage"], task["run"]) for task in planned["tasks"]] == [
        (stage, run) for run in ("TS_1", "TS_2") for stage in ("separate", "mesh", "measure")
    ]
    assert sorted(str(path) for path in Path(vesicles.root_url).rglob("*")) == before
    assert "separate" in call("plan", vesicles.config, *from_alice).stdout


def test_a_failure_is_listed_until_it_is_cured(vesicles: Project, from_alice: list[str]) -> None:
    picks = Path(vesicles.root_url) / "ExperimentRuns/TS_2/Picks/expert_1_psii.json"
    content = picks.read_text()
    picks.unlink()
    result = call("run", vesicles.config, *from_alice, "--in-process")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("TS_2: measure failed")]
    assert " -> " in line
    listed = call("failures", vesicles.config)
    assert listed.exit_code == 1
    assert "TS_2" in listed.stdout
    assert "psii:expert/1" in json.loads(call("failures", vesicles.config, "--json").stdout)[0]["message"]
    picks.write_text(content)
    assert call("run", vesicles.config, *from_alice, "--in-process").exit_code == 0
    assert call("failures", vesicles.config).exit_code == 0


def test_a_lost_output_is_found_and_made_again(vesicles: Project, from_alice: list[str]) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    assert call("verify", vesicles.config).exit_code == 0
    (mesh,) = (Path(vesicles.root_url) / "ExperimentRuns/TS_1/Meshes").glob("membrain_*_membrane.glb")
    content = mesh.read_bytes()
    mesh.unlink()
    assert call("verify", vesicles.config).exit_code == 1
    assert call("verify", vesicles.config, "--forget-missing").exit_code == 1
    assert call_json("run", vesicles.config, *from_alice, "--in-process")["summary"]["done"] == 1
    assert mesh.read_bytes() == content


def test_clean_removes_only_outputs_without_a_receipt(vesicles: Project, from_alice: list[str]) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    orphan = SegmentationRef("TS_1", "membrane", "membrain", "dead", 10.0)
    vesicles.write_segmentation(orphan, np.ones((32, 36, 40), np.uint8))
    assert call_json("clean", vesicles.config)["annotations"] == [orphan.key]
    assert vesicles.has(orphan)
    assert call_json("clean", vesicles.config, "--yes")["removed"] is True
    assert not vesicles.has(orphan)
    assert call_json("clean", vesicles.config)["annotations"] == []
    assert vesicles.has(SegmentationRef("TS_1", "membrane", "alice", "3", 10.0))
    assert call_json("run", vesicles.config, *from_alice, "--in-process")["summary"]["skipped"] == 6


def test_a_report_is_one_page_of_all_runs(vesicles: Project, from_alice: list[str], tmp_path: Path) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    page = tmp_path / "page.html"
    result = call("report", vesicles.config, *from_alice, "--output", str(page))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(page)
    text = page.read_text()
    assert "TS_1" in text
    assert "TS_2" in text  # a run without a tomogram has a section too
    assert 'src="http' not in text


def test_a_report_has_no_rows_of_other_settings(vesicles: Project, from_alice: list[str], tmp_path: Path) -> None:
    call_json("run", vesicles.config, *from_alice, "--in-process")
    page, note = tmp_path / "page.html", "not been measured with these settings"
    assert call("report", vesicles.config, *from_alice, "--output", str(page)).exit_code == 0
    assert note not in page.read_text()
    other = [*from_alice, "--set", "mesh.smoothing_angstrom=12"]
    assert call("report", vesicles.config, *other, "--output", str(page)).exit_code == 0
    assert note in page.read_text()


@pytest.mark.parametrize(("user", "expected"), [(None, "membrain"), ("bob", "bob")])
def test_outputs_are_opened_with_their_user(vesicles: Project, tmp_path: Path, user: str | None, expected: str) -> None:
    project, tables, name = OutputsOptions(user=user, tables=str(tmp_path / "tables")).open(vesicles.config)
    assert name == expected
    assert project.config == vesicles.config
    assert tables.url.removeprefix("file://") == str(tmp_path / "tables")
