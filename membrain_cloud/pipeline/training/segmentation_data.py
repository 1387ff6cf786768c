"""Patches for the training of a segmentation network: from a folder, a project, or simulated specimens."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from membrain_cloud.errors import UsageError, VoxelSpacingError
from membrain_cloud.pipeline.training.labelled_volumes import folder_volumes, project_volumes
from membrain_cloud.store.projects.open import is_config, open_project
from membrain_cloud.training.augmentation.policy import PRESETS, Augmentations
from membrain_cloud.training.segmentation.labelled_patches import (
    LabelledVolume,
    PatchSource,
    VolumePatches,
    require_membrane,
)
from membrain_cloud.training.segmentation.simulated_patches import simulated_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.training.segmentation.config import SegmentationTraining
    from membrain_cloud.training.segmentation.loop import Progress

SIMULATED = "simulated"
# Largest relative difference of voxel spacings in one training.
_SPACING_TOLERANCE = 0.05
# One of so many volumes is held out if no validation is named.
_HELD_OUT = 5


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained on. The default is simulated specimens.

    Attributes
    ----------
    source : str
        A folder with imagesTr and labelsTr, a copick config, or "" for simulated specimens.
    labels : tuple of str
        URIs of a project's labels, merged in this order.
    runs : tuple of str
        Runs of a project. Default: all that have labels.
    validation : str
        A folder, runs of the project separated by commas, or "simulated". Default "": imagesVal if the folder has it,
        simulated specimens in fine-tuning, and otherwise every fifth volume.
    """

    source: str = ""
    labels: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    validation: str = ""


class PreparedData(NamedTuple):
    """Patches, and what the model's header says of them.

    Attributes
    ----------
    training, validation : PatchSource
        Patches to train on, and to validate on.
    trained_on : dict or str
        Description of the training data.
    voxel_spacing_angstrom : float or None
        In Å; None if unknown.
    """

    training: PatchSource
    validation: PatchSource
    trained_on: dict[str, Any] | str
    voxel_spacing_angstrom: float | None


def prepare_data(
    data: TrainingData, work: Path, settings: SegmentationTraining, *, fine_tuning: bool, progress: Progress
) -> PreparedData:
    """Prepare patches to train on and to validate on.

    Parameters
    ----------
    data : TrainingData
        What is trained on.
    work : Path
        Folder that keeps prepared volumes and simulated specimens.
    settings : SegmentationTraining
        Size of the patches, augmentations and specimens.
    fine_tuning : bool
        Whether a trained network is fine-tuned.
    progress : callable
        Called with 0 and lines of text.

    Returns
    -------
    prepared : PreparedData
        The patches and their description.

    Raises
    ------
    UsageError
        If the parts of `data` do not fit together.
    InputError
        If there is no membrane, or volumes cannot be used.
    VoxelSpacingError
        If voxel spacings differ.
    """
    if not data.source:
        if data.labels or data.runs or data.validation not in ("", SIMULATED):
            raise UsageError(
                "labels, runs and validation are for data of your own", "name a folder or a project as the data"
            )
        if settings.specimens <= settings.validation_specimens:
            raise UsageError(
                f"{settings.specimens} specimens: {settings.validation_specimens} are held back to validate on",
                "choose a larger number of specimens",
            )
        training, held_out = simulated_sources(work, settings, progress)
        return PreparedData(training, held_out, "simulated specimens of this package, imaged at random", None)
    volumes = _training_volumes(data, work, settings.window)
    require_membrane(volumes)
    held_out_names, validation = _validation(data, work, settings, volumes, fine_tuning, progress)
    spacings = [volume.voxel_spacing_angstrom for volume in volumes]
    if isinstance(validation, VolumePatches):
        spacings += [volume.voxel_spacing_angstrom for volume in validation.labelled]
    training_volumes = [volume for volume in volumes if volume.name not in held_out_names] or volumes
    require_membrane(training_volumes)
    trained_on: dict[str, Any] = {
        "source": Path(os.path.normpath(Path(data.source).absolute())).name,
        "labels": list(data.labels),
        "volumes": [volume.name for volume in training_volumes],
    }
    spacing = require_one_spacing(spacings, data.source)
    progress(0, f"{len(training_volumes)} volumes to train on")
    return PreparedData(_patches(training_volumes, settings, settings.augmentations), validation, trained_on, spacing)


def _training_volumes(data: TrainingData, work: Path, window: int) -> list[LabelledVolume]:
    if not is_config(data.source):
        if data.labels or data.runs:
            raise UsageError("labels and runs are for copick projects", "leave them out with a folder")
        return folder_volumes(Path(data.source), "Tr", work / "volumes" / "Tr", margin=window)
    if not data.labels:
        raise UsageError("which annotations are the labels?", "give labels as name:user/session@spacing")
    project = open_project(data.source)
    held_out = data.validation.split(",") if data.validation not in ("", SIMULATED) else []
    runs = [*data.runs, *held_out] if data.runs else project.runs()
    return project_volumes(project, sorted(set(runs)), data.labels, work / "volumes" / "runs", margin=window)


def _validation(
    data: TrainingData,
    work: Path,
    settings: SegmentationTraining,
    volumes: Sequence[LabelledVolume],
    fine_tuning: bool,
    progress: Progress,
) -> tuple[set[str], PatchSource]:
    """Return the names of the volumes that are not trained on, and patches to validate on."""
    folder = _validation_folder(data)
    if folder is not None:
        part = "Val" if (folder / "imagesVal").is_dir() else "Tr"
        validation = folder_volumes(folder, part, work / "volumes" / f"validation-{part}", margin=settings.window)
        require_membrane(validation)
        _require_different_images(validation, volumes, f"images{part}")
        return set(), _patches(validation, settings, PRESETS["none"])
    if data.validation == SIMULATED or (fine_tuning and not data.validation):
        settings = replace(settings, augmentations=PRESETS[SIMULATED], specimens=settings.validation_specimens)
        progress(0, "validated on simulated specimens")
        _, simulated = simulated_sources(work, settings, progress)
        return set(), simulated
    if data.validation:
        names = set(data.validation.split(","))
        missing = sorted(names - {volume.name for volume in volumes})
        if missing:
            raise UsageError(f"validation on {missing[0]}: this run has none of the labels", "name runs that have them")
    else:
        names = {volume.name for volume in volumes[_HELD_OUT - 1 :: _HELD_OUT] or volumes[1:][-1:]}
    held_out = [volume for volume in volumes if volume.name in names]
    if not sum(volume.membrane_voxels for volume in held_out) or len(held_out) == len(volumes):
        progress(0, "validated on the volumes that are trained on: too few have membranes to hold some back")
        return set(), _patches(volumes, settings, PRESETS["none"])
    return names, _patches(held_out, settings, PRESETS["none"])


def _validation_folder(data: TrainingData) -> Path | None:
    """Return the folder of the validation volumes, or None if there is none or the data are a project."""
    if is_config(data.source) or data.validation == SIMULATED:
        return None
    if data.validation:
        return Path(data.validation)
    return Path(data.source) if (Path(data.source) / "imagesVal").is_dir() else None


def _require_different_images(
    validation: Sequence[LabelledVolume], training: Sequence[LabelledVolume], part: str
) -> None:
    """Raise UsageError if an image is in both: its Dice would say nothing about unseen data."""

    def middle(volume: LabelledVolume) -> tuple[tuple[int, ...], bytes]:
        image = volume.image()
        return image.shape, image[len(image) // 2].tobytes()

    names = {middle(volume): volume.name for volume in training}
    for volume in validation:
        if (other := names.get(middle(volume))) is not None:
            raise UsageError(
                f"{volume.name} of {part} is the image {other} that is trained on", "keep it in one of the two"
            )


def _patches(
    volumes: Sequence[LabelledVolume], settings: SegmentationTraining, augmentations: Augmentations
) -> VolumePatches:
    return VolumePatches(tuple(volumes), settings.window, augmentations)


def require_one_spacing(spacings: Sequence[float | None], source: str) -> float | None:
    """Check that voxel spacings agree.

    Parameters
    ----------
    spacings : sequence of float or None
        In Å; None if unknown.
    source : str
        Where they come from, for the error message.

    Returns
    -------
    spacing : float or None
        The median in Å; None if all are unknown.

    Raises
    ------
    VoxelSpacingError
        If they differ by more than 5 %.
    """
    values = sorted(spacing for spacing in spacings if spacing is not None)
    if not values:
        return None
    if values[-1] > (1 + _SPACING_TOLERANCE) * values[0]:
        raise VoxelSpacingError(
            f"{source}: voxels of {values[0]:g} and of {values[-1]:g} Å in one training",
            "resample them to one voxel spacing with `membrain-cloud preprocess match-pixel-size`",
        )
    return float(values[len(values) // 2])
