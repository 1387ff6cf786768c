"""Which kind of annotation two URIs name, run by run: segmentations, picks or meshes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.store.projects.resolve import Kind, resolve
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

#: In the order in which a URI is taken to mean them: one may name several, as our membranes' masks and meshes.
KINDS = ("segmentations", "picks", "meshes")
# Whose annotations an error lists: thousands of tomograms would take long to look through.
_RUNS_TO_TELL_OF = 20
_KIND_OF: Mapping[Kind, str] = {
    "segmentation": "segmentations",
    "instances": "segmentations",
    "multilabel": "segmentations",
    "picks": "picks",
    "mesh": "meshes",
}
_ONE_OF = {"segmentations": "a segmentation", "picks": "picks", "meshes": "a mesh"}
_NEXT_STEP = (
    "give two segmentations, two sets of picks or two meshes, and --kind where names stand for several; the mesh of a "
    "segmentation: membrain-cloud run CONFIG --stages separate,mesh --set separate.segmentation=URI"
)

Named = dict[str, SegmentationRef | ObjectRef]


@dataclass(frozen=True)
class Pair:
    """Two annotations of one kind in one run."""

    run: str
    first: SegmentationRef | ObjectRef
    second: SegmentationRef | ObjectRef


def pairs_of_one_kind(
    project: Project, runs: Sequence[str], first: str, second: str, kind: str | None
) -> tuple[str, list[Pair]]:
    """The kind, and both annotations of every run that has both; runs that lack one are left out.

    kind : of KINDS; None: the first of them that some run has of both.
    Raises UsageError where one is of another kind than the other; ProjectError where no run has both.
    """
    names = sorted(set(runs)) or project.runs()
    found = {run: (_named(project, run, first), _named(project, run, second)) for run in names}
    shared = [each for each in KINDS if any(each in a and each in b for a, b in found.values())]
    chosen = kind or (shared[0] if shared else None)
    pairs = []
    for run, (a, b) in found.items():
        if chosen is not None and chosen in a and chosen in b:
            pairs.append(Pair(run, a[chosen], b[chosen]))
        elif a and b and not (kind in shared and a.keys() & b.keys()):
            raise UsageError(_mismatch(run, (first, a), (second, b), chosen), _NEXT_STEP)
    if chosen is None or not pairs:
        raise _no_run(project, names, found, first, second)
    return chosen, pairs


def _named(project: Project, run: str, uri: str) -> Named:
    """Return the annotations that a URI names in a run, by `KINDS`."""
    return {_KIND_OF[kind]: ref for kind, ref in resolve(project, run, uri).items()}


def _mismatch(run: str, first: tuple[str, Named], second: tuple[str, Named], kind: str | None) -> str:
    a, b = (f"{uri} is {' and '.join(_ONE_OF[k] for k in KINDS if k in named)}" for uri, named in (first, second))
    if kind and first[1].keys() & second[1].keys():
        return f"{run}: {first[0]} and {second[0]} are no {kind}, as asked for or as in other runs: {a}, {b}"
    return f"{run}: {first[0]} and {second[0]} are not of one kind: {a}, {b}"


def _no_run(
    project: Project, runs: Sequence[str], found: dict[str, tuple[Named, Named]], first: str, second: str
) -> ProjectError:
    """Says which of the two is nowhere, and what there is instead."""
    nowhere = [uri for side, uri in enumerate((first, second)) if not any(pair[side] for pair in found.values())]
    why = f": no run has {' or '.join(nowhere)}" if nowhere else ""
    looked_at = runs[:_RUNS_TO_TELL_OF]
    there = sorted(
        {
            *(f"{ref.uri} (segmentation)" for run in looked_at for ref in project.segmentations(run)),
            *(f"{ref.uri} (picks)" for run in looked_at for ref in project.picks(run)),
            *(f"{ref.uri} (mesh)" for run in looked_at for ref in project.meshes(run)),
        }
    )
    listed = ", ".join(there[:6]) + (f" and {len(there) - 6} more" if len(there) > 6 else "")
    return ProjectError(
        f"no run has both {first} and {second}{why}", f"there are: {listed}" if there else "the project has none yet"
    )
