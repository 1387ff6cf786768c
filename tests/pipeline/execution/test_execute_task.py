"""The life of one task: lease, receipt, retries and errors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from standins.toy_stages import give_order

from membrain_cloud.pipeline.execution.execute_task import ATTEMPTS, execute_task
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.store.objects.io_meter import checksum
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import TomogramRef
from membrain_cloud.store.run_state import leases
from membrain_cloud.store.run_state.leases import Leases

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project


def test_a_receipt_describes_how_the_output_was_made(project: Project, registry: Registry) -> None:
    task = plan(project, Settings(), registry).tasks[0]
    outcome = execute_task(task, registry)
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


def test_a_receipt_lists_every_object_of_its_output(project: Project, registry: Registry) -> None:
    first, second = plan(project, Settings(), registry).tasks[:2]
    for task in (first, second):
        execute_task(task, registry)
        receipt = project.receipts.read(task.receipt)
        assert receipt is not None
        root = Path(project.root_url)
        (folder,) = [root / path for path in receipt["paths"] if (root / path).exists()]
        files = [folder] if folder.is_file() else [file for file in folder.rglob("*") if file.is_file()]
        stored = {str(file.relative_to(root)): file.read_bytes() for file in files}
        assert receipt["objects"] == {name: [len(content), checksum(content)] for name, content in stored.items()}
        assert receipt["bytes_written"] >= sum(map(len, stored.values()))
    assert receipt["inputs"]["mask"]["identity"] == first.digest[:16]


def test_the_output_is_on_the_disk_before_its_receipt_is_written(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt reaches the disk after all objects that it lists."""
    flushed: list[str] = []
    monkeypatch.setattr(
        "membrain_cloud.atomic.FLUSH", lambda fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    task = plan(project, Settings(), registry).tasks[0]
    assert execute_task(task, registry).state == "done"
    receipt = project.receipts.read(task.receipt)
    assert receipt is not None
    assert Path(flushed[-1]).parent == Path(project.receipts.url, task.receipt).parent
    assert {str(Path(project.root_url, name)) for name in receipt["objects"]} == set(flushed[:-1])


def test_a_project_is_opened_once_for_many_tasks(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = plan(project, Settings(), registry).tasks
    assert execute_task(tasks[0], registry).state == "done"
    monkeypatch.setattr(CopickProject, "open", lambda _: pytest.fail("opened again"))
    assert {execute_task(task, registry).state for task in tasks[1:]} == {"done"}


def test_a_transient_error_is_retried(project: Project, registry: Registry) -> None:
    waits: list[float] = []
    give_order(project, "transient")
    outcome = execute_task(plan(project, Settings(), registry).tasks[0], registry, sleep=waits.append)
    assert outcome.state == "done"
    assert len(waits) == 1


def test_a_lasting_error_fails_after_all_attempts(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    give_order(project, "transient")
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    task = plan(project, Settings(), registry).tasks[0]
    outcome = execute_task(task, registry, sleep=waits.append)
    assert outcome.state == "failed"
    assert len(waits) == ATTEMPTS - 1
    assert waits == sorted(waits)
    assert f"{ATTEMPTS} attempts" in outcome.message
    assert project.receipts.read(task.receipt) is None


def test_a_full_disk_is_not_retried_and_not_a_bug(project: Project, registry: Registry) -> None:
    waits: list[float] = []
    give_order(project, "disk")
    outcome = execute_task(plan(project, Settings(), registry).tasks[0], registry, sleep=waits.append)
    assert outcome.state == "failed"
    assert "disk is full" in outcome.next_step
    assert waits == []


def test_a_bug_keeps_its_traceback(project: Project, registry: Registry) -> None:
    give_order(project, "bug")
    outcome = execute_task(plan(project, Settings(), registry).tasks[0], registry)
    assert outcome.message == "ZeroDivisionError: a bug"
    assert "Traceback" in outcome.traceback


@pytest.mark.parametrize("skew_seconds", [-1e8, 1e8])
def test_a_wrong_clock_takes_over_no_lease(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch, skew_seconds: float
) -> None:
    """Another machine renews its lease on a task: whatever the clock here says, the task is left to it."""
    task = plan(project, Settings(), registry).tasks[0]
    held = Leases(project.receipts.beside("leases"))
    with monkeypatch.context() as other_machine:
        other_machine.setattr(leases, "this_process", lambda: "another-machine/1/1.0")
        lease, _ = held.claim(f"{task.address}/{task.part}", "there", {"digest": task.digest})
    assert lease is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + skew_seconds)
    outcomes = []
    for _ in range(2):
        outcomes.append(execute_task(task, registry))
        lease.beat()
    assert [outcome.state for outcome in outcomes] == ["held", "held"]
    assert outcomes[0].message != outcomes[1].message, "the lease's state tells the driver that its holder lives"
    assert lease.is_held()
    lease.release()
    assert execute_task(task, registry).state == "done"


def test_a_lease_whose_task_has_its_receipt_is_not_waited_for(project: Project, registry: Registry) -> None:
    """Its holder, on another machine, died between receipt and release."""
    task = plan(project, Settings(), registry).tasks[0]
    assert execute_task(task, registry).state == "done"
    holder = {"token": "there", "count": 0, "process": "another-machine/1/1.0", "facts": {"digest": task.digest}}
    project.receipts.beside("leases").write(f"{task.address}/{task.part}.json", json.dumps(holder).encode())
    assert execute_task(task, registry).state == "skipped"
