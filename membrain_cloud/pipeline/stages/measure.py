"""The stage `measure`: meshes, particles and density -> rows of the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import membrain_cloud
from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Grid, Mesh, Picks, box_around
from membrain_cloud.pipeline.stages.base import BASE_BYTES, RunContext, Stage, TaskContext
from membrain_cloud.statistics.membrane.bilayer_thickness import REACH_NM
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project

# How near to the tomogram's border a mesh that was closed there is a cap, and no membrane.
BORDER_VOXELS = 1.5


class Measure(Stage):
    """Meshes and particles -> rows of the tables, which hold the latest of each tomogram.

    mesh, pick : the stages whose output it reads.  instances_of : the numbered membranes of a context.
    """

    name = "measure"
    data_version = 5
    keeps_receipts_in = "tables"

    def __init__(self, mesh: Stage, pick: Stage, instances_of: Callable[[RunContext], SegmentationRef]) -> None:
        self._mesh, self._pick, self._instances_of = mesh, pick, instances_of

    def after(self, settings: Settings) -> Sequence[str]:
        return ("mesh",) if settings.measure.picks else ("mesh", "pick")

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return settings.measure.digest_settings() | {
            "given": settings.measure.picks,
            "input": settings.input.digest_settings(),
        }

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        chosen = context.settings.measure
        meshes = self._mesh.output(context)
        assert meshes is not None
        found: dict[str, Ref] = {"instances": self._instances_of(context), "meshes": meshes}
        for place, uri in enumerate(chosen.pick_uris):
            found["picks" if place == 0 else f"picks_{place + 1}"] = context.project.object(context.run, uri)
        if not chosen.picks:
            picks = self._pick.output(context)
            assert picks is not None
            found["picks"] = picks
        if chosen.bilayer and chosen.gap_nm > 0 and context.tomogram is not None:
            found["density"] = context.tomogram
        if chosen.lamella is not None:
            found["lamella"] = context.project.segmentation(context.run, chosen.lamella)
        return found

    def output(self, context: RunContext) -> None:
        return None

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return BASE_BYTES + GIB // 2 + (10 if settings.measure.bilayer else 2) * grid.voxels

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        from membrain_cloud.statistics.measure import TABLES, measure_tomogram, tomogram_row

        task, chosen = context.task, context.settings.measure
        instances, density = context.segmentation("instances"), task.inputs.get("density")
        sources = _sources(context)
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
        about = None if not isinstance(density, TomogramRef) else _density_about(context.project, density)
        found = measure_tomogram(
            {number: _membrane(number, mesh, picks, names, grid) for number, mesh in sorted(meshes.items())},
            grid=grid,
            options=chosen.options(),
            kinds=sorted({ref.name for ref in sources}),
            density_about=about,
            lamella=_lamella(context, grid),
        )
        rows = {table: [keys | row for row in some] for table, some in found.items()}
        failed = sum(row["error"] is not None for row in rows["membranes"])
        summary = tomogram_row(
            grid,
            n_membranes=len(meshes),
            n_failed_membranes=failed,
            n_particles=None if picks is None else len(rows["particles"]),
            mesh_uri=context.object("meshes").uri,
            picks_uri=", ".join(ref.uri for ref in sources) or None,
            density_uri=density.key if isinstance(density, TomogramRef) else None,
            lamella_uri=context.segmentation("lamella").uri if "lamella" in task.inputs else None,
            package_version=membrain_cloud.__version__,
            data_version=str(self.data_version),
        )
        rows["tomograms"] = [keys | summary]
        for table in TABLES:
            context.tables.write_part(table, context.dataset, f"{task.run}/{task.place}", rows[table])
        left_out = 0 if picks is None else len(picks) - len(rows["particles"])
        counts = {table: len(some) for table, some in rows.items()}
        return counts | {"particles_on_no_membrane": left_out, "membranes_failed": failed}


def _sources(context: TaskContext) -> list[ObjectRef]:
    """The particles to measure: those given, or what was picked, each kind from its own picks where there are some."""
    found = [
        ref for role, ref in context.task.inputs.items() if role.startswith("picks") and isinstance(ref, ObjectRef)
    ]
    if context.settings.measure.picks is not None or not found:
        return found
    from membrain_cloud.pipeline.models import picker_classes

    (everything,) = found
    return [replace(everything, name=kind) for kind in picker_classes(context.settings.pick.model)] or found


def _particles(
    context: TaskContext, sources: Sequence[ObjectRef], meshes: Mapping[int, Mesh]
) -> tuple[Picks | None, NDArray[np.str_]]:
    """All particles, and what each is; None where none are asked for.

    Those made elsewhere know nothing of our membranes' numbers and get the nearest's.
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
    numbers = nearest_membranes(meshes, picks.positions, within_angstrom=10.0 * reach_nm)
    if len(picks) and meshes and not numbers.any():
        raise InputError(
            f"none of the {len(picks)} given picks lies within {reach_nm:g} nm of a membrane",
            "check their units and origin (import picks --voxel-spacing, --origin), or raise measure.reach_nm",
        )
    return replace(picks, membrane_ids=numbers), names


def _membrane(number: int, mesh: Mesh, picks: Picks | None, names: NDArray[np.str_], grid: Grid) -> Any:
    from membrain_cloud.mesh.conversion.mask_to_mesh import border_vertices
    from membrain_cloud.statistics.measure import Membrane

    border = border_vertices(mesh, grid, margin_angstrom=BORDER_VOXELS * grid.voxel_spacing_angstrom)
    if picks is None:
        return Membrane(mesh, None, border, "")
    on_it = np.flatnonzero(picks.membrane_ids == number)
    return Membrane(
        mesh, picks.select(np.flatnonzero(picks.membrane_ids == number)), border, [str(name) for name in names[on_it]]
    )


def _density_about(project: Project, density: TomogramRef) -> Callable[[Mesh], Any]:
    from membrain_cloud.statistics.membrane.bilayer_thickness import Density

    grid = project.grid(density)

    def read(mesh: Mesh) -> Any:
        used = Mesh(mesh.vertices[np.unique(mesh.faces)], mesh.faces)
        box = box_around(used, grid, margin_angstrom=10.0 * REACH_NM + grid.voxel_spacing_angstrom)
        return None if box is None else Density(project.read_density(density, box), box, grid)

    return read


def _lamella(context: TaskContext, grid: Grid) -> Any:
    from membrain_cloud.statistics.membrane.lamella import lamella_of

    if "lamella" not in context.task.inputs:
        return None
    ref = context.segmentation("lamella")
    try:
        return lamella_of(context.project.read_labels(ref), context.project.grid(ref))
    except ValueError as error:
        raise InputError(f"lamella {ref.uri}: {error}", "give a mask whose voxels above 0 are the lamella") from error
