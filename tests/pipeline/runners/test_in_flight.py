"""Tasks in flight: what the driver gets of tasks that end, are lost, or crash their worker. Without Dask."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.pipeline.execution.crash_records import CrashRecords
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners.dask_cluster import SchedulerLost
from membrain_cloud.pipeline.runners.dask_connection import BundleEnded, TaskEvent
from membrain_cloud.pipeline.runners.in_flight import STATISTICS_SECONDS, Attempt, InFlightTasks, RunStatistics
from membrain_cloud.pipeline.runners.task_bundles import Bundle
from membrain_cloud.pipeline.runners.task_exchange import TaskExchange
from membrain_cloud.pipeline.runners.worker_monitor import OVERDUE_SECONDS, POLL_PAUSE, RESTART_SECONDS, WorkerMonitor
from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
from membrain_cloud.pipeline.runners.worker_state import WorkerFacts
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Outcome

if TYPE_CHECKING:
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project


class FakeFuture:
    """A future of Dask that has ended in a given way."""

    def __init__(self, status: str = "pending", value: Any = None) -> None:
        self.status, self.value = status, value

    def exception(self) -> Any:
        return self.value


class FakeConnection:
    """A connection to a scheduler whose workers and futures are set by the test."""

    topic = "topic"

    def __init__(self) -> None:
        self.connected: dict[str, WorkerFacts] = {}
        self.sent: list[tuple[Bundle, str]] = []
        self.future = FakeFuture()
        self.restarted: list[str] = []

    def submit(self, bundle: bytes, tokens: tuple[str, ...], address: str) -> FakeFuture:
        self.sent.append((Bundle.unpacked(bundle), address))
        assert tokens == tuple(order.token for order in self.sent[-1][0].orders)
        return self.future

    def result(self, future: FakeFuture) -> Any:
        return future.value

    def workers(self) -> dict[str, WorkerFacts]:
        return dict(self.connected)

    def restart_worker(self, address: str) -> None:
        self.restarted.append(address)


class Parts:
    """The parts of a Dask runner over a connection that the test controls."""

    def __init__(self, *slots: int) -> None:
        self.connection = FakeConnection()
        self.workers = WorkerRegistry()
        self.exchange = TaskExchange("run", self.connection)  # type: ignore[arg-type]
        self.tasks = InFlightTasks(self.workers, self.exchange)
        self.monitor = WorkerMonitor(self.connection, self.workers, self.tasks)  # type: ignore[arg-type]
        self.retried: list[str] = []
        self.tasks.bind(CrashRecords(None), self.observe)
        for number, count in enumerate(slots, 1):
            self.join(number, count)
        self.monitor.poll(0.0)

    def observe(self, event: str, task: Task, outcome: Outcome | None) -> None:
        assert event == "again"
        assert outcome is not None
        self.retried.append(f"{task.key} {outcome.message}")

    def join(self, number: int, slots: int = 1, name: str = "", port: int = 4000, host: int = 0) -> str:
        address = f"tcp://10.0.0.{host or number}:{port}"
        self.connection.connected[address] = WorkerFacts(address, name or f"w{number}", None, None, slots, 2**33)
        return address

    def start(self, *tasks: Task) -> None:
        for task in tasks:
            self.tasks.start(Attempt(task, "cpu"), 0.0)
        self.exchange.post(self.workers)

    def began(self, *tokens: str) -> None:
        for token in tokens:
            self.tasks.handle({"what": "began", "token": token}, 0.0)


@pytest.fixture
def masks(project: Project, registry: Registry) -> tuple[Task, ...]:
    return plan(project, Settings(), registry, stages=["mask"]).tasks


def done(task: Task) -> dict[str, Any]:
    return Outcome(task.stage, task.run, task.part, "done", seconds=100.0).as_dict()


def test_an_event_ends_a_task_and_begins_the_next(masks: tuple[Task, ...]) -> None:
    parts = Parts(2)
    parts.start(*masks[:2])
    assert [address for _, address in parts.connection.sent] == ["tcp://10.0.0.1:4000"] * 2
    event = {"what": "ended", "token": "run-1", "outcome": done(masks[0]), "next": "run-2"}
    parts.tasks.handle(event, 7.0)
    assert parts.tasks.has_outcomes()
    (outcome,) = parts.tasks.take_outcomes()
    assert (outcome.key, outcome.state, outcome.worker) == (masks[0].key, "done", "tcp://10.0.0.1:4000")
    assert parts.workers.has_started("run-2")
    parts.tasks.handle(event, 8.0)
    assert parts.tasks.take_outcomes() == [], "an outcome counts once"


def test_a_bundle_replaces_lost_events_and_returns_the_rest(masks: tuple[Task, ...]) -> None:
    parts = Parts(2)
    parts.start(*masks[:2])
    parts.connection.future.status, parts.connection.future.value = "finished", {"run-1": done(masks[0])}
    parts.tasks.end_bundle(("run-1", "run-2"))
    assert [outcome.key for outcome in parts.tasks.take_outcomes()] == [masks[0].key]
    assert parts.retried == [f"{masks[1].key} worker_left"]
    assert len(parts.tasks.waiting()) == 1
    parts.tasks.assign_waiting(1.0)
    parts.exchange.post(parts.workers)
    assert [order.task.key for order in parts.connection.sent[-1][0].orders] == [masks[1].key]
    assert parts.exchange.bundle_result(("run-1", "run-2")) is None


def test_an_error_of_a_bundle_fails_the_task_that_had_begun(masks: tuple[Task, ...]) -> None:
    parts = Parts(2)
    parts.start(*masks[:2])
    parts.began("run-2")
    parts.connection.future.status, parts.connection.future.value = "error", ImportError("no module")
    parts.tasks.end_bundle(("run-1", "run-2"))
    (outcome,) = parts.tasks.take_outcomes()
    assert (outcome.key, outcome.state, outcome.message) == (masks[1].key, "failed", "ImportError: no module")
    assert parts.retried == [f"{masks[0].key} worker_left"]


def test_a_cancelled_bundle_means_a_lost_scheduler(masks: tuple[Task, ...]) -> None:
    parts = Parts(1, 1)
    parts.start(*masks[:2])
    parts.connection.future.status = "cancelled"
    with pytest.raises(SchedulerLost):
        parts.tasks.end_bundle(("run-1",))
    parts.tasks.retry_all("scheduler_lost")
    assert parts.retried == [f"{task.key} scheduler_lost" for task in masks[:2]]
    assert parts.workers.workers == {}
    parts.tasks.assign_waiting(1.0)
    assert len(parts.tasks.waiting()) == 2, "there is no worker yet"


def test_a_task_that_crashes_three_workers_fails(masks: tuple[Task, ...]) -> None:
    parts = Parts(1)
    parts.start(masks[0])
    for attempt in (1, 2, 3):
        parts.began(f"run-{attempt}")
        parts.connection.connected.clear()
        parts.join(attempt, name="w1", host=1, port=4000 + attempt)
        parts.monitor.poll(float(attempt))
        parts.tasks.resolve_deaths(float(attempt))
        parts.tasks.assign_waiting(float(attempt))
        parts.exchange.post(parts.workers)
        if attempt < 3:
            (order,) = parts.connection.sent[-1][0].orders
            assert order.take_over == f"run-{attempt}", "the dead attempt's lease is taken over"
            assert parts.workers.assignments()[0].alone
    assert parts.tasks.deaths == 3
    assert parts.retried == [f"{masks[0].key} worker_died"] * 2
    (outcome,) = parts.tasks.take_outcomes()
    assert (outcome.state, outcome.worker) == ("failed", "tcp://10.0.0.1:4002")
    assert "died 3 times" in outcome.message


def test_a_worker_with_an_overdue_task_is_restarted_then_given_up(masks: tuple[Task, ...]) -> None:
    parts = Parts(1)
    parts.start(masks[0])
    parts.began("run-1")
    (address,) = parts.connection.connected
    late = 3600 * masks[0].job.limit("task_hours") + OVERDUE_SECONDS + 1.0
    parts.connection.connected[address] = replace(parts.connection.connected[address], last_seen=1.0)
    parts.monitor.poll(late)
    (outcome,) = parts.tasks.take_outcomes()
    assert (outcome.key, outcome.state) == (masks[0].key, "failed")
    assert "run.task_hours" in outcome.message
    assert parts.connection.restarted == [address]
    assert parts.workers.workers[address].leaving


def test_a_silent_worker_without_a_nanny_is_given_up(masks: tuple[Task, ...]) -> None:
    parts = Parts(1)
    parts.start(masks[0])
    (address,) = parts.connection.connected
    silent = 60 * masks[0].job.limit("silent_minutes") + 1.0
    parts.monitor.poll(silent)
    parts.monitor.poll(silent + RESTART_SECONDS)
    assert parts.connection.restarted == [address]
    assert list(parts.workers.workers) == [address]
    parts.monitor.poll(silent + RESTART_SECONDS + 1.0)
    parts.monitor.poll(silent + RESTART_SECONDS + 3.0)
    assert parts.workers.workers == {}, "it is listed by the scheduler and as silent as before"
    parts.connection.connected[address] = replace(parts.connection.connected[address], last_seen=9.0)
    parts.monitor.poll(silent + RESTART_SECONDS + 5.0)
    assert list(parts.workers.workers) == [address], "it has been heard of again"


def test_polls_are_due_at_intervals_or_on_request() -> None:
    parts = Parts(1)
    parts.join(2)
    parts.monitor.poll_if_due(1.0)
    assert len(parts.workers.workers) == 1
    parts.monitor.request_poll()
    parts.monitor.poll_if_due(1.1)
    assert len(parts.workers.workers) == 2


def test_a_list_that_takes_long_is_asked_for_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(1)
    clock = iter((10.0, 10.5, 20.0, 20.0))
    monkeypatch.setattr("membrain_cloud.pipeline.runners.worker_monitor.time.perf_counter", lambda: next(clock))
    parts.monitor.poll(1.0)
    parts.join(2)
    parts.monitor.request_poll()
    parts.monitor.poll_if_due(1.0 + 0.9 * POLL_PAUSE * 0.5)
    assert len(parts.workers.workers) == 1, "the scheduler needs its time for other things"
    parts.monitor.poll_if_due(1.0 + POLL_PAUSE * 0.5)
    assert len(parts.workers.workers) == 2


def test_attempts_that_no_worker_takes_end(masks: tuple[Task, ...]) -> None:
    parts = Parts(1)
    parts.start(*masks)
    assert len(parts.tasks.waiting()) == 2
    failure = Outcome("mask", masks[1].run, "whole", "failed", "too large")
    parts.tasks.refuse_waiting(lambda task, kind: failure if task is masks[1] else None)
    assert [attempt.task for attempt in parts.tasks.waiting()] == [masks[2]]
    assert parts.tasks.take_outcomes() == [failure]


class FakeScaler:
    """Records the numbers that worker groups are scaled with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []

    def follow(self, demand: Any, workers: Any, now: float) -> None:
        self.calls.append((dict(demand), workers))


def test_statistics_count_tasks_and_scale_workers(masks: tuple[Task, ...]) -> None:
    parts, scaler = Parts(2), FakeScaler()
    statistics = RunStatistics(parts.workers, parts.tasks, scaler)  # type: ignore[arg-type]
    assert statistics.snapshot["workers"] == {"gpu": 0, "cpu": 0}
    parts.start(*masks)
    statistics.update({("gpu", 5): 1, ("cpu", 7): 4}, 10.0)
    assert statistics.snapshot["workers"] == {"gpu": 0, "cpu": 1}
    assert statistics.snapshot["in_flight"] == {"gpu": 0, "cpu": 2}
    assert statistics.snapshot["pending"] == {"gpu": 1, "cpu": 5}, "the third task waits for a slot"
    waiting = masks[2].memory_bytes
    assert scaler.calls == [({("gpu", 5): 1, ("cpu", 7): 4, ("cpu", waiting): 1}, parts.workers)]
    statistics.update({}, 10.0 + STATISTICS_SECONDS / 2)
    assert statistics.snapshot["pending"] == {"gpu": 1, "cpu": 5}, "it is counted anew at intervals only"
    statistics.update({}, 10.0 + STATISTICS_SECONDS)
    assert statistics.snapshot["pending"] == {"gpu": 0, "cpu": 1}


def test_events_are_received_in_order() -> None:
    from membrain_cloud.pipeline.runners.dask_connection import DaskConnection

    connection = DaskConnection("topic", scheduler="tcp://10.0.0.1:8786")
    exchange = TaskExchange("run", connection)
    assert exchange.receive(0.0) == []
    events = [TaskEvent({"what": "began"}), BundleEnded(("run-1",))]
    for event in events:
        connection.events.put(event)  # type: ignore[arg-type]
    assert exchange.receive(5.0) == events
