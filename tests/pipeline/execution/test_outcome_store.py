"""Outcomes are returned as they were stored, and take little memory."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from membrain_cloud.pipeline.execution.outcome_store import OutcomeStore
from membrain_cloud.pipeline.tasks import Job, Outcome, Task


def task(number: int) -> Task:
    return Task(Job("config", "tables", {}), "mask", f"TS_{number}", "whole", "d" * 64, {}, None, "a/b", "", "link")


def done(number: int, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "seconds": 0.125 * number,
        "counts": {"voxels": number, "kinds": {"a": [1, 2.5]}},
        "worker": "tcp://10.0.0.1:4000",
        "measured": {"voxels": 10**9 + number, "bytes_read": 5, "gpu_seconds": 0.25, "retries": 0},
    }
    return Outcome("mask", f"TS_{number}", "whole", "done", **(fields | changes))


@pytest.mark.parametrize(
    "outcome",
    [
        done(1),
        done(1, counts={}, measured={}, worker="", passing=True),
        done(1, counts={"too_large": {3: 5}}),  # changed by JSON, so it is kept as it is
        done(1, counts={"box": (1, 2)}),
        done(1, counts={"odd": object()}),
        Outcome("mask", "TS_1", "whole", "failed", "no such file", "make it", traceback="Traceback ...", passing=True),
        Outcome("mask", "TS_1", "whole", "blocked", "mask failed"),
    ],
)
def test_an_outcome_is_returned_as_it_was_stored(outcome: Outcome) -> None:
    outcomes = OutcomeStore([task(0), task(1)])
    outcomes.put(1, outcome)
    assert list(outcomes) == [outcome]
    assert outcomes[0] == outcome
    assert (outcomes.has(0), outcomes.has(1)) == (False, True)


def test_outcomes_are_in_the_order_of_the_tasks_after_those_before() -> None:
    outcomes = OutcomeStore([task(number) for number in range(4)])
    for number in (3, 0, 2):
        outcomes.put(number, done(number))
    outcomes.put(2, done(2, worker="tcp://10.0.0.2:4000"))
    assert len(outcomes) == 3
    assert [outcome.run for outcome in outcomes] == ["TS_0", "TS_2", "TS_3"]
    assert [outcome.worker[-6] for outcome in outcomes] == ["1", "2", "1"]
    before = [Outcome("mask", "TS_9", "whole", "skipped")]
    assert [outcome.run for outcome in outcomes.after(before)] == ["TS_9", "TS_0", "TS_2", "TS_3"]
    assert len(outcomes.after(before)) == 4
    assert [outcome.run for outcome in outcomes.after(before)[1:3]] == ["TS_0", "TS_2"]


def test_a_success_takes_little_memory() -> None:
    count = 2000
    outcomes = OutcomeStore([task(number) for number in range(count)])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            outcomes.put(number, Outcome.from_dict(done(number).as_dict()))
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / count < 200, "an Outcome itself takes some 1000 bytes"
