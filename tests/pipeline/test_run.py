"""The same engine on every runner, and what becomes of a run whose workers, scheduler or driver die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.chain import Registry
from membrain_cloud.pipeline.drive import Runner, carry_out
from membrain_cloud.pipeline.plan import plan
from membrain_cloud.pipeline.run import InProcess, OnDask, open_runner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Outcome, Task
from membrain_cloud.store.project import Project


def give_order(project: Project, run: str, text: str) -> Path:
    order = Path(project.config).with_name(f"order-{run}")
    order.write_text(text)
    return order


def journal(project: Project) -> list[str]:
    file = Path(project.config).with_name("journal")
    return file.read_text().split() if file.exists() else []


def run(project: Project, registry: Registry, runner: Runner) -> dict[str, str]:
    made = plan(project, Settings(), registry)
    outcomes = carry_out(project, Settings(), made, runner, registry)
    return {outcome.key.removesuffix("/whole"): outcome.state for outcome in outcomes}


@pytest.fixture(params=["in_process", "dask"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    in_process = request.param == "in_process"
    with open_runner(workers=None if in_process else 2, scheduler=None, in_process=in_process) as opened:
        yield opened


def test_everything_is_done_once(project: Project, registry: Registry, runner: Runner) -> None:
    give_order(project, "TS_2", "bug")
    assert run(project, registry, runner) == {
        "mask/TS_1": "done",
        "mask/TS_2": "failed",
        "mask/TS_3": "done",
        "size/TS_1": "done",
        "size/TS_2": "blocked",
        "size/TS_3": "done",
    }
    assert sorted(journal(project)) == [f"{stage}/TS_{n}/whole" for stage in ("mask", "size") for n in (1, 3)]
    give_order(project, "TS_2", "transient")
    again = run(project, registry, runner)
    assert [key for key, state in again.items() if state == "done"] == ["mask/TS_2", "size/TS_2"]
    assert len(journal(project)) == 6


def test_order_of_work_is_by_tomogram(project: Project, registry: Registry) -> None:
    run(project, registry, InProcess())
    assert [key.split("/")[1] for key in journal(project)] == ["TS_1", "TS_1", "TS_2", "TS_2", "TS_3", "TS_3"]


def test_progress_is_told(project: Project, registry: Registry) -> None:
    seen: list[tuple[str, str]] = []

    def observe(event: str, task: Task, outcome: Outcome | None) -> None:
        assert (outcome is None) == (event == "started")
        seen.append((event, task.key))

    give_order(project, "TS_1", "disk")
    made = plan(project, Settings(), registry, runs=["TS_1"])
    carry_out(project, Settings(), made, InProcess(), registry, observe)
    assert seen == [("started", "mask/TS_1/whole"), ("finished", "mask/TS_1/whole"), ("finished", "size/TS_1/whole")]


def test_a_dead_worker_costs_its_task_a_second_attempt_and_nothing_else(project: Project, registry: Registry) -> None:
    order = give_order(project, "TS_2", "die once")
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        assert set(run(project, registry, runner).values()) == {"done"}
    assert not order.exists()
    assert len(journal(project)) == 6


@pytest.mark.slow
def test_a_task_that_kills_its_worker_fails_alone(project: Project, registry: Registry) -> None:
    give_order(project, "TS_2", "die")
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        made = plan(project, Settings(), registry)
        outcomes = carry_out(project, Settings(), made, runner, registry)
    found = {outcome.key: outcome for outcome in outcomes}
    assert found["mask/TS_2/whole"].state == "failed"
    assert "worker died 3 times" in found["mask/TS_2/whole"].message
    assert found["size/TS_2/whole"].state == "blocked"
    assert {outcome.state for outcome in outcomes if outcome.run != "TS_2"} == {"done"}


def test_runners_exclude_each_other() -> None:
    with pytest.raises(UsageError), open_runner(workers=2, scheduler=None, in_process=True):
        pass


def test_no_scheduler_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membrain_cloud.pipeline.run.CONNECT_SECONDS", 2)
    with pytest.raises(UsageError, match="no Dask scheduler answers") as caught:
        OnDask(scheduler="tcp://127.0.0.1:9")
    assert "dask worker" in caught.value.next_step


def dask_process(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_all(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for process in processes:
        process.wait()


@pytest.mark.slow
def test_a_lost_scheduler_is_an_error_and_the_next_run_goes_on(project: Project, registry: Registry) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    arguments = ("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
    processes = [dask_process(*arguments), dask_process("worker", address, "--nthreads", "1")]
    give_order(project, "TS_2", "wait 60")

    def kill_the_scheduler(event: str, task: Task, _: Outcome | None) -> None:
        if event == "finished":
            kill_all(processes[:1])

    try:
        with open_runner(workers=None, scheduler=address, in_process=False) as runner:
            made = plan(project, Settings(), registry)
            started = time.monotonic()
            with pytest.raises(TransientError, match="was lost") as caught:
                carry_out(project, Settings(), made, runner, registry, kill_the_scheduler)
            assert "run the same command again" in caught.value.next_step
            assert time.monotonic() - started < 50
    finally:
        kill_all(processes)
    give_order(project, "TS_2", "")
    before = journal(project)
    assert before
    states = run(project, registry, InProcess())
    assert set(states.values()) == {"done", "skipped"}
    assert len(journal(project)) == len(set(journal(project))) == 6
