"""The engine at the portal's size: `python -m benchmarks.engine plan`.

plan : 20 000 tomograms (sizes as on the portal) in a manifest, five stages, nothing done and all done (100 000
receipts on a local disk). Each plan is made by `membrain-cloud plan --json` in a process of its own, imports and output
included.
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

import numpy as np

from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.manifest import write_manifest
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.tables.open import open_tables

# (x, y, z) of usual tomograms at about 10 Å, and how many in a hundred have them; every fiftieth is at 5 Å.
SIZES = (((928, 960, 500), 40), ((1024, 1024, 512), 25), ((630, 630, 200), 20), ((464, 480, 250), 15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    planning = verbs.add_parser("plan")
    planning.add_argument("--tomograms", type=int, default=20_000)
    chosen = parser.parse_args()
    bench_plan(chosen.tomograms)


def bench_plan(tomograms: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_manifest(Path(folder), tomograms)
        say(f"{tomograms} tomograms, {os.cpu_count()} cores")
        timed("nothing done", manifest, Path(folder))
        count, seconds = write_receipts(manifest)
        say(f"{count} receipts written in {seconds:.0f} s")
        timed("all done", manifest, Path(folder))


def make_manifest(folder: Path, tomograms: int) -> str:
    """Make a manifest of tomograms that do not exist: planning opens none."""
    rng = np.random.default_rng(0)
    weights = np.array([share for _, share in SIZES]) / 100
    sizes = rng.choice(len(SIZES), tomograms, p=weights)
    rows = []
    for number, kind in enumerate(sizes.tolist()):
        x, y, z = SIZES[kind][0]
        fine = 2 if number % 50 == 0 else 1
        rows.append(
            {
                "tomogram_id": str(number), "run_name": f"{10_000 + number}", "dataset_id": str(10_300 + number // 100),
                "deposition_id": None, "tomogram_type": "wbp-raw", "voxel_spacing_angstrom": 10.0 / fine,
                "size_z": z * fine, "size_y": y * fine, "size_x": x * fine, "level": "0",
                "url": f"s3://nowhere/{number}.zarr", "identity": f"{number:016x}", "bytes": 4 * x * y * z * fine**3,
            }
        )  # fmt: skip
    path = str(folder / "all.parquet")
    write_manifest(path, rows, overlay_root=str(folder / "overlay"))
    return path


def write_receipts(manifest: str) -> tuple[int, float]:
    """Write a receipt for each task of the plan, as large as a real one, without waiting for the disk."""
    project, began = open_project(manifest), time.perf_counter()
    roots = {
        "project": project.receipts.url,
        "tables": open_tables(project).receipts.url,
    }
    tasks = plan(project, Settings(), STAGES).tasks
    for task in tasks:
        objects = {f"{task.receipt}/0/{i}": [1000 + i, "0" * 32] for i in range(40)}
        content = {
            "receipt_version": 1, "digest": task.digest, "stage": task.stage, "run": task.run, "part": task.part,
            "seconds": 60.0, "voxels": task.voxels, "bytes_read": 4 * task.voxels, "objects": objects,
        }  # fmt: skip
        path = Path(roots[STAGES[task.stage].keeps_receipts_in]) / f"{task.receipt}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return len(tasks), time.perf_counter() - began


def timed(what: str, manifest: str, folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output, began = folder / "plan.json", time.perf_counter()
    with output.open("w") as stream:
        command = [sys.executable, "-m", "membrain_cloud", "plan", manifest, "--json"]
        subprocess.run(command, stdout=stream, check=True)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    made = json.loads(output.read_text())
    tasks, skipped = len(made["tasks"]), sum(o["state"] == "skipped" for o in made["settled"])
    say(
        f"{what}: {seconds:.1f} s ({cpu:.1f} s of CPU), at most {after.ru_maxrss / 2**10:.0f} MiB in any so far; "
        f"{tasks} tasks to do, {skipped} done; output {output.stat().st_size / 2**20:.0f} MiB"
    )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
