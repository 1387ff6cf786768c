"""What changed between two annotations of one run, or between all annotations of two sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import iterate_chunks
from membrain_cloud.metrics.changes import Overlap, matched_points, membrane_changes
from membrain_cloud.store.projects.resolve import resolve
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.store.projects.project import Project

Annotation = SegmentationRef | ObjectRef


def differences(
    project: Project, runs: Sequence[str] | None, first: str, second: str, *, radius_angstrom: float
) -> list[dict[str, Any]]:
    """One mapping for each pair of annotations, with `run`, `kind` (segmentation, instances, picks, mesh) and numbers.

    first, second : copick URIs, or `user/session` for all that this user made in this session; then what both have
    under one name is compared, and what only one has is listed with `only`.

    Raises ProjectError where nothing is found in any run; InputError for segmentations of different grids.
    """
    if (":" in first) != (":" in second):
        raise UsageError(f"{first} and {second} are not of one kind", "give two URIs, or two of user/session")
    names = project.runs() if not runs else sorted(set(runs))
    compare = _uris if ":" in first else _sessions
    found = [row for run in names for row in compare(project, run, first, second, radius_angstrom)]
    if not found:
        raise ProjectError(f"no run has {first} and {second}", "look what there is: copick browse, or the project page")
    return found


def _uris(project: Project, run: str, first: str, second: str, radius: float) -> list[dict[str, Any]]:
    found = [_resolved(project, run, uri) for uri in (first, second)]
    if not any(found):
        return []
    rows = []
    for kind in dict.fromkeys(kind for side in found for kind in side):
        a, b = (side.get(kind) for side in found)
        rows.append(_row(project, run, kind, a, b, radius))
    return rows


def _resolved(project: Project, run: str, uri: str) -> dict[str, Annotation]:
    """Return the segmentation that a URI names in a run, or else its picks and mesh, by kind."""
    named: dict[str, Annotation] = {str(kind): ref for kind, ref in resolve(project, run, uri).items()}
    volumes = {kind: ref for kind, ref in named.items() if kind in ("segmentation", "instances")}
    return volumes or {kind: ref for kind, ref in named.items() if kind in ("picks", "mesh")}


def _sessions(project: Project, run: str, first: str, second: str, radius: float) -> list[dict[str, Any]]:
    sides = [_of_session(project, run, text) for text in (first, second)]
    rows = []
    for key in sorted({*sides[0], *sides[1]}):
        rows.append(_row(project, run, key[0], sides[0].get(key), sides[1].get(key), radius))
    return rows


def _of_session(project: Project, run: str, text: str) -> dict[tuple[Any, ...], Annotation]:
    user, slash, session = text.partition("/")
    if not slash or not user or not session:
        raise UsageError(f"{text!r} names no session", "write user/session, or name:user/session")
    found: dict[tuple[Any, ...], Annotation] = {}
    for segmentation in project.segmentations(run):
        if (segmentation.user, segmentation.session) == (user, session):
            kind = "instances" if segmentation.instance else "segmentation"
            found[kind, segmentation.name, segmentation.voxel_spacing_angstrom] = segmentation
    for kind, refs in (("mesh", project.meshes(run)), ("picks", project.picks(run))):
        for ref in refs:
            if (ref.user, ref.session) == (user, session):
                found[kind, ref.name, 0.0] = ref
    return found


def _row(
    project: Project, run: str, kind: str, first: Annotation | None, second: Annotation | None, radius: float
) -> dict[str, Any]:
    there = first or second
    assert there is not None
    row: dict[str, Any] = {"run": run, "kind": kind, "name": there.name}
    if first is None or second is None:
        return row | {"only": "second" if first is None else "first"}
    if isinstance(first, SegmentationRef) and isinstance(second, SegmentationRef):
        return row | _segmentations(project, first, second)
    assert isinstance(first, ObjectRef)
    assert isinstance(second, ObjectRef)
    return row | (_picks(project, first, second, radius) if kind == "picks" else _meshes(project, first, second))


def _segmentations(project: Project, first: SegmentationRef, second: SegmentationRef) -> dict[str, Any]:
    grid, other = project.grid(first), project.grid(second)
    if grid.shape != other.shape:
        raise InputError(
            f"{first.key} has {grid.shape} voxels, {second.key} has {other.shape}",
            "compare segmentations of one voxel spacing",
        )
    overlap = Overlap()
    for box in iterate_chunks(grid.shape, project.stored_chunk(first)):
        overlap.add(project.read_labels(first, box), project.read_labels(second, box))
    a, b, both = overlap.voxels
    found = {"voxels_first": a, "voxels_second": b, "voxels_both": both, "dice": overlap.dice}
    if not (first.instance and second.instance):
        return found
    changes = membrane_changes(overlap)
    return found | {name: list(getattr(changes, name)) for name in changes.__dataclass_fields__}


def _picks(project: Project, first: ObjectRef, second: ObjectRef, radius: float) -> dict[str, Any]:
    a, b = project.read_picks(first).positions, project.read_picks(second).positions
    pairs, distances = matched_points(a, b, radius)
    moved = distances > 1e-3
    return {
        "picks_first": len(a),
        "picks_second": len(b),
        "picks_matched": len(pairs),
        "picks_moved": int(np.count_nonzero(moved)),
        "median_move_angstrom": float(np.median(distances[moved])) if moved.any() else None,
        "picks_gone": len(a) - len(pairs),
        "picks_new": len(b) - len(pairs),
    }


def _meshes(project: Project, first: ObjectRef, second: ObjectRef) -> dict[str, Any]:
    sides = (project.read_meshes(first), project.read_meshes(second))
    areas = [sum(mesh.area_angstrom2() for mesh in meshes.values()) / 100 for meshes in sides]
    return {
        "meshes_first": len(sides[0]),
        "meshes_second": len(sides[1]),
        "area_first_nm2": areas[0],
        "area_second_nm2": areas[1],
    }
