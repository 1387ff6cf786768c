"""How much memory a tomogram of 1000 x 1000 x 300 voxels with 200 membranes takes from mask to particles.

    python -m benchmarks.large_picking             1000 x 1000 x 300, 200 membranes
    python -m benchmarks.large_picking --small     250 x 250 x 150, 12 membranes

Each stage is `membrain-cloud run` in a process of its own; what counts is its peak memory. The membranes are vesicles
(some touch) and two wide sheets, the tomogram is noise: enough for every step to be taken, and no score is looked at.
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
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK, GIB = 128, 1024**3
RADIUS, HALF = 16.0, 2.5


class Noise:
    """A tomogram that is made where it is sliced: int8, the same every time."""

    dtype = np.dtype(np.int8)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def __getitem__(self, slices: tuple[slice, slice, slice]) -> NDArray[np.int8]:
        starts = [s.indices(n)[0] for s, n in zip(slices, self.shape, strict=True)]
        sizes = [len(range(*s.indices(n))) for s, n in zip(slices, self.shape, strict=True)]
        return np.random.default_rng(starts).normal(0, 20, sizes).clip(-127, 127).astype(np.int8)


def vesicles(shape: tuple[int, int, int], count: int) -> NDArray[np.float64]:
    """(count, 3) middles, zyx, pairs of neighbours on a lattice; those of every fifth pair touch."""
    step = 2 * RADIUS + 16
    places = [
        (z, y, x)
        for z in np.arange(90.0, shape[0] - 30, step)
        for y in np.arange(30.0, shape[1] - 30, step)
        for x in np.arange(30.0, shape[2] - 30, step)
    ]
    every = max(1, len(places) // count)
    chosen = np.array([place for k, place in enumerate(places) if (k // 2) % every == 0][:count])
    # the mask of neighbours overlaps by a voxel where the first is moved
    beside = np.flatnonzero((chosen[1:, :2] == chosen[:-1, :2]).all(axis=1) & (np.arange(1, len(chosen)) % 10 == 1))
    chosen[beside, 2] += step - 2 * RADIUS - 2 * HALF + 1
    return chosen


def labels_of(box: Box, middles: NDArray[np.float64], sheet: int) -> NDArray[np.uint8]:
    z, y, x = (np.arange(a, b, dtype=np.float32) for a, b in zip(box.start, box.stop, strict=True))
    found = np.zeros(box.shape, bool)
    for middle in middles:
        if (middle + RADIUS + 4 < box.start).any() or (middle - RADIUS - 4 > box.stop).any():
            continue
        squares = (z[:, None, None] - middle[0]) ** 2 + (y[:, None] - middle[1]) ** 2 + (x - middle[2]) ** 2
        found |= np.abs(np.sqrt(squares) - RADIUS) <= HALF
    for height in (20.0, 50.0):
        wave = height + 4.0 * np.sin(x / 40.0)
        found |= (
            (np.abs(z[:, None, None] - wave) <= HALF) & ((y >= 20) & (y < sheet))[:, None] & ((x >= 20) & (x < sheet))
        )
    return found.astype(np.uint8)


def make(folder: Path, shape: tuple[int, int, int], count: int) -> str:
    project = create_project(str(folder / "project"), objects=[("membrane", False, None)])
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), Noise(shape), CHUNK)
    ref, grid = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0), Grid(shape, 10.0)
    middles, sheet = vesicles(shape, count - 2), int(0.32 * shape[1])
    project.create_labels(ref, grid, "uint8", CHUNK)
    for box in iterate_chunks(shape, project.label_chunk(grid, CHUNK)):
        project.write_labels(ref, box, labels_of(box, middles, sheet))
    project.finish_labels(ref)
    return project.config


def run(config: str, stage: str) -> tuple[float, float]:
    """Seconds and GiB of a stage."""
    command = [
        sys.executable, "-m", "membrain_cloud", "run", config, "--in-process", "--stages", stage,
        "--set", "separate.segmentation=membrane:alice/1", "--set", "pick.average_shifts=no",
    ]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(said)
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few membranes, to see that it works")
    options = parser.parse_args()
    shape, count = ((150, 250, 250), 12) if options.small else ((300, 1000, 1000), 200)
    with tempfile.TemporaryDirectory() as name:
        config = make(Path(name), shape, count)
        made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        sys.stdout.write(f"{shape} voxels, {count} membranes (made with {made:.2f} GiB)\n")
        for stage in ("separate", "mesh", "pick"):
            seconds, gib = run(config, stage)
            counts = [receipt["counts"] for _, receipt in receipts(config) if receipt["stage"] == stage]
            sys.stdout.write(f"{stage:<10}{seconds:8.0f} s{gib:8.2f} GiB  {json.dumps(counts)[:200]}\n")
            sys.stdout.flush()


def receipts(config: str) -> list[tuple[str, dict]]:  # type: ignore[type-arg]
    kept = CopickProject.open(config).receipts
    found = ((name, kept.read(name)) for name in sorted(kept.names()))
    return [(name, dict(receipt)) for name, receipt in found if receipt and "stage" in receipt and "counts" in receipt]


if __name__ == "__main__":
    main()
