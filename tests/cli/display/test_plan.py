"""Plans as JSON and as tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.cli.display.plan import plan_as_dict, show_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.store.projects.project import Project


@pytest.fixture
def with_a_refusal(vesicles: Project) -> Plan:
    """Return a plan that segments TS_1 and refuses TS_2, which has no tomogram."""
    return plan(vesicles, load_settings(None, []), STAGES, stages=["segment", "separate"])


def test_the_json_has_the_promised_keys(with_a_refusal: Plan) -> None:
    content = json.loads(json.dumps(plan_as_dict(with_a_refusal)))
    assert set(content) == {"stages", "sessions", "tables", "estimates", "total", "tasks", "settled"}
    assert content["stages"] == ["segment", "separate"]
    first = content["tasks"][0]
    assert set(first) == {
        *("order", "stage", "run", "part", "digest", "inputs", "output", "memory_bytes", "voxels"),
    }
    assert (first["order"], first["stage"], first["run"], first["voxels"]) == (0, "segment", "TS_1", 32 * 36 * 40)
    assert {(entry["run"], entry["state"]) for entry in content["settled"]} == {("TS_2", "failed"), ("TS_2", "blocked")}
    assert {"tomograms", "voxels", "bytes_to_read", "flops", "kind", "hours", "cost", "source", "samples"} == set(
        content["estimates"]["segment"]
    )


def test_the_tables_show_tasks_and_refusals(with_a_refusal: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(with_a_refusal)
    printed = capsys.readouterr()
    assert printed.out.startswith("2 runs -> ")
    for text in ("already done", "refused", "worker hours", "stated throughput", "GiB"):
        assert text in printed.out
    assert "GPU hours" in printed.err
    assert any(line.startswith("TS_2: segment failed: ") for line in printed.err.splitlines())
