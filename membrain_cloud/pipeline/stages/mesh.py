"""The stage `mesh`: numbered membranes -> one triangle mesh each."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.geometry import Grid, Mesh, iterate_chunks
from membrain_cloud.pipeline.stages.base import (
    BASE_BYTES,
    MEMBRANE,
    RunContext,
    Stage,
    TaskContext,
    declare_membrane,
)
from membrain_cloud.pipeline.stages.separate import instances_grid, instances_ref
from membrain_cloud.store.refs import ObjectRef
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box
    from membrain_cloud.pipeline.settings import MeshSettings, Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project


class MakeMeshes(Stage):
    """Numbered membranes -> one mesh each: a closed shell, one side of it, or the surface midway."""

    name = "mesh"
    data_version = 3

    def after(self, settings: Settings) -> Sequence[str]:
        """Return separate, unless instances are given."""
        return () if settings.separate.starts_from_instances else ("separate",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the section `mesh`, and the given instances."""
        instances = settings.separate.segmentation if settings.separate.starts_from_instances else None
        return settings.mesh.digest_settings() | {"given": instances}

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return the numbered membranes, as "instances".

        Parameters
        ----------
        context : RunContext
            The run.
        """
        return {"instances": instances_ref(context)}

    def output(self, context: RunContext) -> ObjectRef:
        """Return the meshes."""
        return ObjectRef(context.run, MEMBRANE, context.settings.output.user, context.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the memory of slabs and of the box around the largest membrane, which is rarely all of the volume.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages; `segment` decides on the grid of the instances.

        Returns
        -------
        int
            Bytes: 16 a voxel of the instances, beside the interpreter and one GiB.
        """
        return BASE_BYTES + GIB + 16 * instances_grid(grid, settings).voxels

    def declare(self, project: Project, settings: Settings) -> None:
        """Add the object of membranes."""
        declare_membrane(project)

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Mesh the membranes one by one.

        Parameters
        ----------
        context : TaskContext
            The task, with the instances as input.

        Returns
        -------
        mapping of str to Any
            Numbers of meshes and vertices, and the membranes that are too small to mesh.
        """
        from membrain_cloud.segmentation.instances import masks_of_labels

        source, settings = context.segmentation("instances"), context.settings.mesh
        grid = context.project.grid(source)
        read = functools.partial(context.project.read_labels, source)
        meshes: dict[int, Mesh] = {}
        small: list[int] = []
        chunks = iterate_chunks(grid.shape, context.project.stored_chunk(source))
        for number, box, mask in masks_of_labels(read, grid.shape, chunks):
            mesh = mesh_instance(mask, box, grid, settings)
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


MESH = MakeMeshes()


def mesh_instance(mask: NDArray[np.bool_], box: Box, grid: Grid, settings: MeshSettings) -> Mesh | None:
    """Mesh one membrane.

    Parameters
    ----------
    mask : (Z, Y, X) bool array
        The membrane in its box.
    box : Box
        Where the mask lies in the volume.
    grid : Grid
        Voxel grid of the volume.
    settings : MeshSettings
        Smoothing, size of the triangles, and the wanted surface.

    Returns
    -------
    Mesh or None
        The wanted surface, xyz in Å; None where the membrane is too small for a mesh.
    """
    from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane

    shell = mesh_membrane(
        mask,
        box,
        grid,
        smoothing_angstrom=settings.smoothing_angstrom,
        vertex_area_angstrom2=settings.vertex_area_angstrom2,
    )
    return None if shell is None else select_surface(shell, settings)


def select_surface(shell: Mesh, settings: MeshSettings) -> Mesh | None:
    """Return the wanted surface of a closed shell.

    Parameters
    ----------
    shell : Mesh
        Closed surface around the slab of a membrane.
    settings : MeshSettings
        The wanted surface, the seed point of the wanted side, and the upper limit of the thickness.

    Returns
    -------
    Mesh or None
        The shell, one side of it, or the surface midway; None where the shell does not have two sides.
    """
    from membrain_cloud.mesh.shell_sides import membrane_sides, middle_surface, one_side, side_of

    if settings.surface == "shell":
        return replace(shell, surface="shell")
    sides = membrane_sides(shell, reach_angstrom=settings.thickest_angstrom)
    seed = settings.seed_point
    side = (side_of(shell, sides, np.array(seed)) if seed is not None else 0) or 1
    mesh = one_side(shell, sides, side) if settings.surface == "side" else middle_surface(shell, sides, side)
    if not len(mesh.faces):
        return None
    on_side = sides.side == side
    thickness = float(np.median(sides.thickness[on_side])) if on_side.any() else None
    return replace(mesh, surface=settings.surface, thickness_angstrom=thickness)
