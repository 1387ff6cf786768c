"""Time and memory of a plan: `python -m benchmarks.planning [--tomograms 200000]`.

A manifest of that many tomograms, of sizes as in benchmarks/portal_run.py, is written to a temporary folder, and all
stages are planned on it with the built-in models, as `membrain-cloud run` does. No voxel exists. The memory is that of
the process at its peak, the manifest included.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.manifest import write_manifest
from membrain_cloud.store.projects.open import open_project

SIDES = (512, 720, 928, 960, 1000, 1024)


def rows(tomograms: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the rows of a manifest of tomograms with the shapes and the lengths of names of the portal's."""
    draw = random.Random(seed)
    return [
        {
            "tomogram_id": str(number),
            "dataset_id": str(10_000 + number % 200),
            "deposition_id": "10301",
            "run_name": f"{10_000 + number % 200}-{number:06d}_aretomo_ts",
            "tomogram_type": "wbp",
            "voxel_spacing_angstrom": 7.84,
            "size_z": draw.randrange(200, 560, 8),
            "size_y": draw.choice(SIDES),
            "size_x": draw.choice(SIDES),
            "level": "0",
            "url": f"s3://cryoet-data-portal-public/{10_000 + number % 200}/run-{number:06d}/Reconstructions/x.zarr",
            "identity": f"{draw.getrandbits(64):016x}",
            "bytes": 1_000_000_000,
        }
        for number in range(tomograms)
    ]


def peak_gib() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tomograms", type=int, default=200_000, help="how many (default: 200000)")
    tomograms = parser.parse_args().tomograms
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/manifest.parquet"
        objects = [
            {"name": "membrane", "is_particle": False, "label": 1},
            {"name": "membrane-protein", "is_particle": True, "label": 2},
        ]
        (Path(folder) / "overlay").mkdir()
        write_manifest(url, rows(tomograms), overlay_root=f"{folder}/overlay", objects=objects)
        before, started = peak_gib(), time.monotonic()
        project = open_project(url)
        made = plan(project, Settings(), STAGES)
        seconds = time.monotonic() - started
        sys.stdout.write(
            f"{tomograms} tomograms, {len(made.tasks)} tasks, {len(made.outcomes)} refused: planned in "
            f"{seconds:.0f} s, {1e3 * seconds / tomograms:.2f} ms a tomogram; peak memory {peak_gib():.2f} GiB "
            f"({before:.2f} before)\n"
        )


if __name__ == "__main__":
    main()
