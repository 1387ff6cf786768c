"""The stage `pick`: meshes and density -> particles on the membranes, of one kind or of several at once."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ModelError
from membrain_cloud.geometry import Grid, Mesh, Picks, box_around
from membrain_cloud.pipeline.settings import PickSettings, Settings
from membrain_cloud.pipeline.stages.base import BASE_BYTES, RunContext, Stage, TaskContext
from membrain_cloud.pipeline.stages.segment import tomogram_chunks
from membrain_cloud.pipeline.stages.separate import MESH
from membrain_cloud.store.refs import ObjectRef, TomogramRef
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.networks.picking.picker import AnyPicker
    from membrain_cloud.picking.clustering import Shift
    from membrain_cloud.picking.pick_membrane import Clustering
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project

# Of pickers that do not say what suits them.
BANDWIDTH_ANGSTROM, THRESHOLD = 70.0, 7.0


class Pick(Stage):
    """Meshes and density -> particles on the membranes.

    Where the picker knows several kinds of particles, `pick.object` holds all of them, and beside it each kind has
    picks of its own under its name.
    """

    name = "pick"
    needs_gpu = True
    data_version = 6
    model_task = "picking"
    tomogram_reads = 2  # once for its mean where samples leave it; then around the membranes, at most all of it

    def after(self, settings: Settings) -> Sequence[str]:
        return ("mesh",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return settings.pick.digest_settings() | {"input": settings.input.digest_settings()}

    def model(self, settings: Settings) -> str | None:
        return settings.pick.model

    def is_replaced(self, settings: Settings) -> bool:
        return settings.measure.picks is not None

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        return {"meshes": MESH.output(context), "density": context.require_tomogram(self.name)}

    def output(self, context: RunContext) -> ObjectRef:
        chosen = context.settings
        return ObjectRef(context.run, chosen.pick.object, chosen.output.user, context.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        # meshes and patches; of the density, blocks near the membranes
        return BASE_BYTES + 3 * GIB // 2 + grid.voxels // 2

    def declare(self, project: Project, settings: Settings) -> None:
        from membrain_cloud.pipeline.models import picker_classes

        for name in (settings.pick.object, *picker_classes(settings.pick.model)):
            project.ensure_object(name, is_particle=True, identifier=None)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        network = picker(context.settings.pick, context.task.model_sha256)
        classes = network.class_names
        found, failed = self._picks(context, network, max(1, len(classes)))
        main = context.written_object()
        counts = {}
        for name, picks in zip(classes, found, strict=False):
            context.project.write_picks(replace(main, name=name), picks)
            counts[name] = len(picks)
        everything = Picks.concatenate(found)
        context.project.write_picks(main, everything)
        told = {"classes": counts} if counts else {}
        return {"picks": len(everything)} | told | ({"membranes_failed": failed} if failed else {})

    def _picks(self, context: TaskContext, network: AnyPicker, kinds: int) -> tuple[list[Picks], dict[str, str]]:
        """For each kind of particle its picks on all membranes; and why there are none on some, by their numbers.

        InputError where not one mesh can be used.
        """
        from membrain_cloud.picking.pick_membrane import pick_membrane
        from membrain_cloud.store.operator_cache import OperatorFiles

        density, chosen = context.tomogram("density"), context.settings.pick
        grid = context.project.grid(density)
        meshes = context.project.read_meshes(context.object("meshes"))
        reach = network.reach_angstrom + density.voxel_spacing_angstrom
        near, failed = _usable(meshes, grid, reach)
        # only samples beyond the border take the mean, and only for it the whole tomogram is read
        leaves = any(_leaves(mesh, grid, reach) for mesh in near.values())
        mean = _mean(context.project, density, grid) if leaves else 0.0
        clustering = make_clustering(chosen, network)
        found: list[list[Picks]] = [[] for _ in range(kinds)]
        for number, mesh in sorted(near.items()):
            try:
                picks, _ = pick_membrane(
                    mesh,
                    functools.partial(context.project.read_density, density),
                    grid,
                    network,
                    outside=mean,
                    partition_vertices=chosen.partition_vertices,
                    clustering=clustering,
                    membrane_id=number,
                    cache=None if chosen.cache is None else OperatorFiles(chosen.cache),
                    shift=fastest_mean_shift(),
                )
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                failed[str(number)] = str(error)
                continue
            for of_kind, of_membrane in zip(found, picks, strict=True):
                of_kind.append(of_membrane)
        if failed and len(failed) == len(meshes):
            first, reason = next(iter(failed.items()))
            raise InputError(
                f"{context.object('meshes').uri}: no mesh of {len(meshes)} can be picked on "
                f"(membrane {first}: {reason})",
                "correct the meshes, or make them again with the stage mesh",
            )
        return [Picks.concatenate(parts) for parts in found], failed


PICK = Pick()


def picker(chosen: PickSettings, sha256: str) -> AnyPicker:
    """The network as the settings want it. ModelError where they ask of it what it cannot do."""
    from membrain_cloud.networks.picking.picker import Picker

    network = cached_picker(chosen.model, sha256)
    if chosen.average_shifts is None or not isinstance(network, Picker):
        return network
    return network.averaged() if chosen.average_shifts else network.centred()


@functools.lru_cache(maxsize=2)
def cached_picker(model: str, sha256: str) -> AnyPicker:
    """The network, loaded once a process; on a GPU where there is one."""
    import torch

    from membrain_cloud.pipeline.models import load_picker

    return load_picker(model, sha256=sha256, device="cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def fastest_mean_shift() -> Shift:
    """The mean shift on the GPU where there is one, the compiled one on a CPU (it is the faster there)."""
    import torch

    if torch.cuda.is_available():
        from membrain_cloud.networks.picking.mean_shift import DeviceMeanShift

        return DeviceMeanShift("cuda")
    from membrain_cloud.picking.clustering import mean_shift

    return mean_shift


def make_clustering(chosen: PickSettings, network: AnyPicker | None = None) -> Clustering:
    """The part of the settings that makes picks of scores; what they leave open is what suits the picker.

    Raises ModelError where the picker's file says of it what no settings can be.
    """
    from membrain_cloud.picking.pick_membrane import Clustering

    bandwidth, threshold = (BANDWIDTH_ANGSTROM, THRESHOLD) if network is None else _suiting(network)
    return Clustering(
        bandwidth_angstrom=bandwidth if chosen.bandwidth_angstrom is None else chosen.bandwidth_angstrom,
        score_threshold=threshold if chosen.threshold is None else chosen.threshold,
        max_iterations=chosen.max_iterations,
        min_samples=chosen.min_samples,
        center_offset_angstrom=chosen.center_offset_angstrom,
        largest_nm2=chosen.largest_nm2,
        min_distance_angstrom=chosen.min_distance_angstrom,
        least_elongation=chosen.least_elongation,
        refine=chosen.refine,
    )


def _suiting(network: AnyPicker) -> tuple[float, float]:
    told = network.notes.get("settings", {})
    try:
        suits = PickSettings(
            bandwidth_angstrom=told.get("pick.bandwidth_angstrom", BANDWIDTH_ANGSTROM),
            threshold=told.get("pick.threshold", THRESHOLD),
        )
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"the picker {network.name} says that {told!r} suits it", "set pick.bandwidth_angstrom and pick.threshold"
        ) from error
    return suits.bandwidth_angstrom or BANDWIDTH_ANGSTROM, suits.threshold or THRESHOLD


def _mean(project: Project, density: TomogramRef, grid: Grid) -> float:
    from membrain_cloud.segmentation.sliding_window import density_statistics

    return float(density_statistics(tomogram_chunks(project, density, grid)).mean)


def _usable(meshes: Mapping[int, Mesh], grid: Grid, reach_angstrom: float) -> tuple[dict[int, Mesh], dict[str, str]]:
    """The meshes that reach into the volume, and why others cannot be used."""
    near: dict[int, Mesh] = {}
    failed: dict[str, str] = {}
    for number, mesh in meshes.items():
        try:
            if box_around(mesh, grid, margin_angstrom=reach_angstrom) is not None:
                near[number] = mesh
        except ValueError as error:
            failed[str(number)] = str(error)
    return near, failed


def _leaves(mesh: Mesh, grid: Grid, margin_angstrom: float) -> bool:
    """Whether something within `margin_angstrom` of the mesh's bounding box lies beyond the volume."""
    last = np.array(grid.size_angstrom) - grid.voxel_spacing_angstrom
    low, high = mesh.vertices.min(0) - margin_angstrom, mesh.vertices.max(0) + margin_angstrom
    return bool((low < 0).any() or (high > last).any())
