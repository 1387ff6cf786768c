"""A run of the whole portal, simulated: `python -m benchmarks.portal_run [--tomograms 20000] [--gpu-workers 64] ...`.

What is real: run_tasks(), with its queues, priorities and patience, and the registry that gives tasks to workers,
notices those that vanish and gives their tasks back. What is simulated: the clock, the workers, their losses, and how
long the tasks take, from the throughputs printed (none of which was measured on a GPU; change them with the options).

A GPU worker has two slots and one GPU: a task reads (statistics), has the GPU for itself, and writes. Workers are lost
at a given rate, at any moment, with what they have in hand; another one is there some minutes later.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import random
import resource
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.execution.driver import run_tasks
from membrain_cloud.pipeline.planning.plan import Plan
from membrain_cloud.pipeline.runners.worker_registry import WorkerRegistry
from membrain_cloud.pipeline.runners.worker_state import Assignment, Worker, WorkerFacts
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.pipeline.tasks import Job, Kind, Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from membrain_cloud.pipeline.execution.crash_records import CrashRecords
    from membrain_cloud.pipeline.execution.runner import Demand, Observer
    from membrain_cloud.pipeline.planning.digests import Registry

ORDER = ("segment", "separate", "mesh", "pick", "measure")


@dataclasses.dataclass(frozen=True)
class World:
    """Throughputs in seconds a million voxels, sizes, losses and prices; see `--help`."""

    tomograms: int
    gpu_workers: int
    cpu_workers: int
    losses: float
    replaced_minutes: float
    segment: float
    separate: float
    mesh: float
    pick: float
    measure: float
    read_mb: float
    gpu_price: float
    cpu_price: float
    seed: int

    def seconds(self, stage: str, megavoxels: float) -> tuple[float, float, float]:
        """(before the GPU, with it, after it) of one task."""
        reading = 4 * megavoxels / self.read_mb  # float32, not compressed
        worked = megavoxels * getattr(self, stage)
        if stage == "segment":
            return reading, reading + worked, 0.25 * reading  # it reads twice; the second time while it computes
        if stage == "pick":
            return reading, worked, 0.5
        return worked, 0.0, 0.0


def portal_plan(world: World) -> Plan:
    """Sizes as cryo-ET has them, about 1000 x 1000 x 300 voxels, some far larger or smaller; big ones first."""
    draw = random.Random(world.seed)
    sizes = sorted((min(2000.0, 300 * draw.lognormvariate(0, 0.6)) for _ in range(world.tomograms)), reverse=True)
    job, tasks = Job("simulated", "simulated", Settings().as_dict()), []
    for number, megavoxels in enumerate(sizes):
        run = f"TS_{number:05d}"
        for stage in ORDER:
            needs = {"segment": (), "measure": (f"mesh/{run}/whole", f"pick/{run}/whole")}.get(
                stage, (f"{ORDER[ORDER.index(stage) - 1]}/{run}/whole",)
            )
            receipt = f"{stage}/simulated/{run}/complete-0"
            digest = digest_of(stage, run)
            voxels = int(megavoxels * 1e6)
            tasks.append(Task(job, stage, run, "whole", digest, {}, None, receipt, "", "", needs, voxels=voxels))
    return Plan(job, ORDER, tuple(f"TS_{n:05d}" for n in range(world.tomograms)), {}, tuple(tasks), (), {})


class Simulated:
    """A runner whose workers and time are simulated; who works on what is kept by the real registry."""

    memory_limits: Mapping[Kind, int] | None = None

    def __init__(self, world: World, expected: Collection[Kind] = ()) -> None:
        self.world, self.time = world, 0.0
        self.registry = WorkerRegistry(expected or ("gpu", "cpu"))
        self.there: dict[str, WorkerFacts] = {}
        self.events: list[tuple[float, int, str, Any]] = []
        self.again: list[tuple[Task, Kind]] = []
        self.gpu_free: dict[str, float] = {}
        self.busy: dict[str, tuple[str, float, float]] = {}
        self.spent: Counter[str] = Counter()
        self.held: Counter[Kind] = Counter()
        self.born: dict[str, float] = {}
        self.lost = self.number = 0
        self.gpu_done = 0.0
        self.idle: Counter[str] = Counter()
        self.random = random.Random(world.seed)
        counts: dict[Kind, int] = {"gpu": world.gpu_workers, "cpu": world.cpu_workers}
        for kind, count in ({} if expected else counts).items():
            for _ in range(count):
                self._join(kind)
        self.registry.update(self.there, 0.0)
        self.handing_out = 0.0

    # -- what run_tasks() asks for

    def prepare(self, tasks: Sequence[Task], registry: Registry) -> None: ...

    def bind(self, attempts: CrashRecords, note: Observer) -> None: ...

    def refusal(self, task: Task, kind: Kind) -> Outcome | None:
        return None

    def now(self) -> float:
        return self.time

    def has_slot(self, task: Task, kind: Kind) -> bool:
        began = time.perf_counter()
        has_slot = self.registry.has_slot(task, kind, self.time)
        self.handing_out += time.perf_counter() - began
        return has_slot

    def start(self, task: Task, registry: Registry, kind: Kind, *, take_over: str = "") -> None:
        began = time.perf_counter()
        worker = self.registry.choose(kind, task.stage, self.time)
        self.handing_out += time.perf_counter() - began
        assert worker is not None
        self._send(worker, task, kind)

    def finished(self, seconds: float) -> list[Outcome]:
        """Go on to the next end of a task; nothing else happens until then that run_tasks() would have to know."""
        until, ended = self.time + self.step_seconds(), []
        while self.events and self.events[0][0] <= until:
            self.time, _, what, subject = heapq.heappop(self.events)
            ended += self.happen(what, subject)
            if ended:
                break
        else:
            self.time = until
        for death, _ in self.registry.resolve_deaths(self.time):
            self.again += [(lost.task, lost.kind) for lost in death.assignments]
        waiting, self.again = self.again, []
        for task, kind in waiting:
            worker = self.registry.choose(kind, task.stage, self.time)
            if worker is None:
                self.again.append((task, kind))
            else:
                self._send(worker, task, kind)
        return ended

    def backlog(self, ready: Mapping[Demand, int]) -> None: ...

    def snapshot(self) -> Mapping[str, Any]:
        return {}

    def report(self, file: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def close(self) -> None: ...

    # -- what happens

    def step_seconds(self) -> float:
        """Return the time until something has to be looked at, if no task ends before."""
        return 1.0 if self.again or self.registry.deaths else 3600.0

    def happen(self, what: str, subject: Any) -> list[Outcome]:
        """Let one event happen."""
        if what == "end":
            return self._end(subject)
        if what == "lose":
            self._lose(subject)
        elif what == "join":
            self._join(subject)
            self.registry.update(self.there, self.time)
        return []

    def _at(self, when: float, what: str, subject: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, what, subject))

    def _join(self, kind: Kind) -> None:
        self.number += 1
        name = f"{kind}-{self.number}"
        address = f"tcp://{name}:1"
        self.admit(WorkerFacts(address, name, None, kind, 2 if kind == "gpu" else 1, 2**40))

    def admit(self, facts: WorkerFacts) -> None:
        """Let a worker connect; it is lost some time later."""
        address = facts.address
        self.there[address] = facts
        self.born[address] = self.gpu_free[address] = self.time
        if self.world.losses:
            self._at(self.time + self.random.expovariate(self.world.losses) * 3600, "lose", address)

    def _lose(self, address: str) -> None:
        self.lost += 1
        kind = self.there[address].kind
        self._vanish(address)
        self._at(self.time + 60 * self.world.replaced_minutes, "join", kind)

    def _vanish(self, address: str) -> None:
        """End a worker with what it has in hand."""
        facts = self.there.pop(address)
        self.count_held(facts, self.time)
        for token, (where, begin, end) in list(self.busy.items()):
            if where == address:
                self.spent["lost"] += max(0.0, min(end, self.time) - begin)
                del self.busy[token]
        self.again += [(lost.task, lost.kind) for lost in self.registry.update(self.there, self.time)]

    def count_held(self, facts: WorkerFacts, until: float) -> None:
        self.held[facts.kind or "cpu"] += until - self.born[facts.address]

    def _send(self, worker: Worker, task: Task, kind: Kind) -> None:
        self.number += 1
        token, address = str(self.number), worker.facts.address
        before, with_gpu, after = self.world.seconds(task.stage, task.voxels / 1e6)
        begin = self.time + before
        if with_gpu:
            begin = max(begin, self.gpu_free[address])
            self.gpu_free[address] = begin + with_gpu
            self.busy[token] = (address, begin, begin + with_gpu)
        self.registry.assign(worker, Assignment(task, token, kind))
        self.registry.mark_started(token, self.time)
        self._at(begin + with_gpu + after, "end", token)

    def _end(self, token: str) -> list[Outcome]:
        found = self.registry.remove(token, 1e3)
        if found is None:
            return []  # its worker was lost
        kind = found[1].kind
        _, begin, end = self.busy.pop(token, ("", 0.0, 0.0))
        self.spent["gpu"] += end - begin
        if kind == "gpu":
            self.gpu_done = self.time
        task = found[1].task
        return [Outcome(task.stage, task.run, task.part, "done", seconds=end - begin)]


def main() -> None:
    world = World(**vars(world_parser(__doc__).parse_args()))
    made, runner, started = portal_plan(world), Simulated(world), time.monotonic()
    outcomes = run_tasks(made, runner, STAGES)
    assert len(outcomes) == len(made.tasks)
    for facts in runner.there.values():
        runner.count_held(facts, runner.gpu_done if facts.kind == "gpu" else runner.time)
    report(world, made, runner, time.monotonic() - started)


def report(world: World, made: Plan, runner: Simulated, seconds: float) -> None:
    gpu_hours, cpu_hours = runner.held["gpu"] / 3600, runner.held["cpu"] / 3600
    useful, lost = runner.spent["gpu"] / 3600, runner.spent["lost"] / 3600
    voxels = sum(task.voxels for task in made.tasks if task.stage == "segment")
    needed = Counter[str]()
    for task in made.tasks:
        stage_seconds = world.seconds(task.stage, task.voxels / 1e6)
        needed["gpu" if STAGES[task.stage].needs_gpu else "cpu"] += (
            stage_seconds[1] if STAGES[task.stage].needs_gpu else sum(stage_seconds)
        )
    bound = {kind: needed[kind] / 3600 / getattr(world, f"{kind}_workers") for kind in ("gpu", "cpu")}
    cost = gpu_hours * world.gpu_price + cpu_hours * world.cpu_price
    rows = [
        f"{world.tomograms} tomograms, {voxels / 1e12:.2f} Tvoxel; {world.gpu_workers} GPU and {world.cpu_workers} CPU "
        f"workers; losses {100 * world.losses:g} % an hour, replaced after {world.replaced_minutes:g} min",
        "stated, s a million voxels: "
        + ", ".join(f"{stage} {getattr(world, stage):g}" for stage in ORDER)
        + f"; reading {world.read_mb:g} MB/s",
        f"hours: {runner.time / 3600:.1f} ({world.tomograms / (runner.time / 3600):.0f} tomograms an hour); "
        f"GPUs held for {runner.gpu_done / 3600:.1f} h",
        f"GPU busy: {100 * (useful + lost) / gpu_hours:.1f} % of the time held ({100 * lost / gpu_hours:.1f} % for "
        f"work lost with its worker); {runner.lost} workers lost",
        f"cost: {gpu_hours:.0f} GPU h x {world.gpu_price:g} + {cpu_hours:.0f} CPU worker h x {world.cpu_price:g} "
        f"= {cost:.0f}",
        f"bound by {'GPUs' if bound['gpu'] > bound['cpu'] else 'CPU workers'}: without a loss or a wait the GPUs would "
        f"need {bound['gpu']:.1f} h, the CPU workers {bound['cpu']:.1f} h",
        f"choosing workers took {runner.handing_out:.1f} s, {100 * runner.handing_out / runner.time:.3f} % of the run "
        f"({1e3 * runner.handing_out / len(made.tasks):.3f} ms a task)",
        f"simulated in {seconds:.1f} s with the engine's run_tasks() and registry; this process had at most "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
    ]
    sys.stdout.write("\n".join(rows) + "\n")


def world_parser(description: str | None, tomograms: int = 20_000) -> argparse.ArgumentParser:
    """Return the parser of the numbers of a `World`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    numbers: list[tuple[str, type, float, str]] = [
        ("tomograms", int, tomograms, "how many"),
        ("gpu-workers", int, 64, "with one GPU and two slots each"),
        ("cpu-workers", int, 320, "with one core each"),
        ("losses", float, 0.05, "of workers, an hour"),
        ("replaced-minutes", float, 6.0, "until another worker is there"),
        (
            "segment",
            float,
            2.4,
            "s a million voxels of a GPU: all eight mirrors, 40 TFLOP/s assumed",
        ),
        ("separate", float, 1.0, "s a million voxels of a core"),
        ("mesh", float, 2.0, "s a million voxels of a core"),
        ("pick", float, 0.1, "s a million voxels of a GPU, assumed"),
        ("measure", float, 1.0, "s a million voxels of a core, at few membranes"),
        ("read-mb", float, 200.0, "MB/s that one worker reads"),
        ("gpu-price", float, 1.0, "an hour of a GPU worker, in your currency"),
        ("cpu-price", float, 0.02, "an hour of a CPU worker"),
        ("seed", int, 0, "of sizes and losses"),
    ]
    for name, kind, default, text in numbers:
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    return parser


if __name__ == "__main__":
    main()
