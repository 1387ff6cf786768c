"""The stage `measure`: meshes, particles and tomogram -> rows of the tables."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Grid, Mesh, Picks, box_around
from membrain_cloud.pipeline.stages.base import BASE_BYTES, RunContext, Stage, TaskContext
from membrain_cloud.pipeline.stages.mesh import MESH
from membrain_cloud.pipeline.stages.pick import PICK
from membrain_cloud.pipeline.stages.separate import instances_ref
from membrain_cloud.statistics.membrane.bilayer_thickness import REACH_NM
from membrain_cloud.store.refs import ObjectRef, TomogramRef
from membrain_cloud.units import ANGSTROM_PER_NM, GIB
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.statistics.model.prepare import Membrane
    from membrain_cloud.store.projects.project import Project

BORDER_VOXELS = 1.5
"""Vertices within this distance of the tomogram's border are the cap that closes a mesh there, and not membrane."""


class Measure(Stage):
    """Meshes and particles -> rows of the tables, which hold the latest rows of each tomogram."""

    name = "measure"
    data_version = 6
    keeps_receipts_in = "tables"

    def after(self, settings: Settings) -> Sequence[str]:
        """Return mesh, and pick unless picks are given.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.
        """
        return ("mesh",) if settings.measure.picks else ("mesh", "pick")

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the sections `measure` and `input`, and the given picks.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.
        """
        return settings.measure.digest_settings() | {
            "given": settings.measure.picks,
            "input": settings.input.digest_settings(),
        }

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return instances and meshes, and as far as they are measured picks, tomogram and lamella.

        Parameters
        ----------
        context : RunContext
            The run.

        Returns
        -------
        mapping of str to Ref
            "instances" and "meshes"; "picks", "picks_2" ... with particles; "density" for the bilayer; "lamella" with
            `measure.lamella`.
        """
        settings = context.settings.measure
        inputs: dict[str, Ref] = {"instances": instances_ref(context), "meshes": MESH.output(context)}
        for index, uri in enumerate(settings.pick_uris):
            inputs["picks" if index == 0 else f"picks_{index + 1}"] = context.project.object(context.run, uri)
        if not settings.picks:
            inputs["picks"] = PICK.output(context)
        if settings.bilayer and settings.gap_nm > 0 and context.tomogram is not None:
            inputs["density"] = context.tomogram
        if settings.lamella is not None:
            inputs["lamella"] = context.project.segmentation(context.run, settings.lamella)
        return inputs

    def output(self, context: RunContext) -> None:
        """Return None: it writes table rows."""

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the memory of the meshes and, for the bilayer, of the tomogram around the largest one.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages.

        Returns
        -------
        int
            Bytes: 10 a voxel with the bilayer, else 2, beside the interpreter and half a GiB.
        """
        return BASE_BYTES + GIB // 2 + (10 if settings.measure.bilayer else 2) * grid.voxels

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Measure, and replace the tomogram's rows in all tables.

        Parameters
        ----------
        context : TaskContext
            The task, with the instances and meshes as inputs.

        Returns
        -------
        mapping of str to Any
            Rows by table, particles that lie on no membrane, and membranes that failed.
        """
        from membrain_cloud.statistics.measure import TABLES, measure_tomogram, tomogram_row

        task, settings = context.task, context.settings.measure
        instances, density = context.segmentation("instances"), task.inputs.get("density")
        sources = _pick_sources(context)
        grid = context.project.grid(instances)
        meshes = context.project.read_meshes(context.object("meshes"))
        picks, names = _particles(context, sources, meshes)
        keys = {
            "dataset_id": context.dataset,
            "run_name": task.run,
            "tomogram_id": context.project.tomogram_id(task.run) or task.place,
            "voxel_spacing_angstrom": instances.voxel_spacing_angstrom,
            "segmentation": instances.uri,
            "digest": task.stage_digest,
        }
        rows_of_tables = measure_tomogram(
            {number: _membrane(number, mesh, picks, names, grid) for number, mesh in sorted(meshes.items())},
            grid=grid,
            options=settings.options(),
            kinds=sorted({ref.name for ref in sources}),
            density_about=tomogram_density(context.project, density) if isinstance(density, TomogramRef) else None,
            lamella=_lamella(context),
            origin=f"{context.dataset}/{task.run}/{task.place}",
        )
        counts = {table: len(some) for table, some in rows_of_tables.items()} | {"tomograms": 1}
        failed = sum(row["error"] is not None for row in rows_of_tables["membranes"])
        summary = tomogram_row(
            grid,
            n_membranes=len(meshes),
            n_failed_membranes=failed,
            n_particles=None if picks is None else counts["particles"],
            mesh_uri=context.object("meshes").uri,
            picks_uri=", ".join(ref.uri for ref in sources) or None,
            density_uri=density.key if isinstance(density, TomogramRef) else None,
            lamella_uri=context.segmentation("lamella").uri if "lamella" in task.inputs else None,
            package_version=__version__,
            data_version=str(self.data_version),
        )
        rows_of_tables["tomograms"] = [summary]
        for table in TABLES:
            # one table at a time: that of the simulations is large
            rows = [keys | row for row in rows_of_tables.pop(table)]
            context.tables.write_part(table, context.dataset, f"{task.run}/{task.place}", rows)
        left_out = 0 if picks is None else len(picks) - counts["particles"]
        return counts | {"particles_on_no_membrane": left_out, "membranes_failed": failed}


MEASURE = Measure()


def _pick_sources(context: TaskContext) -> list[ObjectRef]:
    """Return the picks to measure: those given, or the stage pick's, by classes where its picker has classes."""
    inputs = context.task.inputs.items()
    sources = [ref for role, ref in inputs if role.startswith("picks") and isinstance(ref, ObjectRef)]
    if context.settings.measure.picks is not None or not sources:
        return sources
    from membrain_cloud.pipeline.models import picker_classes

    (all_picks,) = sources
    return [replace(all_picks, name=name) for name in picker_classes(context.settings.pick.model)] or sources


def _particles(
    context: TaskContext, sources: Sequence[ObjectRef], meshes: Mapping[int, Mesh]
) -> tuple[Picks | None, NDArray[np.str_]]:
    """Return all particles and the class of each; None and no classes where none are measured.

    Imported picks do not know our numbers of membranes: they get that of the nearest one.
    """
    from membrain_cloud.picking.assignment import nearest_membranes

    if not sources:
        return None, np.zeros(0, np.str_)
    parts = [context.project.read_picks(ref) for ref in sources]
    names = np.repeat([ref.name for ref in sources], [len(part) for part in parts])
    picks = Picks.concatenate(parts)
    if context.settings.measure.picks is None:
        return picks, names
    reach_nm = context.settings.measure.reach_nm
    numbers = nearest_membranes(meshes, picks.positions, within_angstrom=ANGSTROM_PER_NM * reach_nm)
    if len(picks) and meshes and not numbers.any():
        raise InputError(
            f"imported picks: none of the {len(picks)} lies within {reach_nm:g} nm of a membrane",
            "check the units and the origin with which they were imported, or raise measure.reach_nm",
        )
    return replace(picks, membrane_ids=numbers), names


def _membrane(number: int, mesh: Mesh, picks: Picks | None, names: NDArray[np.str_], grid: Grid) -> Membrane:
    """Return a membrane with its particles and its vertices at the tomogram's border, as the statistics take it."""
    if picks is None:
        return membrane_of(mesh, grid)
    index = np.flatnonzero(picks.membrane_ids == number)
    return replace(
        membrane_of(mesh, grid), picks=picks.select(index), object_names=[str(name) for name in names[index]]
    )


def membrane_of(mesh: Mesh, grid: Grid) -> Membrane:
    """Return a membrane without particles, with its vertices at the tomogram's border.

    Parameters
    ----------
    mesh : Mesh
        The membrane's mesh, xyz in Å.
    grid : Grid
        Voxel grid of the segmentation that it is of.

    Returns
    -------
    Membrane
        The membrane as the statistics take it.
    """
    from membrain_cloud.mesh.conversion.mask_to_mesh import border_vertices
    from membrain_cloud.statistics.measure import Membrane

    border = border_vertices(mesh, grid, margin_angstrom=BORDER_VOXELS * grid.voxel_spacing_angstrom)
    return Membrane(mesh, None, border, "")


def density_reader(read_box: Callable[[Box], NDArray[Any]], grid: Grid) -> Callable[[Mesh], Any]:
    """Return a function that reads a tomogram around a mesh, as far as the bilayer is sampled.

    Parameters
    ----------
    read_box : callable
        Takes a box of the tomogram and returns its voxels, (Z, Y, X), any real dtype.
    grid : Grid
        Voxel grid of the tomogram.

    Returns
    -------
    callable
        Takes a mesh and returns the Density around it, or None where it lies outside of the tomogram.
    """
    from membrain_cloud.statistics.membrane.bilayer_thickness import Density

    def read(mesh: Mesh) -> Density | None:
        used = Mesh(mesh.vertices[np.unique(mesh.faces)], mesh.faces)
        box = box_around(used, grid, margin_angstrom=ANGSTROM_PER_NM * REACH_NM + grid.voxel_spacing_angstrom)
        return None if box is None else Density(read_box(box), box, grid)

    return read


def tomogram_density(project: Project, density: TomogramRef) -> Callable[[Mesh], Any]:
    """Return a function that reads a project's tomogram around a mesh.

    Parameters
    ----------
    project : Project
        The project.
    density : TomogramRef
        The tomogram.

    Returns
    -------
    callable
        As that of `density_reader`.
    """
    return density_reader(functools.partial(project.read_density, density), project.grid(density))


def _lamella(context: TaskContext) -> Any:
    """Return the lamella's surfaces from its mask; None where no mask is given."""
    from membrain_cloud.statistics.membrane.lamella import lamella_of

    if "lamella" not in context.task.inputs:
        return None
    ref = context.segmentation("lamella")
    try:
        return lamella_of(context.project.read_labels(ref), context.project.grid(ref))
    except ValueError as error:
        raise InputError(f"lamella {ref.uri}: {error}", "give a mask whose voxels above 0 are the lamella") from error
