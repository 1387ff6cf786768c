"""Maps over a volume that have no windows: ours, chunk by chunk, beside the same as `dask.array`.

    python -m benchmarks.volume_maps                      512³ voxels, chunks of 256
    python -m benchmarks.volume_maps --edge 256 --chunk 64

Each line is a process of its own: wall time and processor time of the best of three, and the peak of its memory less
that before the first run. Dask runs on one thread, as a task on a worker has it, and on as many as there are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.geometry import iterate_chunks
from membrain_cloud.metrics.changes import Overlap
from membrain_cloud.segmentation.score_encoding import scores_above
from membrain_cloud.segmentation.sliding_window import density_statistics
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.store.projects.project import Project

DENSITY, COPY = TomogramRef("TS_1", "wbp", 10.0), TomogramRef("TS_1", "copy", 10.0)
MASKS = tuple(SegmentationRef("TS_1", "membrane", user, "1", 10.0) for user in ("alice", "bob"))
ABOVE = SegmentationRef("TS_1", "membrane", "above", "1", 10.0)
MAPS = ("statistics", "compare two masks", "threshold", "pyramid")


def make(folder: str, edge: int, chunk: int) -> str:
    """Write a density and two masks that overlap; return the config."""
    project = create_project(folder, objects=[("membrane", False, None)])
    rng = np.random.default_rng(0)
    density = rng.normal(size=(edge, edge, edge)).astype(np.float32)
    project.write_tomogram(DENSITY, density, chunk)
    for number, ref in enumerate(MASKS):
        project.write_segmentation(ref, (density > 1 + 0.1 * number).astype(np.uint8), chunk)
    return project.config


def lazy(project: Project, ref: Any) -> Any:
    import xarray as xr

    from membrain_cloud.store.volumes.xarray_backend import OmeZarrBackend

    return xr.open_dataset(f"{project.root_url}/{ref.path}", engine=OmeZarrBackend, chunks={}).image.data


def statistics(project: Project, dask: bool) -> Any:
    if dask:
        import dask as core

        values = lazy(project, DENSITY)
        return [float(number) for number in core.compute(values.mean(dtype="f8"), values.std(dtype="f8"))]
    boxes = iterate_chunks(project.grid(DENSITY).shape, project.stored_chunk(DENSITY))
    found = density_statistics(project.read_density(DENSITY, box) for box in boxes)
    return [found.mean, found.std]


def compare(project: Project, dask: bool) -> Any:
    if dask:
        import dask as core

        first, second = (lazy(project, ref) != 0 for ref in MASKS)
        return [int(number) for number in core.compute(first.sum(), second.sum(), (first & second).sum())]
    overlap = Overlap()
    for box in iterate_chunks(project.grid(MASKS[0]).shape, project.stored_chunk(MASKS[0])):
        overlap.add(*(project.read_labels(ref, box) for ref in MASKS))
    return list(overlap.voxels)


def threshold(project: Project, dask: bool) -> Any:
    grid, chunk = project.grid(DENSITY), project.stored_chunk(DENSITY)
    project.create_labels(ABOVE, grid, "uint8", chunk[0])
    if dask:
        store_blocks((lazy(project, DENSITY) > 1.0).astype(np.uint8), project, ABOVE)
    else:
        for box in iterate_chunks(grid.shape, chunk):
            mask = scores_above(project.read_density(DENSITY, box), 1.0).astype(np.uint8)
            project.write_labels(ABOVE, box, mask)
    return int(project.read_labels(ABOVE).sum())


def store_blocks(values: Any, project: Project, ref: Any) -> None:
    """Write the chunks of a Dask array through the project, as `dask.array.store` does: by slices."""

    class Target:
        def __setitem__(self, slices: tuple[slice, ...], block: np.ndarray) -> None:
            from membrain_cloud.geometry import Box

            z, y, x = slices
            project.write_labels(ref, Box((z.start, y.start, x.start), (z.stop, y.stop, x.stop)), block)

    import dask.array as da

    da.store(values, Target(), lock=False)


def pyramid(project: Project, dask: bool) -> Any:
    """Make level 1 of a density."""
    from membrain_cloud.geometry import Box
    from membrain_cloud.store.volumes.pyramid import local_mean

    shape, chunk = project.grid(DENSITY).shape, project.stored_chunk(DENSITY)
    out = np.empty([-(-n // 2) for n in shape], np.float32)
    if dask:
        import dask.array as da

        values = lazy(project, DENSITY)
        da.store(da.coarsen(np.mean, values, {0: 2, 1: 2, 2: 2}), out, lock=False)
    else:
        for box in iterate_chunks(shape, chunk):
            target = Box(tuple(a // 2 for a in box.start), tuple(-(-b // 2) for b in box.stop))  # type: ignore[arg-type]
            out[target.slices] = local_mean(project.read_density(DENSITY, box))
    return float(out.std())


RUN: dict[str, Callable[[Project, bool], Any]] = dict(zip(MAPS, (statistics, compare, threshold, pyramid), strict=True))


def child(config: str, name: str, threads: int) -> None:
    """Run one map three times; print its figures as JSON."""
    project = open_project(config)
    import dask

    scheduler = {"scheduler": "synchronous"} if threads == 1 else {"scheduler": "threads", "num_workers": threads}
    lazy(project, DENSITY)
    before = peak_kib()
    wall, cpu = [], []
    with dask.config.set(scheduler):
        for _ in range(3):
            started, used = time.perf_counter(), time.process_time()
            answer = RUN[name](project, threads > 0)
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - used)
    peak = peak_kib() - before
    print(json.dumps({"wall": min(wall), "cpu": min(cpu), "peak": peak / 1024, "answer": answer}))


def peak_kib() -> int:
    """Return the peak of this process; `ru_maxrss` holds that of its parent too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        config, name, threads = options.child
        child(config, name, int(threads))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = make(folder, options.edge, options.chunk)
        for name in MAPS:
            for threads in sorted({0, 1, os.cpu_count() or 1}):
                command = [sys.executable, "-m", "benchmarks.volume_maps", "--child", config, name, str(threads)]
                figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                how = "ours" if threads == 0 else f"dask, {threads} threads"
                print(
                    f"{name:20} {how:16} wall {figures['wall']:6.2f} s  processor {figures['cpu']:6.2f} s  "
                    f"memory {figures['peak']:6.0f} MiB  {figures['answer']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
