"""The small demo from its command. `make demo` checks the scores at full size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.pipeline.projects import demo

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


def score(
    run: str, particles: int, particles_true: int, precision: float, recall: float, area: float
) -> dict[str, Any]:
    counts = {"membranes_found": 2, "membranes_true": 3, "membranes": 2, "particles": particles}
    overlaps = dict.fromkeys(("dice", "surface_dice", "surface_precision", "surface_recall"), 0.5 + 0.1 * len(run))
    picks = {"particles_true": particles_true, "particle_precision": precision, "particle_recall": recall}
    return {"run": run, **counts, **overlaps, **picks, "area_nm2": area, "area_true_nm2": 2 * area}


def test_pooled_scores_sum_counts_and_take_f1_of_all_picks() -> None:
    pooled = demo._pooled([score("a", 10, 20, 1.0, 0.5, 1e6), score("bb", 30, 20, 1 / 3, 0.5, 3e6)])
    assert (pooled["run"], pooled["particles"], pooled["particles_true"], pooled["membranes_true"]) == (
        "all",
        40,
        40,
        6,
    )
    assert pooled["dice"] == pytest.approx(0.65)
    assert (pooled["particle_precision"], pooled["particle_recall"]) == pytest.approx((0.5, 0.5))
    assert pooled["particle_f1"] == pytest.approx(0.5)
    assert pooled["density_per_um2"] == pytest.approx(10.0)
    assert pooled["density_true_per_um2"] == pytest.approx(5.0)


def test_scores_without_picks_or_areas_pool_to_zero_and_none() -> None:
    pooled = demo._pooled([score("a", 0, 0, 0.0, 0.0, 0.0)])
    assert pooled["particle_f1"] == 0.0
    assert pooled["density_per_um2"] is None


def test_the_score_table_ends_with_all_tomograms() -> None:
    table = demo.score_table([{"run": "phantom-1", "dice": 0.9}, {"run": "all", "dice": 0.8}])
    assert [row[:2] for row in table.rows] == [("phantom-1", 0.9)]
    assert table.footer is not None
    assert table.footer[:2] == ("all", 0.8)
    assert table.footer[2] is None, "an unknown score stays empty"
