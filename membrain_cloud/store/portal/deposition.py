"""Results for the CryoET Data Portal: copies of annotations, and the ingestion config that describes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.store.formats.copick_files import picks_to_json
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.portal.deposition_schema import IngestionConfig, validated
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, check_name, parse_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Zyx
    from membrain_cloud.store.projects.project import Project

Kind = Literal["segmentation", "instances", "meshes", "picks"]
_COPIES = "copick"


@dataclass(frozen=True)
class DepositedRun:
    """One run: `name` in the project, `portal_name` and `dataset` on the portal.

    voxel_spacing_angstrom : of the portal's tomogram, in full. Masks of another spacing are marked to be rescaled.
    shape : its voxels, which masks of its spacing must have; None where nobody knows.
    """

    name: str
    portal_name: str
    dataset: str
    voxel_spacing_angstrom: float
    shape: Zyx | None = None


@dataclass(frozen=True)
class Deposited:
    """One annotation of every run: its URI, and the object it is of (`GO:0016020` and the like)."""

    kind: Kind
    uri: str
    object_id: str
    object_name: str


@dataclass(frozen=True)
class About:
    """What people say about a deposition, in the schema's own words."""

    deposition_id: int
    metadata: Mapping[str, Any]
    source_prefix: str


@dataclass
class Written:
    """configs : one a dataset.  copied : annotations, by kind.  missing : runs without one of them."""

    configs: list[str] = field(default_factory=list)
    copied: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def write_deposition(
    project: Project, target: str, runs: Sequence[DepositedRun], annotations: Sequence[Deposited], about: About
) -> Written:
    """Copy annotations below `target` and write one ingestion config a dataset there.

    Everything is checked before anything is copied. Picks are written with their centres in `location`, because the
    portal's reader leaves translations out.

    Raises UsageError for a description that breaks the schema; InputError where no run has any of the annotations.
    """
    files = Files(target)
    written = Written()
    found: dict[tuple[str, str], SegmentationRef | ObjectRef] = {}
    for run in runs:
        check_name(run.portal_name, "run")
        for annotation in annotations:
            ref = _look_up(project, run, annotation)
            if ref is None:
                written.missing.append(f"{run.name}/{annotation.uri}")
            else:
                _require_same_grid(project, run, ref)
                found[run.name, annotation.uri] = ref
    if not found:
        raise InputError("no run has any of these annotations", "check the URIs: membrain-cloud status, copick browse")
    datasets = sorted({run.dataset for run in runs if any(key[0] == run.name for key in found)})
    configs = {
        dataset: _config(dataset, [run for run in runs if run.dataset == dataset], annotations, found, about)
        for dataset in datasets
    }
    for run in runs:
        for annotation in annotations:
            ref = found.get((run.name, annotation.uri))
            if ref is not None:
                _copy(project, files, ref, annotation.kind, run)
                written.copied[annotation.kind] = written.copied.get(annotation.kind, 0) + 1
    for dataset, config in configs.items():
        text = yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)
        validated(yaml.safe_load(text), f"{dataset}.yaml")
        files.write(f"{dataset}.yaml", text.encode())
        written.configs.append(f"{files.url}/{dataset}.yaml")
    return written


def _look_up(project: Project, run: DepositedRun, annotation: Deposited) -> SegmentationRef | ObjectRef | None:
    """The stored annotation; None where the run has none. UsageError for a URI of another kind."""
    wants_instances = annotation.kind == "instances"
    if annotation.kind in ("segmentation", "instances"):
        if parse_uri(annotation.uri).instance != wants_instances:
            suffix = "with" if wants_instances else "without"
            raise UsageError(f"{annotation.uri} is given as {annotation.kind}", f"write it {suffix} ?instance=true")
        there = [ref for ref in project.segmentations(run.name) if ref.instance == wants_instances]
        parsed = parse_uri(annotation.uri)
        fitting = [
            ref
            for ref in there
            if (ref.name, ref.user, ref.session) == (parsed.name, parsed.user, parsed.session)
            and parsed.voxel_spacing_angstrom in (None, ref.voxel_spacing_angstrom)
        ]
        if len(fitting) > 1:
            raise UsageError(f"{run.name}: {annotation.uri} names {len(fitting)} segmentations", "add the @spacing")
        return fitting[0] if fitting else None
    parsed = parse_uri(annotation.uri)
    ref = ObjectRef(run.name, parsed.name, parsed.user, parsed.session)
    there_objects = project.meshes(run.name) if annotation.kind == "meshes" else project.picks(run.name)
    return ref if ref in there_objects else None


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
    annotations: Sequence[Deposited],
    found: Mapping[tuple[str, str], SegmentationRef | ObjectRef],
    about: About,
) -> IngestionConfig:
    present = [run for run in runs if any((run.name, annotation.uri) in found for annotation in annotations)]
    entries = []
    for number, annotation in enumerate(annotations, 1):
        refs = [(run, found[run.name, annotation.uri]) for run in present if (run.name, annotation.uri) in found]
        if refs:
            name = "".join(c if c.isalnum() else "-" for c in annotation.object_name)
            metadata = {
                "annotation_ingest_id": f"{name}-{annotation.kind}-{number}",
                "annotation_object": {"id": annotation.object_id, "name": annotation.object_name},
                **about.metadata,
            }
            entries.append({"metadata": metadata, "sources": _sources(annotation.kind, refs)})
    content = {
        "depositions": _listed([about.deposition_id]),
        "datasets": _listed([dataset]),
        "runs": _listed([run.portal_name for run in present]),
        "voxel_spacings": _listed(sorted({run.voxel_spacing_angstrom for run in present})),
        "annotations": entries,
        "standardization_config": {"deposition_id": about.deposition_id, "source_prefix": about.source_prefix},
    }
    return validated(content, f"the config of dataset {dataset}")


def _listed(values: Sequence[str | int | float]) -> list[dict[str, Any]]:
    return [{"sources": [{"literal": {"value": list(values)}}]}]


def _sources(kind: Kind, refs: Sequence[tuple[DepositedRun, SegmentationRef | ObjectRef]]) -> list[dict[str, Any]]:
    """One source for each spacing of the portal's tomograms and of the masks: the globs name the mask's."""
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
    project: Project, kind: Kind, uri: str, given: Mapping[str, tuple[str, str | None]]
) -> tuple[str, str]:
    """Identifier and name of an annotation's object: as given, else from the config.

    ProjectError where neither says an identifier.
    """
    name = parse_uri(uri).name
    entry: Mapping[str, Any] = next(
        (entry for entry in project.settings["pickable_objects"] if entry["name"] == name), {}
    )
    identifier, called = given.get(name, (entry.get("identifier"), None))
    if not identifier:
        raise ProjectError(
            f"the config says no identifier for {name!r}, which {kind} of a deposition need",
            f"give one: --object {name}=GO:0009523, or UniProtKB:P12345",
        )
    return str(identifier), called or name
