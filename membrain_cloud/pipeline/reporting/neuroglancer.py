"""Neuroglancer's state for one run: volumes and meshes served on this machine, picks within the state itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.report.viewer_state import View, ViewedSegmentation, viewer_state
from membrain_cloud.store.projects.resolve import require_one
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.http_server import LayerServer
    from membrain_cloud.store.projects.project import Project

# Densities below and above these percentiles of the middle plane are shown as black and as white.
_GREY_PERCENTILES = (1.0, 99.0)


def state_of_run(
    project: Project, run: str, refs: Mapping[str, Ref], extra: Sequence[str], server: LayerServer
) -> dict[str, Any]:
    """Return Neuroglancer's state for the data of a run.

    Parameters
    ----------
    project : Project
        The project.
    run : str
        Name of the run.
    refs : mapping of str to Ref
        The run's data by role, as a plan has them: density, labels, instances, meshes, picks. Absent data are left out.
    extra : sequence of str
        URIs of further segmentations and picks, such as corrections.
    server : LayerServer
        Serves the volumes and meshes; they are added to it.

    Returns
    -------
    dict of str to Any
        The JSON-able state.

    Raises
    ------
    ProjectError
        If the run has neither a tomogram nor a segmentation, or a URI of `extra` names nothing.
    """
    present = {role: ref for role, ref in refs.items() if project.has(ref)}
    density = present.get("density")
    segmentations = {role: ref for role, ref in present.items() if isinstance(ref, SegmentationRef)}
    objects = [ref for role, ref in present.items() if role == "picks" and isinstance(ref, ObjectRef)]
    for uri in extra:
        ref = require_one(project, run, uri, ("segmentation", "instances", "picks"))
        # Two layers of one name would stop the page.
        if isinstance(ref, SegmentationRef):
            segmentations |= {uri: ref} if ref not in segmentations.values() else {}
        elif ref not in objects:
            objects.append(ref)
    volume = density if isinstance(density, TomogramRef) else next(iter(segmentations.values()), None)
    if volume is None:
        raise ProjectError(f"{run}: there is no tomogram and no segmentation to show", "run the pipeline first")
    meshes = present.get("meshes")
    view = View(
        grid=project.grid(volume),
        tomogram_source=_serve(project, density, "tomogram", server) if isinstance(density, TomogramRef) else None,
        grey_range=_grey_range(project, density) if isinstance(density, TomogramRef) else (0.0, 1.0),
        segmentations=[
            _segmentation(project, role, ref, meshes if isinstance(meshes, ObjectRef) else None, number, server)
            for number, (role, ref) in enumerate(segmentations.items())
        ],
        picks={f"picks {ref.uri}": project.read_picks(ref) for ref in objects},
    )
    return viewer_state(view)


def _serve(project: Project, ref: TomogramRef | SegmentationRef, layer: str, server: LayerServer) -> str:
    """Add a volume to the server and return its source for Neuroglancer."""
    return server.add_volume(layer, *project.stored(ref))


def _segmentation(
    project: Project, role: str, ref: SegmentationRef, meshes: ObjectRef | None, number: int, server: LayerServer
) -> ViewedSegmentation:
    """Return the layer of a segmentation: the run's instances with their meshes, its mask hidden."""
    source = _serve(project, ref, f"segmentation-{number}", server)
    mesh_source = None
    if role == "instances" and meshes is not None:
        mesh_source = server.add_meshes(f"meshes-{number}", project.read_meshes(meshes))
    kind = "membranes" if ref.instance else "mask"
    name = f"{kind} {ref.name}:{ref.user}/{ref.session}@{ref.voxel_spacing_angstrom:g}"
    return ViewedSegmentation(name, source, _labels(project, ref), mesh_source, shown=role != "labels")


def _labels(project: Project, ref: SegmentationRef) -> list[int]:
    """Return the labels that occur, without 0; of a mask 1. The volume is read chunk by chunk."""
    if not ref.instance:
        return [1]
    labels: set[int] = set()
    for box in iterate_chunks(project.grid(ref).shape, project.stored_chunk(ref)):
        labels |= set(np.unique(project.read_labels(ref, box)).tolist())
    return sorted(labels - {0})


def _grey_range(project: Project, ref: TomogramRef) -> tuple[float, float]:
    """Return the densities that are shown as black and as white."""
    z, y, x = project.grid(ref).shape
    plane = project.read_density(ref, Box((z // 2, 0, 0), (z // 2 + 1, y, x)))
    low, high = np.percentile(plane.astype(np.float32), _GREY_PERCENTILES)
    return float(low), float(high if high > low else low + 1)
