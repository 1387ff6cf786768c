"""Estimates of a plan, the order of its tasks, and what it refuses before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from membrain_cloud.cli import main
from membrain_cloud.errors import StorageError, UsageError
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet, window_flops
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.execution.execute_task import execute_task
from membrain_cloud.pipeline.planning.estimates import STATED_SECONDS_PER_MEGAVOXEL, STATED_TFLOPS
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.refs import TomogramRef
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def planned(project: Project, registry: Registry, *overrides: str, **how: object) -> Plan:
    return plan(project, load_settings(None, overrides), registry, **how)  # type: ignore[arg-type]


def run(project: Project, registry: Registry, *overrides: str, **how: object) -> None:
    made = planned(project, registry, *overrides, **how)
    outcomes = execute_plan(project, load_settings(None, overrides), made, InProcessRunner(), registry)
    assert {outcome.state for outcome in outcomes} <= {"done", "skipped"}


@pytest.mark.parametrize(("channels", "residual"), [((16, 32, 64, 64), False), ((8, 16, 32), True)])
def test_flops_equal_those_that_torch_counts(channels: tuple[int, ...], residual: bool) -> None:
    architecture = UNetArchitecture(channels, residual)
    network = build_unet(architecture).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 16, 16, 16))
    assert window_flops(architecture, 16) == counter.get_total_flops()


def test_without_receipts_estimates_use_the_stated_throughput(project: Project) -> None:
    made = planned(project, STAGES, "plan.gpu_workers=2")
    segment, separate = made.estimates["segment"], made.estimates["separate"]
    assert segment.tomograms == 3
    assert segment.voxels == 3 * 8 * 10 * 12
    assert segment.kind == "gpu"
    assert segment.source == "stated"
    # 8 x 10 x 12 voxels are one window of 64, with the built-in network.
    assert segment.flops == 3 * window_flops(UNetArchitecture((16, 32, 64, 128, 128)), 64)
    assert segment.hours == pytest.approx(segment.flops / STATED_TFLOPS["gpu"] / 1e12 / 3600)
    assert separate.hours == pytest.approx(STATED_SECONDS_PER_MEGAVOXEL["separate"] * 2880 / 1e6 / 3600)
    total = made.total
    assert total.gpu_hours == pytest.approx(segment.hours + made.estimates["pick"].hours)
    assert total.elapsed_hours == pytest.approx(max(total.gpu_hours / 2, total.cpu_hours / 4))
    assert total.cost == pytest.approx(3.0 * total.gpu_hours + 0.05 * total.cpu_hours)
    without = planned(project, STAGES, "plan.gpu_workers=0")
    assert without.total.gpu_hours == 0
    assert without.estimates["segment"].hours == pytest.approx(segment.flops / STATED_TFLOPS["cpu"] / 1e12 / 3600)


def test_with_receipts_estimates_use_their_median(project: Project, registry: Registry) -> None:
    assert planned(project, registry).estimates["mask"].hours is None
    run(project, registry, runs=["TS_1", "TS_2"])
    for name, seconds in zip(sorted(project.receipts.names("mask")), (10.0, 30.0), strict=True):
        receipt = project.receipts.read(name)
        assert receipt is not None
        project.receipts.write(name, receipt | {"seconds": seconds})
    estimate = planned(project, registry).estimates["mask"]
    assert (estimate.source, estimate.samples, estimate.tomograms) == ("receipts", 2, 1)
    assert estimate.hours == pytest.approx(20.0 / 3600)


def test_begun_tomograms_go_first_then_large_ones(project: Project, registry: Registry) -> None:
    sizes = {"TS_4": (8, 10, 40), "TS_5": (8, 10, 20)}
    for name, shape in sizes.items():
        project.write_tomogram(TomogramRef(name, "wbp", 10.0), np.ones(shape, np.float32))
    run(project, registry, runs=["TS_2"], stages=["mask"])
    order = [(task.run, task.stage) for task in planned(project, registry).tasks]
    assert order[0] == ("TS_2", "size")
    assert [name for name, stage in order if stage == "mask"] == ["TS_4", "TS_5", "TS_1", "TS_3"]
    assert order[1:3] == [("TS_4", "mask"), ("TS_4", "size")]


def test_plan_shows_the_estimates(project: Project) -> None:
    made = CliRunner().invoke(main, ["plan", project.config])
    assert made.exit_code == 0, made.output
    assert "stated throughput" in made.stdout
    assert "GPU hours" in made.stderr
    printed = json.loads(CliRunner().invoke(main, ["plan", project.config, "--json"]).stdout)
    assert printed["estimates"]["segment"]["voxels"] == 2880
    assert printed["total"]["currency"] == "USD"
    assert [task["order"] for task in printed["tasks"]] == list(range(15))


def test_json_of_many_tasks_has_one_entry_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    from membrain_cloud.cli.app import print_json

    value = {"tasks": [{"run": f"TS_{i}", "needs": []} for i in range(1001)], "total": {"hours": 1.5}, "a": []}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.count("\n") > 1001


def test_a_named_session_of_other_settings_is_refused(project: Project, registry: Registry) -> None:
    mine = "output.session=mine"
    run(project, registry, mine, "segment.threshold=0")
    with pytest.raises(UsageError, match="'mine' holds results of other settings: mask on TS_1") as caught:
        planned(project, registry, mine, "segment.threshold=1")
    assert "output.replace=yes" in caught.value.next_step
    # Results on data that have changed may be replaced, and other sessions are free.
    project.write_tomogram(TomogramRef("TS_2", "wbp", 10.0), np.ones((8, 10, 12), np.float32))
    assert len(planned(project, registry, mine, "segment.threshold=0").tasks) == 2
    assert len(planned(project, registry, "output.session=yours", "segment.threshold=1").tasks) == 6
    assert len(planned(project, registry, mine, "segment.threshold=1", "output.replace=yes").tasks) == 6


def test_two_runs_in_one_session_do_not_replace_each_other(project: Project, registry: Registry) -> None:
    """Both are planned while the session is empty; the second one refuses, and the first one's results stay."""
    first, second = (
        planned(project, registry, "output.session=mine", f"segment.threshold={t}").tasks[0] for t in (0, 1)
    )
    assert execute_task(first, registry).state == "done"
    outcome = execute_task(second, registry)
    assert outcome.state == "failed"
    assert "holds results of other settings" in outcome.message
    assert project.receipts.read(first.receipt) is not None


def test_receipts_of_a_newer_version_are_refused_and_kept(project: Project, registry: Registry) -> None:
    run(project, registry)
    name = min(project.receipts.names("mask"))
    receipt = project.receipts.read(name)
    assert receipt is not None
    newer = receipt | {"receipt_version": RECEIPT_VERSION + 1, "versions": {"membrain_cloud": "7.0"}}
    project.receipts.write(name, newer)
    with pytest.raises(StorageError, match=r"written by membrain_cloud 7\.0 in format 2") as caught:
        planned(project, registry)
    assert "update membrain_cloud" in caught.value.next_step
    project.receipts.remove(name)
    project.receipts.write(f"{name}.v2", {"anything": "at all"})
    with pytest.raises(StorageError, match="format 2"):
        planned(project, registry)
    done = CliRunner().invoke(main, ["plan", project.config, "--set", "output.tables=" + str(Path(project.root_url))])
    assert done.exit_code == 0, "receipts of other stages do not matter"
