"""Run very many trivial tasks through a local Dask scheduler: `python -m benchmarks.engine_run [--tomograms 20000]`.

Every task goes the whole way: chosen by run_tasks(), pinned to a worker, lease, receipt, outcome; its stage is empty.
Printed: tasks a second, and the memory of the process that holds driver and scheduler, along the run; a plot of it with
`--plot FILE.png`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import cloudpickle
import psutil

from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.execution.driver import run_tasks
from membrain_cloud.pipeline.planning.plan import Plan
from membrain_cloud.pipeline.runners import open_runner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.base import RunContext, Stage, TaskContext
from membrain_cloud.pipeline.tasks import Job, Outcome, Ref, Task
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.run_state.receipts import receipt_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid

cloudpickle.register_pickle_by_value(sys.modules[__name__])
STAGES = ("first", "second")


class Nothing(Stage):
    """A stage without work; the second one needs the first."""

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def after(self, settings: Settings) -> Sequence[str]:
        return STAGES[: STAGES.index(self.name)]

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return {}

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        return {}

    def output(self, context: RunContext) -> Ref | None:
        return None

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return 0

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        return {}


def trivial_plan(folder: str, tomograms: int) -> Plan:
    settings = Settings()
    project = create_project(folder, objects=[])
    job = Job(project.config, f"{project.root_url}/tables", settings.as_dict())
    tasks = []
    for number in range(tomograms):
        run, before = f"TS_{number:05d}", ()
        for stage in STAGES:
            digest = digest_of(stage, run)
            receipt = receipt_name(f"{stage}/membrain_0/{run}/nothing", "complete", digest)
            tasks.append(Task(job, stage, run, "whole", digest, {}, None, receipt, "", "link", needs=before))
            before = (tasks[-1].key,)
    return Plan(job, STAGES, tuple(dict.fromkeys(t.run for t in tasks)), {}, tuple(tasks), (), {})


class Memory:
    """Resident memory of this process, twice a second, with how many tasks were done."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, float]] = []
        self.done, self._ended, self._started = 0, threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.5):
            self.samples.append((time.monotonic() - self._started, self.done, process.memory_info().rss / 2**20))

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tomograms", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", metavar="FILE.png")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = trivial_plan(folder, given.tomograms)
        registry = {name: Nothing(name) for name in STAGES}
        with open_runner(workers=given.workers, scheduler=None, in_process=False) as runner:
            runner.room(made.tasks[0], "cpu")  # starts the workers
            memory, started = Memory(), time.monotonic()

            def observe(event: str, _: Task, outcome: Outcome | None) -> None:
                memory.done += event == "finished"

            outcomes = run_tasks(made, runner, registry, observe)
            seconds = time.monotonic() - started
            memory.end()
    assert all(outcome.state == "done" for outcome in outcomes), {outcome.line() for outcome in outcomes[:3]}
    report(memory, len(outcomes), seconds)
    if given.plot:
        plot(memory, given.plot)


def report(memory: Memory, tasks: int, seconds: float) -> None:
    sys.stdout.write(f"{tasks} tasks in {seconds:.1f} s: {tasks / seconds:.0f} tasks/s\n")
    settled = [sample for sample in memory.samples if sample[1] > tasks / 10]
    for quantile in (0, 0.25, 0.5, 0.75, 1):
        when, done, mib = settled[int(quantile * (len(settled) - 1))]
        sys.stdout.write(f"  after {when:6.1f} s, {done:7d} tasks: driver and scheduler hold {mib:.0f} MiB\n")
    growth = (settled[-1][2] - settled[0][2]) / (settled[-1][1] - settled[0][1]) * 2**20
    sys.stdout.write(f"  growth: {growth:.0f} bytes a task\n")


def plot(memory: Memory, file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    held = [mib for *_, mib in memory.samples]
    axes.plot([done for _, done, _ in memory.samples], held)
    axes.set(xlabel="tasks done", ylabel="driver and scheduler, MiB", ylim=(0, 1.2 * max(held)))
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
