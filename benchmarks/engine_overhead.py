"""What the engine costs beside a plain loop, and what a second worker brings: `python -m benchmarks.engine_overhead`.

The same simulated tomograms, stages `segment`, `separate` and `mesh`:
  loop     read a tomogram, call the pure functions, keep the results in memory; nothing is written
  engine   one local Dask worker: plans, reads, writes, leases, receipts, checksums, messages
  two      two local workers
Each in processes of its own, with one thread for every library, one arm after the other, round after round. The first
tomograms of each are its start-up (interpreters, imports, models, compiled code) and told apart. Printed: wall seconds,
CPU seconds of all its processes, and ratios, of the best round. On a machine that others use too only the CPU seconds
say something of the overhead, and nothing says what a second worker brings.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from membrain_cloud.pipeline.execution.driver import run_tasks
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project
from membrain_cloud.pipeline.runners import open_runner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.store.projects.stored_project import CopickProject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from membrain_cloud.pipeline.execution.runner import Runner
    from membrain_cloud.store.projects.project import Project

CHOSEN = ("segment", "separate", "mesh")
# Tomograms of the start-up: enough for two workers to have done each stage.
WARM = 4
Round = dict[str, dict[str, float]]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def loop(project: Project, runs: Sequence[str]) -> None:
    """Run the pure functions, one tomogram after the other."""
    from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
    from membrain_cloud.pipeline.stages.inference import segment_in_memory
    from membrain_cloud.segmentation.instances import instance_boxes, separate

    chosen = Settings()
    segment, mesh = chosen.segment, chosen.mesh
    for run in runs:
        (ref,) = project.tomograms([run], None, None)
        grid, density = project.grid(ref), project.read_density(ref)
        labels = segment_in_memory(segment, density, grid.voxel_spacing_angstrom)
        instances = separate(labels, min_voxels=chosen.separate.min_voxels, split=True, drop_border=False)
        for number, box in instance_boxes(instances).items():
            mask = instances[box.slices] == number
            mesh_membrane(
                mask, box, grid, smoothing_angstrom=mesh.smoothing_angstrom,
                vertex_area_angstrom2=mesh.vertex_area_angstrom2,
            )  # fmt: skip


def engine(project: Project, runner: Runner, runs: Sequence[str]) -> None:
    made = plan(project, Settings(), STAGES, runs=runs, stages=CHOSEN)
    for name in CHOSEN:
        STAGES[name].declare(project, Settings())
    outcomes = run_tasks(made, runner, STAGES)
    assert {outcome.state for outcome in outcomes} == {"done"}, [outcome.line() for outcome in outcomes]


class Clock:
    """Wall and CPU seconds since it was made, of this process and all it has started."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), self._spent()

    @staticmethod
    def _spent() -> dict[int, float]:
        own = psutil.Process()
        spent = {}
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                spent[process.pid] = sum(process.cpu_times()[:2])
        return spent

    def read(self) -> dict[str, float]:
        now = self._spent()
        return {
            "wall": time.perf_counter() - self._wall,
            "cpu": sum(seconds - self._cpu.get(pid, 0.0) for pid, seconds in now.items()),
        }


def measured(what: str, folder: str) -> None:
    """In a process of its own: do it and print what it took, the interpreter's own start left out."""
    start = Clock()
    project = CopickProject.open(f"{folder}/config.json")
    runs = project.runs()
    warm, rest = runs[:WARM], runs[WARM:]
    workers = {"loop": None, "engine": 1, "two": 2}[what]
    with contextlib.ExitStack() as stack:
        if workers is None:
            work: Callable[[Sequence[str]], None] = functools.partial(loop, project)
        else:
            runner = stack.enter_context(open_runner(workers=workers, scheduler=None, in_process=False))
            work = functools.partial(engine, project, runner)
        work(warm)
        started, clock = start.read(), Clock()
        work(rest)
        sys.stdout.write(json.dumps({"start": started, "then": clock.read()}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tomograms", type=int, default=30, help=f"beside {WARM} for the start-up (%(default)s)")
    parser.add_argument("--shape", default="64,96,96", help="voxels, z,y,x (%(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="rounds (%(default)s)")
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "DIR"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        measured(*given.only)
        return
    shape = tuple(int(edge) for edge in given.shape.split(","))
    results: dict[str, list[Round]] = {"loop": [], "engine": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        phantom = PhantomSettings(shape=(shape[0], shape[1], shape[2]))
        wanted = [SimulatedTomogram(f"phantom-{n}", 91_000 + n, phantom) for n in range(WARM + given.tomograms)]
        simulate_project(folder, wanted, particle="membrane-protein", processes=2, report=lambda _: None)
        for number in range(given.repeat):
            for what, rounds in results.items():
                rounds.append(in_a_process(what, folder, f"{what}-{number}"))
    report(results, tasks=len(CHOSEN) * given.tomograms)


def in_a_process(what: str, folder: str, name: str) -> Round:
    """Each with an overlay of its own over the same tomograms."""
    own = Path(folder).with_name(f"{Path(folder).name}-{name}")
    subprocess.run(["cp", "-a", folder, str(own)], check=True)
    try:
        for config in own.glob("*.json"):
            config.write_text(config.read_text().replace(folder, str(own)))
        command = [sys.executable, "-m", "benchmarks.engine_overhead", "--only", what, str(own)]
        done = subprocess.run(command, check=True, capture_output=True, env=os.environ | dict.fromkeys(THREADS, "1"))
        found: Round = json.loads(done.stdout.splitlines()[-1])
        return found
    finally:
        subprocess.run(["rm", "-rf", str(own)], check=True)


def report(results: dict[str, list[Round]], tasks: int) -> None:
    best = {
        what: {part: {key: min(r[part][key] for r in rounds) for key in ("wall", "cpu")} for part in ("start", "then")}
        for what, rounds in results.items()
    }
    for what, found in best.items():
        start, then = found["start"], found["then"]
        sys.stdout.write(
            f"{what:<8} {then['wall']:8.1f} s wall {then['cpu']:8.1f} s CPU"
            f"   (start-up with {WARM} tomograms: {start['wall']:.1f} s wall {start['cpu']:.1f} s CPU)\n"
        )
    loop, engine, two = (best[what]["then"] for what in ("loop", "engine", "two"))
    over = {key: 100 * (engine[key] / loop[key] - 1) for key in ("wall", "cpu")}
    each = {key: 1000 * (engine[key] - loop[key]) / tasks for key in ("wall", "cpu")}
    sys.stdout.write(
        f"engine over loop: {over['wall']:+.1f} % wall ({each['wall']:+.0f} ms a task), "
        f"{over['cpu']:+.1f} % CPU ({each['cpu']:+.0f} ms a task)\n"
        f"two workers: {engine['wall'] / two['wall']:.2f} times one by wall; they take "
        f"{100 * (two['cpu'] / engine['cpu'] - 1):+.1f} % CPU\n"
    )


if __name__ == "__main__":
    main()
