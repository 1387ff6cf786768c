"""Patches as annotators open them: a small copick project with a run for each patch, and MemBrain-seg's folders.

In the project `membrane`, `ignore` and `background` have the labels 1, 2 and 3. Each run holds a crop of its tomogram,
and the prediction as a segmentation of several labels, which napari-copick lets annotators paint. They save their work
under their own user and session.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace
from pathlib import Path
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

    from membrain_cloud.pipeline.annotation.patch_set import AnnotationPatch, PatchSet
    from membrain_cloud.store.projects.project import Project

MULTILABEL = "membrane-multilabel"
"""Name of the segmentation of several labels; the ending is copick's."""

BORDER_VOXELS = 16
"""Default width of the margin to ignore on the sides where a patch was cut out of its tomogram."""

OBJECTS = {"membrane": MEMBRANE, "ignore": IGNORE, "background": MARKED_BACKGROUND}
"""Objects of the patches' project, with their labels."""


@dataclass(frozen=True)
class Extracted:
    """A patch in the patches' project.

    Attributes
    ----------
    patch : str
        The patch, which is also its run in the patches' project.
    run : str
        The run of its tomogram.
    tomogram, segmentation : str
        Keys of the crop and of the prefilled segmentation.
    state : str
        "done", or "skipped" where it was complete already.
    """

    patch: str
    run: str
    tomogram: str
    segmentation: str
    state: str


def patch_project_config(patch_set: PatchSet, output: str | None = None) -> str:
    """Return the config of the patches' project.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    output : str, optional
        Folder of the project. Default: the one it was extracted into, else the set's own folder.

    Returns
    -------
    str
        Path or URL.

    Raises
    ------
    UsageError
        If the set's own folder cannot be opened by its address alone.
    """
    if output is not None:
        return f"{output if '://' in output else os.path.normpath(Path(output).absolute())}/config.json"
    receipt = patch_set.receipts.read("extracted/project")
    if receipt is not None:
        return str(receipt["config"])
    if not patch_set.files.local and patch_set.project.storage_options:
        # A config is opened by its address alone, and this store needs more than that.
        raise UsageError(
            f"{patch_set.url} is reached with overlay_fs_args", "give an output folder that annotators can reach"
        )
    return f"{patch_set.url}/project/config.json"


def open_patch_project(patch_set: PatchSet) -> Project:
    """Open the patches' project.

    Parameters
    ----------
    patch_set : PatchSet
        The set.

    Returns
    -------
    Project

    Raises
    ------
    ProjectError
        If no patch was extracted.
    """
    try:
        return open_project(patch_project_config(patch_set))
    except ProjectError as error:
        raise ProjectError(
            f"the patches {patch_set.name!r} have no project ({error.message})",
            "make it: membrain-cloud patches extract",
        ) from error


def extract(
    patch_set: PatchSet,
    patches: Sequence[AnnotationPatch],
    *,
    border: int,
    output: str | None,
    progress: Callable[[Extracted], None] = lambda _: None,
) -> tuple[str, list[Extracted]]:
    """Make a run for each patch in the patches' project.

    Annotators' segmentations there are not changed. A patch whose tomogram and prediction are unchanged is left as it
    is.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    patches : sequence of AnnotationPatch
        Its patches to extract.
    border : int
        Width of the margin to ignore on the sides where a patch was cut out, in voxels.
    output : str or None
        Folder of the project; None for the set's own.
    progress : callable
        Called after each patch.

    Returns
    -------
    str
        Config of the patches' project.
    list of Extracted

    Raises
    ------
    UsageError
        If the border leaves nothing of a patch; nothing is written then.
    ProjectError
        If a tomogram or a prediction is missing, or the output is another project.
    StorageError
        If the project cannot be written.
    """
    shapes = {ref: patch_set.project.grid(ref).shape for ref in {patch.tomogram for patch in patches}}
    borders = [patch_border(patch.box, shapes[patch.tomogram], border) for patch in patches]
    project = _make_project(patch_project_config(patch_set, output))
    patch_set.receipts.write("extracted/project", {"config": project.config})
    extracted = []
    for patch, border_mask in zip(patches, borders, strict=True):
        extracted.append(_extract_patch(patch_set, project, patch, border_mask, border))
        progress(extracted[-1])
    return project.config, extracted


def _make_project(config: str) -> Project:
    objects = [(name, False, GENE_ONTOLOGY_MEMBRANE if name == "membrane" else None) for name in OBJECTS]
    project = create_project(config.removesuffix("/config.json"), objects=objects)
    labels = {entry["name"]: entry["label"] for entry in project.settings["pickable_objects"]}
    if any(labels[name] != label for name, label in OBJECTS.items()):
        raise ProjectError(
            f"{config}: its objects have the labels {labels}",
            f"patches need a project of their own, with {OBJECTS}: give another output folder",
        )
    return project


def patch_refs(patch: AnnotationPatch) -> tuple[TomogramRef, SegmentationRef]:
    """Return a patch's crop and prefilled segmentation in the patches' project.

    Parameters
    ----------
    patch : AnnotationPatch
        The patch.

    Returns
    -------
    tuple of TomogramRef and SegmentationRef
    """
    predicted = patch.predicted
    return (
        replace(patch.tomogram, run=patch.patch),
        SegmentationRef(patch.patch, MULTILABEL, predicted.user, predicted.session, patch.voxel_spacing_angstrom),
    )


def _extract_patch(
    patch_set: PatchSet, project: Project, patch: AnnotationPatch, border_mask: NDArray[np.bool_], border: int
) -> Extracted:
    source, (tomogram, labels) = patch_set.project, patch_refs(patch)
    inputs = {ref.key: source.identity(ref) for ref in (patch.tomogram, patch.predicted)}
    digest = digest_of([patch.box.start, patch.box.stop], inputs, border, project.config)
    name = f"extracted/{patch.patch}"
    earlier = patch_set.receipts.read(name)
    unchanged = earlier is not None and earlier["digest"] == digest
    complete = unchanged and all(project.is_complete(ref) for ref in (tomogram, labels))
    if not complete:
        patch_set.receipts.remove(name)
        project.write_tomogram(tomogram, source.read_density(patch.tomogram, patch.box))
        project.write_segmentation(labels, prefill_marks(source.read_labels(patch.predicted, patch.box), border_mask))
        receipt: dict[str, Any] = {
            "digest": digest,
            "patch": patch.as_dict(),
            "inputs": inputs,
            "border_voxels": border,
            "project": project.config,
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        patch_set.receipts.write(name, receipt)
    return Extracted(patch.patch, patch.run, tomogram.key, labels.key, "skipped" if complete else "done")


def extracted_border(patch_set: PatchSet, patch: AnnotationPatch) -> int:
    """Return the width of the margin that a patch was extracted with.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    patch : AnnotationPatch
        The patch.

    Returns
    -------
    int
        Voxels; the default for a patch that was not extracted.
    """
    receipt = patch_set.receipts.read(f"extracted/{patch.patch}")
    return BORDER_VOXELS if receipt is None else int(receipt["border_voxels"])


def prefill(patch_set: PatchSet, patch: AnnotationPatch, border: int) -> Marks:
    """Return the marks that annotators start from, of the prediction as it is now.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    patch : AnnotationPatch
        The patch.
    border : int
        Width of the margin to ignore, in voxels.

    Returns
    -------
    (Z, Y, X) array of uint8
        1 membrane, 2 in the margin, 0 elsewhere.
    """
    border_mask = patch_border(patch.box, patch_set.project.grid(patch.tomogram).shape, border)
    return prefill_marks(patch_set.project.read_labels(patch.predicted, patch.box), border_mask)


def extract_files(patch_set: PatchSet, patches: Sequence[AnnotationPatch], folder: str, *, border: int) -> list[str]:
    """Write patches as MemBrain-seg's tools take them; existing files are kept.

    They are `imagesCorr/NAME_patch-0001.mrc`, `labelsCorr/` the same (0, 1, and 2 in the margin), and an empty folder
    `corrections/NAME_patch-0001/` for files Add*, Remove* and Ignore*.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    patches : sequence of AnnotationPatch
        Its patches to write.
    folder : str
        Where the three folders are made.
    border : int
        Width of the margin to ignore, in voxels.

    Returns
    -------
    list of str
        The images that were written.

    Raises
    ------
    UsageError
        If an image exists that is not the patch's.
    StorageError
        If a file cannot be written.
    """
    written = []
    for patch in patches:
        marks, name = prefill(patch_set, patch, border), f"{patch_set.name}_{patch.patch}.mrc"
        image = patch_set.project.read_density(patch.tomogram, patch.box)
        image_path = Path(folder, "imagesCorr", name)
        require_own_image(image_path, patch_set, patch)
        Path(folder, "corrections", name).with_suffix("").mkdir(parents=True, exist_ok=True)
        if not image_path.exists():
            write_volume(image_path, image, patch, labels=False)
            written.append(str(image_path))
        label_path = Path(folder, "labelsCorr", name)
        if not label_path.exists():
            write_volume(label_path, marks.astype(np.int8), patch, labels=True)
    return written


def require_own_image(path: Path, patch_set: PatchSet, patch: AnnotationPatch) -> None:
    """Check that an existing image is the patch's: labels beside it would be those of another tomogram.

    Parameters
    ----------
    path : Path
        The image, which may be missing.
    patch_set : PatchSet
        The set.
    patch : AnnotationPatch
        The patch.

    Raises
    ------
    UsageError
        If another image exists.
    """
    if not path.exists():
        return
    image = patch_set.project.read_density(patch.tomogram, patch.box).astype(np.float32)
    if not np.array_equal(read_volume(str(path))[0], image):
        raise UsageError(
            f"{path} exists, and is not of {patch.patch} of {patch.run} as it is now",
            "give another folder, or take the old files out",
        )


def write_volume(
    path: Path, array: NDArray[Any], patch: AnnotationPatch, *, labels: bool, overwrite: bool = False
) -> None:
    """Write a volume of a patch as an MRC file, whose origin says where in its tomogram the patch lies.

    Parameters
    ----------
    path : Path
        The file to write.
    array : (Z, Y, X) array of bool, integer or float
        Of the patch's shape; written as int8 for labels, else as float32.
    patch : AnnotationPatch
        The patch.
    labels : bool
        Whether the values are labels.
    overwrite : bool
        Whether an existing file is replaced. Default: False.

    Raises
    ------
    UsageError
        If the file exists and `overwrite` is False.
    StorageError
        If the file cannot be written.
    """
    spacing = patch.voxel_spacing_angstrom
    dtype = "int8" if labels else "float32"
    origin = (patch.x * spacing, patch.y * spacing, patch.z * spacing)
    shape = patch.box.shape
    with VolumeFileWriter(
        str(path), shape, spacing, dtype, origin_angstrom=origin, labels=labels, overwrite=overwrite
    ) as writer:
        writer.write(replace(patch.box, start=(0, 0, 0), stop=shape), array.astype(dtype))
