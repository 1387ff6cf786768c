"""What run_tasks() decides, against a runner whose time passes when we say so; and the roster, without Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.pipeline.execution.driver import Observer, RetryPolicy, run_tasks
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners.worker_roster import (
    ABSENCE_SECONDS,
    AHEAD_SECONDS,
    VERDICT_SECONDS,
    Facts,
    Roster,
    Seat,
)
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.tasks import Kind, Outcome, Task

if TYPE_CHECKING:
    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.planning.digests import Registry
    from membrain_cloud.store.projects.project import Project

Answer = Callable[[Task, float, str], Outcome]


class Clockwork:
    """A runner of `slots` tasks at once, each of which takes a second."""

    memory_bytes = 2**40

    def __init__(self, answer: Answer, slots: int = 1) -> None:
        self.answer, self.slots, self.time = answer, slots, 0.0
        self.log: list[tuple[str, float, str]] = []
        self._busy: list[tuple[Task, str]] = []

    def bind(self, attempts: CrashRecords, note: Observer) -> None: ...

    def now(self) -> float:
        return self.time

    def has_slot(self, task: Task, kind: Kind) -> bool:
        return len(self._busy) < self.slots

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        self.log.append((task.key, self.time, take_over))
        self._busy.append((task, take_over))

    def finished(self, seconds: float) -> list[Outcome]:
        self.time += 1.0 if self._busy else max(seconds, 0.01)
        ended = [self.answer(task, self.time, take_over) for task, take_over in self._busy]
        self._busy = []
        return ended

    def backlog(self, ready: Mapping[Kind, int]) -> None: ...

    def snapshot(self) -> Mapping[str, Any]:
        return {}

    def report(self, file: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def close(self) -> None: ...


def outcome(task: Task, state: str = "done", message: str = "", *, passing: bool = False) -> Outcome:
    return Outcome(task.stage, task.run, task.part, state, message, passing=passing)  # type: ignore[arg-type]


@pytest.fixture
def made(project: Project, registry: Registry) -> Plan:
    return plan(project, Settings(), registry)


def test_a_fault_that_passes_goes_behind_the_others_and_is_given_up_in_the_end(made: Plan, registry: Registry) -> None:
    def answer(task: Task, now: float, take_over: str) -> Outcome:
        bad = task.run == "TS_1"
        return outcome(task, "failed" if bad else "done", "503", passing=bad)

    runner, told = Clockwork(answer), []
    outcomes = run_tasks(made, runner, registry, lambda event, task, _: told.append((event, task.key)))
    times = [when for key, when, _ in runner.log if key == "mask/TS_1/whole"]
    assert len(times) == 1 + RetryPolicy().requeues
    assert times[1] - times[0] >= 15
    assert times[2] - times[1] >= 30
    assert max(when for key, when, _ in runner.log if "TS_1" not in key) < times[1]
    assert told.count(("again", "mask/TS_1/whole")) == 2
    states = {found.key: found.state for found in outcomes}
    assert (states["mask/TS_1/whole"], states["size/TS_1/whole"]) == ("failed", "blocked")


def test_what_another_run_is_at_is_waited_for(made: Plan, registry: Registry) -> None:
    """Its lease moves for 500 s, longer than leases last; then its receipt is there."""

    def answer(task: Task, now: float, take_over: str) -> Outcome:
        assert not take_over
        if task.key == "mask/TS_1/whole" and now < 500:
            return outcome(task, "held", f"other:{int(now / 15)}")
        return outcome(task, "skipped" if task.run == "TS_1" else "done")

    runner = Clockwork(answer)
    assert {found.state for found in run_tasks(made, runner, registry)} == {"done", "skipped"}
    assert len([key for key, *_ in runner.log if key == "mask/TS_2/whole"]) == 1


def test_a_lease_that_stands_still_is_taken_over(made: Plan, registry: Registry) -> None:
    def answer(task: Task, now: float, take_over: str) -> Outcome:
        held = task.key == "mask/TS_1/whole" and take_over != "other:7"
        return outcome(task, "held", "other:7") if held else outcome(task)

    runner = Clockwork(answer)
    outcomes = run_tasks(made, runner, registry, policy=RetryPolicy(lease_seconds=60))
    assert {found.state for found in outcomes} == {"done"}
    ((_, when, _),) = [entry for entry in runner.log if entry[2]]
    assert 60 <= when < 90


def test_known_failures_block_what_hangs_on_them(made: Plan, registry: Registry) -> None:
    poisoned = {"mask/TS_2/whole": outcome(made.tasks[2], "failed", "poison")}
    runner = Clockwork(lambda task, *_: outcome(task))
    outcomes = {found.key: found.state for found in run_tasks(made, runner, registry, poisoned=poisoned)}
    assert (outcomes["mask/TS_2/whole"], outcomes["size/TS_2/whole"]) == ("failed", "blocked")
    assert not any("TS_2" in key for key, *_ in runner.log)
    everything = Clockwork(lambda task, *_: outcome(task), slots=9)
    run_tasks(made, everything, registry, poisoned=poisoned)
    assert len(everything.log) == 4


def test_tomograms_begun_are_finished_first(made: Plan, registry: Registry) -> None:
    runner = Clockwork(lambda task, *_: outcome(task))
    run_tasks(made, runner, registry)
    assert [key.split("/")[1] for key, *_ in runner.log] == ["TS_1", "TS_1", "TS_2", "TS_2", "TS_3", "TS_3"]


# -- the roster


def facts(number: int, kind: Kind | None = None, slots: int = 1, name: str = "", seen: float = 0.0) -> Facts:
    address = f"tcp://10.0.0.{number}:4000"
    return Facts(address, name or f"w{number}", f"tcp://10.0.0.{number}:3999", kind, slots, 2**33, seen)


def there(*workers: Facts) -> Mapping[str, Facts]:
    return {worker.address: worker for worker in workers}


def seat(roster: Roster, task: Task, token: str, *, began: bool = True, alone: bool = False) -> Seat:
    worker = roster.choose("cpu", task.stage, 0.0, alone=task.key if alone else None)
    assert worker is not None
    taken = Seat(task, token, 0.0, alone)
    roster.seat(worker, taken)
    if began:
        roster.started(token, 0.0)
    return taken


def test_nothing_waits_on_a_worker_unless_tasks_are_shorter_than_a_message(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1), facts(2)), 0.0)
    seat(roster, made.tasks[0], "a")
    seat(roster, made.tasks[2], "b")
    assert {len(worker.seats) for worker in roster.workers.values()} == {1}
    assert roster.choose("cpu", "mask", 0.0) is None
    roster.take("a", AHEAD_SECONDS / 5)
    seat(roster, made.tasks[0], "c")
    assert roster.choose("cpu", "mask", 0.0) is not None
    roster.take("c", 1000.0)
    seat(roster, made.tasks[0], "d")
    assert roster.choose("cpu", "mask", 0.0) is None


def test_kinds_of_workers(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1, "gpu")), 0.0)
    for kind in ("gpu", "cpu"):
        found = roster.choose(kind, "mask", 1.0)
        assert found is not None, "a lone GPU worker does everything"
    roster.update(there(facts(1, "gpu"), facts(2, "cpu")), 2.0)
    assert roster.choose("cpu", "mask", 3.0).facts.kind == "cpu"  # type: ignore[union-attr]
    roster.update(there(facts(1, "gpu")), 4.0)
    assert roster.choose("cpu", "mask", 5.0) is None, "the CPU worker may come back"
    assert roster.choose("cpu", "mask", 5.0 + ABSENCE_SECONDS) is not None
    assert Roster(expected=("cpu",)).choose("cpu", "mask", 5.0) is None


def test_a_death_is_understood_when_the_worker_is_back(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1, slots=2), facts(2, slots=2)), 0.0)
    for index, token in enumerate("abc"):
        seat(roster, made.tasks[2 * index], token)
    assert [len(worker.seats) for worker in roster.workers.values()] == [2, 1]
    changes = roster.update(there(facts(2, slots=2)), 10.0)
    assert changes.given_back == []
    assert roster.verdicts(10.0) == []
    roster.update(there(facts(2, slots=2), replace(facts(3, slots=2), name="w1")), 12.0)
    ((death, came_back),) = roster.verdicts(12.0)
    assert came_back
    assert not death.alone
    assert {taken.token for taken in death.seats} == {"a", "c"}


def test_a_machine_that_is_lost_blames_nobody(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1)), 0.0)
    seat(roster, made.tasks[0], "a")
    roster.update(there(facts(2)), 10.0)
    assert roster.verdicts(10.0 + VERDICT_SECONDS) == []
    ((death, came_back),) = roster.verdicts(11.0 + VERDICT_SECONDS)
    assert (death.alone, came_back) == (True, False)


def test_what_had_not_begun_is_given_back(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1)), 0.0)
    roster.seat(roster.workers[facts(1).address], Seat(made.tasks[0], "a", 0.0))
    roster.seat(roster.workers[facts(1).address], Seat(made.tasks[2], "b", 0.0))
    roster.started("a", 1.0)
    changes = roster.update({}, 2.0)
    assert [taken.token for taken in changes.given_back] == ["b"]
    assert [taken.token for taken in roster.deaths[0].seats] == ["a"]
    assert roster.deaths[0].certain


def test_one_that_must_be_alone_gets_a_worker_for_itself(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1, slots=2)), 0.0)
    seat(roster, made.tasks[0], "a")
    assert roster.choose("cpu", "mask", 0.0, alone="suspect") is None
    assert roster.choose("cpu", "mask", 0.0) is None, "the worker is kept free for it"
    roster.take("a", 100.0)
    found = roster.choose("cpu", "mask", 0.0, alone="suspect")
    assert found is not None
    roster.seat(found, Seat(replace(made.tasks[2], stage="suspect"), "b", 0.0, alone=True))
    assert roster.choose("cpu", "mask", 0.0) is None
    roster.take("b")
    assert roster.choose("cpu", "mask", 0.0) is not None


def test_a_worker_that_was_told_to_go_gets_nothing_more(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1), facts(2)), 0.0)
    seat(roster, made.tasks[0], "a")
    roster.leaving(facts(1).address)
    roster.leaving(facts(2).address)
    assert roster.choose("cpu", "mask", 0.0) is None
    changes = roster.update({}, 1.0)
    assert [taken.token for taken in changes.given_back] == ["a"]
    assert roster.deaths == []


def test_a_silent_worker_is_noticed_by_our_own_clock(made: Plan) -> None:
    roster = Roster()
    roster.update(there(facts(1, seen=1e9), facts(2, seen=5.0)), 0.0)
    seat(roster, made.tasks[0], "a")
    seat(roster, made.tasks[2], "b")
    minutes = made.tasks[0].job.limit("silent_minutes")
    roster.update(there(facts(1, seen=1e9), facts(2, seen=6.0)), 60 * minutes)
    assert [worker.facts.name for worker in roster.silent(60 * minutes + 1)] == ["w1"]
