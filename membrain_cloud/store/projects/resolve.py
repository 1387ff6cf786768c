"""Find the annotations of a run that a copick URI names, and parse the URIs of command lines with copick's parser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, parse_uri
from membrain_cloud.store.volumes.labels import check_extent

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from membrain_cloud.store.projects.project import Project

Kind = Literal["segmentation", "instances", "multilabel", "picks", "mesh"]
KINDS: tuple[Kind, ...] = ("segmentation", "instances", "multilabel", "picks", "mesh")
"""All kinds of annotations."""
_PATTERN = re.compile(r"[*?\[\]]")
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


def check_segmentation_extent(project: Project, ref: SegmentationRef) -> None:
    """Refuse a segmentation whose physical size is that of none of its run's tomograms.

    Parameters
    ----------
    project : Project
        The project.
    ref : SegmentationRef
        The segmentation.

    Raises
    ------
    InputError
        If it ends elsewhere. A run without tomograms is not checked.
    """
    grids = {tomogram.key: project.grid(tomogram) for tomogram in project.all_tomograms(ref.run)}
    check_extent(project.grid(ref), ref.key, grids)


def _find_segmentation(project: Project, run: str, uri: str) -> SegmentationRef | None:
    try:
        return project.segmentation(run, uri)
    except ProjectError:
        return None


class TomogramUri(NamedTuple):
    """The parts of `type@spacing`; None for a part that is left open.

    Attributes
    ----------
    tomogram_type : str or None
        Copick's type.
    voxel_spacing_angstrom : str or None
        Voxel spacing in Å, as written.
    """

    tomogram_type: str | None
    voxel_spacing_angstrom: str | None


class TargetUri(NamedTuple):
    """The parts of `name:user/session`.

    Attributes
    ----------
    name, user, session : str
        Object, user and session.
    """

    name: str
    user: str
    session: str


def parse_tomogram_uri(uri: str) -> TomogramUri:
    """Return the parts of a URI of tomograms.

    Parameters
    ----------
    uri : str
        `type@spacing`, or one of the two, such as `wbp` or `*@10.0`.

    Raises
    ------
    ProjectError
        For patterns that leave more open than a whole part.
    """
    parts = _parsed(uri, "tomogram")
    named = [None if part in ("", "*") else str(part) for part in (parts["tomo_type"], parts["voxel_spacing"])]
    if parts["pattern_type"] != "glob" or any(part and _PATTERN.search(part) for part in named):
        raise ProjectError(f"{uri!r} is a pattern", "name one type of tomogram: type@spacing")
    return TomogramUri(*named)


def parse_target_uri(uri: str) -> TargetUri:
    """Return the parts of a URI that results are written to; a spacing and a query are left to the results.

    Parameters
    ----------
    uri : str
        `name:user/session[@spacing][?query]`.

    Raises
    ------
    ProjectError
        If a part is absent or a pattern.
    """
    parts = _parsed(uri, "segmentation")
    target = TargetUri(parts["name"], parts["user_id"], parts["session_id"])
    if parts["pattern_type"] != "glob" or not all(target) or any(_PATTERN.search(part) for part in target):
        raise ProjectError(f"{uri!r} does not name one target", "write name:user/session")
    return target


def names_instances(uri: str) -> bool:
    """Return whether a URI of a segmentation has `?instance=true`."""
    return bool(_parsed(uri, "segmentation")["instance"])


def _parsed(uri: str, kind: str) -> dict[str, Any]:
    from copick.util.uri import parse_copick_uri

    try:
        return dict(parse_copick_uri(uri, kind))
    except ValueError as error:
        raise ProjectError(f"{uri!r} is not a URI of copick ({error})", "write name:user/session@spacing") from error
