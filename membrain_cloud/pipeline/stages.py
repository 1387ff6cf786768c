"""The stages: each reads, calls one pure function, and writes. No science here, and no decision about when to run.

segment -> separate -> mesh -> pick -> measure
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import membrain_cloud
from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, Mesh, Picks, iterate_chunks
from membrain_cloud.pipeline.segmenting import Segment, tomogram_chunks
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stage import BASE_BYTES, GIB, MEMBRANE, Desk, Site, Stage, declare_membrane, labels_ref
from membrain_cloud.pipeline.tasks import Ref
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from membrain_cloud.networks.picker import Picker

# How near to the tomogram's border a mesh that was closed there is a cap, and no membrane.
BORDER_VOXELS = 1.5


class Separate(Stage):
    """Mask -> numbered membranes."""

    name = "separate"
    data_version = 2

    def after(self, settings: Settings) -> Sequence[str]:
        return () if settings.separate.segmentation else ("segment",)

    def decisive(self, settings: Settings) -> Mapping[str, Any]:
        return settings.separate.decisive() | {"given": settings.separate.segmentation}

    def is_given(self, settings: Settings) -> bool:
        return settings.separate.given_instances

    def inputs(self, site: Site) -> Mapping[str, Ref]:
        chosen = site.settings.separate
        found: dict[str, Ref] = {"labels": given_segmentation(site) or SEGMENT.output(site)}
        if chosen.region is not None and chosen.region_box is None:
            found["region"] = site.project.segmentation(site.run, chosen.region)
        return found

    def output(self, site: Site) -> SegmentationRef:
        labels = given_segmentation(site) or SEGMENT.output(site)
        return labels_ref(site, self.name, labels.voxel_spacing_angstrom, instance=True)

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return BASE_BYTES + 14 * grid.voxels

    def declare(self, project: Project, settings: Settings) -> None:
        declare_membrane(project)

    def work(self, desk: Desk) -> Mapping[str, Any]:
        from membrain_cloud.membranes.instances import separate, within

        source, target = desk.segmentation("labels"), desk.written_segmentation()
        grid = desk.project.grid(source)
        chosen, labels = desk.settings.separate, desk.project.read_labels(source)
        if chosen.region is not None:
            labels = within(labels, self._region(desk, grid))
        instances = separate(
            labels, min_voxels=chosen.min_voxels, split=chosen.split, drop_border=chosen.drop_border, foreground=None
        )
        desk.project.create_labels(target, grid, str(instances.dtype), desk.settings.output.chunk)
        for box in iterate_chunks(grid.shape, desk.project.label_chunk(grid, desk.settings.output.chunk)):
            desk.project.write_labels(target, box, instances[box.slices])
        desk.project.finish_labels(target)
        return {"membranes": int(instances.max(initial=0))}

    def _region(self, desk: Desk, grid: Grid) -> Any:
        """The region of interest: a box of voxels, or a segmentation on the same grid."""
        corners = desk.settings.separate.region_box
        if corners is not None:
            low, high = (np.round(grid.to_voxels(np.array([c]))[0]).astype(int).tolist() for c in corners)
            return Box((low[0], low[1], low[2]), (high[0] + 1, high[1] + 1, high[2] + 1))
        source = desk.segmentation("region")
        if desk.project.grid(source).shape != grid.shape:
            raise InputError(
                f"region {source.uri} is {desk.project.grid(source).shape} voxels, the segmentation {grid.shape}",
                "give a region on the segmentation's grid, or a box",
            )
        return desk.project.read_labels(source)


class MakeMeshes(Stage):
    """Numbered membranes -> one closed mesh each."""

    name = "mesh"

    def after(self, settings: Settings) -> Sequence[str]:
        return () if settings.separate.given_instances else ("separate",)

    def decisive(self, settings: Settings) -> Mapping[str, Any]:
        given = settings.separate.segmentation if settings.separate.given_instances else None
        return settings.mesh.decisive() | {"given": given}

    def inputs(self, site: Site) -> Mapping[str, Ref]:
        return {"instances": instances_of(site)}

    def output(self, site: Site) -> ObjectRef:
        return ObjectRef(site.run, MEMBRANE, site.settings.output.user, site.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return BASE_BYTES + 16 * grid.voxels

    def declare(self, project: Project, settings: Settings) -> None:
        declare_membrane(project)

    def work(self, desk: Desk) -> Mapping[str, Any]:
        from membrain_cloud.membranes.instances import instance_boxes
        from membrain_cloud.membranes.meshing import mesh_membrane

        source, chosen = desk.segmentation("instances"), desk.settings.mesh
        grid = desk.project.grid(source)
        instances = desk.project.read_labels(source)
        meshes: dict[int, Mesh] = {}
        small: list[int] = []
        for number, box in instance_boxes(instances).items():
            mesh = mesh_membrane(
                instances[box.slices] == number,
                box,
                grid,
                smoothing_angstrom=chosen.smoothing_angstrom,
                vertex_area_angstrom2=chosen.vertex_area_angstrom2,
            )
            if mesh is None:
                small.append(number)
            else:
                meshes[number] = mesh
        desk.project.write_meshes(desk.written_object(), meshes)
        return {
            "membranes": len(meshes),
            "vertices": sum(len(mesh.vertices) for mesh in meshes.values()),
            "too_small_to_mesh": small,
        }


class Pick(Stage):
    """Meshes and density -> particles on the membranes."""

    name = "pick"
    needs_gpu = True
    data_version = 2

    def after(self, settings: Settings) -> Sequence[str]:
        return ("mesh",)

    def decisive(self, settings: Settings) -> Mapping[str, Any]:
        return settings.pick.decisive() | {"input": settings.input.decisive()}

    def model(self, settings: Settings) -> str | None:
        return settings.pick.model

    def is_given(self, settings: Settings) -> bool:
        return settings.measure.picks is not None

    def inputs(self, site: Site) -> Mapping[str, Ref]:
        return {"meshes": MESH.output(site), "density": site.require_tomogram(self.name)}

    def output(self, site: Site) -> ObjectRef:
        chosen = site.settings
        return ObjectRef(site.run, chosen.pick.object, chosen.output.user, site.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return BASE_BYTES + GIB // 2 + 12 * grid.voxels

    def declare(self, project: Project, settings: Settings) -> None:
        project.ensure_object(settings.pick.object, is_particle=True, identifier=None)

    def work(self, desk: Desk) -> Mapping[str, Any]:
        from membrain_cloud.membranes.picking import pick_membrane
        from membrain_cloud.membranes.segmentation import density_statistics
        from membrain_cloud.store.operator_files import OperatorFiles

        density, chosen = desk.tomogram("density"), desk.settings.pick
        cache = None if chosen.cache is None else OperatorFiles(chosen.cache)
        network = picker(chosen.model, desk.task.model_sha256)
        if chosen.average_shifts is not None:
            network = network.averaged() if chosen.average_shifts else network.centred()
        reach = float(np.abs(network.offsets_angstrom).max()) + density.voxel_spacing_angstrom
        grid = desk.project.grid(density)
        mean = density_statistics(tomogram_chunks(desk.project, density, grid)).mean
        found: list[Picks] = []
        for number, mesh in sorted(desk.project.read_meshes(desk.object("meshes")).items()):
            box = box_around(mesh, grid, margin_angstrom=reach)
            if box is None:
                continue
            picks, _ = pick_membrane(
                mesh,
                desk.project.read_density(density, box),
                box,
                grid,
                network,
                outside=mean,
                partition_vertices=chosen.partition_vertices,
                bandwidth_angstrom=chosen.bandwidth_angstrom,
                score_threshold=chosen.threshold,
                max_iterations=chosen.max_iterations,
                min_samples=chosen.min_samples,
                center_offset_angstrom=chosen.center_offset_angstrom,
                largest_nm2=chosen.largest_nm2,
                min_distance_angstrom=chosen.min_distance_angstrom,
                least_elongation=chosen.least_elongation,
                membrane_id=number,
                cache=cache,
            )
            found.append(picks)
        picks = joined(found)
        desk.project.write_picks(desk.written_object(), picks)
        return {"picks": len(picks)}


class Measure(Stage):
    """Meshes and particles -> rows of the tables, which hold the latest of each tomogram."""

    name = "measure"
    data_version = 2
    keeps_receipts_in = "tables"

    def after(self, settings: Settings) -> Sequence[str]:
        return ("mesh",) if settings.measure.picks else ("mesh", "pick")

    def decisive(self, settings: Settings) -> Mapping[str, Any]:
        return settings.measure.decisive() | {"given": settings.measure.picks}

    def inputs(self, site: Site) -> Mapping[str, Ref]:
        chosen = site.settings.measure
        found: dict[str, Ref] = {"instances": instances_of(site), "meshes": MESH.output(site)}
        if not chosen.membranes_alone:
            found["picks"] = site.project.object(site.run, chosen.picks) if chosen.picks else PICK.output(site)
        return found

    def output(self, site: Site) -> None:
        return None

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return BASE_BYTES + GIB // 2 + 2 * grid.voxels

    def work(self, desk: Desk) -> Mapping[str, Any]:
        from membrain_cloud.membranes.meshing import border_vertices
        from membrain_cloud.membranes.statistics import TABLES, measure_membrane, tomogram_row

        task, chosen = desk.task, desk.settings.measure
        instances, source = desk.segmentation("instances"), task.inputs.get("picks")
        grid = desk.project.grid(instances)
        meshes = desk.project.read_meshes(desk.object("meshes"))
        picks = self._picks(desk, meshes) if isinstance(source, ObjectRef) else None
        keys = {
            "dataset_id": desk.dataset,
            "run_name": task.run,
            "tomogram_id": desk.project.tomogram_id(task.run) or task.place,
            "voxel_spacing_angstrom": instances.voxel_spacing_angstrom,
            "segmentation": instances.uri,
            "digest": task.link,
        }
        rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        for number, mesh in sorted(meshes.items()):
            measured = measure_membrane(
                mesh,
                None if picks is None else chosen_picks(picks, number),
                grid=grid,
                border_vertices=border_vertices(
                    mesh, grid, margin_angstrom=BORDER_VOXELS * grid.voxel_spacing_angstrom
                ),
                object_names=source.name if isinstance(source, ObjectRef) else "",
                cutoff_nm=chosen.cutoff_nm,
                bin_width_nm=chosen.bin_width_nm,
                n_neighbors=chosen.n_neighbors,
                edge_width_nm=chosen.edge_width_nm,
                leaflets_apart=chosen.leaflets == "apart",
                n_simulations=chosen.simulations,
            )
            for table, found in measured.items():
                rows[table] += [keys | {"membrane_id": number} | row for row in found]
        summary = tomogram_row(
            grid,
            n_membranes=len(meshes),
            n_particles=None if picks is None else len(rows["particles"]),
            mesh_uri=desk.object("meshes").uri,
            picks_uri=source.uri if isinstance(source, ObjectRef) else None,
            package_version=membrain_cloud.__version__,
            data_version=str(self.data_version),
        )
        rows["tomograms"].append(keys | summary)
        for table, found in rows.items():
            desk.tables.write_part(table, desk.dataset, f"{task.run}/{task.place}", found)
        left_out = 0 if picks is None else len(picks) - len(rows["particles"])
        return {table: len(found) for table, found in rows.items()} | {"particles_on_no_membrane": left_out}

    def _picks(self, desk: Desk, meshes: Mapping[int, Mesh]) -> Picks:
        """The particles; those made elsewhere know nothing of our membranes' numbers and get the nearest's."""
        from membrain_cloud.membranes.assignment import nearest_membranes

        picks = desk.project.read_picks(desk.object("picks"))
        if desk.settings.measure.picks is None:
            return picks
        reach_nm = desk.settings.measure.reach_nm
        numbers = nearest_membranes(meshes, picks.positions, within_angstrom=10.0 * reach_nm)
        if len(picks) and meshes and not numbers.any():
            raise InputError(
                f"none of the {len(picks)} given picks lies within {reach_nm:g} nm of a membrane",
                "check their units and origin (import picks --voxel-spacing, --origin), or raise measure.reach_nm",
            )
        return replace(picks, membrane_ids=numbers)


SEGMENT, SEPARATE, MESH, PICK, MEASURE = Segment(), Separate(), MakeMeshes(), Pick(), Measure()

STAGES: dict[str, Stage] = {stage.name: stage for stage in (SEGMENT, SEPARATE, MESH, PICK, MEASURE)}


def given_segmentation(site: Site) -> SegmentationRef | None:
    uri = site.settings.separate.segmentation
    return None if uri is None else site.project.segmentation(site.run, uri)


def instances_of(site: Site) -> SegmentationRef:
    given = given_segmentation(site) if site.settings.separate.given_instances else None
    return given or SEPARATE.output(site)


@functools.lru_cache(maxsize=2)
def picker(model: str, sha256: str) -> Picker:
    """The network, loaded once a process; on a GPU where there is one."""
    import torch

    from membrain_cloud.pipeline.models import load_picker

    return load_picker(model, sha256=sha256, device="cuda" if torch.cuda.is_available() else "cpu")


def box_around(mesh: Mesh, grid: Grid, *, margin_angstrom: float) -> Box | None:
    """The voxels within `margin_angstrom` of a mesh's bounding box; None where that misses the volume."""
    corners = np.stack([mesh.vertices.min(0) - margin_angstrom, mesh.vertices.max(0) + margin_angstrom])
    low, high = np.floor(grid.to_voxels(corners)[0]), np.ceil(grid.to_voxels(corners)[1]) + 1
    start, stop = ([int(n) for n in corner] for corner in (low, high))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])).intersection(grid.box)


def joined(parts: Sequence[Picks]) -> Picks:
    """The picks of all membranes, in their order."""
    parts = [picks for picks in parts if len(picks)]
    if not parts:
        return Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))
    turned = [picks.orientations for picks in parts if picks.orientations is not None]
    in_plane = [picks.in_plane for picks in parts if picks.in_plane is not None]
    return Picks(
        np.concatenate([picks.positions for picks in parts]),
        np.concatenate(turned) if len(turned) == len(parts) else None,
        np.concatenate([picks.scores for picks in parts]),
        np.concatenate([picks.membrane_ids for picks in parts]),
        np.concatenate(in_plane) if len(in_plane) == len(parts) else None,
    )


def chosen_picks(picks: Picks, membrane: int) -> Picks:
    """Those on one membrane, in their order."""
    on_it = np.flatnonzero(picks.membrane_ids == membrane)
    turned = None if picks.orientations is None else picks.orientations[on_it]
    in_plane = None if picks.in_plane is None else picks.in_plane[on_it]
    return Picks(picks.positions[on_it], turned, picks.scores[on_it], picks.membrane_ids[on_it], in_plane)
