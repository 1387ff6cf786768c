"""How tasks travel to a worker and what it reports: short ones several together, each with its own events."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from distributed.protocol import pickle

from membrain_cloud.pipeline.execution.driver import run_tasks
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners import dask_worker as worker
from membrain_cloud.pipeline.runners import open_runner
from membrain_cloud.pipeline.runners.dask_connection import DaskConnection
from membrain_cloud.pipeline.runners.task_bundles import Bundle, Order, Outbox, packed_registry, unpacked_registry
from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
from membrain_cloud.pipeline.runners.worker_state import Assignment, WorkerFacts
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.base import Stage, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from membrain_cloud.store.projects.project import Project

# Workers cannot import the tests' modules: their classes are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def planned(project: Project, registry: dict[str, Stage]) -> Plan:
    return plan(project, Settings(), registry)


class FakeWorker:
    """The part of Dask's worker that `work_bundle` uses."""

    address = "tcp://10.0.0.1:4000"

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.task = SimpleNamespace(state="executing")
        self.state = SimpleNamespace(tasks={"key": self.task})

    def get_current_task(self) -> str:
        return "key"

    def log_event(self, topic: str, event: dict[str, Any]) -> None:
        assert topic == "topic"
        self.events.append(event)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    fake = FakeWorker()
    monkeypatch.setattr(worker, "get_worker", lambda: fake)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return fake


def bundle(planned: Plan, registry: Mapping[str, Stage]) -> bytes:
    masks = [task for task in planned.tasks if task.stage == "mask"]
    orders = tuple(Order(task, f"token-{number}") for number, task in enumerate(masks))
    return Bundle("run", "topic", 1, packed_registry(registry), orders).packed()


def sent_events(fake: FakeWorker) -> list[tuple[str, str, str]]:
    return [(event["what"], event["token"], event.get("next", "")) for event in fake.events]


def test_each_task_of_a_bundle_has_its_events(planned: Plan, registry: dict[str, Stage], fake: FakeWorker) -> None:
    outcomes = worker.work_bundle(bundle(planned, registry))
    assert sent_events(fake) == [
        ("began", "token-0", ""),
        ("ended", "token-0", "token-1"),
        ("ended", "token-1", "token-2"),
        ("ended", "token-2", ""),
    ]
    assert [outcome["state"] for outcome in outcomes.values()] == ["done"] * 3
    assert [event["outcome"] for event in fake.events[1:]] == list(outcomes.values())


def cancel(fake: FakeWorker) -> None:
    fake.task.state = "cancelled"


def forget(fake: FakeWorker) -> None:
    fake.state.tasks.clear()


@pytest.mark.parametrize("end", [cancel, forget, worker._LEAVING.add], ids=["cancelled", "forgotten", "leaving"])
def test_tasks_are_left_out_when_the_worker_leaves_or_is_cancelled(
    planned: Plan, registry: dict[str, Stage], fake: FakeWorker, end: Callable[[FakeWorker], None]
) -> None:
    class Ending(type(registry["mask"])):  # type: ignore[misc]
        def execute(self, context: TaskContext) -> Mapping[str, Any]:
            end(fake)
            return dict(super().execute(context))

    packed = bundle(planned, registry)
    ending: dict[str, Stage] = {**registry, "mask": Ending()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "unpacked_registry", lambda _: ending)
        outcomes = worker.work_bundle(packed)
    assert sent_events(fake) == [("began", "token-0", ""), ("ended", "token-0", "")]
    assert list(outcomes) == ["token-0"]


def test_a_registry_is_unpacked_once(registry: dict[str, Stage]) -> None:
    packed = packed_registry(registry)
    assert unpacked_registry(packed) is unpacked_registry(bytes(bytearray(packed)))
    assert set(unpacked_registry(packed)) == set(registry)


def test_sending_a_task_leaves_nothing_in_it(planned: Plan) -> None:
    tasks = [replace(planned.tasks[0], run=f"TS_{number}") for number in range(500)]
    assert pickle.loads(pickle.dumps(tasks)) == tasks
    tasks = [replace(task) for task in tasks]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for task in tasks:
            pickle.dumps(task)
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert left / len(tasks) < 20


def test_orders_for_one_worker_are_divided_among_its_slots(planned: Plan) -> None:
    workers, outbox = WorkerRegistry(), Outbox()
    connected = [WorkerFacts(f"tcp://10.0.0.{n}:4000", f"w{n}", None, None, 3 - n, 2**33) for n in (1, 2)]
    workers.update({facts.address: facts for facts in connected}, 0.0)
    first, second = workers.workers.values()
    for number, target in enumerate((first, first, first, second)):
        outbox.put(target, Assignment(planned.tasks[0], f"token-{number}", "cpu"))
    sent = [(target.facts.name, [order.token for order in orders]) for target, orders in outbox.empty()]
    assert sent == [("w1", ["token-0", "token-2"]), ("w1", ["token-1"]), ("w2", ["token-3"])]
    assert list(outbox.empty()) == []


def test_a_task_that_takes_too_long_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, ended, reported = worker._TimeLimits(), threading.Event(), []
    monkeypatch.setattr(worker._TimeLimits, "_kill", staticmethod(lambda report: (report(), ended.set())))
    with limits.limit(3600.0, lambda: reported.append("in time")), limits.limit(0.05, lambda: reported.append("late")):
        assert ended.wait(10.0)
    assert set(reported) == {"late"}
    ended.clear()
    with limits.limit(0.2, lambda: reported.append("ended before")):
        pass
    assert not ended.wait(0.4)
    assert "ended before" not in reported


def test_a_run_of_short_tasks_needs_few_dask_tasks(
    project: Project, registry: dict[str, Stage], planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every task is executed once, under its own token, by the worker that it is assigned to."""
    count, first = 60, planned.tasks[0]
    runs = [f"{first.run}-{number}" for number in range(count)]
    name = first.receipt.rpartition("/")[2]
    tasks = tuple(replace(first, run=run, receipt=f"mask/{run}/{name}", output=None) for run in runs)
    many = replace(planned, tasks=tasks, runs=tuple(runs))
    posted: Counter[str] = Counter()
    submit = DaskConnection.submit

    def counted(connection: DaskConnection, packed: bytes, tokens: tuple[str, ...], address: str) -> Any:
        posted["bundles"] += 1
        posted["orders"] += len(Bundle.unpacked(packed).orders)
        return submit(connection, packed, tokens, address)

    monkeypatch.setattr(DaskConnection, "submit", counted)
    with open_runner(workers=2) as runner:
        outcomes = run_tasks(many, runner, registry={**registry, "mask": Quick()})
    assert Counter(outcome.state for outcome in outcomes) == {"done": count}
    assert posted["orders"] == count
    assert posted["bundles"] < count


class Quick(Stage):
    """A stage that does nothing."""

    name = "mask"

    def after(self, settings: Settings) -> tuple[str, ...]:
        return ()

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return {}

    def inputs(self, site: Any) -> Mapping[str, Any]:
        return {}

    def output(self, site: Any) -> None:
        return None

    def memory_bytes(self, grid: Any, settings: Settings) -> int:
        return 0

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        return {}
