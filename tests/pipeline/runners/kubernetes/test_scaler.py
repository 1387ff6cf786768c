"""The scaler with a simulated operator and clock: whole runs on groups of all shapes, and what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.portal_run import World
from benchmarks.scaled_run import simulate
from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.pipeline.runners.kubernetes.groups import CHANGE_SECONDS, WINDOW_SECONDS, WorkerGroup
from membrain_cloud.pipeline.runners.kubernetes.scaler import (
    CONTACT_SECONDS,
    FOLLOW_SECONDS,
    LOOK_SECONDS,
    REMOVAL_SECONDS,
    Scaler,
)
from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
from membrain_cloud.pipeline.runners.worker_state import Assignment, WorkerFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 2**30
WORLD = World(
    **{"tomograms": 60, "gpu_workers": 8, "cpu_workers": 24, "losses": 0.2, "replaced_minutes": 2.0, "seed": 1},
    **{"segment": 2.4, "separate": 1.0, "mesh": 2.0, "pick": 0.1, "measure": 1.0},
    **{"read_mb": 200.0, "gpu_price": 1.0, "cpu_price": 0.02},
)
SHAPES = {
    "GPU and CPU": [WorkerGroup("gpu", "r1-gpu", 8), WorkerGroup("cpu", "r1-cpu", 24)],
    "CPU only": [WorkerGroup("cpu", "r1-cpu", 24)],
    "GPU only": [WorkerGroup("gpu", "r1-gpu", 8)],
    "two GPU types": [WorkerGroup("gpu", "l4", 4), WorkerGroup("gpu", "a100", 4), WorkerGroup("cpu", "r1-cpu", 24)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_ends_on_groups_of_every_shape(shape: str) -> None:
    cluster = simulate(WORLD, [replace(group) for group in SHAPES[shape]])
    assert cluster.counts["busy gpu"] == cluster.counts["busy cpu"] == 0, "only idle workers are removed"
    assert cluster.lost > 0
    assert cluster.counts["removed"] > 0 or shape.endswith("only"), "of a single kind all workers have work to the end"
    assert cluster.scaler.complaint == ""


def test_on_demand_machines_stand_in_for_spot_machines() -> None:
    spot, demand = WorkerGroup("gpu", "spot", 8), WorkerGroup("gpu", "demand", 8)
    groups = [spot, demand, WorkerGroup("cpu", "r1-cpu", 24)]
    cluster = simulate(WORLD, groups, available={"spot": 2})
    names = {name.rpartition("-worker-")[0] for name in cluster.born_names}
    assert names == {"spot", "demand", "r1-cpu"}


class Api:
    """An API server with the Deployments of groups; the operator acts when the test lets it."""

    def __init__(self, **deployments: int) -> None:
        self.deployments = {name: [f"{name}-worker-{n}" for n in range(count)] for name, count in deployments.items()}
        self.asked: list[tuple[str, int]] = []
        self.announced: list[str] = []
        self.used_by_others: set[str] = set()
        self.error: Exception | None = None
        self.contact = {"served": True, "asked": True}

    def read(self, group: WorkerGroup) -> None:
        group.replicas, group.memory_bytes = len(self.deployments[group.name]), 12 * GIB

    def set_replicas(self, group: WorkerGroup, replicas: int) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append((group.name, replicas))

    def worker_names(self, group: WorkerGroup) -> list[str]:
        return list(self.deployments[group.name])

    def announce_leaving(self, names: Sequence[str], *, even_busy: bool = False) -> Sequence[str]:
        self.announced = [name for name in names if even_busy or name not in self.used_by_others]
        return self.announced

    def operator_contact(self) -> dict[str, bool]:
        return self.contact


def started(api: Api, *groups: WorkerGroup) -> Scaler:
    scaler = Scaler(groups, api)
    scaler.start(api, sleep=lambda _: None)
    api.asked.clear()
    return scaler


def registry_of(api: Api, *, busy: Sequence[str] = (), missing: Sequence[str] = ()) -> WorkerRegistry:
    """Return the registry of all workers that have Deployments, without the missing ones."""
    workers = WorkerRegistry(("cpu",))
    names = [name for names in api.deployments.values() for name in names if name not in missing]
    connected = [WorkerFacts(f"tcp://{name}:1", name, None, "cpu", 1, 12 * GIB) for name in names]
    workers.update({facts.address: facts for facts in connected}, 0.0)
    task: Any = SimpleNamespace(key="mesh/TS_1/whole", stage="mesh", memory_bytes=0)
    for number, name in enumerate(busy):
        workers.assign(workers.workers[f"tcp://{name}:1"], Assignment(task, str(number), "cpu"))
    return workers


def test_idle_and_missing_workers_go_and_never_busy_ones() -> None:
    api = Api(c=6)
    scaler = started(api, WorkerGroup("cpu", "c", 6))
    workers = registry_of(api, busy=["c-worker-1", "c-worker-4"], missing=["c-worker-5"])
    now = 0.0
    while not api.asked:
        scaler.follow({}, workers, now)
        now += FOLLOW_SECONDS
    assert api.announced == ["c-worker-0", "c-worker-2", "c-worker-3"]
    assert api.asked == [("c", 3)]
    idle = workers.workers["tcp://c-worker-0:1"]
    assert idle.leaving, "it gets no more tasks"
    api.deployments["c"] = ["c-worker-1", "c-worker-4", "c-worker-5"]
    gone = {f"tcp://c-worker-{n}:1" for n in (0, 2, 3)}
    workers.update({address: one.facts for address, one in workers.workers.items() if address not in gone}, now)
    for _ in range(20):
        now += LOOK_SECONDS
        scaler.follow({}, workers, now)
    assert api.asked == [("c", 3), ("c", 2)]
    assert api.announced == ["c-worker-5"], "it has been missing for long; the others are busy"


def test_workers_of_another_driver_stay() -> None:
    api = Api(c=2)
    scaler = started(api, WorkerGroup("cpu", "c", 2))
    api.used_by_others = {"c-worker-0"}
    workers = registry_of(api)
    for step in range(40):
        scaler.follow({}, workers, step * FOLLOW_SECONDS)
    assert api.asked[0] == ("c", 1)
    assert not workers.workers["tcp://c-worker-0:1"].leaving


def test_one_group_shrinks_at_a_time() -> None:
    api = Api(c=2, d=2)
    scaler = started(api, WorkerGroup("cpu", "c", 2), WorkerGroup("cpu", "d", 2))
    workers = registry_of(api)
    for step in range(12):
        scaler.follow({}, workers, step * LOOK_SECONDS)
    assert {name for name, _ in api.asked} == {"c"}, "the operator asks for a number, of no group"
    api.deployments["c"] = []
    for step in range(12, 40):
        scaler.follow({}, workers, step * LOOK_SECONDS)
    assert {name for name, _ in api.asked} == {"c", "d"}


def test_workers_that_are_not_removed_get_tasks_again() -> None:
    api = Api(c=2)
    scaler = started(api, WorkerGroup("cpu", "c", 2))
    workers = registry_of(api)
    now = 0.0
    while not scaler.complaint:
        scaler.follow({}, workers, now)
        now += FOLLOW_SECONDS
        assert now < WINDOW_SECONDS + 2 * REMOVAL_SECONDS
    assert "networkPolicy.operatorNamespace" in scaler.complaint or "not removed" in scaler.complaint
    assert api.asked[-1] == ("c", 2)
    assert not any(worker.leaving for worker in workers.workers.values())


def test_a_refused_request_is_reported_and_ends_no_run() -> None:
    api = Api(c=0)
    scaler = started(api, WorkerGroup("cpu", "c", 8))
    api.error = PermissionError("forbidden")
    scaler.follow({("cpu", 0): 5}, WorkerRegistry(), 100.0)
    assert "scaling c to 5: forbidden" in scaler.complaint
    api.error = None
    scaler.follow({("cpu", 0): 5}, WorkerRegistry(), 100.0 + CHANGE_SECONDS)
    assert (api.asked, scaler.complaint) == ([("c", 5)], "")
    assert scaler.describe("cpu") == "worker group c: 5 asked for, 0 connected"


def test_what_cannot_be_scaled_is_found_at_the_start() -> None:
    api = Api(c=0)
    with pytest.raises(UsageError, match="c is given twice"):
        Scaler([WorkerGroup("cpu", "c", 8), WorkerGroup("gpu", "c", 8)], api)
    scaler = Scaler([WorkerGroup("cpu", "c", 8)], api)
    api.contact = {"served": False, "asked": False}
    with pytest.raises(UsageError, match="does not serve the endpoint"):
        scaler.start(api)
    api.contact = {"served": True, "asked": False}
    times = iter(range(0, 10**6, int(CONTACT_SECONDS)))
    with pytest.raises(TransientError, match="has not asked the scheduler") as caught:
        scaler.start(api, sleep=lambda _: None, clock=lambda: float(next(times)))
    assert "networkPolicy.operatorNamespace" in caught.value.next_step
    api.error = PermissionError("forbidden")
    with pytest.raises(TransientError, match="forbidden") as caught:
        scaler.start(api)
    assert "daskworkergroups/scale" in caught.value.next_step


def test_the_end_removes_all_workers_one_group_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the operator: it asks for a number of workers, and counts a group's own before it does."""
    api = Api(c=2, d=1)
    scaler = started(api, WorkerGroup("cpu", "c", 2), WorkerGroup("gpu", "d", 2))

    def operate(_: float) -> None:
        for name, replicas in api.asked:
            needed = len(api.deployments[name]) - replicas
            removed = api.announced[:needed] if needed > 0 else []
            for names in api.deployments.values():
                names[:] = [one for one in names if one not in removed]

    monkeypatch.setattr("membrain_cloud.pipeline.runners.kubernetes.scaler.time.sleep", operate)
    scaler.end()
    assert api.asked == [("c", 0), ("d", 0)]
    assert api.deployments == {"c": [], "d": []}
    assert api.announced == []
    assert scaler.complaint == ""
