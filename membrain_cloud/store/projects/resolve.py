"""Find the annotations of a run that a copick URI names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, parse_uri

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from membrain_cloud.store.projects.project import Project

Kind = Literal["segmentation", "instances", "multilabel", "picks", "mesh"]
KINDS: tuple[Kind, ...] = ("segmentation", "instances", "multilabel", "picks", "mesh")
"""All kinds of annotations."""
_ONE_OF: dict[Kind, str] = {
    "segmentation": "mask",
    "instances": "instances",
    "multilabel": "volume of several labels",
    "picks": "picks",
    "mesh": "meshes",
}


def resolve(
    project: Project, run: str, uri: str, kinds: Collection[Kind] = KINDS
) -> dict[Kind, SegmentationRef | ObjectRef]:
    """Return the annotations of a run that a URI names, by kind.

    Without spacing and query, a URI may name several kinds at once, such as the mask and the meshes of the membranes.
    A URI with a spacing or with `?instance=true` names volumes only.

    Parameters
    ----------
    project : Project
        The project to search.
    run : str
        Name of the run. A run that is absent has no annotations.
    uri : str
        `name:user/session[@spacing][?instance=true]`. The name of a volume with several labels ends in `-multilabel`.
    kinds : collection of Kind
        The kinds to search; others cost no request. Default: all.

    Returns
    -------
    dict
        Kind to reference, in the order segmentation or instances, multilabel, picks, mesh. Empty if the URI names
        nothing in this run, or several segmentations that differ in spacing. Volumes with several labels are
        searched only if no other segmentation matches; of several spacings the smallest is returned.

    Raises
    ------
    ProjectError
        If `uri` is not a URI of one annotation.
    BadNameError
        If `run` is not a safe name.
    """
    parsed = parse_uri(uri)
    named: dict[Kind, SegmentationRef | ObjectRef] = {}
    volume_kind: Kind = "instances" if parsed.instance else "segmentation"
    segmentation = _find_segmentation(project, run, uri) if volume_kind in kinds or "multilabel" in kinds else None
    if segmentation is not None:
        named |= {volume_kind: segmentation} if volume_kind in kinds else {}
    elif not parsed.instance and "multilabel" in kinds:
        for multilabel in project.multilabel_segmentations(run):
            name = multilabel.name, multilabel.user, multilabel.session
            if name != (parsed.name, parsed.user, parsed.session):
                continue
            if parsed.voxel_spacing_angstrom in (None, multilabel.voxel_spacing_angstrom):
                named["multilabel"] = multilabel
                break
    if "@" not in uri and "?" not in uri:
        ref = ObjectRef(run, parsed.name, parsed.user, parsed.session)
        if "picks" in kinds and ref in project.picks(run):
            named["picks"] = ref
        if "mesh" in kinds and ref in project.meshes(run):
            named["mesh"] = ref
    return named


def resolve_one(project: Project, run: str, uri: str, kinds: Sequence[Kind]) -> SegmentationRef | ObjectRef | None:
    """Return the annotation of a run that a URI names, or None if the run has none.

    Parameters
    ----------
    project : Project
        The project to search.
    run : str
        Name of the run.
    uri : str
        As in `resolve`.
    kinds : sequence of Kind
        The kinds that may be meant; the first that exists is returned.

    Raises
    ------
    ProjectError
        If `uri` is not a URI of one annotation, or names several segmentations that differ in spacing.
    BadNameError
        If `run` is not a safe name.
    """
    named = resolve(project, run, uri, kinds)
    ref = next((named[kind] for kind in kinds if kind in named), None)
    parsed = parse_uri(uri)
    if ref is None and parsed.voxel_spacing_angstrom is None and {"segmentation", "instances"} & set(kinds):
        name = (parsed.name, parsed.user, parsed.session, parsed.instance)
        several = [
            each for each in project.segmentations(run) if (each.name, each.user, each.session, each.instance) == name
        ]
        if len(several) > 1:
            raise ProjectError(
                f"{run}: {uri} names {len(several)} segmentations",
                f"add the @spacing: {', '.join(each.uri for each in several)}",
            )
    return ref


def require_one(project: Project, run: str, uri: str, kinds: Sequence[Kind]) -> SegmentationRef | ObjectRef:
    """Return the annotation of a run that a URI names.

    Parameters
    ----------
    project, run, uri, kinds
        As in `resolve_one`.

    Raises
    ------
    ProjectError
        As `resolve_one`, and if the run has none; the message lists those that it has of these kinds.
    BadNameError
        If `run` is not a safe name.
    """
    ref = resolve_one(project, run, uri, kinds)
    if ref is None:
        existing = sorted({each.uri for each in _existing(project, run, kinds)})
        raise ProjectError(
            f"{run}: {uri!r} names no {' and no '.join(_ONE_OF[kind] for kind in kinds)}",
            f"there are: {', '.join(existing)}" if existing else "the run has none",
        )
    return ref


def _existing(project: Project, run: str, kinds: Collection[Kind]) -> list[SegmentationRef | ObjectRef]:
    """Return all annotations of a run that are of given kinds."""
    wanted = {"instances": True, "segmentation": False}
    is_instance = {flag for kind, flag in wanted.items() if kind in kinds}
    volumes = project.segmentations(run) if is_instance else []
    return [
        *(ref for ref in volumes if ref.instance in is_instance),
        *(project.multilabel_segmentations(run) if "multilabel" in kinds else ()),
        *(project.picks(run) if "picks" in kinds else ()),
        *(project.meshes(run) if "mesh" in kinds else ()),
    ]


def _find_segmentation(project: Project, run: str, uri: str) -> SegmentationRef | None:
    try:
        return project.segmentation(run, uri)
    except ProjectError:
        return None
