"""The annotations of one kind that two URIs name, run by run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.store.projects.resolve import Kind, resolve
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

KINDS = ("segmentations", "picks", "meshes")
"""Kinds that can be compared. Where a URI names several (masks and meshes of membranes), the first one counts."""

# Runs whose annotations an error lists: those of thousands of tomograms would take long to list.
_LISTED_RUNS, _LISTED_URIS = 20, 6
_KIND_OF: Mapping[Kind, str] = {
    "segmentation": "segmentations",
    "instances": "segmentations",
    "multilabel": "segmentations",
    "picks": "picks",
    "mesh": "meshes",
}
_ONE_OF = {"segmentations": "a segmentation", "picks": "picks", "meshes": "a mesh"}
_NEXT_STEP = (
    "give two segmentations, two sets of picks or two meshes, and the kind where names stand for several; a mesh of a "
    "segmentation is made by the stages separate and mesh with the setting separate.segmentation=URI"
)

Named = dict[str, SegmentationRef | ObjectRef]


@dataclass(frozen=True)
class Pair:
    """Two annotations of one kind in one run.

    Attributes
    ----------
    run : str
        The run.
    first, second : SegmentationRef or ObjectRef
        The annotations.
    """

    run: str
    first: SegmentationRef | ObjectRef
    second: SegmentationRef | ObjectRef


def pairs_of_one_kind(
    project: Project, runs: Sequence[str], first: str, second: str, kind: str | None
) -> tuple[str, list[Pair]]:
    """Return the pairs of annotations that two URIs name; runs that lack one of them are left out.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of the runs; empty for all.
    first, second : str
        Copick URIs.
    kind : str or None
        One of KINDS; None for the first of them that some run has of both.

    Returns
    -------
    str
        The kind.
    list of Pair
        By run.

    Raises
    ------
    UsageError
        If the two URIs name different kinds in a run.
    ProjectError
        If no run has both.
    """
    names = sorted(set(runs)) or project.runs()
    named = {run: (_named(project, run, first), _named(project, run, second)) for run in names}
    shared = [each for each in KINDS if any(each in a and each in b for a, b in named.values())]
    compared = kind or (shared[0] if shared else None)
    pairs = []
    for run, (a, b) in named.items():
        if compared is not None and compared in a and compared in b:
            pairs.append(Pair(run, a[compared], b[compared]))
        elif a and b and not (kind in shared and a.keys() & b.keys()):
            raise UsageError(_mismatch(run, (first, a), (second, b), compared), _NEXT_STEP)
    if compared is None or not pairs:
        raise _no_run_error(project, names, named, first, second)
    return compared, pairs


def _named(project: Project, run: str, uri: str) -> Named:
    """Return the annotations that a URI names in a run, by `KINDS`."""
    return {_KIND_OF[kind]: ref for kind, ref in resolve(project, run, uri).items()}


def _mismatch(run: str, first: tuple[str, Named], second: tuple[str, Named], kind: str | None) -> str:
    a, b = (f"{uri} is {' and '.join(_ONE_OF[k] for k in KINDS if k in named)}" for uri, named in (first, second))
    if kind and first[1].keys() & second[1].keys():
        return f"{run}: {first[0]} and {second[0]} are no {kind}, as asked for or as in other runs: {a}, {b}"
    return f"{run}: {first[0]} and {second[0]} are not of one kind: {a}, {b}"


def _no_run_error(
    project: Project, runs: Sequence[str], named: dict[str, tuple[Named, Named]], first: str, second: str
) -> ProjectError:
    """Return an error that says which of the two no run has, and lists what there is instead."""
    missing = [uri for side, uri in enumerate((first, second)) if not any(pair[side] for pair in named.values())]
    why = f": no run has {' or '.join(missing)}" if missing else ""
    listed_runs = runs[:_LISTED_RUNS]
    existing = sorted(
        {
            *(f"{ref.uri} (segmentation)" for run in listed_runs for ref in project.segmentations(run)),
            *(f"{ref.uri} (picks)" for run in listed_runs for ref in project.picks(run)),
            *(f"{ref.uri} (mesh)" for run in listed_runs for ref in project.meshes(run)),
        }
    )
    more = f" and {len(existing) - _LISTED_URIS} more" if len(existing) > _LISTED_URIS else ""
    next_step = f"there are: {', '.join(existing[:_LISTED_URIS])}{more}" if existing else "the project has none yet"
    return ProjectError(f"no run has both {first} and {second}{why}", next_step)
