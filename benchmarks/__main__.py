"""Time the science and the store on one simulated tomogram: `python -m benchmarks`.

Each line is the best of three runs, and the peak of what numpy and Python held beyond the inputs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from membrain_cloud.image.skeleton import skeletonize
from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.networks.segmentation.window_averaging import WindowAverager
from membrain_cloud.report.data import SliceView
from membrain_cloud.report.figures import slice_figure, surface_figure
from membrain_cloud.segmentation.instances import instance_boxes, separate
from membrain_cloud.segmentation.sliding_window import density_statistics, segment_slabs
from membrain_cloud.simulation.phantom import Phantom, PhantomSettings, make_phantom
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import TomogramRef
from membrain_cloud.tiling import Tiling, window_stride

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.geometry import Mesh
    from membrain_cloud.store.projects.project import Project

WINDOW, OVERLAP = 64, 0.5


def measure(what: str, function: Callable[[], Any], repeat: int = 3) -> Any:
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sys.stdout.write(f"{what:<58} {min(seconds):9.3f} s {peak / 2**20:9.0f} MiB\n")
    sys.stdout.flush()
    return result


def main() -> None:
    settings = PhantomSettings()
    sys.stdout.write(f"{os.cpu_count()} cores; phantom of {settings.shape} voxels\n")
    phantom = measure("simulate a tomogram", lambda: make_phantom(1, settings), repeat=1)
    bench_store(phantom)
    bench_segmentation(phantom)
    instances = measure("separate", lambda: separate(phantom.labels, min_voxels=1000, split=True, drop_border=False))
    measure("skeletonize", lambda: skeletonize(phantom.labels > 0), repeat=1)
    meshes = measure("mesh all membranes", lambda: meshed(phantom, instances), repeat=1)
    bench_geodesics(max(meshes.values(), key=lambda mesh: len(mesh.faces)))
    bench_report(phantom, instances, meshes)


def bench_store(phantom: Phantom) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project: Project = create_project(folder, objects=[])
        ref = TomogramRef("TS_1", "wbp", phantom.voxel_spacing_angstrom)
        measure("write a tomogram", lambda: project.write_tomogram(ref, phantom.density))
        measure("read a tomogram", lambda: project.read_density(ref))


def bench_segmentation(phantom: Phantom) -> None:
    """Measure the cost of the windows alone: the network is a copy."""
    shape = phantom.grid.shape
    statistics = measure("statistics of the density", lambda: density_statistics([phantom.density]))
    tiling = Tiling(WINDOW, window_stride(WINDOW, OVERLAP), "no")
    (block,) = tiling.blocks(shape, shape)

    def all_windows() -> int:
        averager = WindowAverager(
            torch.clone, torch.device("cpu"), reach=WINDOW, halo=block.halo, core=block.core, mean=statistics.mean,
            std=statistics.std, apart=False, skip_void=False, batch=1,
        )  # fmt: skip
        slabs = segment_slabs(
            averager, lambda box: phantom.density[box.slices], shape, block, tiling=tiling, planes_per_read=64,
            progress=lambda _: None,
        )  # fmt: skip
        return sum(len(slab.logits) for slab in slabs)

    measure("windows over the volume, without the network", all_windows)


def meshed(phantom: Phantom, instances: np.ndarray) -> dict[int, Mesh]:
    found = {}
    for number, box in instance_boxes(instances).items():
        mask = instances[box.slices] == number
        mesh = mesh_membrane(mask, box, phantom.grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
        if mesh is not None:
            found[number] = mesh
    return found


def bench_geodesics(mesh: Mesh) -> None:
    surface = Surface(mesh)
    faces = np.random.default_rng(0).integers(len(mesh.faces), size=200)
    sources = surface.points(faces, np.full((200, 3), 1 / 3))
    surface.geodesic(sources, sources, cutoff_angstrom=400.0)  # compiles
    what = f"geodesics among 200 points, cut-off 40 nm, {len(mesh.vertices)} vertices"
    measure(what, lambda: surface.geodesic(sources, sources, cutoff_angstrom=400.0))


def bench_report(phantom: Phantom, instances: np.ndarray, meshes: dict[int, Mesh]) -> None:
    view = SliceView("xy", 48, phantom.density[48], instances[48])
    measure("draw a slice", lambda: slice_figure(view, phantom.grid, phantom.particles, None, width=900))
    measure("draw the membranes", lambda: surface_figure(meshes, phantom.particles, phantom.grid, width=760))


if __name__ == "__main__":
    main()
