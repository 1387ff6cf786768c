"""The stages: each reads, calls one pure function, and writes. No science here, and no decision about when to run.

segment -> separate -> mesh -> pick -> measure
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Box, Grid, Mesh, Picks, iterate_chunks
from membrain_cloud.pipeline.measuring import Measure, box_around, joined
from membrain_cloud.pipeline.segmenting import Segment, tomogram_chunks
from membrain_cloud.pipeline.settings import Settings
from membrain_cloud.pipeline.stage import BASE_BYTES, GIB, MEMBRANE, Desk, Site, Stage, declare_membrane, labels_ref
from membrain_cloud.pipeline.tasks import Ref
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from membrain_cloud.networks.picker import Picker


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
    tomogram_reads = 2  # once for its mean; then around the membranes, at most all of it
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


SEGMENT, SEPARATE, MESH, PICK = Segment(), Separate(), MakeMeshes(), Pick()
MEASURE = Measure(MESH, PICK, lambda site: instances_of(site))

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
