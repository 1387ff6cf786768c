"""The stages between a mask and the meshes: `separate` numbers the membranes, `mesh` makes a surface of each."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, Mesh, iterate_chunks
from membrain_cloud.pipeline.stages.base import (
    BASE_BYTES,
    MEMBRANE,
    RunContext,
    Stage,
    TaskContext,
    declare_membrane,
    labels_ref,
)
from membrain_cloud.pipeline.stages.output_grid import mask_grid
from membrain_cloud.pipeline.stages.segment import Segment
from membrain_cloud.store.projects.resolve import resolve
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.volumes.scratch_array import ScratchSpace
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.settings import MeshSettings, Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project

# Labels of a larger tomogram are worked on in a file.
SCRATCH_BYTES = GIB // 2


class Separate(Stage):
    """Mask -> numbered membranes."""

    name = "separate"
    data_version = 3

    def after(self, settings: Settings) -> Sequence[str]:
        return () if settings.separate.segmentation else ("segment",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return settings.separate.digest_settings() | {"given": settings.separate.segmentation}

    def is_replaced(self, settings: Settings) -> bool:
        return settings.separate.starts_from_instances

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        chosen = context.settings.separate
        found: dict[str, Ref] = {"labels": input_segmentation(context) or SEGMENT.output(context)}
        if chosen.region is not None and chosen.region_box is None:
            found["region"] = _region_ref(context, chosen.region)
        return found

    def output(self, context: RunContext) -> SegmentationRef:
        labels = input_segmentation(context) or SEGMENT.output(context)
        return labels_ref(context, self.name, labels.voxel_spacing_angstrom, instance=True)

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        voxels = _instances_grid(grid, settings).voxels
        held = min(voxels, settings.separate.split_voxels if settings.separate.split else 0)
        return BASE_BYTES + GIB + 14 * held

    def declare(self, project: Project, settings: Settings) -> None:
        declare_membrane(project)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        from membrain_cloud.segmentation.instances import separate_volume

        source, target = context.segmentation("labels"), context.written_segmentation()
        project, grid, chosen = context.project, context.project.grid(source), context.settings.separate
        inside = self._region(context, grid)

        def read(box: Box) -> Any:
            labels = project.read_labels(source, box)
            return labels if inside is None else np.where(inside(box), labels, 0)

        with ScratchSpace(None, memory_bytes=SCRATCH_BYTES, moved_by="the variable TMPDIR") as space:
            scratch = space.array(grid.shape, np.uint32)
            found = separate_volume(
                read,
                grid.shape,
                scratch,
                min_voxels=chosen.min_voxels,
                split=chosen.split,
                drop_border=chosen.drop_border,
                split_voxels=chosen.split_voxels,
            )
            project.create_labels(target, grid, str(found.numbers.dtype), context.settings.output.chunk)
            for box in iterate_chunks(grid.shape, project.label_chunk(grid, context.settings.output.chunk)):
                project.write_labels(target, box, found.numbers[scratch.read(box)])
        project.finish_labels(target)
        counts = {"membranes": found.count}
        return counts | ({"too_large_to_split": found.unsplit} if found.unsplit else {})

    def _region(self, context: TaskContext, grid: Grid) -> Callable[[Box], Any] | None:
        """Which voxels of a box lie in the region of interest; None: all."""
        from membrain_cloud.mesh.conversion.mesh_to_mask import inside_mesh, is_closed

        chosen, project = context.settings.separate, context.project
        if chosen.region is None:
            return None
        if chosen.region_box is not None:
            low, high = (np.round(grid.to_voxels(np.array([corner]))[0]) for corner in chosen.region_box)
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
                f"region {source.uri} is {project.grid(source).shape} voxels, the segmentation {grid.shape}",
                "give a region on the segmentation's grid, or a box",
            )
        return lambda box: project.read_labels(source, box) != 0


class MakeMeshes(Stage):
    """Numbered membranes -> one mesh each: a closed shell, one side of it, or the surface midway."""

    name = "mesh"
    data_version = 2

    def after(self, settings: Settings) -> Sequence[str]:
        return () if settings.separate.starts_from_instances else ("separate",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        given = settings.separate.segmentation if settings.separate.starts_from_instances else None
        return settings.mesh.digest_settings() | {"given": given}

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        return {"instances": instances_of(context)}

    def output(self, context: RunContext) -> ObjectRef:
        return ObjectRef(context.run, MEMBRANE, context.settings.output.user, context.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        # slabs, and the box around the largest membrane: rarely all of the volume
        return BASE_BYTES + GIB + 16 * _instances_grid(grid, settings).voxels

    def declare(self, project: Project, settings: Settings) -> None:
        declare_membrane(project)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
        from membrain_cloud.segmentation.instances import masks_of_labels

        source, chosen = context.segmentation("instances"), context.settings.mesh
        grid = context.project.grid(source)
        read = functools.partial(context.project.read_labels, source)
        meshes: dict[int, Mesh] = {}
        small: list[int] = []
        chunks = iterate_chunks(grid.shape, context.project.stored_chunk(source))
        for number, box, mask in masks_of_labels(read, grid.shape, chunks):
            shell = mesh_membrane(
                mask,
                box,
                grid,
                smoothing_angstrom=chosen.smoothing_angstrom,
                vertex_area_angstrom2=chosen.vertex_area_angstrom2,
            )
            mesh = None if shell is None else _wanted_surface(shell, chosen)
            if mesh is None:
                small.append(number)
            else:
                meshes[number] = mesh
        context.project.write_meshes(context.written_object(), meshes)
        return {
            "membranes": len(meshes),
            "vertices": sum(len(mesh.vertices) for mesh in meshes.values()),
            "too_small_to_mesh": small,
        }


SEGMENT, SEPARATE, MESH = Segment(), Separate(), MakeMeshes()


def _instances_grid(grid: Grid, settings: Settings) -> Grid:
    """Of the plan's grid: a given segmentation's own, or the tomogram's, on which ours may have other voxels."""
    return grid if settings.separate.segmentation else mask_grid(settings.segment, grid)


def input_segmentation(context: RunContext) -> SegmentationRef | None:
    uri = context.settings.separate.segmentation
    return None if uri is None else context.project.segmentation(context.run, uri)


def instances_of(context: RunContext) -> SegmentationRef:
    given = input_segmentation(context) if context.settings.separate.starts_from_instances else None
    return given or SEPARATE.output(context)


def _region_ref(context: RunContext, uri: str) -> Ref:
    """Return the segmentation, or else the meshes, that a URI names in the run."""
    named = resolve(context.project, context.run, uri)
    ref = named.get("segmentation") or named.get("instances") or named.get("mesh")
    return ref or context.project.segmentation(context.run, uri)  # raises, and lists what the run has


def _in_box(low: NDArray[np.float64], high: NDArray[np.float64], box: Box) -> NDArray[np.bool_]:
    """Which voxels of `box` lie between two corners, zyx, both included."""
    axes = [np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)]
    z, y, x = ((axis >= a) & (axis <= b) for axis, a, b in zip(axes, low, high, strict=True))
    return z[:, None, None] & y[None, :, None] & x[None, None, :]


def _wanted_surface(shell: Mesh, chosen: MeshSettings) -> Mesh | None:
    """The shell, or of it one side or the surface midway; None where it has no two sides."""
    from membrain_cloud.mesh.shell_sides import membrane_sides, middle_surface, one_side, side_of

    if chosen.surface == "shell":
        return shell
    sides = membrane_sides(shell, reach_angstrom=chosen.thickest_angstrom)
    seed = chosen.seed_point
    side = (side_of(shell, sides, np.array(seed)) if seed is not None else 0) or 1
    mesh = one_side(shell, sides, side) if chosen.surface == "side" else middle_surface(shell, sides, side)
    return mesh if len(mesh.faces) else None
