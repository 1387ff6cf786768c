"""Differences between two annotations of one run, or between all annotations of two sessions; neither is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import iterate_chunks
from membrain_cloud.metrics.changes import Overlap, matched_points, membrane_changes
from membrain_cloud.store.projects.resolve import resolve
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.store.projects.project import Project

Annotation = SegmentationRef | ObjectRef
# Of an annotation of a session: kind, name, voxel spacing (0 for picks and meshes).
_Key = tuple[str, str, float]
# Picks that moved by less than this (Å) count as unchanged.
_SMALLEST_MOVE = 1e-3


def differences(
    project: Project, runs: Sequence[str] | None, first: str, second: str, *, radius_angstrom: float
) -> list[dict[str, Any]]:
    """Compare two annotations, or all annotations of two sessions, run by run.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str or None
        Names of the runs; None or empty for all.
    first, second : str
        Two copick URIs, or two of `user/session` for everything that a user made in a session. Of sessions, annotations
        of one kind and name are compared, and those that only one session has are listed.
    radius_angstrom : float
        Å within which two picks are the same particle.

    Returns
    -------
    list of dict
        For each pair of annotations `run`, `kind` (segmentation, instances, picks, mesh), `name`, and numbers; or
        `only` ("first", "second") where the other one is missing.

    Raises
    ------
    UsageError
        If one is a URI and the other a session, or a session is not written as user/session.
    ProjectError
        If no run has any of them.
    InputError
        If two segmentations have different grids.
    """
    if (":" in first) != (":" in second):
        raise UsageError(f"{first} and {second} are not of one kind", "give two URIs, or two of user/session")
    names = project.runs() if not runs else sorted(set(runs))
    compare = _compare_uris if ":" in first else _compare_sessions
    rows = [row for run in names for row in compare(project, run, first, second, radius_angstrom)]
    if not rows:
        raise ProjectError(
            f"no run has {first} and {second}", "list what there is: copick browse, or the project's report"
        )
    return rows


def _compare_uris(project: Project, run: str, first: str, second: str, radius: float) -> list[dict[str, Any]]:
    a, b = (_resolved(project, run, uri) for uri in (first, second))
    return [_row(project, run, kind, a.get(kind), b.get(kind), radius) for kind in dict.fromkeys([*a, *b])]


def _resolved(project: Project, run: str, uri: str) -> dict[str, Annotation]:
    """Return the segmentation that a URI names in a run, or else its picks and mesh, by kind."""
    named: dict[str, Annotation] = {str(kind): ref for kind, ref in resolve(project, run, uri).items()}
    volumes = {kind: ref for kind, ref in named.items() if kind in ("segmentation", "instances")}
    return volumes or {kind: ref for kind, ref in named.items() if kind in ("picks", "mesh")}


def _compare_sessions(project: Project, run: str, first: str, second: str, radius: float) -> list[dict[str, Any]]:
    a, b = (_annotations_of_session(project, run, text) for text in (first, second))
    return [_row(project, run, key[0], a.get(key), b.get(key), radius) for key in sorted({*a, *b})]


def _annotations_of_session(project: Project, run: str, text: str) -> dict[_Key, Annotation]:
    user, slash, session = text.partition("/")
    if not slash or not user or not session:
        raise UsageError(f"{text!r} names no session", "write user/session, or name:user/session")
    annotations: dict[_Key, Annotation] = {}
    for segmentation in project.segmentations(run):
        if (segmentation.user, segmentation.session) == (user, session):
            kind = "instances" if segmentation.instance else "segmentation"
            annotations[kind, segmentation.name, segmentation.voxel_spacing_angstrom] = segmentation
    for kind, refs in (("mesh", project.meshes(run)), ("picks", project.picks(run))):
        for ref in refs:
            if (ref.user, ref.session) == (user, session):
                annotations[kind, ref.name, 0.0] = ref
    return annotations


def _row(
    project: Project, run: str, kind: str, first: Annotation | None, second: Annotation | None, radius: float
) -> dict[str, Any]:
    either = first or second
    assert either is not None
    row: dict[str, Any] = {"run": run, "kind": kind, "name": either.name}
    if first is None or second is None:
        return row | {"only": "second" if first is None else "first"}
    if isinstance(first, SegmentationRef) and isinstance(second, SegmentationRef):
        return row | _compare_segmentations(project, first, second)
    assert isinstance(first, ObjectRef)
    assert isinstance(second, ObjectRef)
    if kind == "picks":
        return row | _compare_picks(project, first, second, radius)
    return row | _compare_meshes(project, first, second)


def _compare_segmentations(project: Project, first: SegmentationRef, second: SegmentationRef) -> dict[str, Any]:
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
    row = {"voxels_first": a, "voxels_second": b, "voxels_both": both, "dice": overlap.dice}
    if not (first.instance and second.instance):
        return row
    changes = membrane_changes(overlap)
    return row | {name: list(getattr(changes, name)) for name in changes.__dataclass_fields__}


def _compare_picks(project: Project, first: ObjectRef, second: ObjectRef, radius: float) -> dict[str, Any]:
    a, b = project.read_picks(first).positions, project.read_picks(second).positions
    pairs, distances = matched_points(a, b, radius)
    moved = distances > _SMALLEST_MOVE
    return {
        "picks_first": len(a),
        "picks_second": len(b),
        "picks_matched": len(pairs),
        "picks_moved": int(np.count_nonzero(moved)),
        "median_move_angstrom": float(np.median(distances[moved])) if moved.any() else None,
        "picks_gone": len(a) - len(pairs),
        "picks_new": len(b) - len(pairs),
    }


def _compare_meshes(project: Project, first: ObjectRef, second: ObjectRef) -> dict[str, Any]:
    sides = (project.read_meshes(first), project.read_meshes(second))
    areas = [sum(mesh.area_angstrom2() for mesh in meshes.values()) / ANGSTROM_PER_NM**2 for meshes in sides]
    return {
        "meshes_first": len(sides[0]),
        "meshes_second": len(sides[1]),
        "area_first_nm2": areas[0],
        "area_second_nm2": areas[1],
    }
