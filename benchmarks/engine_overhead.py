"""What the engine costs beside a plain loop, and what a second worker brings: `python -m benchmarks.engine_overhead`.

The same simulated tomograms, stages `segment`, `separate` and `mesh`:
  loop     read a tomogram, call the pure functions, keep the results in memory; nothing is written
  engine   one local Dask worker: reads, writes, leases, receipts, checksums, messages
  two      two local workers
Each in a process of its own, with one thread for every library. Printed: wall seconds, CPU seconds of the process and
its children, and ratios. On a machine that others use too only the CPU seconds say something of the overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from membrain_cloud.membranes.phantom import PhantomSettings
from membrain_cloud.pipeline.drive import drive
from membrain_cloud.pipeline.plan import plan
from membrain_cloud.pipeline.run import open_runner
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.simulation import Simulated, simulate_project
from membrain_cloud.pipeline.stages import STAGES
from membrain_cloud.store.project import Project

CHOSEN = ("segment", "separate", "mesh")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def loop(project: Project) -> None:
    """The pure functions, one tomogram after the other."""
    import numpy as np

    from membrain_cloud.membranes.instances import instance_boxes, separate
    from membrain_cloud.membranes.meshing import mesh_membrane
    from membrain_cloud.membranes.segmentation import density_statistics
    from membrain_cloud.pipeline.looking import look_at, looked_slabs, segmenter
    from membrain_cloud.pipeline.models import model_sha256

    chosen = Settings()
    segment, mesh = chosen.segment, chosen.mesh
    network = segmenter(segment.model, model_sha256(segment.model), segment.chosen_precision)
    for run in project.runs():
        (ref,) = project.tomograms([run], None, None)
        grid, density = project.grid(ref), project.read_density(ref)
        look = look_at(segment, grid.voxel_spacing_angstrom)
        (block,) = look.lattice.blocks(grid.shape, grid.shape)
        slabs = looked_slabs(
            segment, look, network, lambda box, density=density: density[box.slices], grid.shape, block,
            statistics=density_statistics([density]), chunk_planes=64,
        )  # fmt: skip
        labels = np.concatenate([slab.logits > segment.threshold for slab in slabs]).astype(np.uint8)
        instances = separate(labels, min_voxels=chosen.separate.min_voxels, split=True, drop_border=False)
        for number, box in instance_boxes(instances).items():
            mask = instances[box.slices] == number
            mesh_membrane(
                mask, box, grid, smoothing_angstrom=mesh.smoothing_angstrom,
                vertex_area_angstrom2=mesh.vertex_area_angstrom2,
            )  # fmt: skip


def engine(project: Project, workers: int) -> None:
    made = plan(project, Settings(), STAGES, stages=CHOSEN)
    for name in CHOSEN:
        STAGES[name].declare(project, Settings())
    with open_runner(workers=workers, scheduler=None, in_process=False) as runner:
        outcomes = drive(made, runner, STAGES)
    assert {outcome.state for outcome in outcomes} == {"done"}, [outcome.line() for outcome in outcomes]


def measured(what: str, folder: str) -> None:
    """In a process of its own: do it and print what it took, start-up of the interpreter left out."""
    project = Project.open(f"{folder}/config.json")
    started = time.perf_counter()
    if what == "loop":
        loop(project)
    else:
        engine(project, {"engine": 1, "two": 2}[what])
    wall = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sys.stdout.write(json.dumps({"wall": wall, "cpu": sum(u.ru_utime + u.ru_stime for u in used)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tomograms", type=int, default=6)
    parser.add_argument("--shape", default="96,160,160")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "DIR"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        measured(*given.only)
        return
    shape = tuple(int(edge) for edge in given.shape.split(","))
    results: dict[str, list[dict[str, float]]] = {"loop": [], "engine": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        phantom = PhantomSettings(shape=(shape[0], shape[1], shape[2]))
        wanted = [Simulated(f"phantom-{n}", 91_000 + n, phantom) for n in range(given.tomograms)]
        simulate_project(folder, wanted, particle="membrane-protein", processes=2, report=lambda _: None)
        for number in range(given.repeat):
            for what in results:
                results[what].append(in_a_process(what, folder, f"{what}-{number}"))
    report(results)


def in_a_process(what: str, folder: str, name: str) -> dict[str, float]:
    """Each with an overlay of its own over the same tomograms."""
    own = Path(folder).with_name(f"{Path(folder).name}-{name}")
    subprocess.run(["cp", "-a", folder, str(own)], check=True)
    try:
        for config in own.glob("*.json"):
            config.write_text(config.read_text().replace(folder, str(own)))
        command = [sys.executable, "-m", "benchmarks.engine_overhead", "--only", what, str(own)]
        done = subprocess.run(command, check=True, capture_output=True, env=os.environ | dict.fromkeys(THREADS, "1"))
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found
    finally:
        subprocess.run(["rm", "-rf", str(own)], check=True)


def report(results: dict[str, list[dict[str, float]]]) -> None:
    best = {what: {key: min(run[key] for run in runs) for key in ("wall", "cpu")} for what, runs in results.items()}
    for what, found in best.items():
        sys.stdout.write(f"{what:<8} {found['wall']:8.1f} s wall {found['cpu']:8.1f} s CPU\n")
    over = {key: 100 * (best["engine"][key] / best["loop"][key] - 1) for key in ("wall", "cpu")}
    sys.stdout.write(f"engine over loop: {over['wall']:+.1f} % wall, {over['cpu']:+.1f} % CPU\n")
    sys.stdout.write(f"two workers: {best['engine']['wall'] / best['two']['wall']:.2f} times one\n")


if __name__ == "__main__":
    main()
