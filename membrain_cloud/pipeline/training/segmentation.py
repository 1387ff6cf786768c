"""Segmentation training from the command line: which data, which recipe, what to refuse, and where things go."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from membrain_cloud.errors import UsageError, VoxelSpacingError
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture
from membrain_cloud.networks.segmentation.segmenter import load_network
from membrain_cloud.pipeline import models
from membrain_cloud.pipeline.training.labelled_volumes import folder_volumes, project_volumes
from membrain_cloud.report.training_figures import predictions_figure
from membrain_cloud.store.projects.open import is_config, open_project
from membrain_cloud.training.augmentation.policy import PRESETS, Augmentations
from membrain_cloud.training.segmentation import config as recipes
from membrain_cloud.training.segmentation.labelled_patches import (
    LabelledVolume,
    PatchSource,
    VolumePatches,
    require_membrane,
)
from membrain_cloud.training.segmentation.loop import Picture, Pretrained, Progress, SegmentationData, train_segmenter
from membrain_cloud.training.segmentation.simulated_patches import MARGIN, simulated_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.training.segmentation.config import SegmentationTraining

SIMULATED = "simulated"
# Where neither header nor model says it; what MemBrain-seg's data have.
VOXEL_SPACING_ANGSTROM = 10.0
_SPACING_TOLERANCE = 0.05
# Every so many volumes one is held back, where no validation is named.
_HELD_BACK = 5
_VALIDATIONS = 50
# A patch of 160^3 voxels takes 0.2 to 0.7 s of a core; a GPU is not to wait for them.
_GPU_WORKERS = 8


@dataclass(frozen=True)
class TrainingData:
    """What to train on; the default is simulated specimens.

    source : a folder with imagesTr and labelsTr, a copick config, or "" for simulated specimens.
    labels : copick URIs of the labels, merged in this order.  runs : of the project; empty: all that have labels.
    validation : a folder, runs of the project separated by commas, "simulated", or "" for what is there: imagesVal,
        simulated specimens in fine-tuning, else every fifth volume.
    """

    source: str = ""
    labels: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    validation: str = ""


@dataclass(frozen=True)
class TrainingPlan:
    """What was asked for.

    values : fields of `SegmentationTraining` that are not the recipe's.  base : a model to go on from, or None.
    teacher : a model whose answers are learnt too, or None.
    epochs : passes over the data, or None for the recipe's.  chances : of single augmentations.
    """

    recipe: str = "built-in"
    values: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    epochs: int | None = None
    augmentations: str | None = None
    chances: Mapping[str, float] = field(default_factory=dict)
    teacher: str | None = None


def train_segmentation(
    output: str,
    work: str,
    plan: TrainingPlan,
    data: TrainingData,
    *,
    device: str | None,
    progress: Progress,
) -> str:
    """Train a segmentation network and write it; returns the file.

    Raises UsageError for options that do not fit together, and before the first step what is wrong with data or base:
    InputError, VoxelSpacingError, ModelError.
    """
    where, folder = _device(device), Path(work)
    if not Path(output).absolute().parent.is_dir():
        raise UsageError(f"--output {output}: there is no such folder", "make it: the model is written at the end")
    start, base = _base(plan, output)
    settings = _settings(plan, data, start, base)
    teacher, taught_by = _teacher(plan, settings)
    if where != "cpu" and "workers" not in plan.values:
        settings = replace(settings, workers=min(_GPU_WORKERS, max((os.cpu_count() or 2) - 1, 1)))
    training, validation, told = _sources(data, folder, settings, plan.base is not None, progress)
    settings = _timed(settings, plan, data, training)
    spacing = told.pop("voxel_spacing_angstrom") or (base["voxel_spacing_angstrom"] if base else None)
    facts: dict[str, Any] = {"voxel_spacing_angstrom": float(spacing or VOXEL_SPACING_ANGSTROM), **told}
    if base:
        _require_one_spacing([facts["voxel_spacing_angstrom"], float(base["voxel_spacing_angstrom"])], "data and base")
        facts["fine_tuned_from"] = {"model": plan.base, "sha256": models.model_sha256(str(plan.base))}
    if taught_by:
        _require_one_spacing(
            [facts["voxel_spacing_angstrom"], float(taught_by["voxel_spacing_angstrom"])], "data and teacher"
        )
        facts["taught_by"] = {"model": plan.teacher, "sha256": models.model_sha256(str(plan.teacher))}
    return str(
        train_segmenter(
            Path(output),
            folder,
            settings,
            SegmentationData(training, validation, facts),
            device=where,
            progress=progress,
            pretrained=Pretrained(start, teacher),
            picture=_pictures(folder / "figures"),
        )
    )


def _device(asked: str | None) -> str:
    there = torch.cuda.is_available()
    if asked is not None and asked != "cpu" and not (there and asked.startswith("cuda")):
        raise UsageError(f"--device {asked}: there is none", f"give {'cuda or ' if there else ''}cpu")
    return asked or ("cuda" if there else "cpu")


def _base(plan: TrainingPlan, output: str) -> tuple[nn.Module | None, dict[str, Any] | None]:
    if plan.base is None:
        return None, None
    path = models.resolve(plan.base).path
    if os.path.realpath(output) == os.path.realpath(path) or (
        os.path.exists(output) and os.path.samefile(path, output)
    ):
        raise UsageError(
            f"--output {output} is the model to go on from", "a base is never overwritten: give another file"
        )
    return load_network(str(path))[0], models.read_header(plan.base)


def _teacher(plan: TrainingPlan, settings: SegmentationTraining) -> tuple[nn.Module | None, dict[str, Any] | None]:
    if plan.teacher is None:
        if needless := [name for name in plan.values if name.startswith("teacher_")]:
            option = "--" + needless[0].replace("_", "-")
            raise UsageError(f"{option} is given and no teacher", "add --teacher MODEL, or leave it out")
        return None, None
    header = models.read_header(plan.teacher)
    multiple = UNetArchitecture.from_dict(header["architecture"]).multiple
    if settings.window % multiple:
        raise UsageError(
            f"--teacher {plan.teacher} takes windows of multiples of {multiple} voxels, patches have {settings.window}",
            f"give --window {-(-settings.window // multiple) * multiple}",
        )
    return load_network(str(models.resolve(plan.teacher).path))[0], header


def _settings(
    plan: TrainingPlan, data: TrainingData, start: nn.Module | None, base: dict[str, Any] | None
) -> SegmentationTraining:
    if plan.recipe not in recipes.RECIPES:
        raise UsageError(f"there is no recipe {plan.recipe!r}", f"known are {', '.join(recipes.RECIPES)}")
    settings = recipes.RECIPES[plan.recipe]
    if data.source and plan.augmentations is None:
        # The built-in recipe's turn a specimen before it is imaged, which nobody can do to a tomogram.
        settings = replace(settings, augmentations=PRESETS["membrain-seg"])
    if plan.augmentations is not None:
        settings = replace(settings, augmentations=Augmentations.preset(plan.augmentations))
    settings = replace(settings, augmentations=settings.augmentations.with_chances(dict(plan.chances)))
    if base is not None:
        architecture = UNetArchitecture.from_dict(base["architecture"])
        wanted = plan.values.get("channels", architecture.channels)
        if tuple(wanted) != architecture.channels:
            raise UsageError(
                f"{plan.base} has channels {architecture.channels}, --channels says {tuple(wanted)}",
                "leave --channels out: the architecture is the base's",
            )
        symmetric = start is not None and mirrors_are_tied(start)
        if plan.values.get("mirror_symmetric") and not symmetric:
            raise UsageError(
                f"the weights of {plan.base} are not symmetric, and would be lost", "leave --mirror-symmetric out"
            )
        settings = recipes.fine_tuning(settings, architecture, int(base["window"]), mirror_symmetric=symmetric)
    if "mirror_symmetric" not in plan.values and not recipes.can_be_symmetric(**{**asdict(settings), **plan.values}):
        settings = replace(settings, mirror_symmetric=False)  # the recipe's, which gives way to what was asked for
    settings = replace(settings, **plan.values)
    return replace(settings, specimen_edge=max(settings.specimen_edge, settings.window + 2 * MARGIN))


def _timed(
    settings: SegmentationTraining, plan: TrainingPlan, data: TrainingData, training: PatchSource
) -> SegmentationTraining:
    """Steps and validations by the passes over the data that were asked for."""
    epoch = max(1, -(-training.volumes // settings.batch))
    epochs = plan.epochs
    if epochs is None and "steps" not in plan.values:
        if plan.base is not None:
            epochs = recipes.FINE_TUNING_EPOCHS
        elif data.source or plan.recipe != "built-in":
            epochs = recipes.EPOCHS[plan.recipe]
    steps = settings.steps if epochs is None else epochs * epoch
    every = settings.validate_every
    if "validate_every" not in plan.values and (data.source or plan.base):
        every = max(epoch, steps // _VALIDATIONS)
    return replace(settings, steps=steps, epoch_steps=epoch, validate_every=min(every, steps))


def _sources(
    data: TrainingData, work: Path, settings: SegmentationTraining, fine_tuning: bool, progress: Progress
) -> tuple[PatchSource, PatchSource, dict[str, Any]]:
    """Patches to train on, to validate on, and what to say of them in the model."""
    if not data.source:
        if data.labels or data.runs or data.validation not in ("", SIMULATED):
            raise UsageError("--labels, --run and --validation are for data of your own", "add --data FOLDER or CONFIG")
        if settings.specimens <= settings.validation_specimens:
            raise UsageError(
                f"--specimens {settings.specimens}: {settings.validation_specimens} are held back to validate on",
                "give more of them",
            )
        training, held_back = simulated_sources(work, settings, progress)
        trained_on = "simulated specimens of this package, imaged at random"
        return training, held_back, {"trained_on": trained_on, "voxel_spacing_angstrom": None}
    volumes = _training_volumes(data, work, settings.window)
    require_membrane(volumes)
    named, validation = _validation(data, work, settings, volumes, fine_tuning, progress)
    spacings = [volume.voxel_spacing_angstrom for volume in volumes]
    if isinstance(validation, VolumePatches):
        spacings += [volume.voxel_spacing_angstrom for volume in validation.labelled]
    training_volumes = [volume for volume in volumes if volume.name not in named] or volumes
    require_membrane(training_volumes)
    told: dict[str, Any] = {
        "trained_on": {
            "source": os.path.basename(os.path.abspath(data.source)),
            "labels": list(data.labels),
            "volumes": [volume.name for volume in training_volumes],
        },
        "voxel_spacing_angstrom": _require_one_spacing(spacings, data.source),
    }
    progress(0, f"{len(training_volumes)} volumes to train on")
    return _patches(training_volumes, settings, settings.augmentations), validation, told


def _training_volumes(data: TrainingData, work: Path, window: int) -> list[LabelledVolume]:
    if not is_config(data.source):
        if data.labels or data.runs:
            raise UsageError("--labels and --run are for copick projects", "leave them out with a folder")
        return folder_volumes(Path(data.source), "Tr", work / "volumes" / "Tr", margin=window)
    if not data.labels:
        raise UsageError("which annotations are the labels?", "add --labels name:user/session@spacing")
    project = open_project(data.source)
    held_back = data.validation.split(",") if data.validation not in ("", SIMULATED) else []
    runs = [*data.runs, *held_back] if data.runs else project.runs()
    return project_volumes(project, sorted(set(runs)), data.labels, work / "volumes" / "runs", margin=window)


def _validation(
    data: TrainingData,
    work: Path,
    settings: SegmentationTraining,
    volumes: Sequence[LabelledVolume],
    fine_tuning: bool,
    progress: Progress,
) -> tuple[set[str], PatchSource]:
    """Names of the volumes that are not to be trained on, and patches to validate on."""
    margin, folder = settings.window, None
    if not is_config(data.source):
        own = Path(data.source) / "imagesVal"
        folder = Path(data.validation or data.source) if data.validation != SIMULATED else None
        if not data.validation and not own.is_dir():
            folder = None
    if folder is not None:
        part = "Val" if (folder / "imagesVal").is_dir() else "Tr"
        found = folder_volumes(folder, part, work / "volumes" / f"validation-{part}", margin=margin)
        require_membrane(found)
        _require_others(found, volumes, f"images{part}")
        return set(), _patches(found, settings, PRESETS["none"])
    if data.validation == SIMULATED or (fine_tuning and not data.validation):
        settings = replace(settings, augmentations=PRESETS[SIMULATED], specimens=settings.validation_specimens)
        progress(0, "validated on simulated specimens")
        _, simulated = simulated_sources(work, settings, progress)
        return set(), simulated
    if data.validation:
        names = set(data.validation.split(","))
        missing = sorted(names - {volume.name for volume in volumes})
        if missing:
            raise UsageError(f"--validation {missing[0]}: this run has none of the labels", "name runs that have them")
    else:
        names = {volume.name for volume in volumes[_HELD_BACK - 1 :: _HELD_BACK] or volumes[1:][-1:]}
    chosen = [volume for volume in volumes if volume.name in names]
    if not sum(volume.membrane_voxels for volume in chosen) or len(chosen) == len(volumes):
        progress(0, "validated on the volumes that are trained on: too few have membranes to hold some back")
        return set(), _patches(volumes, settings, PRESETS["none"])
    return names, _patches(chosen, settings, PRESETS["none"])


def _require_others(validation: Sequence[LabelledVolume], training: Sequence[LabelledVolume], part: str) -> None:
    """UsageError for an image that is in both: Dice on it would tell nothing."""

    def middle(volume: LabelledVolume) -> tuple[tuple[int, ...], bytes]:
        image = volume.image()
        return image.shape, image[len(image) // 2].tobytes()

    seen = {middle(volume): volume.name for volume in training}
    for volume in validation:
        if (other := seen.get(middle(volume))) is not None:
            raise UsageError(
                f"{volume.name} of {part} is the image {other} that is trained on", "keep it in one of the two"
            )


def _patches(
    volumes: Sequence[LabelledVolume], settings: SegmentationTraining, augmentations: Augmentations
) -> VolumePatches:
    return VolumePatches(tuple(volumes), settings.window, augmentations)


def _require_one_spacing(spacings: Sequence[float | None], what: str) -> float | None:
    """The middle one; None where none is known. VoxelSpacingError where they differ by more than a twentieth."""
    known = sorted(spacing for spacing in spacings if spacing is not None)
    if not known:
        return None
    if known[-1] > (1 + _SPACING_TOLERANCE) * known[0]:
        raise VoxelSpacingError(
            f"{what}: voxels of {known[0]:g} and of {known[-1]:g} Å in one training",
            "bring them to one with `membrain-cloud preprocess match-pixel-size`",
        )
    return float(known[len(known) // 2])


def _pictures(folder: Path) -> Picture:
    def write(step: int, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        arrays = [np.asarray(values[:, 0].float()) for values in (images, labels, logits)]
        drawn = predictions_figure(arrays[0], arrays[1].astype(np.uint8), arrays[2], title=f"after {step} steps")
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".{os.getpid()}.tmp"
        staging.write_bytes(drawn)
        staging.replace(folder / f"step-{step:06d}.png")

    return write
