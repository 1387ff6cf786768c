"""Find the annotations of a run that a copick URI names, and check that segmentations fit their tomogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, parse_uri
from membrain_cloud.store.volumes.labels import check_extent

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

Kind = Literal["segmentation", "instances", "multilabel", "picks", "mesh"]


def resolve(project: Project, run: str, uri: str) -> dict[Kind, SegmentationRef | ObjectRef]:
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
    segmentation = _find_segmentation(project, run, uri)
    if segmentation is not None:
        named["instances" if segmentation.instance else "segmentation"] = segmentation
    elif not parsed.instance:
        for multilabel in project.multilabel_segmentations(run):
            name = multilabel.name, multilabel.user, multilabel.session
            if name != (parsed.name, parsed.user, parsed.session):
                continue
            if parsed.voxel_spacing_angstrom in (None, multilabel.voxel_spacing_angstrom):
                named["multilabel"] = multilabel
                break
    if "@" not in uri and "?" not in uri:
        ref = ObjectRef(run, parsed.name, parsed.user, parsed.session)
        if ref in project.picks(run):
            named["picks"] = ref
        if ref in project.meshes(run):
            named["mesh"] = ref
    return named


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
