"""A run on Kubernetes whose worker groups follow the work, simulated: `python -m benchmarks.scaled_run [options]`.

What is real: run_tasks(), the worker registry, the Scaler with its groups, and the functions of the scheduler's
endpoint that the operator asks. What is simulated: the clock, the tasks (benchmarks/portal_run.py), the API server, and
the operator, which acts on a changed number of replicas as dask-kubernetes 2026.3 does: it creates the Deployments that
are missing, or asks the scheduler for the names of so many workers and deletes those.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.portal_run import Simulated, World, portal_plan, world_parser
from membrain_cloud.pipeline.execution.driver import run_tasks
from membrain_cloud.pipeline.runners.kubernetes import operator_endpoint
from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup
from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler
from membrain_cloud.pipeline.runners.worker_state import WorkerFacts
from membrain_cloud.pipeline.stages.registry import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.execution.runner import Demand
    from membrain_cloud.pipeline.tasks import Kind, Outcome

# Time from a changed number of replicas to the operator's action.
OPERATOR_SECONDS = 5.0
GIB = 2**30


class _Scheduler(SimpleNamespace):
    """What the endpoint reads of a scheduler, with a driver connected."""

    __hash__ = object.__hash__


class Cluster(Simulated):
    """The simulated workers, as Deployments of groups that the real Scaler scales.

    Parameters
    ----------
    world : World
        Throughputs and losses; `replaced_minutes` is also the time until a new pod is connected.
    groups : sequence of WorkerGroup
        The groups.
    available : mapping of str to int
        Number of machines that there are for a group. Default: as many as asked for.
    """

    def __init__(self, world: World, groups: Sequence[WorkerGroup], available: Mapping[str, int] | None = None) -> None:
        super().__init__(world, expected={group.kind for group in groups})
        self.available = dict(available or {})
        self.deployments: dict[str, set[str]] = {group.name: set() for group in groups}
        self.scheduler = _Scheduler(clients={"driver": None}, workers={}, aliases={})
        self.counts: Counter[str] = Counter()
        self.thrown_away = 0.0
        self.address_of: dict[str, str] = {}
        self.born_names: set[str] = set()
        self.groups = {group.name: group for group in groups}
        self.replicas = dict.fromkeys(self.deployments, 0)
        self.scaler = Scaler(groups, self)
        self.scaler.start(self, sleep=lambda _: None, clock=self.now)
        self.counts.clear()

    # -- the Kubernetes API and the scheduler, as the scaler sees them

    def read(self, group: WorkerGroup) -> None:
        group.slots = 2 if group.kind == "gpu" else 1
        group.memory_bytes = group.memory_bytes or 64 * GIB

    def set_replicas(self, group: WorkerGroup, replicas: int) -> None:
        if replicas != self.replicas[group.name]:
            self.counts["changes"] += 1
            self.replicas[group.name] = replicas
            self._at(self.time + OPERATOR_SECONDS, "operate", group.name)

    def worker_names(self, group: WorkerGroup) -> list[str]:
        return sorted(self.deployments[group.name])

    def announce_leaving(self, names: Sequence[str], *, even_busy: bool = False) -> Sequence[str]:
        return operator_endpoint.announce(names, even_busy, self.scheduler)

    def operator_contact(self) -> Mapping[str, bool]:
        return {"served": True, "asked": True}

    # -- what happens

    def backlog(self, ready: Mapping[Demand, int]) -> None:
        demand = Counter(dict(ready))
        demand.update((kind, task.memory_bytes) for task, kind in self.again)
        self.scaler.follow(demand, self.registry, self.time)

    def step_seconds(self) -> float:
        return 5.0

    def happen(self, what: str, subject: Any) -> list[Outcome]:
        if what == "operate":
            self._operate(subject)
        elif what == "connect":
            self._connect(subject)
        elif what == "lose":
            self._lose(subject)
        else:
            return super().happen(what, subject)
        return []

    def _operate(self, group: str) -> None:
        present = self.deployments[group]
        needed = self.replicas[group] - len(present)
        for _ in range(needed):
            self.number += 1
            present.add(f"{group}-worker-{self.number}")
        for name in sorted(present, key=lambda name: int(name.rpartition("-")[2]))[-needed:] if needed > 0 else ():
            self._at(self.time + 60 * self.world.replaced_minutes, "connect", name)
        if needed < 0:
            for name in operator_endpoint.workers_to_remove(self.scheduler, -needed, self.time) or ():
                self._delete(group, name)

    def _delete(self, group: str, name: str) -> None:
        self.deployments[group].discard(name)
        self.counts["removed"] += 1
        address = self.address_of.pop(name, None)
        if address is None:
            return
        worker = self.registry.workers[address]
        if worker.assignments:
            self.counts[f"busy {worker.facts.kind}"] += 1
            self.thrown_away += sum(self.time - (one.started or self.time) for one in worker.assignments.values())
        self._vanish(address)

    def _connect(self, name: str) -> None:
        group = name.rpartition("-worker-")[0]
        if name not in self.deployments[group]:
            return  # deleted before it came
        here = sum(one.rpartition("-worker-")[0] == group for one in self.address_of)
        if here >= self.available.get(group, here + 1):
            self._at(self.time + 60.0, "connect", name)
            return
        self.number += 1
        address = f"tcp://{name}.{self.number}:1"
        kind: Kind = self.groups[group].kind
        slots, memory = self.groups[group].slots, self.groups[group].memory_bytes or 0
        self.admit(WorkerFacts(address, name, None, kind, slots, memory))
        self.address_of[name] = address
        self.born_names.add(name)
        self.registry.update(self.there, self.time)

    def _lose(self, address: str) -> None:
        name = next((name for name, other in self.address_of.items() if other == address), None)
        if name is None:
            return  # removed before
        self.lost += 1
        del self.address_of[name]
        self._vanish(address)
        self._at(self.time + 60 * self.world.replaced_minutes, "connect", name)


def simulate(world: World, groups: Sequence[WorkerGroup], available: Mapping[str, int] | None = None) -> Cluster:
    """Run all tomograms on groups that follow the work, and return the cluster at the end."""
    made, cluster = portal_plan(world), Cluster(world, groups, available)
    outcomes = run_tasks(made, cluster, STAGES)
    assert len(outcomes) == len(made.tasks)
    assert {outcome.state for outcome in outcomes} == {"done"}
    for facts in cluster.there.values():
        cluster.count_held(facts, cluster.time)
    return cluster


def groups_of(world: World) -> list[WorkerGroup]:
    """Return a group of each kind with as many workers at most as the world has."""
    counts: dict[Kind, int] = {"gpu": world.gpu_workers, "cpu": world.cpu_workers}
    return [WorkerGroup(kind, f"r1-{kind}", count) for kind, count in counts.items() if count]


def main() -> None:
    world = World(**vars(world_parser(__doc__, tomograms=2000).parse_args()))
    fixed, started = Simulated(world), time.monotonic()
    run_tasks(portal_plan(world), fixed, STAGES)
    cluster = simulate(world, groups_of(world))
    hours, fixed_hours = cluster.time / 3600, fixed.time / 3600
    held = {kind: cluster.held[kind] / 3600 for kind in ("gpu", "cpu")}
    rows = [
        f"{world.tomograms} tomograms, at most {world.gpu_workers} GPU and {world.cpu_workers} CPU workers, losses "
        f"{100 * world.losses:g} % an hour, a pod comes after {world.replaced_minutes:g} min",
        f"hours: {hours:.2f}, with the workers fixed {fixed_hours:.2f} ({100 * (hours / fixed_hours - 1):+.1f} %)",
        f"worker hours: {held['gpu']:.0f} GPU, {held['cpu']:.0f} CPU; fixed {world.gpu_workers * fixed_hours:.0f} and "
        f"{world.cpu_workers * fixed_hours:.0f}",
        f"busy workers stopped: {cluster.counts['busy gpu']} GPU, {cluster.counts['busy cpu']} CPU; hours thrown away "
        f"by scaling: {cluster.thrown_away / 3600:.1f}",
        f"changes of replicas: {cluster.counts['changes']}; workers removed: {cluster.counts['removed']}, lost: "
        f"{cluster.lost}",
        f"simulated in {time.monotonic() - started:.0f} s",
    ]
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
