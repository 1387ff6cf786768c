"""How tasks travel to a worker and what it says of them: several short ones in one go, each with its own word."""

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
from membrain_cloud.pipeline.runners.task_bundles import Bundle, Order, Outbox, packed_registry, unpacked_registry
from membrain_cloud.pipeline.runners.worker_roster import MOST_AHEAD, NEXT_SECONDS, Facts, Roster, Seat
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.base import Stage, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from membrain_cloud.pipeline.tasks import Task
    from membrain_cloud.store.projects.project import Project

# Workers know nothing of the tests' modules: their classes travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def made(project: Project, registry: dict[str, Stage]) -> Plan:
    return plan(project, Settings(), registry)


class FakeWorker:
    """What `work_bundle` asks of Dask's worker."""

    address = "tcp://10.0.0.1:4000"

    def __init__(self) -> None:
        self.words: list[dict[str, Any]] = []
        self.task = SimpleNamespace(state="executing")
        self.state = SimpleNamespace(tasks={"key": self.task})

    def get_current_task(self) -> str:
        return "key"

    def log_event(self, topic: str, word: dict[str, Any]) -> None:
        assert topic == "topic"
        self.words.append(word)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    fake = FakeWorker()
    monkeypatch.setattr(worker, "get_worker", lambda: fake)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return fake


def bundle(made: Plan, registry: Mapping[str, Stage]) -> bytes:
    masks = [task for task in made.tasks if task.stage == "mask"]
    orders = tuple(Order(task, f"token-{number}") for number, task in enumerate(masks))
    return Bundle("run", "topic", 1, packed_registry(registry), orders).packed()


def told(there: FakeWorker) -> list[tuple[str, str, str]]:
    return [(word["what"], word["token"], word.get("next", "")) for word in there.words]


def test_each_task_of_a_bundle_has_its_word(made: Plan, registry: dict[str, Stage], there: FakeWorker) -> None:
    outcomes = worker.work_bundle(bundle(made, registry))
    assert told(there) == [
        ("began", "token-0", ""),
        ("ended", "token-0", "token-1"),
        ("ended", "token-1", "token-2"),
        ("ended", "token-2", ""),
    ]
    assert [outcome["state"] for outcome in outcomes.values()] == ["done"] * 3
    assert [word["outcome"] for word in there.words[1:]] == list(outcomes.values())


def cancel(there: FakeWorker) -> None:
    there.task.state = "cancelled"


def forget(there: FakeWorker) -> None:
    there.state.tasks.clear()


@pytest.mark.parametrize("end", [cancel, forget, worker._LEAVING.add], ids=["cancelled", "forgotten", "leaving"])
def test_what_has_not_begun_is_left_undone_where_nobody_waits_or_the_worker_goes(
    made: Plan, registry: dict[str, Stage], there: FakeWorker, end: Callable[[FakeWorker], None]
) -> None:
    class Ending(type(registry["mask"])):  # type: ignore[misc]
        def execute(self, context: TaskContext) -> Mapping[str, Any]:
            end(there)
            return dict(super().execute(context))

    packed = bundle(made, registry)
    ending: dict[str, Stage] = {**registry, "mask": Ending()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "unpacked_registry", lambda _: ending)
        outcomes = worker.work_bundle(packed)
    assert told(there) == [("began", "token-0", ""), ("ended", "token-0", "")]
    assert list(outcomes) == ["token-0"]


def test_a_registry_is_unpacked_once(registry: dict[str, Stage]) -> None:
    packed = packed_registry(registry)
    assert unpacked_registry(packed) is unpacked_registry(bytes(bytearray(packed)))
    assert set(unpacked_registry(packed)) == set(registry)


def test_sending_a_task_leaves_nothing_in_it(made: Plan) -> None:
    tasks = [replace(made.tasks[0], run=f"TS_{number}") for number in range(500)]
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


def facts(number: int, slots: int = 1) -> Facts:
    return Facts(f"tcp://10.0.0.{number}:4000", f"w{number}", None, None, slots, 2**33)


def test_what_is_for_one_worker_is_shared_out_among_its_slots(made: Plan) -> None:
    roster, outbox = Roster(), Outbox()
    roster.update({one.address: one for one in (facts(1, slots=2), facts(2))}, 0.0)
    first, second = roster.workers.values()
    for number, there in enumerate((first, first, first, second)):
        outbox.put(there, Seat(made.tasks[0], f"token-{number}", 0.0), "")
    sent = [(found.facts.name, [order.token for order in orders]) for found, orders in outbox.empty()]
    assert sent == [("w1", ["token-0", "token-2"]), ("w1", ["token-1"]), ("w2", ["token-3"])]
    assert list(outbox.empty()) == []


def fill(roster: Roster, task: Task, number: int = 0) -> int:
    """How many it takes now."""
    count = 0
    while (found := roster.choose("cpu", "mask", 0.0)) is not None:
        roster.seat(found, Seat(task, f"{number}-{count}", 0.0))
        count += 1
    return count


def roster_that_knows(task: Task, seconds: float) -> Roster:
    roster = Roster()
    roster.update({facts(1).address: facts(1)}, 0.0)
    roster.seat(roster.workers[facts(1).address], Seat(task, "known", 0.0))
    roster.take("known", seconds)
    return roster


def test_short_tasks_come_several_at_a_time(made: Plan) -> None:
    roster = roster_that_knows(made.tasks[0], 0.001)
    assert fill(roster, made.tasks[0]) == 1 + MOST_AHEAD
    for done in range(MOST_AHEAD // 2 - 1):
        roster.take(f"0-{done}")
        assert roster.choose("cpu", "mask", 0.0) is None, "it has enough for a while"
    roster.take(f"0-{MOST_AHEAD // 2 - 1}")
    assert fill(roster, made.tasks[0], 1) == MOST_AHEAD // 2


@pytest.mark.parametrize(
    ("seconds", "ready", "taken"),
    [(1.0, 5, 2), (1.0, 1, 1), (NEXT_SECONDS + 1, 5, 1)],
    ids=["the next one waits", "not where others may want it", "not behind a long one"],
)
def test_the_next_task_waits_at_its_worker_where_there_are_many(
    made: Plan, seconds: float, ready: int, taken: int
) -> None:
    roster = roster_that_knows(made.tasks[0], seconds)
    roster.backlog({"gpu": 0, "cpu": ready})
    assert fill(roster, made.tasks[0]) == taken


def test_a_task_that_takes_too_long_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, ended, said = worker._Watch(), threading.Event(), []
    monkeypatch.setattr(worker._Watch, "_end", staticmethod(lambda report: (report(), ended.set())))
    with watch.over(3600.0, lambda: said.append("in time")), watch.over(0.05, lambda: said.append("late")):
        assert ended.wait(10.0)
    assert set(said) == {"late"}
    ended.clear()
    with watch.over(0.2, lambda: said.append("ended before")):
        pass
    assert not ended.wait(0.4)
    assert "ended before" not in said


def test_a_run_of_short_tasks_needs_few_of_dask(project: Project, registry: dict[str, Stage], made: Plan) -> None:
    """Every task is done once, under its own token, by the workers it was given to."""
    count, first = 60, made.tasks[0]
    runs = [f"{first.run}-{number}" for number in range(count)]
    name = first.receipt.rpartition("/")[2]
    tasks = tuple(replace(first, run=run, receipt=f"mask/{run}/{name}", output=None) for run in runs)
    many = replace(made, tasks=tasks, runs=tuple(runs))
    with open_runner(workers=2, scheduler=None, in_process=False) as runner:
        posted: Counter[str] = Counter()
        runner.has_slot(tasks[0], "cpu")
        submit = runner._client.submit  # type: ignore[attr-defined]

        def counted(work: Any, packed: bytes, **how: Any) -> Any:
            orders = Bundle.unpacked(packed).orders
            posted["bundles"] += 1
            posted["orders"] += len(orders)
            return submit(work, packed, **how)

        runner._client.submit = counted  # type: ignore[attr-defined]
        outcomes = run_tasks(many, runner, registry={**registry, "mask": Quick()})
    assert Counter(outcome.state for outcome in outcomes) == {"done": count}
    assert posted["orders"] == count
    assert posted["bundles"] < count


class Quick(Stage):
    """Nothing at all."""

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
