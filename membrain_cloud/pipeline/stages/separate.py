"""The stage `separate`: mask of membranes -> numbered membranes (instances)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.pipeline.stages.base import (
    BASE_BYTES,
    RunContext,
    Stage,
    TaskContext,
    declare_membrane,
    labels_ref,
)
from membrain_cloud.pipeline.stages.output_grid import mask_grid
from membrain_cloud.pipeline.stages.segment import SEGMENT
from membrain_cloud.store.projects.resolve import check_segmentation_extent, require_one
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.volumes.labels import as_marks
from membrain_cloud.store.volumes.scratch_array import ScratchSpace
from membrain_cloud.training.labels import MEMBRANE
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project

# Raised when given masks are read by another rule; those that were segmented here hold 0 and 1 alone.
_GIVEN_RULE = 2
SCRATCH_BYTES = GIB // 2
"""Labels that take more than this are kept in a scratch file and not in memory."""


class Separate(Stage):
    """Mask of membranes -> numbered membranes."""

    name = "separate"
    data_version = 3

    def after(self, settings: Settings) -> Sequence[str]:
        """Return segment, unless a segmentation is given."""
        return () if settings.separate.segmentation else ("segment",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the section `separate`, and the given segmentation."""
        given = settings.separate.segmentation
        rule = {} if given is None else {"given_rule": _GIVEN_RULE}
        return settings.separate.digest_settings() | {"given": given} | rule

    def is_replaced(self, settings: Settings) -> bool:
        """Return whether `separate.segmentation` names instances."""
        return settings.separate.starts_from_instances

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return the mask as "labels", and the region as "region" where it is an annotation.

        Parameters
        ----------
        context : RunContext
            The run.
        """
        settings = context.settings.separate
        inputs: dict[str, Ref] = {"labels": input_segmentation(context) or SEGMENT.output(context)}
        if settings.region is not None and settings.region_box is None:
            inputs["region"] = _region_ref(context, settings.region)
        return inputs

    def output(self, context: RunContext) -> SegmentationRef:
        """Return the instances, on the mask's voxels.

        Parameters
        ----------
        context : RunContext
            The run.

        Returns
        -------
        SegmentationRef
            The instances, in the stage's session.
        """
        labels = input_segmentation(context) or SEGMENT.output(context)
        return labels_ref(context, self.name, labels.voxel_spacing_angstrom, instance=True)

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the memory of slabs, and of the box of the largest component that is split.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages; `segment` decides on the grid of the mask.

        Returns
        -------
        int
            Bytes: 14 a voxel of the largest component that is split, beside the interpreter and one GiB.
        """
        voxels = instances_grid(grid, settings).voxels
        held = min(voxels, settings.separate.split_voxels if settings.separate.split else 0)
        return BASE_BYTES + GIB + 14 * held

    def declare(self, project: Project, settings: Settings) -> None:
        """Add the object of membranes."""
        declare_membrane(project)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Separate the membranes.

        Parameters
        ----------
        context : TaskContext
            The task, with the mask as input.

        Returns
        -------
        mapping of str to Any
            Number of membranes, and of components that were too large to split.
        """
        from membrain_cloud.segmentation.instances import separate_volume

        source, target = context.segmentation("labels"), context.written_segmentation()
        project, grid, settings = context.project, context.project.grid(source), context.settings.separate
        inside, output = _region_mask(context, grid), context.settings.output

        def read(box: Box) -> NDArray[Any]:
            labels: NDArray[Any] = project.read_labels(source, box)
            if not source.instance:
                labels = (as_marks(labels, source.key) == MEMBRANE).astype(np.uint8)
            return labels if inside is None else np.where(inside(box), labels, 0)

        with ScratchSpace(None, memory_bytes=SCRATCH_BYTES, moved_by="the variable TMPDIR") as space:
            scratch = space.array(grid.shape, np.uint32)
            separation = separate_volume(
                read,
                grid.shape,
                scratch,
                min_voxels=settings.min_voxels,
                split=settings.split,
                drop_border=settings.drop_border,
                split_voxels=settings.split_voxels,
            )
            project.create_labels(target, grid, str(separation.numbers.dtype), output.chunk, output.format)
            for box in iterate_chunks(grid.shape, project.label_chunk(grid, output.chunk)):
                project.write_labels(target, box, separation.numbers[scratch.read(box)])
        project.finish_labels(target)
        counts = {"membranes": separation.count}
        return counts | ({"too_large_to_split": separation.unsplit} if separation.unsplit else {})


SEPARATE = Separate()


def input_segmentation(context: RunContext) -> SegmentationRef | None:
    """Return the segmentation that `separate.segmentation` names in the run; None where it is not set.

    Parameters
    ----------
    context : RunContext
        The run.

    Returns
    -------
    SegmentationRef or None
        The segmentation.

    Raises
    ------
    ProjectError
        If the run has no such segmentation.
    InputError
        If its physical size is that of none of the run's tomograms.
    """
    uri = context.settings.separate.segmentation
    if uri is None:
        return None
    ref = context.project.segmentation(context.run, uri)
    check_segmentation_extent(context.project, ref)
    return ref


def instances_ref(context: RunContext) -> SegmentationRef:
    """Return the numbered membranes of the run: those that the settings name, or this stage's output.

    Parameters
    ----------
    context : RunContext
        The run.

    Returns
    -------
    SegmentationRef
        The instances.
    """
    named = input_segmentation(context) if context.settings.separate.starts_from_instances else None
    return named or SEPARATE.output(context)


def instances_grid(grid: Grid, settings: Settings) -> Grid:
    """Return the voxel grid of the numbered membranes.

    Parameters
    ----------
    grid : Grid
        The plan's grid: that of the given segmentation, or that of the tomogram.
    settings : Settings
        The settings, for the grid of our own masks.

    Returns
    -------
    Grid
        The grid of the instances.
    """
    return grid if settings.separate.segmentation else mask_grid(settings.segment, grid)


def _region_ref(context: RunContext, uri: str) -> Ref:
    """Return the segmentation, or else the meshes, that a URI names in the run."""
    return require_one(context.project, context.run, uri, ("segmentation", "instances", "mesh"))


def _region_mask(context: TaskContext, grid: Grid) -> Callable[[Box], NDArray[np.bool_]] | None:
    """Return a function that masks the voxels of a box inside the region; None without a region."""
    from membrain_cloud.mesh.conversion.mesh_to_mask import inside_mesh, is_closed

    settings, project = context.settings.separate, context.project
    if settings.region is None:
        return None
    if settings.region_box is not None:
        low, high = (np.round(grid.to_voxels(np.array([corner]))[0]) for corner in settings.region_box)
        return functools.partial(_in_box, low, high)
    source = context.task.inputs["region"]
    if isinstance(source, ObjectRef):
        meshes = list(project.read_meshes(source).values())
        if not meshes or not all(map(is_closed, meshes)):
            raise InputError(
                f"region {source.uri}: {'a mesh is not closed' if meshes else 'there is no mesh in it'}",
                "give closed meshes, a segmentation, or a box",
            )
        return lambda box: np.logical_or.reduce([inside_mesh(mesh, grid, box) for mesh in meshes])
    assert isinstance(source, SegmentationRef)
    if project.grid(source).shape != grid.shape:
        raise InputError(
            f"region {source.uri}: it has {project.grid(source).shape} voxels, the segmentation {grid.shape}",
            "give a region on the segmentation's grid, or a box",
        )
    return lambda box: project.read_labels(source, box) != 0


def _in_box(low: NDArray[np.float64], high: NDArray[np.float64], box: Box) -> NDArray[np.bool_]:
    """Return which voxels of `box` lie between two corners zyx, both included."""
    axes = [np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)]
    z, y, x = ((axis >= a) & (axis <= b) for axis, a, b in zip(axes, low, high, strict=True))
    inside: NDArray[np.bool_] = z[:, None, None] & y[None, :, None] & x[None, None, :]
    return inside
