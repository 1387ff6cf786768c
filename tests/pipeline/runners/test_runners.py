"""The same engine on every runner; runs whose workers, scheduler or driver die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.execution.crash_records import CrashRecords
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.execution.failure_log import FailureLog
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner, open_runner
from membrain_cloud.pipeline.runners.dask_runner import DaskRunner
from membrain_cloud.pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from membrain_cloud.pipeline.execution.runner import Runner
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.tasks import Outcome, Task
    from membrain_cloud.store.projects.project import Project


def give_order(project: Project, run: str, text: str) -> Path:
    order = Path(project.config).with_name(f"order-{run}")
    order.write_text(text)
    return order


def journal(project: Project) -> list[str]:
    file = Path(project.config).with_name("journal")
    return file.read_text().split() if file.exists() else []


def run(
    project: Project,
    registry: Registry,
    runner: Runner,
    *overrides: str,
    runs: Sequence[str] | None = None,
    retry_poison: bool = False,
) -> dict[str, str]:
    settings = load_settings(None, overrides)
    planned = plan(project, settings, registry, runs=runs)
    outcomes = execute_plan(project, settings, planned, runner, registry, retry_poison=retry_poison)
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
    run(project, registry, InProcessRunner())
    assert [key.split("/")[1] for key in journal(project)] == ["TS_1", "TS_1", "TS_2", "TS_2", "TS_3", "TS_3"]


def test_progress_is_observed(project: Project, registry: Registry) -> None:
    seen: list[tuple[str, str]] = []

    def observe(event: str, task: Task, outcome: Outcome | None) -> None:
        assert (outcome is None) == (event == "started")
        seen.append((event, task.key))

    give_order(project, "TS_1", "disk")
    planned = plan(project, Settings(), registry, runs=["TS_1"])
    execute_plan(project, Settings(), planned, InProcessRunner(), registry, observe)
    assert seen == [("started", "mask/TS_1/whole"), ("finished", "mask/TS_1/whole"), ("finished", "size/TS_1/whole")]


def test_a_dead_worker_costs_its_task_a_second_attempt_only(project: Project, registry: Registry) -> None:
    order = give_order(project, "TS_2", "die once")
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        assert set(run(project, registry, runner).values()) == {"done"}
    assert not order.exists()
    assert len(journal(project)) == 6


def test_a_task_that_kills_its_worker_fails_and_no_other_does(project: Project, registry: Registry) -> None:
    give_order(project, "TS_2", "die")
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        planned = plan(project, Settings(), registry)
        outcomes = execute_plan(project, Settings(), planned, runner, registry)
        by_key = {outcome.key: outcome for outcome in outcomes}
        assert by_key["mask/TS_2/whole"].state == "failed"
        assert "died 3 times" in by_key["mask/TS_2/whole"].message
        assert by_key["size/TS_2/whole"].state == "blocked"
        assert {outcome.state for outcome in outcomes if outcome.run != "TS_2"} == {"done"}
        (record,) = FailureLog(project.receipts).records()
        assert "retry_poison" in record["next_step"]
        give_order(project, "TS_2", "")
        assert run(project, registry, runner)["mask/TS_2"] == "failed", "it is not tried again"
        assert len(journal(project)) == 4
        assert run(project, registry, runner, retry_poison=True)["mask/TS_2"] == "done"
        assert set(run(project, registry, runner).values()) == {"skipped"}
    assert CrashRecords(project.receipts.sibling("attempts")).read(planned.tasks) == {}


@pytest.mark.slow
def test_other_settings_are_another_task(project: Project, registry: Registry) -> None:
    """A task that failed for crashes is tried again once its digest has changed."""
    give_order(project, "TS_1", "die")
    with open_runner(workers=1, scheduler=None, in_process=False) as runner:
        assert run(project, registry, runner, runs=["TS_1"])["mask/TS_1"] == "failed"
        give_order(project, "TS_1", "")
        assert run(project, registry, runner, "segment.threshold=0.5", runs=["TS_1"])["mask/TS_1"] == "done"


@pytest.mark.slow
def test_tasks_beside_a_crash_are_only_suspects(project: Project, registry: Registry) -> None:
    """Two tasks share a worker with two slots: the one that kills it fails, the other one is done."""
    give_order(project, "TS_1", "wait 1.5 die")
    give_order(project, "TS_2", "wait 3")
    with two_slot_cluster() as address, open_runner(workers=None, scheduler=address, in_process=False) as runner:
        states = run(project, registry, runner, runs=["TS_1", "TS_2"])
    assert states["mask/TS_1"] == "failed"
    assert states["mask/TS_2"] == states["size/TS_2"] == "done"


def test_a_task_that_takes_too_long_is_stopped(project: Project, registry: Registry, runner: Runner) -> None:
    give_order(project, "TS_2", "wait 60")
    states = run(project, registry, runner, "run.task_hours=0.002")
    assert states["mask/TS_2"] == "failed"
    assert states["size/TS_2"] == "blocked"
    assert [states[f"size/TS_{n}"] for n in (1, 3)] == ["done", "done"]
    (record,) = FailureLog(project.receipts).records()
    assert "run.task_hours" in record["message"]


@pytest.mark.slow
def test_a_stuck_worker_is_replaced(project: Project, registry: Registry) -> None:
    give_order(project, "TS_2", "stop once")
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        assert set(run(project, registry, runner, "run.silent_minutes=0.05").values()) == {"done"}
    assert len(journal(project)) == 6


def test_a_worker_that_leaves_finishes_or_returns_its_task(project: Project, registry: Registry) -> None:
    give_order(project, "TS_1", "term wait 1")
    give_order(project, "TS_2", "term wait 60 once")
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        started = time.monotonic()
        planned = plan(project, Settings(), registry)
        seen: list[str] = []

        def observe(event: str, task: Task, outcome: Outcome | None) -> None:
            if event == "again" and outcome is not None:
                seen.append(f"{task.key} {outcome.message}")

        outcomes = execute_plan(project, Settings(), planned, runner, registry, observe)
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert seen == ["mask/TS_2/whole worker_left"]
    assert journal(project).count("mask/TS_1/whole") == 1
    assert time.monotonic() - started < 60
    assert not any("attempts" in str(path) for path in Path(project.root_url).rglob("*.json"))


def test_stopping_waits_for_tasks_in_flight_and_starts_none(
    project: Project, registry: Registry, runner: Runner
) -> None:
    give_order(project, "TS_1", "wait 0.5")
    planned = plan(project, Settings(), registry)
    begun: list[str] = []

    def observe(event: str, task: Task, outcome: Outcome | None) -> None:
        if event == "started":
            begun.append(task.key)

    outcomes = execute_plan(project, Settings(), planned, runner, registry, observe, stop=lambda: bool(begun))
    assert sorted(outcome.key for outcome in outcomes) == sorted(begun)
    assert set(run(project, registry, runner).values()) == {"done", "skipped"}
    assert len(journal(project)) == 6


def test_runners_exclude_each_other() -> None:
    with pytest.raises(UsageError), open_runner(workers=2, scheduler=None, in_process=True):
        pass


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("membrain_cloud.pipeline.runners.dask_cluster.CONNECT_SECONDS", 2)
    with pytest.raises(TransientError, match="no Dask scheduler answers") as caught:
        DaskRunner(scheduler="tcp://127.0.0.1:9").__enter__()
    assert "dask worker" in caught.value.next_step


def dask_process(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a Dask command that can import the modules of the tests, such as the toy stages."""
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
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


@contextmanager
def dask_cluster(*worker_options: str, workers: int = 1) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and workers as processes; yield its address and the processes, the scheduler's first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    processes = [scheduler_process(address)]
    processes += [worker_process(address, *worker_options) for _ in range(workers)]
    try:
        yield address, processes
    finally:
        kill_all(processes)


def scheduler_process(address: str) -> subprocess.Popen[bytes]:
    return dask_process("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")


def worker_process(address: str, *options: str) -> subprocess.Popen[bytes]:
    return dask_process("worker", address, "--nthreads", "1", "--no-dashboard", *options)


@contextmanager
def two_slot_cluster() -> Iterator[str]:
    with dask_cluster("--nthreads", "2") as (address, _):
        yield address


def test_a_lost_scheduler_costs_only_tasks_in_flight(project: Project, registry: Registry) -> None:
    """The scheduler dies with its worker, others replace them, and the run goes on by itself."""
    with dask_cluster() as (address, processes):
        lost: list[str] = []

        def kill_the_scheduler(event: str, task: Task, outcome: Outcome | None) -> None:
            if event == "started" and task.run == "TS_2" and not lost:
                lost.append(task.key)
                kill_all(processes)
                processes[:] = [scheduler_process(address), worker_process(address)]

        with open_runner(workers=None, scheduler=address, in_process=False) as runner:
            planned = plan(project, Settings(), registry)
            outcomes = execute_plan(project, Settings(), planned, runner, registry, kill_the_scheduler)
    assert lost
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert len(set(journal(project))) == 6
    assert len(journal(project)) <= 7


@pytest.mark.slow
def test_a_scheduler_lost_for_good_is_an_error(
    project: Project, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask_cluster() as (address, processes):

        def kill_everything(event: str, task: Task, _: Outcome | None) -> None:
            if event == "finished":
                kill_all(processes)

        with open_runner(workers=None, scheduler=address, in_process=False) as runner:
            monkeypatch.setattr("membrain_cloud.pipeline.runners.dask_connection.RECONNECT_SECONDS", 2)
            monkeypatch.setattr("membrain_cloud.pipeline.runners.dask_cluster.CONNECT_SECONDS", 1)
            planned = plan(project, Settings(), registry)
            with pytest.raises(TransientError, match="was lost") as caught:
                execute_plan(project, Settings(), planned, runner, registry, kill_everything)
            assert "run the same command again" in caught.value.next_step
    before = journal(project)
    assert before
    states = run(project, registry, InProcessRunner())
    assert set(states.values()) == {"done", "skipped"}
    assert len(journal(project)) == len(set(journal(project))) == 6


@pytest.mark.slow
def test_workers_that_connect_later_are_used(project: Project, registry: Registry) -> None:
    for number in (1, 2, 3):
        give_order(project, f"TS_{number}", "wait 1")
    with dask_cluster() as (address, processes):
        workers: set[str] = set()

        def observe(event: str, task: Task, outcome: Outcome | None) -> None:
            if event == "started" and len(processes) == 2:
                processes.append(worker_process(address))
            if outcome is not None:
                workers.add(outcome.worker)

        with open_runner(workers=None, scheduler=address, in_process=False) as runner:
            planned = plan(project, Settings(), registry)
            execute_plan(project, Settings(), planned, runner, registry, observe)
    assert len(workers) == 2


def test_gpu_stages_go_to_gpu_workers_and_no_others(project: Project, registry: Registry) -> None:
    class Seen(type(registry["mask"])):  # type: ignore[misc]
        needs_gpu = True

    where: dict[str, set[str]] = {"mask": set(), "size": set()}

    def observe(event: str, task: Task, outcome: Outcome | None) -> None:
        if outcome is not None:
            where[task.stage].add(outcome.worker)

    with dask_cluster("--resources", "GPU=1") as (address, processes):
        processes.append(worker_process(address, "--resources", "CPU=1"))
        with open_runner(workers=None, scheduler=address, in_process=False) as runner:
            gpu_registry = {**registry, "mask": Seen()}
            planned = plan(project, Settings(), gpu_registry)
            outcomes = execute_plan(project, Settings(), planned, runner, gpu_registry, observe)
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert len(where["mask"]) == len(where["size"]) == 1
    assert where["mask"] != where["size"]
