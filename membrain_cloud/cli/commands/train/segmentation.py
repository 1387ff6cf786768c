"""The command `train segmentation`."""

from __future__ import annotations

from typing import Any

import click

from membrain_cloud.cli.app import Command, say
from membrain_cloud.cli.options import NetworkTrainingOptions, TrainedModelOptions, option, option_group, takes
from membrain_cloud.errors import UsageError


@option_group
class DataOptions:
    """What a segmentation network is trained and validated on."""

    data: str | None = option(
        "--data",
        metavar="SOURCE",
        help="Folder with imagesTr and labelsTr, or a copick config (default: simulated specimens).",
    )
    labels: tuple[str, ...] = option(
        "--labels",
        multiple=True,
        metavar="URI",
        help="Labels in a copick project, e.g. membrane:alice/1@10 (repeatable; a later one takes precedence).",
    )
    runs: tuple[str, ...] = option(
        "-r",
        "--run",
        multiple=True,
        metavar="RUN",
        help="Only this run of a copick project (repeatable; default: all runs with labels).",
    )
    validation: str | None = option(
        "--validation",
        metavar="SOURCE",
        help="Validation data: a folder, runs (TS_1,TS_2), or `simulated` (default: imagesVal, with --from "
        "simulated specimens, else every fifth volume).",
    )


@option_group
class SegmentationOptions(NetworkTrainingOptions):
    """How a segmentation network is trained, in detail."""

    teacher: str | None = option(
        "--teacher", metavar="MODEL", help="Model whose predictions are learnt besides the labels (default: none)."
    )
    teacher_weight: float | None = option(
        "--teacher-weight",
        type=click.FloatRange(0),
        metavar="WEIGHT",
        help="Weight of the teacher loss; that of the labels is 1 (default: 1).",
    )
    teacher_part: float | None = option(
        "--teacher-part",
        type=click.FloatRange(0, 1),
        metavar="FRACTION",
        help="Fraction of training steps that use the teacher loss (default: 0.6).",
    )
    teacher_looks: int | None = option(
        "--teacher-looks",
        type=click.IntRange(1, 2),
        metavar="N",
        help="1: the teacher predicts the patch; 2: it averages the patch and one mirror image (default: 1).",
    )
    views: int | None = option(
        "--views",
        type=click.IntRange(1),
        metavar="N",
        help="Optimiser steps for each patch; more save time if patches are slow to make (default: 1).",
    )
    optimizer: str | None = option(
        "--optimizer",
        type=click.Choice(["adamw", "sgd"]),
        help="Optimiser; sgd has Nesterov momentum 0.99 (default: adamw, with --recipe membrain-seg sgd).",
    )
    surface_dice: float | None = option(
        "--surface-dice",
        type=click.FloatRange(0),
        metavar="WEIGHT",
        help="Weight of the Surface-Dice loss; those of the others are 1 (default: 0, with --recipe membrain-seg 1).",
    )
    mirror_symmetric: bool | None = option(
        "--mirror-symmetric/--no-mirror-symmetric",
        default=None,
        help="Tie weights so that a mirrored patch gives the mirrored prediction (default: yes in the built-in recipe, "
        "where the network allows it).",
    )
    mirror_loss: float | None = option(
        "--mirror-loss",
        type=click.FloatRange(0),
        metavar="WEIGHT",
        help="Weight of the loss for different predictions of a patch and its mirror image (default: 0).",
    )
    deep_supervision: bool | None = option(
        "--deep-supervision/--no-deep-supervision",
        default=None,
        help="Add the loss at half and quarter resolution (default: no, with --recipe membrain-seg yes).",
    )
    augment: tuple[str, ...] = option(
        "--augment",
        multiple=True,
        metavar="NAME=CHANCE",
        help="Probability of one augmentation, from 0 to 1, e.g. fourier_amplitude=0.5 (repeatable).",
    )
    patience: int | None = option(
        "--patience",
        type=click.IntRange(0),
        metavar="N",
        help="Stop after this many validations without a better Dice; 0 never stops (default: 0).",
    )
    validate_every: int | None = option(
        "--validate-every",
        type=click.IntRange(1),
        metavar="STEPS",
        help="Optimiser steps between validations (default: 500; on your own data by the number of steps).",
    )
    precision: str | None = option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        help="Arithmetic of the network (default: auto, bfloat16 where the device supports it).",
    )
    specimens: int | None = option(
        "--specimens",
        type=click.IntRange(1),
        metavar="N",
        help="Number of simulated specimens, 8 of them for validation (default: 160).",
    )
    coarse: int | None = option(
        "--coarse",
        type=click.IntRange(1),
        metavar="N",
        help="How many times as often specimens of 11 Å and more are drawn as finer ones (default: 1).",
    )
    workers: int | None = option(
        "--workers",
        type=click.IntRange(0),
        metavar="N",
        help="Processes that prepare patches (default: 1, more with a GPU).",
    )

    def values(self) -> dict[str, Any]:
        """Return the given values that replace the recipe's, by their name in `SegmentationTraining`.

        Returns
        -------
        dict
            Only options that were given.

        Raises
        ------
        UsageError
            Both epochs and steps are given, or the channels are not numbers.
        """
        heads = {None: None, True: (1.0, 0.5, 0.25), False: (1.0,)}[self.deep_supervision]
        values = {
            "teacher_weight": self.teacher_weight,
            "teacher_part": self.teacher_part,
            "teacher_looks": self.teacher_looks,
            "views": self.views,
            "optimizer": self.optimizer,
            "surface_dice": self.surface_dice,
            "mirror_symmetric": self.mirror_symmetric,
            "mirror_loss": self.mirror_loss,
            "heads": heads,
            "patience": self.patience,
            "validate_every": self.validate_every,
            "precision": self.precision,
            "specimens": self.specimens,
            "coarse": self.coarse,
            "workers": self.workers,
        }
        return super().values() | {name: value for name, value in values.items() if value is not None}

    def chances(self) -> dict[str, float]:
        """Return the probabilities of single augmentations by their names.

        Raises
        ------
        UsageError
            An `--augment` is not of the form NAME=CHANCE.
        """
        chances = {}
        for text in self.augment:
            name, _, chance = text.partition("=")
            try:
                chances[name] = float(chance)
            except ValueError:
                raise UsageError(
                    f"--augment {text}: expected NAME=CHANCE", "try --augment fourier_amplitude=0.5"
                ) from None
        return chances


@click.command("segmentation", cls=Command)
@takes(TrainedModelOptions, DataOptions, SegmentationOptions)
def train_segmentation(target: TrainedModelOptions, data: DataOptions, options: SegmentationOptions) -> None:
    """Train or fine-tune a segmentation network.

    Without --data it is trained on simulated specimens. Options that are left out take the values of the recipe.

    \b
    Examples:
      membrain-cloud train segmentation --output model.safetensors --work training --steps 4500
      membrain-cloud train segmentation --output model.safetensors --work training --data patches --recipe membrain-seg
      membrain-cloud train segmentation --output tuned.safetensors --work tuning --from membrain-cloud-small \\
          --data project/config.json --labels membrane:alice/1@10 --labels membrane:bob/1@10
    """
    values = options.values() | ({} if target.seed is None else {"seed": target.seed})
    chances = options.chances()
    from membrain_cloud.pipeline.training.segmentation import TrainingPlan, train_segmentation
    from membrain_cloud.pipeline.training.segmentation_data import TrainingData

    plan = TrainingPlan(
        recipe=options.recipe,
        values=values,
        base=options.base,
        epochs=options.epochs,
        augmentations=options.augmentations,
        chances=chances,
        teacher=options.teacher,
    )
    training_data = TrainingData(data.data or "", data.labels, data.runs, data.validation or "")
    model = train_segmentation(
        target.output,
        target.work,
        plan,
        training_data,
        device=options.device,
        progress=lambda step, line: say(f"{step}: {line}"),
    )
    click.echo(model)
