"""The stage `pick`: meshes and tomogram -> particles on the membranes, of one class or of several at once."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ModelError
from membrain_cloud.geometry import Grid, Mesh, Picks, box_around
from membrain_cloud.pipeline.settings import PickSettings, Settings
from membrain_cloud.pipeline.stages.base import BASE_BYTES, RunContext, Stage, TaskContext
from membrain_cloud.pipeline.stages.mesh import MESH
from membrain_cloud.pipeline.stages.segment import tomogram_chunks
from membrain_cloud.store.refs import ObjectRef, TomogramRef
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.networks.picking.picker import AnyPicker
    from membrain_cloud.picking.clustering import Shift
    from membrain_cloud.picking.clustering_options import ClusteringOptions
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project

# Defaults for pickers whose file stores no clustering settings.
BANDWIDTH_ANGSTROM, THRESHOLD = 70.0, 7.0


class Pick(Stage):
    """Meshes and tomogram -> particles on the membranes.

    With a picker of several classes `pick.object` holds the picks of all classes, and each class has its own picks
    under its name as well.
    """

    name = "pick"
    needs_gpu = True
    data_version = 7
    model_task = "picking"
    tomogram_reads = 2  # once for its mean, where samples lie outside; then around the membranes, at most all of it

    def after(self, settings: Settings) -> Sequence[str]:
        """Return mesh."""
        return ("mesh",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the sections `pick` and `input`.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.
        """
        return settings.pick.digest_settings() | {"input": settings.input.digest_settings()}

    def model(self, settings: Settings) -> str | None:
        """Return the picker."""
        return settings.pick.model

    def is_replaced(self, settings: Settings) -> bool:
        """Return whether `measure.picks` names picks.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.
        """
        return settings.measure.picks is not None

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return the meshes and the tomogram, as "meshes" and "density".

        Parameters
        ----------
        context : RunContext
            The run.

        Raises
        ------
        ProjectError
            If the run has no tomogram.
        """
        return {"meshes": MESH.output(context), "density": context.require_tomogram(self.name)}

    def output(self, context: RunContext) -> ObjectRef:
        """Return the picks of all classes.

        Parameters
        ----------
        context : RunContext
            The run.

        Returns
        -------
        ObjectRef
            The object `pick.object`, in the stage's session.
        """
        settings = context.settings
        return ObjectRef(context.run, settings.pick.object, settings.output.user, context.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the memory of meshes and patches, and of the tomogram's blocks near the membranes.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages; none of them changes the estimate.

        Returns
        -------
        int
            Bytes: half a byte a voxel, beside the interpreter and 1.5 GiB.
        """
        return BASE_BYTES + 3 * GIB // 2 + grid.voxels // 2

    def declare(self, project: Project, settings: Settings) -> None:
        """Add the object of all picks, and one for each class.

        Parameters
        ----------
        project : Project
            The project.
        settings : Settings
            The settings of all stages; the classes are those of the picker.
        """
        from membrain_cloud.pipeline.models import picker_classes

        for name in (settings.pick.object, *picker_classes(settings.pick.model)):
            project.ensure_object(name, is_particle=True, identifier=None)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Pick on all membranes.

        Parameters
        ----------
        context : TaskContext
            The task, with the meshes and the tomogram as inputs.

        Returns
        -------
        mapping of str to Any
            Numbers of picks, in all and of each class, and the membranes that failed.
        """
        network = configured_picker(context.settings.pick, context.task.model_sha256)
        classes = network.class_names
        picks_of_classes, failed = self._pick(context, network, max(1, len(classes)))
        output = context.written_object()
        counts = {}
        for name, picks in zip(classes, picks_of_classes, strict=False):
            context.project.write_picks(replace(output, name=name), picks)
            counts[name] = len(picks)
        all_picks = Picks.concatenate(picks_of_classes)
        context.project.write_picks(output, all_picks)
        optional: dict[str, Any] = {"classes": counts} if counts else {}
        return {"picks": len(all_picks)} | optional | ({"membranes_failed": failed} if failed else {})

    def _pick(self, context: TaskContext, network: AnyPicker, n_classes: int) -> tuple[list[Picks], dict[str, str]]:
        """Return the picks of each class on all membranes, and the membranes that failed with their errors.

        Raises InputError where no mesh can be used.
        """
        from membrain_cloud.picking.pick_membrane import pick_membrane
        from membrain_cloud.store.operator_cache import OperatorFiles

        density, settings = context.tomogram("density"), context.settings.pick
        grid = context.project.grid(density)
        meshes = context.project.read_meshes(context.object("meshes"))
        reach = network.reach_angstrom + density.voxel_spacing_angstrom
        usable, failed = _usable_meshes(meshes, grid, reach)
        # The mean fills samples beyond the border; only for it the whole tomogram is read.
        needs_mean = any(_leaves_volume(mesh, grid, reach) for mesh in usable.values())
        mean = _mean(context.project, density, grid) if needs_mean else 0.0
        clustering = make_clustering(settings, network)
        picks_of_classes: list[list[Picks]] = [[] for _ in range(n_classes)]
        for number, mesh in sorted(usable.items()):
            try:
                picks, _ = pick_membrane(
                    mesh,
                    functools.partial(context.project.read_density, density),
                    grid,
                    network,
                    outside=mean,
                    partition_vertices=settings.partition_vertices,
                    clustering=clustering,
                    membrane_id=number,
                    cache=None if settings.cache is None else OperatorFiles(settings.cache),
                    shift=fastest_mean_shift(),
                )
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                failed[str(number)] = str(error)
                continue
            for of_class, of_membrane in zip(picks_of_classes, picks, strict=True):
                of_class.append(of_membrane)
        if failed and len(failed) == len(meshes):
            first, reason = next(iter(failed.items()))
            raise InputError(
                f"{context.object('meshes').uri}: none of its {len(meshes)} meshes can be picked on "
                f"(membrane {first}: {reason})",
                "correct the meshes, or make them again with the stage mesh",
            )
        return [Picks.concatenate(parts) for parts in picks_of_classes], failed


PICK = Pick()


def configured_picker(settings: PickSettings, sha256: str) -> AnyPicker:
    """Return the picker as the settings want it.

    Parameters
    ----------
    settings : PickSettings
        The model, and whether scores are averaged over shifts.
    sha256 : str
        Checksum of the model as planned.

    Returns
    -------
    AnyPicker
        The picker.

    Raises
    ------
    ModelError
        If the picker cannot do what the settings ask for.
    """
    from membrain_cloud.networks.picking.picker import Picker

    network = cached_picker(settings.model, sha256)
    if settings.average_shifts is None or not isinstance(network, Picker):
        return network
    return network.averaged() if settings.average_shifts else network.centred()


@functools.lru_cache(maxsize=2)
def cached_picker(model: str, sha256: str) -> AnyPicker:
    """Load a picker, once in a process; on a GPU where there is one.

    Parameters
    ----------
    model : str
        The picker as `models.resolve` takes it.
    sha256 : str
        Its checksum as planned.

    Returns
    -------
    AnyPicker
        The picker.
    """
    import torch

    from membrain_cloud.pipeline.models import load_picker

    return load_picker(model, sha256=sha256, device="cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def fastest_mean_shift() -> Shift:
    """Return the mean shift for this machine: on the GPU where there is one, else the compiled one for CPUs."""
    import torch

    if torch.cuda.is_available():
        from membrain_cloud.networks.picking.mean_shift import DeviceMeanShift

        return DeviceMeanShift("cuda")
    from membrain_cloud.picking.clustering import mean_shift

    return mean_shift


def make_clustering(settings: PickSettings, network: AnyPicker | None = None) -> ClusteringOptions:
    """Return the settings of the clustering; what they leave open comes from the picker's file.

    Parameters
    ----------
    settings : PickSettings
        The settings.
    network : AnyPicker or None
        The picker. Default: none, so that its defaults are 70 Å and 7.

    Returns
    -------
    ClusteringOptions
        How scores are made into picks.

    Raises
    ------
    ModelError
        If the picker's file stores settings that are not valid.
    """
    from membrain_cloud.picking.clustering_options import ClusteringOptions

    bandwidth, threshold = (BANDWIDTH_ANGSTROM, THRESHOLD) if network is None else _stored_defaults(network)
    return ClusteringOptions(
        bandwidth_angstrom=bandwidth if settings.bandwidth_angstrom is None else settings.bandwidth_angstrom,
        score_threshold=threshold if settings.threshold is None else settings.threshold,
        max_iterations=settings.max_iterations,
        min_samples=settings.min_samples,
        center_offset_angstrom=settings.center_offset_angstrom,
        largest_nm2=settings.largest_nm2,
        min_distance_angstrom=settings.min_distance_angstrom,
        least_elongation=settings.least_elongation,
        refine=settings.refine,
    )


def _stored_defaults(network: AnyPicker) -> tuple[float, float]:
    """Return the bandwidth in Å and the threshold that the picker's file stores, else the general defaults."""
    stored = network.notes.get("settings", {})
    try:
        settings = PickSettings(
            bandwidth_angstrom=stored.get("pick.bandwidth_angstrom", BANDWIDTH_ANGSTROM),
            threshold=stored.get("pick.threshold", THRESHOLD),
        )
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"picker {network.name}: its file stores invalid settings: {stored!r}",
            "set pick.bandwidth_angstrom and pick.threshold",
        ) from error
    return settings.bandwidth_angstrom or BANDWIDTH_ANGSTROM, settings.threshold or THRESHOLD


def _mean(project: Project, density: TomogramRef, grid: Grid) -> float:
    from membrain_cloud.segmentation.sliding_window import density_statistics

    return float(density_statistics(lambda: tomogram_chunks(project, density, grid)).mean)


def _usable_meshes(
    meshes: Mapping[int, Mesh], grid: Grid, reach_angstrom: float
) -> tuple[dict[int, Mesh], dict[str, str]]:
    """Return the meshes that reach into the volume, and the errors of invalid ones by their numbers."""
    usable: dict[int, Mesh] = {}
    failed: dict[str, str] = {}
    for number, mesh in meshes.items():
        try:
            if box_around(mesh, grid, margin_angstrom=reach_angstrom) is not None:
                usable[number] = mesh
        except ValueError as error:
            failed[str(number)] = str(error)
    return usable, failed


def _leaves_volume(mesh: Mesh, grid: Grid, margin_angstrom: float) -> bool:
    """Return whether the mesh's bounding box with this margin reaches beyond the volume."""
    last = np.array(grid.size_angstrom) - grid.voxel_spacing_angstrom
    low, high = mesh.vertices.min(0) - margin_angstrom, mesh.vertices.max(0) + margin_angstrom
    return bool((low < 0).any() or (high > last).any())
