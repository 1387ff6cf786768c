"""The choice of a worker by kind, memory and load, compared with a look at all workers; and the patience of tasks."""

from __future__ import annotations

import random

import pytest

from membrain_cloud.pipeline.runners.placement import GAP_SECONDS, Patience, Placement
from membrain_cloud.pipeline.runners.worker_state import Assignment, Worker, WorkerFacts

GIB = 2**30


def worker(number: int, kind: str | None = "cpu", slots: int = 1, memory: int = 12) -> Worker:
    address = f"tcp://10.0.0.{number}:1"
    return Worker(WorkerFacts(address, f"w{number}", None, kind, slots, memory * GIB))  # type: ignore[arg-type]


def placement(*workers: Worker) -> Placement:
    made = Placement()
    for each in workers:
        made.add(each)
    return made


def put(made: Placement, where: Worker, token: str) -> None:
    where.assignments[token] = Assignment(None, token, "cpu")  # type: ignore[arg-type]
    made.touch(where)


@pytest.mark.parametrize("seed", range(5))
def test_the_least_loaded_worker_is_chosen(seed: int) -> None:
    """After any sequence of assignments, ends, reservations and losses."""
    draw = random.Random(seed)
    there = [worker(n, slots=draw.choice((1, 2, 4)), memory=draw.choice((8, 16))) for n in range(12)]
    made, tokens = placement(*there), 0
    for step in range(400):
        need = draw.choice((1, 3, 9)) * GIB
        fitting = [
            one
            for one in there
            if one.is_open
            and len(one.assignments) < one.facts.slots
            and one.facts.memory_bytes // one.facts.slots >= need
        ]
        chosen = made.choose("cpu", "mesh", float(step), memory_bytes=need)
        if not fitting:
            assert chosen is None
        else:
            assert chosen in fitting
            assert chosen.load == min(one.load for one in fitting)
        match draw.randrange(10):
            case 0 | 1 | 2 | 3 | 4 if chosen is not None:
                tokens += 1
                put(made, chosen, str(tokens))
            case 5 | 6 | 7:
                busy = [one for one in there if one.assignments]
                if busy:
                    one = draw.choice(busy)
                    one.assignments.popitem()
                    made.touch(one)
            case 8:
                one = draw.choice(there)
                made.reserve(one, None if one.reserved_for else f"task {step}")
            case 9:
                one = there.pop(draw.randrange(len(there)))
                made.discard(one)
                there.append(worker(100 + step, slots=draw.choice((1, 2)), memory=draw.choice((8, 16))))
                made.add(there[-1])


def test_a_task_that_needs_more_than_a_slots_share_is_alone() -> None:
    first, second = worker(1, slots=2, memory=16), worker(2, slots=2, memory=4)
    made = placement(first, second)
    put(made, first, "a")
    assert made.choose("cpu", "mesh", 0.0, memory_bytes=9 * GIB) is None
    assert made.must_be_alone("cpu", 0.0, 9 * GIB)
    assert not made.must_be_alone("cpu", 0.0, 8 * GIB)
    assert not made.must_be_alone("cpu", 0.0, 17 * GIB), "no worker takes it at all"
    assert made.can_reserve("cpu", 0.0, 9 * GIB)
    assert made.choose("cpu", "mesh", 0.0, alone="large", memory_bytes=9 * GIB) is None
    assert not made.can_reserve("cpu", 0.0, 9 * GIB), "it is reserved"
    first.assignments.clear()
    made.touch(first)
    assert made.choose("cpu", "mesh", 0.0, alone="large", memory_bytes=9 * GIB) is first
    assert made.choose("cpu", "mesh", 0.0, memory_bytes=GIB) is second


def test_the_largest_memory_is_that_of_workers_that_take_the_kind() -> None:
    made = placement(worker(1, "gpu", memory=16), worker(2, "cpu", memory=64), worker(3, "cpu", memory=12))
    assert (made.largest_memory("gpu", 0.0), made.largest_memory("cpu", 0.0)) == (16 * GIB, 64 * GIB)
    assert Placement(("gpu",)).largest_memory("gpu", 0.0) is None


def test_a_reserved_worker_that_leaves_is_replaced() -> None:
    first, second = worker(1), worker(2)
    made = placement(first, second)
    chosen = made.choose("cpu", "mesh", 0.0, alone="suspect")
    assert chosen is not None
    chosen.leaving = True
    made.touch(chosen)
    other = made.choose("cpu", "mesh", 0.0, alone="suspect")
    assert other is not None
    assert other is not chosen


def test_patience_begins_anew_with_other_workers() -> None:
    patience = Patience(600.0)
    assert patience.waited("gpu", None, 0.0) == 0.0
    assert patience.waited("gpu", None, 50.0) == 50.0
    assert patience.waited("cpu", None, 50.0) == 0.0
    assert patience.waited("gpu", 2**30, 60.0) == 0.0, "a worker has connected"
    assert patience.waited("gpu", 2**30, 90.0) == 30.0
    assert patience.waited("gpu", 2**30, 90.0 + GAP_SECONDS + 1) == 0.0, "no task waited meanwhile"


def test_the_heap_does_not_grow_with_the_tasks() -> None:
    made, one = placement(worker(1), worker(2)), worker(3)
    made.add(one)
    for step in range(2000):
        put(made, one, str(step))
        one.assignments.clear()
        made.touch(one)
    assert all(len(pool._heap) < 200 for pool in made._pools.values())
    assert made.choose("cpu", "mesh", 0.0) is not None


def test_a_worker_that_reports_other_memory_changes_its_pool() -> None:
    one = worker(1, memory=4)
    made = placement(one)
    one.facts = worker(1, memory=16).facts
    made.touch(one)
    assert made.choose("cpu", "mesh", 0.0, memory_bytes=9 * GIB) is one
    assert made.largest_memory("cpu", 0.0) == 16 * GIB
    made.discard(one)
    assert made.choose("cpu", "mesh", 0.0) is None
