"""The small demo from its command. `make demo` checks the scores at full size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def test_the_small_demo_scores_and_reports_and_is_done_once(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = CliRunner().invoke(main, ["demo", str(folder), "--small", "--workers", "1", "--json"])
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    (score, pooled) = result["scores"]
    assert score["surface_dice"] > 0.8
    assert score["membranes_found"] == score["membranes_true"]
    assert score["area_nm2"] == pytest.approx(score["area_true_nm2"], rel=0.2)
    assert pooled["run"] == "all"
    assert json.loads((folder / "scores.json").read_text())["all"] == pooled
    assert "phantom-1" in (folder / "report.html").read_text()
    again = CliRunner().invoke(main, ["demo", str(folder), "--small", "--workers", "1"])
    assert again.exit_code == 0
    assert "0 done, 5 skipped, 0 failed" in again.stderr
    assert json.loads((folder / "scores.json").read_text())["all"] == pooled
