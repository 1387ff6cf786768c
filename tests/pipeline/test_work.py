from __future__ import annotations

from pathlib import Path

import pytest

from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.work import ATTEMPTS, work
from membrain_cloud.store.files import checksum
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import TomogramRef


def give_order(project: Project, text: str, run: str = "TS_1") -> None:
    Path(project.config).with_name(f"order-{run}").write_text(text)


def test_a_receipt_says_what_made_the_output(project: Project, registry: Registry) -> None:
    task = plan(project, Settings(), registry).tasks[0]
    outcome = work(task, registry)
    receipt = project.receipts.read(task.receipt)
    assert receipt is not None
    assert receipt["digest"] == task.digest
    assert receipt["counts"] == outcome.counts
    assert receipt["inputs"]["density"]["uri"] == "TS_1/wbp@10.000"
    assert receipt["output"]["uri"].startswith("TS_1/membrane:membrain/")
    assert {"membrain_cloud", "numpy", "python"} <= set(receipt["versions"])
    assert receipt["seconds"] >= 0
    assert receipt["inputs"]["density"]["identity"] == project.identity(TomogramRef("TS_1", "wbp", 10.0))
    assert receipt["voxels"] == 8 * 10 * 12
    assert receipt["receipt_version"] == 1
    assert receipt["attempt"] == 1
    assert receipt["bytes_read"] > 4 * receipt["voxels"] * 0.5


def test_a_receipt_knows_every_object_of_its_output(project: Project, registry: Registry) -> None:
    first, second = plan(project, Settings(), registry).tasks[:2]
    for task in (first, second):
        work(task, registry)
        receipt = project.receipts.read(task.receipt)
        assert receipt is not None
        root = Path(project.root_url)
        (folder,) = [root / path for path in receipt["paths"] if (root / path).exists()]
        there = [folder] if folder.is_file() else [file for file in folder.rglob("*") if file.is_file()]
        stored = {str(file.relative_to(root)): file.read_bytes() for file in there}
        assert receipt["objects"] == {name: [len(content), checksum(content)] for name, content in stored.items()}
        assert receipt["bytes_written"] >= sum(map(len, stored.values()))
    assert receipt["inputs"]["mask"]["identity"] == first.digest[:16]


def test_a_fault_that_passes_is_tried_again(project: Project, registry: Registry) -> None:
    waits: list[float] = []
    give_order(project, "transient")
    outcome = work(plan(project, Settings(), registry).tasks[0], registry, sleep=waits.append)
    assert outcome.state == "done"
    assert len(waits) == 1


def test_a_fault_that_stays_is_given_up_after_some_attempts(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    give_order(project, "transient")
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    task = plan(project, Settings(), registry).tasks[0]
    outcome = work(task, registry, sleep=waits.append)
    assert outcome.state == "failed"
    assert len(waits) == ATTEMPTS - 1
    assert waits == sorted(waits)
    assert f"{ATTEMPTS} attempts" in outcome.message
    assert project.receipts.read(task.receipt) is None


def test_a_full_disk_is_no_bug_and_is_not_tried_again(project: Project, registry: Registry) -> None:
    waits: list[float] = []
    give_order(project, "disk")
    outcome = work(plan(project, Settings(), registry).tasks[0], registry, sleep=waits.append)
    assert outcome.state == "failed"
    assert "disk is full" in outcome.next_step
    assert waits == []


def test_a_bug_keeps_its_traceback(project: Project, registry: Registry) -> None:
    give_order(project, "bug")
    outcome = work(plan(project, Settings(), registry).tasks[0], registry)
    assert outcome.message == "ZeroDivisionError: a bug"
    assert "Traceback" in outcome.traceback
