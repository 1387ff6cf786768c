"""The stage `measure`: meshes, particles and density -> rows of the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import membrain_cloud
from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, Mesh, Picks
from membrain_cloud.statistics.membrane.bilayer_thickness import REACH_NM
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stages.base import BASE_BYTES, GIB, Desk, Site, Stage
from membrain_cloud.pipeline.tasks import Ref
from membrain_cloud.store.projects.project import Project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

# How near to the tomogram's border a mesh that was closed there is a cap, and no membrane.
BORDER_VOXELS = 1.5


class Measure(Stage):
    """Meshes and particles -> rows of the tables, which hold the latest of each tomogram.

    mesh, pick : the stages whose output it reads.  instances_of : the numbered membranes of a site.
    """

    name = "measure"
    data_version = 5
    keeps_receipts_in = "tables"

    def __init__(self, mesh: Stage, pick: Stage, instances_of: Callable[[Site], SegmentationRef]) -> None:
        self._mesh, self._pick, self._instances_of = mesh, pick, instances_of

    def after(self, settings: Settings) -> Sequence[str]:
        return ("mesh",) if settings.measure.picks else ("mesh", "pick")

    def decisive(self, settings: Settings) -> Mapping[str, Any]:
        return settings.measure.decisive() | {"given": settings.measure.picks, "input": settings.input.decisive()}

    def inputs(self, site: Site) -> Mapping[str, Ref]:
        chosen = site.settings.measure
        meshes = self._mesh.output(site)
        assert meshes is not None
        found: dict[str, Ref] = {"instances": self._instances_of(site), "meshes": meshes}
        for place, uri in enumerate(chosen.picks_given):
            found["picks" if place == 0 else f"picks_{place + 1}"] = site.project.object(site.run, uri)
        if not chosen.picks:
            picks = self._pick.output(site)
            assert picks is not None
            found["picks"] = picks
        if chosen.bilayer and chosen.gap_nm > 0 and site.tomogram is not None:
            found["density"] = site.tomogram
        if chosen.lamella is not None:
            found["lamella"] = site.project.segmentation(site.run, chosen.lamella)
        return found

    def output(self, site: Site) -> None:
        return None

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return BASE_BYTES + GIB // 2 + (10 if settings.measure.bilayer else 2) * grid.voxels

    def work(self, desk: Desk) -> Mapping[str, Any]:
        from membrain_cloud.statistics.measure import TABLES, measure_tomogram, tomogram_row

        task, chosen = desk.task, desk.settings.measure
        instances, density = desk.segmentation("instances"), task.inputs.get("density")
        sources = _sources(desk)
        grid = desk.project.grid(instances)
        meshes = desk.project.read_meshes(desk.object("meshes"))
        picks, names = _particles(desk, sources, meshes)
        keys = {
            "dataset_id": desk.dataset,
            "run_name": task.run,
            "tomogram_id": desk.project.tomogram_id(task.run) or task.place,
            "voxel_spacing_angstrom": instances.voxel_spacing_angstrom,
            "segmentation": instances.uri,
            "digest": task.link,
        }
        about = None if not isinstance(density, TomogramRef) else _density_about(desk.project, density)
        found = measure_tomogram(
            {number: _membrane(number, mesh, picks, names, grid) for number, mesh in sorted(meshes.items())},
            grid=grid,
            options=chosen.options(),
            kinds=sorted({ref.name for ref in sources}),
            density_about=about,
            lamella=_lamella(desk, grid),
        )
        rows = {table: [keys | row for row in some] for table, some in found.items()}
        failed = sum(row["error"] is not None for row in rows["membranes"])
        summary = tomogram_row(
            grid,
            n_membranes=len(meshes),
            n_failed_membranes=failed,
            n_particles=None if picks is None else len(rows["particles"]),
            mesh_uri=desk.object("meshes").uri,
            picks_uri=", ".join(ref.uri for ref in sources) or None,
            density_uri=density.key if isinstance(density, TomogramRef) else None,
            lamella_uri=desk.segmentation("lamella").uri if "lamella" in task.inputs else None,
            package_version=membrain_cloud.__version__,
            data_version=str(self.data_version),
        )
        rows["tomograms"] = [keys | summary]
        for table in TABLES:
            desk.tables.write_part(table, desk.dataset, f"{task.run}/{task.place}", rows[table])
        left_out = 0 if picks is None else len(picks) - len(rows["particles"])
        counts = {table: len(some) for table, some in rows.items()}
        return counts | {"particles_on_no_membrane": left_out, "membranes_failed": failed}


def _sources(desk: Desk) -> list[ObjectRef]:
    """The particles to measure: those given, or what was picked, each kind from its own picks where there are some."""
    found = [ref for role, ref in desk.task.inputs.items() if role.startswith("picks") and isinstance(ref, ObjectRef)]
    if desk.settings.measure.picks is not None or not found:
        return found
    from membrain_cloud.pipeline.models import picker_classes

    (everything,) = found
    return [replace(everything, name=kind) for kind in picker_classes(desk.settings.pick.model)] or found


def _particles(
    desk: Desk, sources: Sequence[ObjectRef], meshes: Mapping[int, Mesh]
) -> tuple[Picks | None, NDArray[np.str_]]:
    """All particles, and what each is; None where none are asked for.

    Those made elsewhere know nothing of our membranes' numbers and get the nearest's.
    """
    from membrain_cloud.picking.assignment import nearest_membranes

    if not sources:
        return None, np.zeros(0, np.str_)
    parts = [desk.project.read_picks(ref) for ref in sources]
    names = np.repeat([ref.name for ref in sources], [len(part) for part in parts])
    picks = joined(parts)
    if desk.settings.measure.picks is None:
        return picks, names
    reach_nm = desk.settings.measure.reach_nm
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
    return Membrane(mesh, chosen_picks(picks, number), border, [str(name) for name in names[on_it]])


def _density_about(project: Project, density: TomogramRef) -> Callable[[Mesh], Any]:
    from membrain_cloud.statistics.membrane.bilayer_thickness import Density

    grid = project.grid(density)

    def read(mesh: Mesh) -> Any:
        used = Mesh(mesh.vertices[np.unique(mesh.faces)], mesh.faces)
        box = box_around(used, grid, margin_angstrom=10.0 * REACH_NM + grid.voxel_spacing_angstrom)
        return None if box is None else Density(project.read_density(density, box), box, grid)

    return read


def _lamella(desk: Desk, grid: Grid) -> Any:
    from membrain_cloud.statistics.membrane.lamella import lamella_of

    if "lamella" not in desk.task.inputs:
        return None
    ref = desk.segmentation("lamella")
    try:
        return lamella_of(desk.project.read_labels(ref), desk.project.grid(ref))
    except ValueError as error:
        raise InputError(f"lamella {ref.uri}: {error}", "give a mask whose voxels above 0 are the lamella") from error


def box_around(mesh: Mesh, grid: Grid, *, margin_angstrom: float) -> Box | None:
    """The voxels within `margin_angstrom` of a mesh's bounding box; None where that misses the volume.

    ValueError for a mesh without vertices, or with some that are not finite: it lies nowhere.
    """
    if not len(mesh.vertices) or not np.isfinite(mesh.vertices).all():
        raise ValueError("the mesh has vertices that are not finite" if len(mesh.vertices) else "the mesh is empty")
    corners = np.stack([mesh.vertices.min(0) - margin_angstrom, mesh.vertices.max(0) + margin_angstrom])
    low, high = np.floor(grid.to_voxels(corners)[0]), np.ceil(grid.to_voxels(corners)[1]) + 1
    start, stop = ([int(n) for n in corner] for corner in (low, high))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])).intersection(grid.box)


def joined(parts: Sequence[Picks]) -> Picks:
    """All picks, in their order; where some have orientations, those of others are NaN."""
    parts = [picks for picks in parts if len(picks)]
    if not parts:
        return Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))
    turned: list[NDArray[np.float64]] = [
        np.full((len(picks), 3, 3), np.nan) if picks.orientations is None else picks.orientations for picks in parts
    ]
    in_plane = [np.full(len(picks), True) if picks.in_plane is None else picks.in_plane for picks in parts]
    any_turned = any(picks.orientations is not None for picks in parts)
    any_told = any(picks.in_plane is not None for picks in parts)
    return Picks(
        np.concatenate([picks.positions for picks in parts]),
        np.concatenate(turned) if any_turned else None,
        np.concatenate([picks.scores for picks in parts]),
        np.concatenate([picks.membrane_ids for picks in parts]),
        np.concatenate(in_plane) if any_told else None,
    )


def chosen_picks(picks: Picks, membrane: int) -> Picks:
    """Those on one membrane, in their order."""
    on_it = np.flatnonzero(picks.membrane_ids == membrane)
    turned = None if picks.orientations is None else picks.orientations[on_it]
    in_plane = None if picks.in_plane is None else picks.in_plane[on_it]
    return Picks(picks.positions[on_it], turned, picks.scores[on_it], picks.membrane_ids[on_it], in_plane)
