"""What `view` shows of one run: its volumes and meshes served on this machine, its picks in the page's state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.report.viewer_state import View, ViewedSegmentation, viewer_state
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.http_server import LayerServer
    from membrain_cloud.store.projects.project import Project

# Densities outside of these percentiles of the middle plane are shown as black and as white.
_GREY_PERCENTILES = (1.0, 99.0)


def state_of_run(
    project: Project, run: str, refs: Mapping[str, Ref], extra: Sequence[str], server: LayerServer
) -> dict[str, Any]:
    """Neuroglancer's state for what there is of a run.

    refs : density, labels, instances, meshes, picks, as a plan has them; what is not there is left out.
    extra : URIs of more segmentations and picks, such as somebody's corrections.
    """
    there = {role: ref for role, ref in refs.items() if project.has(ref)}
    density = there.get("density")
    segmentations = {role: ref for role, ref in there.items() if isinstance(ref, SegmentationRef)}
    objects = [ref for role, ref in there.items() if role == "picks" and isinstance(ref, ObjectRef)]
    for uri in extra:
        found = _named(project, run, uri)
        # A name twice would stop the page.
        if isinstance(found, SegmentationRef):
            segmentations |= {uri: found} if found not in segmentations.values() else {}
        elif found not in objects:
            objects.append(found)
    volume = density if isinstance(density, TomogramRef) else next(iter(segmentations.values()), None)
    if volume is None:
        raise ProjectError(f"{run}: there is no tomogram and no segmentation to show", "run the pipeline first")
    meshes = there.get("meshes")
    view = View(
        grid=project.grid(volume),
        tomogram_source=_served(project, density, "tomogram", server) if isinstance(density, TomogramRef) else None,
        grey_range=_grey_range(project, density) if isinstance(density, TomogramRef) else (0.0, 1.0),
        segmentations=[
            _segmentation(project, role, ref, meshes if isinstance(meshes, ObjectRef) else None, number, server)
            for number, (role, ref) in enumerate(segmentations.items())
        ],
        picks={f"picks {ref.uri}": project.read_picks(ref) for ref in objects},
    )
    return viewer_state(view)


def _named(project: Project, run: str, uri: str) -> SegmentationRef | ObjectRef:
    """What a URI names: a segmentation where there is one (with @ or ?, there must be), else picks."""
    try:
        return project.segmentation(run, uri)
    except ProjectError:
        if "@" in uri or "?" in uri:
            raise
        return project.object(run, uri)


def _served(project: Project, ref: TomogramRef | SegmentationRef, layer: str, server: LayerServer) -> str:
    return server.add_volume(layer, *project.stored(ref))


def _segmentation(
    project: Project, role: str, ref: SegmentationRef, meshes: ObjectRef | None, number: int, server: LayerServer
) -> ViewedSegmentation:
    """A layer; the run's own instances come with its meshes, and hide the plain mask."""
    source = _served(project, ref, f"segmentation-{number}", server)
    mesh_source = None
    if role == "instances" and meshes is not None:
        mesh_source = server.add_meshes(f"meshes-{number}", project.read_meshes(meshes))
    kind = "membranes" if ref.instance else "mask"
    name = f"{kind} {ref.name}:{ref.user}/{ref.session}@{ref.voxel_spacing_angstrom:g}"
    return ViewedSegmentation(name, source, _labels(project, ref), mesh_source, shown=role != "labels")


def _labels(project: Project, ref: SegmentationRef) -> list[int]:
    """The labels that occur, chunk by chunk; 1 of a mask."""
    if not ref.instance:
        return [1]
    found: set[int] = set()
    for box in iterate_chunks(project.grid(ref).shape, project.stored_chunk(ref)):
        found |= set(np.unique(project.read_labels(ref, box)).tolist())
    return sorted(found - {0})


def _grey_range(project: Project, ref: TomogramRef) -> tuple[float, float]:
    z, y, x = project.grid(ref).shape
    plane = project.read_density(ref, Box((z // 2, 0, 0), (z // 2 + 1, y, x)))
    low, high = np.percentile(plane.astype(np.float32), _GREY_PERCENTILES)
    return float(low), float(high if high > low else low + 1)
