"""The stage `context`: any particles and the meshes of membranes -> rows of `particle_context`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.stages.base import BASE_BYTES, RunContext, Stage, TaskContext
from membrain_cloud.pipeline.stages.measure import membrane_of, tomogram_density
from membrain_cloud.pipeline.stages.mesh import MESH
from membrain_cloud.pipeline.stages.separate import instances_ref
from membrain_cloud.store.refs import parse_uri
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref

TABLE = "particle_context"


class Context(Stage):
    """Particles anywhere and meshes -> rows of `particle_context`, one part for each list of particles."""

    name = "context"
    data_version = 1
    keeps_receipts_in = "tables"

    def after(self, settings: Settings) -> Sequence[str]:
        """Return mesh, unless meshes are given."""
        return () if settings.context.meshes else ("mesh",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return the sections `context` and `input`."""
        return settings.context.digest_settings() | {"input": settings.input.digest_settings()}

    def is_replaced(self, settings: Settings) -> bool:
        """Return whether no particles are given, so that there is nothing to do."""
        return settings.context.picks is None

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return picks and meshes, the instances that the meshes are of, and the tomogram where there is one."""
        settings = context.settings.context
        if settings.picks is None:
            raise InputError("the stage context has no particles", "set context.picks, e.g. to ribosome:alice/1")
        inputs: dict[str, Ref] = {"picks": context.project.object(context.run, settings.picks)}
        if settings.meshes is None:
            inputs |= {"instances": instances_ref(context), "meshes": MESH.output(context)}
        else:
            inputs["meshes"] = context.project.object(context.run, settings.meshes)
        if context.tomogram is not None:
            inputs["tomogram"] = context.tomogram
        return inputs

    def output(self, context: RunContext) -> None:
        """Return None: it writes table rows."""

    def rows_name(self, settings: Settings) -> str:
        """Return the name of the list of particles."""
        if settings.context.picks is None:
            return ""
        uri = parse_uri(settings.context.picks)
        return f"{uri.name}_{uri.user}_{uri.session}"

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the memory of the meshes and, for the bilayer, of the tomogram around the largest one."""
        return BASE_BYTES + GIB // 2 + (10 if settings.context.bilayer else 2) * grid.voxels

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Describe the particles, and replace their rows; count them by status."""
        from membrain_cloud.pipeline.settings import MeasureSettings
        from membrain_cloud.statistics.context.particle_context import (
            OUTSIDE,
            count_states,
            membranes_around,
            particle_context_rows,
        )

        task, settings, project = context.task, context.settings.context, context.project
        picks_ref = context.object("picks")
        tomogram = context.tomogram("tomogram") if "tomogram" in task.inputs else None
        instances = context.segmentation("instances") if "instances" in task.inputs else None
        grids = [project.grid(ref) for ref in (tomogram, instances) if ref is not None]
        mesh_grid = grids[-1]
        picks = project.read_picks(picks_ref)
        around = membranes_around(
            {
                number: membrane_of(mesh, mesh_grid)
                for number, mesh in sorted(project.read_meshes(context.object("meshes")).items())
            },
            grid=mesh_grid,
            options=MeasureSettings().options(),
            density_about=None if tomogram is None or not settings.bilayer else tomogram_density(project, tomogram),
        )
        rows = particle_context_rows(
            around,
            picks,
            reach_nm=settings.reach_nm,
            grid=grids[0],
            object_names=picks_ref.name,
            picks_uri=picks_ref.uri,
        )
        states = count_states(rows)
        if len(rows) and states[OUTSIDE] == len(rows):
            raise InputError(
                f"particles {picks_ref.uri}: all {len(rows)} lie outside of the tomogram of {_extent(grids[0])} nm",
                "check the pixel size and the origin with which they were imported",
            )
        keys = {
            "dataset_id": context.dataset,
            "run_name": task.run,
            "tomogram_id": project.tomogram_id(task.run) or task.place,
            "voxel_spacing_angstrom": mesh_grid.voxel_spacing_angstrom,
            "segmentation": None if instances is None else instances.uri,
            "digest": task.stage_digest,
        }
        part = f"{task.run}/{task.place}/{self.rows_name(context.settings)}"
        context.tables.write_part(TABLE, context.dataset, part, [keys | row for row in rows])
        return {"particles": len(rows), **states, "membranes_failed": len(around.failed)}


CONTEXT = Context()


def _extent(grid: Grid) -> str:
    """Return the size of a volume along x, y, z in nm as text."""
    return " x ".join(f"{size / 10.0:.0f}" for size in grid.size_angstrom)
