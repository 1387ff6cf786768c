"""Depositions to the CryoET Data Portal: copies of annotations, and the ingestion configs that describe them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.store.formats.copick_files import picks_to_json
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.portal.deposition_schema import IngestionConfig, validated
from membrain_cloud.store.projects import resolve
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, check_name, parse_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Zyx
    from membrain_cloud.store.projects.project import Project

Kind = Literal["segmentation", "instances", "meshes", "picks"]
"""The kinds of annotations that can be deposited."""
_COPIES = "copick"
_RESOLVED: dict[Kind, resolve.Kind] = {
    "segmentation": "segmentation",
    "instances": "instances",
    "meshes": "mesh",
    "picks": "picks",
}


@dataclass(frozen=True)
class DepositedRun:
    """One run of a deposition.

    Attributes
    ----------
    name : str
        Its name in the project.
    portal_name : str
        Its name on the portal.
    dataset : str
        The portal's id of its dataset.
    voxel_spacing_angstrom : float
        Voxel spacing of the portal's tomogram at full resolution, in Å. Masks of another spacing are marked to be
        rescaled.
    shape : tuple of 3 ints or None
        Shape of that tomogram, zyx, which masks of its spacing must have; None: unknown.
    """

    name: str
    portal_name: str
    dataset: str
    voxel_spacing_angstrom: float
    shape: Zyx | None = None


@dataclass(frozen=True)
class DepositedAnnotation:
    """One annotation that every run of a deposition may have.

    Attributes
    ----------
    kind : Kind
        What it is.
    uri : str
        Its URI in the project.
    object_id : str
        Identifier of its object, such as GO:0016020.
    object_name : str
        Name of its object.
    """

    kind: Kind
    uri: str
    object_id: str
    object_name: str


@dataclass(frozen=True)
class Description:
    """What the authors say about a deposition.

    Attributes
    ----------
    deposition_id : int
        The number that the portal's curators assigned.
    metadata : Mapping
        Metadata of every annotation, by the keys of the portal's schema.
    source_prefix : str
        Folder on the portal's side that the files are uploaded to.
    """

    deposition_id: int
    metadata: Mapping[str, Any]
    source_prefix: str


@dataclass
class DepositionReport:
    """What a deposition consists of.

    Attributes
    ----------
    configs : list of str
        Paths or URLs of the ingestion configs, one per dataset.
    copied : dict
        Number of copied annotations by kind.
    missing : list of str
        Run and URI of each annotation that is absent.
    """

    configs: list[str] = field(default_factory=list)
    copied: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def write_deposition(
    project: Project,
    target: str,
    runs: Sequence[DepositedRun],
    annotations: Sequence[DepositedAnnotation],
    description: Description,
) -> DepositionReport:
    """Copy annotations, and write one ingestion config per dataset.

    Everything is checked before anything is copied. Picks are written with their centres in `location`, because the
    portal's reader ignores translations.

    Parameters
    ----------
    project : Project
        The project that has the annotations.
    target : str
        Path or URL of the folder to write to.
    runs : sequence of DepositedRun
        The runs.
    annotations : sequence of DepositedAnnotation
        The annotations.
    description : Description
        What the authors say about them.

    Returns
    -------
    DepositionReport
        What was report.

    Raises
    ------
    UsageError
        If the description breaks the portal's schema, or a URI is of another kind.
    ProjectError
        If a URI is ambiguous.
    InputError
        If no run has any of the annotations, or a mask has another shape than its tomogram.
    """
    files = Files(target)
    report = DepositionReport()
    refs: dict[tuple[str, str], SegmentationRef | ObjectRef] = {}
    for run in runs:
        check_name(run.portal_name, "run")
        for annotation in annotations:
            ref = _find(project, run, annotation)
            if ref is None:
                report.missing.append(f"{run.name}/{annotation.uri}")
            else:
                _require_same_grid(project, run, ref)
                refs[run.name, annotation.uri] = ref
    if not refs:
        raise InputError("no run has any of these annotations", "check the URIs: membrain-cloud status, copick browse")
    datasets = sorted({run.dataset for run in runs if any(key[0] == run.name for key in refs)})
    configs = {
        dataset: _config(dataset, [run for run in runs if run.dataset == dataset], annotations, refs, description)
        for dataset in datasets
    }
    for run in runs:
        for annotation in annotations:
            ref = refs.get((run.name, annotation.uri))
            if ref is not None:
                _copy(project, files, ref, annotation.kind, run)
                report.copied[annotation.kind] = report.copied.get(annotation.kind, 0) + 1
    for dataset, config in configs.items():
        text = yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)
        validated(yaml.safe_load(text), f"{dataset}.yaml")
        files.write(f"{dataset}.yaml", text.encode())
        report.configs.append(f"{files.url}/{dataset}.yaml")
    return report


def _find(project: Project, run: DepositedRun, annotation: DepositedAnnotation) -> SegmentationRef | ObjectRef | None:
    """Return the annotation of a run, or None if it has none; UsageError for a URI of other kind."""
    if annotation.kind in ("segmentation", "instances"):
        wants_instances = annotation.kind == "instances"
        if parse_uri(annotation.uri).instance != wants_instances:
            suffix = "with" if wants_instances else "without"
            raise UsageError(f"{annotation.uri} is given as {annotation.kind}", f"write it {suffix} ?instance=true")
    return resolve.resolve_one(project, run.name, annotation.uri, (_RESOLVED[annotation.kind],))


def _is_rescaled(run: DepositedRun, ref: SegmentationRef) -> bool:
    return abs(ref.voxel_spacing_angstrom - run.voxel_spacing_angstrom) > 0.01 * run.voxel_spacing_angstrom


def _require_same_grid(project: Project, run: DepositedRun, ref: SegmentationRef | ObjectRef) -> None:
    if not isinstance(ref, SegmentationRef) or run.shape is None or _is_rescaled(run, ref):
        return
    shape = project.grid(ref).shape
    if shape != run.shape:
        raise InputError(
            f"{ref.key} has {shape} voxels, its tomogram {run.shape}: the portal takes masks of one size only",
            "segment the tomogram that the portal has, or leave this annotation out",
        )


def _copy(project: Project, files: Files, ref: SegmentationRef | ObjectRef, kind: Kind, run: DepositedRun) -> None:
    target = _place(ref, kind, run.portal_name)
    if kind == "picks":
        assert isinstance(ref, ObjectRef)
        files.write(target, picks_to_json(project.read_picks(ref), ref))
        return
    source, path = project.stored(ref, mesh=kind == "meshes")
    if kind == "meshes":
        files.write(target, source.read(path))
        return
    files.remove(target)
    for name in source.listing(path):
        files.write(f"{target}/{name}", source.read(f"{path}/{name}"))


def _place(ref: SegmentationRef | ObjectRef, kind: Kind, portal_name: str) -> str:
    path = ref.path if isinstance(ref, SegmentationRef) else ref.mesh_path if kind == "meshes" else ref.picks_path
    return f"{_COPIES}/" + path.replace(f"ExperimentRuns/{ref.run}/", f"ExperimentRuns/{portal_name}/", 1)


def _config(
    dataset: str,
    runs: Sequence[DepositedRun],
    annotations: Sequence[DepositedAnnotation],
    refs: Mapping[tuple[str, str], SegmentationRef | ObjectRef],
    description: Description,
) -> IngestionConfig:
    """Return the ingestion config of one dataset."""
    present = [run for run in runs if any((run.name, annotation.uri) in refs for annotation in annotations)]
    entries = []
    for number, annotation in enumerate(annotations, 1):
        of_runs = [(run, refs[run.name, annotation.uri]) for run in present if (run.name, annotation.uri) in refs]
        if of_runs:
            name = "".join(c if c.isalnum() else "-" for c in annotation.object_name)
            metadata = {
                "annotation_ingest_id": f"{name}-{annotation.kind}-{number}",
                "annotation_object": {"id": annotation.object_id, "name": annotation.object_name},
                **description.metadata,
            }
            entries.append({"metadata": metadata, "sources": _sources(annotation.kind, of_runs)})
    content = {
        "depositions": _listed([description.deposition_id]),
        "datasets": _listed([dataset]),
        "runs": _listed([run.portal_name for run in present]),
        "voxel_spacings": _listed(sorted({run.voxel_spacing_angstrom for run in present})),
        "annotations": entries,
        "standardization_config": {
            "deposition_id": description.deposition_id,
            "source_prefix": description.source_prefix,
        },
    }
    return validated(content, f"the config of dataset {dataset}")


def _listed(values: Sequence[str | int | float]) -> list[dict[str, Any]]:
    return [{"sources": [{"literal": {"value": list(values)}}]}]


def _sources(kind: Kind, refs: Sequence[tuple[DepositedRun, SegmentationRef | ObjectRef]]) -> list[dict[str, Any]]:
    """Return one source per spacing of the portal's tomograms and of the masks, which the globs name."""
    sources: dict[tuple[float, str], dict[str, Any]] = {}
    for run, ref in refs:
        spacing = run.voxel_spacing_angstrom
        glob = _place(ref, kind, "{run_name}")
        sources.setdefault(
            (spacing, glob),
            {
                **_shape(kind, glob, ref, run),
                "parent_filters": {"include": {"voxel_spacing": [f"{spacing:.3f}"]}},
            },
        )
    return [sources[key] for key in sorted(sources)]


def _shape(kind: Kind, glob: str, ref: SegmentationRef | ObjectRef, run: DepositedRun) -> dict[str, Any]:
    if isinstance(ref, SegmentationRef):
        mask: dict[str, Any] = {"file_format": "zarr", "glob_string": glob, "is_visualization_default": True}
        mask |= {"rescale": True} if _is_rescaled(run, ref) else {}
        if kind == "instances":
            return {"InstanceSegmentationMask": mask}
        return {"SemanticSegmentationMask": {**mask, "mask_label": 1}}
    if kind == "meshes":
        return {"TriangularMesh": {"file_format": "glb", "glob_string": glob, "scale_factor": 1.0}}
    return {"OrientedPoint": {"file_format": "copick", "glob_string": glob, "binning": run.voxel_spacing_angstrom}}


def deposited_object(
    project: Project, kind: Kind, uri: str, identifiers: Mapping[str, tuple[str, str | None]]
) -> tuple[str, str]:
    """Return identifier and name of an annotation's object.

    Parameters
    ----------
    project : Project
        Its config gives the identifiers that are not given here.
    kind : Kind
        What the annotation is, for the message.
    uri : str
        URI of the annotation.
    identifiers : Mapping
        Identifier, and name or None, by the object's name in the project.

    Raises
    ------
    ProjectError
        If there is no identifier.
    """
    name = parse_uri(uri).name
    entry: Mapping[str, Any] = next(
        (entry for entry in project.settings["pickable_objects"] if entry["name"] == name), {}
    )
    identifier, label = identifiers.get(name, (entry.get("identifier"), None))
    if not identifier:
        raise ProjectError(
            f"the config has no identifier for {name!r}, which {kind} of a deposition need",
            f"give one for the object: {name}=GO:0009523, or {name}=UniProtKB:P12345",
        )
    return str(identifier), label or name
