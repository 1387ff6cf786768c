"""Patches as annotators open them: a small copick project with a run for each, and MemBrain-seg's folders.

In the project `membrane`, `ignore` and `background` have the labels 1, 2 and 3, and each run holds a crop of its
tomogram and the prediction as a segmentation of several labels: that is what napari-copick lets people paint. People
save what they make of it under their own user and session.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError, UsageError
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.execution.provenance import versions
from membrain_cloud.pipeline.stages.base import GENE_ONTOLOGY_MEMBRANE
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.training.corrections import Marks, patch_border, prefill_marks
from membrain_cloud.training.labels import IGNORE, MARKED_BACKGROUND, MEMBRANE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.annotation.patch_set import Patch, PatchSet
    from membrain_cloud.store.projects.project import Project

#: copick's mark, in a segmentation's name, of several labels in one volume.
MULTILABEL = "membrane-multilabel"
#: Voxels to be ignored where a patch was cut off, unless `extract` is told otherwise.
BORDER_VOXELS = 16
OBJECTS = {"membrane": MEMBRANE, "ignore": IGNORE, "background": MARKED_BACKGROUND}


@dataclass(frozen=True)
class Extracted:
    """state : `done`, or `skipped` where it was there already."""

    patch: str
    run: str
    tomogram: str
    segmentation: str
    state: str


def patch_project_config(kept: PatchSet, output: str | None = None) -> str:
    """Where the config of the patches' project is: in the set's folder, or in one that `extract` was given."""
    if output is not None:
        return f"{output if '://' in output else os.path.abspath(output)}/config.json"
    told = kept.receipts.read("extracted/project")
    if told is not None:
        return str(told["config"])
    if not kept.files.local and kept.project.storage_options:
        # A config is opened by its address alone, and this store needs more than that.
        raise UsageError(f"{kept.url} is reached with overlay_fs_args", "give a folder that people reach: --output DIR")
    return f"{kept.url}/project/config.json"


def open_patch_project(kept: PatchSet) -> Project:
    """ProjectError where nothing was extracted."""
    try:
        return open_project(patch_project_config(kept))
    except ProjectError as error:
        raise ProjectError(
            f"the patches {kept.name!r} have no project ({error.message})", "make it: membrain-cloud patches extract"
        ) from error


def extract(
    kept: PatchSet,
    patches: Sequence[Patch],
    *,
    border: int,
    output: str | None,
    progress: Callable[[Extracted], None] = lambda _: None,
) -> tuple[str, list[Extracted]]:
    """Make a run of each patch in the patches' project; returns its config and what was done.

    Annotators' segmentations there are not touched; a patch whose tomogram and prediction are what they were is left
    as it is. output : a folder for the project, in place of the set's own.

    Raises UsageError for a border that leaves nothing, before anything is written; ProjectError where a tomogram or a
    prediction has gone.
    """
    shapes = {ref: kept.project.grid(ref).shape for ref in {patch.tomogram for patch in patches}}
    borders = [patch_border(patch.box, shapes[patch.tomogram], border) for patch in patches]
    project = _project(patch_project_config(kept, output))
    kept.receipts.write("extracted/project", {"config": project.config})
    done = []
    for patch, edge in zip(patches, borders, strict=True):
        done.append(_extract(kept, project, patch, edge, border))
        progress(done[-1])
    return project.config, done


def _project(config: str) -> Project:
    objects = [(name, False, GENE_ONTOLOGY_MEMBRANE if name == "membrane" else None) for name in OBJECTS]
    project = create_project(config.removesuffix("/config.json"), objects=objects)
    labels = {entry["name"]: entry["label"] for entry in project.settings["pickable_objects"]}
    if any(labels[name] != label for name, label in OBJECTS.items()):
        raise ProjectError(
            f"{config}: its objects have the labels {labels}",
            f"patches need a project of their own, with {OBJECTS}: give another --output",
        )
    return project


def patch_refs(patch: Patch) -> tuple[TomogramRef, SegmentationRef]:
    """Crop and prefilled segmentation, in the patches' project."""
    predicted = patch.predicted
    return (
        replace(patch.tomogram, run=patch.patch),
        SegmentationRef(patch.patch, MULTILABEL, predicted.user, predicted.session, patch.voxel_spacing_angstrom),
    )


def _extract(kept: PatchSet, project: Project, patch: Patch, border: NDArray[np.bool_], voxels: int) -> Extracted:
    source, (tomogram, labels) = kept.project, patch_refs(patch)
    inputs = {ref.key: source.identity(ref) for ref in (patch.tomogram, patch.predicted)}
    digest = digest_of([patch.box.start, patch.box.stop], inputs, voxels, project.config)
    name = f"extracted/{patch.patch}"
    told = kept.receipts.read(name)
    whole = (
        told is not None and told["digest"] == digest and all(project.is_complete(ref) for ref in (tomogram, labels))
    )
    if not whole:
        kept.receipts.remove(name)
        project.write_tomogram(tomogram, source.read_density(patch.tomogram, patch.box))
        project.write_segmentation(labels, prefill_marks(source.read_labels(patch.predicted, patch.box), border))
        receipt: dict[str, Any] = {
            "digest": digest,
            "patch": patch.as_dict(),
            "inputs": inputs,
            "border_voxels": voxels,
            "project": project.config,
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        kept.receipts.write(name, receipt)
    return Extracted(patch.patch, patch.run, tomogram.key, labels.key, "skipped" if whole else "done")


def extracted_border(kept: PatchSet, patch: Patch) -> int:
    """The border that a patch was extracted with; the default where it was not."""
    told = kept.receipts.read(f"extracted/{patch.patch}")
    return BORDER_VOXELS if told is None else int(told["border_voxels"])


def prefill(kept: PatchSet, patch: Patch, border: int) -> Marks:
    """What annotators began with, of the prediction as it is now."""
    edge = patch_border(patch.box, kept.project.grid(patch.tomogram).shape, border)
    return prefill_marks(kept.project.read_labels(patch.predicted, patch.box), edge)


def extract_files(kept: PatchSet, patches: Sequence[Patch], folder: str, *, border: int) -> list[str]:
    """The patches as MemBrain-seg's tools take them; returns the images written.

    `imagesCorr/NAME_patch-0001.mrc`, `labelsCorr/` the same (0, 1, and 2 in the border), and an empty folder
    `corrections/NAME_patch-0001/` for files Add*, Remove* and Ignore*. Files that are there are kept.

    Raises UsageError where an image is there that is not the patch's.
    """
    written = []
    for patch in patches:
        marks, stem = prefill(kept, patch, border), f"{kept.name}_{patch.patch}.mrc"
        image = kept.project.read_density(patch.tomogram, patch.box)
        require_own_image(os.path.join(folder, "imagesCorr", stem), kept, patch)
        os.makedirs(os.path.join(folder, "corrections", stem.removesuffix(".mrc")), exist_ok=True)
        for kind, array in (("imagesCorr", image), ("labelsCorr", marks.astype(np.int8))):
            path = os.path.join(folder, kind, stem)
            if not os.path.exists(path):
                write_volume(path, array, patch, labels=kind == "labelsCorr")
                written.append(path)
    return [path for path in written if "imagesCorr" in path]


def require_own_image(path: str, kept: PatchSet, patch: Patch) -> None:
    """UsageError where another image is there: labels beside it would be those of another tomogram."""
    if not os.path.exists(path):
        return
    image = kept.project.read_density(patch.tomogram, patch.box).astype(np.float32)
    if not np.array_equal(read_volume(path)[0], image):
        raise UsageError(
            f"{path} is there, and not of {patch.patch} of {patch.run} as it is now",
            "give another folder, or take the old files out",
        )


def write_volume(path: str, array: NDArray[Any], patch: Patch, *, labels: bool, overwrite: bool = False) -> None:
    """A patch as an MRC file whose origin says where in its tomogram it lies; float32 but for labels."""
    spacing = patch.voxel_spacing_angstrom
    dtype = "int8" if labels else "float32"
    origin = (patch.x * spacing, patch.y * spacing, patch.z * spacing)
    shape = patch.box.shape
    with VolumeFileWriter(
        path, shape, spacing, dtype, origin_angstrom=origin, labels=labels, overwrite=overwrite
    ) as writer:
        writer.write(replace(patch.box, start=(0, 0, 0), stop=shape), array.astype(dtype))
