"""Training of a segmentation network: recipe and settings, base and teacher, and the files of the training."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import UsageError
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture
from membrain_cloud.networks.segmentation.segmenter import load_network
from membrain_cloud.pipeline import models
from membrain_cloud.pipeline.training.segmentation_data import TrainingData, prepare_data, require_one_spacing
from membrain_cloud.report.training_figures import predictions_figure
from membrain_cloud.training.augmentation.policy import PRESETS, Augmentations
from membrain_cloud.training.segmentation import config as recipes
from membrain_cloud.training.segmentation.loop import Picture, Pretrained, Progress, SegmentationData, train_segmenter
from membrain_cloud.training.segmentation.simulated_patches import MARGIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from membrain_cloud.training.segmentation.config import SegmentationTraining
    from membrain_cloud.training.segmentation.labelled_patches import PatchSource

# Used if neither data nor model have a voxel spacing; that of MemBrain-seg's data.
VOXEL_SPACING_ANGSTROM = 10.0
# Validations in a training on the user's own data, at most.
_VALIDATIONS = 50
# A patch of 160³ voxels takes a core 0.2 to 0.7 s; a GPU needs several cores.
_GPU_WORKERS = 8


@dataclass(frozen=True)
class TrainingPlan:
    """Recipe of a training, and what differs from it.

    Attributes
    ----------
    recipe : str
        Name of the recipe (`training.segmentation.config.RECIPES`).
    values : mapping
        Fields of `SegmentationTraining` that replace the recipe's.
    base : str or None
        Model to fine-tune. Default: random weights.
    epochs : int or None
        Passes over the data. Default: the recipe's, or as many as its steps make on simulated specimens.
    augmentations : str or None
        Name of a preset. Default: the recipe's on simulated specimens, "membrain-seg" on tomograms.
    chances : mapping of str to float
        Probabilities of single augmentations.
    teacher : str or None
        Model whose predictions are learnt in addition to the labels. Default: none.
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
    """Train a segmentation network and write it.

    Parameters
    ----------
    output : str
        The safetensors file to write.
    work : str
        Folder of prepared data, checkpoint, curve and figures. A second call continues from there.
    plan : TrainingPlan
        Recipe, base and teacher.
    data : TrainingData
        What is trained on.
    device : str or None
        Name of the torch device. None: CUDA if there is any, else the CPU.
    progress : callable
        Called with the number of steps done and a line of text.

    Returns
    -------
    output : str
        The file.

    Raises
    ------
    UsageError
        If parts of plan and data do not fit together.
    InputError, VoxelSpacingError, ModelError
        If data, base or teacher cannot be used. All are raised before the first step.
    """
    where, folder = _device(device), Path(work)
    if not Path(output).absolute().parent.is_dir():
        raise UsageError(f"{output}: there is no such folder", "create it: the model is written at the end")
    start, base = _load_base(plan, output)
    settings = _settings(plan, data, start, base)
    teacher, teacher_header = _load_teacher(plan, settings)
    if where != "cpu" and "workers" not in plan.values:
        settings = replace(settings, workers=min(_GPU_WORKERS, max((os.cpu_count() or 2) - 1, 1)))
    prepared = prepare_data(data, folder, settings, fine_tuning=plan.base is not None, progress=progress)
    settings = _with_steps(settings, plan, data, prepared.training)
    spacing = prepared.voxel_spacing_angstrom or (base["voxel_spacing_angstrom"] if base else None)
    facts: dict[str, Any] = {
        "voxel_spacing_angstrom": float(spacing or VOXEL_SPACING_ANGSTROM),
        "trained_on": prepared.trained_on,
    }
    if base:
        require_one_spacing([facts["voxel_spacing_angstrom"], float(base["voxel_spacing_angstrom"])], "data and base")
        facts["fine_tuned_from"] = {"model": plan.base, "sha256": models.model_sha256(str(plan.base))}
    if teacher_header:
        require_one_spacing(
            [facts["voxel_spacing_angstrom"], float(teacher_header["voxel_spacing_angstrom"])], "data and teacher"
        )
        facts["taught_by"] = {"model": plan.teacher, "sha256": models.model_sha256(str(plan.teacher))}
    return str(
        train_segmenter(
            Path(output),
            folder,
            settings,
            SegmentationData(prepared.training, prepared.validation, facts),
            device=where,
            progress=progress,
            pretrained=Pretrained(start, teacher),
            picture=_pictures(folder / "figures"),
        )
    )


def _device(name: str | None) -> str:
    cuda = torch.cuda.is_available()
    if name is not None and name != "cpu" and not (cuda and name.startswith("cuda")):
        raise UsageError(f"device {name}: there is none", f"choose {'cuda or ' if cuda else ''}cpu")
    return name or ("cuda" if cuda else "cpu")


def _load_base(plan: TrainingPlan, output: str) -> tuple[nn.Module | None, dict[str, Any] | None]:
    """Return the network to fine-tune and its header. UsageError if `output` is its file."""
    if plan.base is None:
        return None, None
    path = Path(models.resolve(plan.base).path)
    target = Path(output)
    if target.resolve() == path.resolve() or (target.exists() and target.samefile(path)):
        raise UsageError(f"{output} is the model to fine-tune", "a base is never overwritten: name another output file")
    return load_network(str(path))[0], models.read_header(plan.base)


def _load_teacher(plan: TrainingPlan, settings: SegmentationTraining) -> tuple[nn.Module | None, dict[str, Any] | None]:
    """Return the teacher and its header. UsageError if it does not take patches of this size."""
    if plan.teacher is None:
        if needless := [name for name in plan.values if name.startswith("teacher_")]:
            raise UsageError(
                f"the setting {needless[0]} is given without a teacher", "name a teacher, or leave the setting out"
            )
        return None, None
    header = models.read_header(plan.teacher)
    multiple = UNetArchitecture.from_dict(header["architecture"]).multiple
    if settings.window % multiple:
        raise UsageError(
            f"the teacher {plan.teacher} takes windows of multiples of {multiple} voxels, patches have "
            f"{settings.window}",
            f"choose a window of {-(-settings.window // multiple) * multiple} voxels",
        )
    return load_network(str(models.resolve(plan.teacher).path))[0], header


def _settings(
    plan: TrainingPlan, data: TrainingData, start: nn.Module | None, base: dict[str, Any] | None
) -> SegmentationTraining:
    """Return the recipe with the plan's values; architecture and window are the base's if there is one."""
    if plan.recipe not in recipes.RECIPES:
        raise UsageError(f"there is no recipe {plan.recipe!r}", f"known are {', '.join(recipes.RECIPES)}")
    settings = recipes.RECIPES[plan.recipe]
    if data.source and plan.augmentations is None:
        # The built-in recipe rotates specimens before they are imaged, which is impossible with tomograms.
        settings = replace(settings, augmentations=PRESETS["membrain-seg"])
    if plan.augmentations is not None:
        settings = replace(settings, augmentations=Augmentations.preset(plan.augmentations))
    settings = replace(settings, augmentations=settings.augmentations.with_chances(dict(plan.chances)))
    if base is not None:
        settings = _fine_tuning_settings(settings, plan, start, base)
    if "mirror_symmetric" not in plan.values and not recipes.can_be_symmetric(**{**asdict(settings), **plan.values}):
        settings = replace(settings, mirror_symmetric=False)  # the recipe's default gives way to explicit values
    settings = replace(settings, **plan.values)
    return replace(settings, specimen_edge=max(settings.specimen_edge, settings.window + 2 * MARGIN))


def _fine_tuning_settings(
    settings: SegmentationTraining, plan: TrainingPlan, start: nn.Module | None, base: dict[str, Any]
) -> SegmentationTraining:
    """Return the settings for fine-tuning a base. UsageError if the plan asks for another architecture."""
    architecture = UNetArchitecture.from_dict(base["architecture"])
    channels = tuple(plan.values.get("channels", architecture.channels))
    if channels != architecture.channels:
        raise UsageError(
            f"{plan.base} has channels {architecture.channels}, the training is asked for {channels}",
            "leave channels out: the architecture is the base's",
        )
    symmetric = start is not None and mirrors_are_tied(start)
    if plan.values.get("mirror_symmetric") and not symmetric:
        raise UsageError(
            f"the weights of {plan.base} are not symmetric, and would be lost", "leave mirror symmetry out"
        )
    return recipes.fine_tuning(settings, architecture, int(base["window"]), mirror_symmetric=symmetric)


def _with_steps(
    settings: SegmentationTraining, plan: TrainingPlan, data: TrainingData, training: PatchSource
) -> SegmentationTraining:
    """Return the settings with the number of steps and the validations that the epochs make."""
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


def _pictures(folder: Path) -> Picture:
    """Return a callable that draws image, label and prediction of validation patches into `folder`."""

    def write(step: int, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        arrays = [np.asarray(values[:, 0].float()) for values in (images, labels, logits)]
        drawn = predictions_figure(arrays[0], arrays[1].astype(np.uint8), arrays[2], title=f"after {step} steps")
        folder.mkdir(parents=True, exist_ok=True)
        replace_atomically(folder / f"step-{step:06d}.png", lambda path: path.write_bytes(drawn))

    return write
