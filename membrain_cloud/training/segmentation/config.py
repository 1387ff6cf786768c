"""Settings of a segmentation training, and recipes that are chosen by name."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import ORBIT
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture
from membrain_cloud.training.augmentation.policy import PRESETS, Augmentations
from membrain_cloud.training.segmentation.losses import SegmentationLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

# Settings that affect the speed of a training, and not its result.
_SPEED = ("threads", "workers")
_WARM_UP_STEPS = 200


def can_be_symmetric(channels: Sequence[int], residual: bool, mirror_loss: float, **_: Any) -> bool:
    """Return whether the weights of a network can be tied to be equivariant under mirroring.

    Parameters
    ----------
    channels, residual, mirror_loss
        As the attributes of `SegmentationTraining`. Other settings are accepted and ignored.

    Returns
    -------
    possible : bool
        True if the channels can be grouped in orbits, and there are neither residual blocks nor a mirror loss.
    """
    return not residual and not mirror_loss and not any(count % ORBIT for count in channels)


@dataclass(frozen=True)
class SegmentationTraining:
    """Settings of a training. The defaults are those of the built-in model, whose recipe also ties mirrors (`RECIPES`).

    Attributes
    ----------
    channels : tuple of int
        **Network.** Channels of each level, finest first (`UNetArchitecture`).
    residual : bool
        Whether its blocks are residual.
    mirror_symmetric : bool
        Whether its weights are tied, so that the prediction for a mirrored patch is the mirrored prediction
        (`networks.segmentation.architecture.mirror_symmetry`).
    window : int
        **Batches.** Edge length of the patches, in voxels.
    batch : int
        Patches in a step.
    views : int
        Steps in which each patch is used, on average.
    augmentations : Augmentations
        Random changes to the patches.
    steps : int
        **Schedule.** Number of optimiser steps.
    epoch_steps : int
        Steps in one pass over the data.
    schedule : str
        Learning rate: "plateau" rises over 200 steps, stays, and falls to 0 over the last quarter; "polynomial" is
        (1 - epoch / epochs)^0.9.
    validate_every : int
        Steps between validations.
    patience : int
        Validations without a better Dice after which training stops; the best weights are then kept. 0: never.
    tolerance : float
        Training stops when the validation Dice falls below that of the initial weights by more than this fraction of
        it; the last weights before that are kept. 0: never.
    optimizer : str
        **Optimiser.** "adamw", or "sgd" with a Nesterov momentum of 0.99.
    learning_rate, weight_decay : float
        Initial learning rate, and weight decay.
    clip_norm : float
        Largest norm of the gradient. 0: not clipped.
    surface_dice, smooth, heads
        **Loss.** As the attributes of `SegmentationLoss`.
    mirror_loss : float
        Weight of `losses.mirror_loss`; if above 0, every patch is used together with a mirror image. 0: left out.
    teacher_weight : float
        **Teacher.** Weight of the teacher's loss relative to that of the labels.
    teacher_part : float
        Fraction of the steps, from the first on, that use the teacher's loss.
    teacher_looks : int
        2: the teacher's prediction is the mean over the patch and one of its mirror images. 1: of the patch alone.
    specimens, validation_specimens : int
        **Simulated specimens.** Their number, and how many of them are held out for validation.
    specimen_edge : int
        Edge length of a specimen, in voxels.
    coarse : int
        How many times as often specimens with a voxel spacing of at least 11 Å are drawn.
    validation_patches : int
        **Validation and machine.** Number of patches that are validated on.
    precision : str
        "float32", "bfloat16" (autocast), or "auto": bfloat16 if the device supports it.
    seed : int
        Seed of all random numbers.
    threads : int
        Threads of torch. Does not affect results.
    workers : int
        Processes that prepare patches. Does not affect results.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 128)
    residual: bool = False
    window: int = 64
    batch: int = 2
    views: int = 1
    steps: int = 4500
    epoch_steps: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    schedule: str = "plateau"
    clip_norm: float = 5.0
    surface_dice: float = 0.0
    smooth: float = 1.0
    heads: tuple[float, ...] = (1.0,)
    mirror_symmetric: bool = False
    mirror_loss: float = 0.0
    teacher_weight: float = 1.0
    teacher_part: float = 0.6
    teacher_looks: int = 1
    augmentations: Augmentations = PRESETS["simulated"]
    specimens: int = 160
    specimen_edge: int = 112
    coarse: int = 1
    validation_specimens: int = 8
    validation_patches: int = 24
    validate_every: int = 500
    patience: int = 0
    tolerance: float = 0.0
    precision: str = "auto"
    seed: int = 1
    threads: int = 2
    workers: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise UsageError(
                    f"the training setting {name} is {value:g}: out of range", "give a finite number, at least 0"
                )
        self._check_network()
        if self.optimizer not in ("adamw", "sgd"):
            raise UsageError(f"there is no optimizer {self.optimizer!r}", "known are adamw, sgd")

    def _check_network(self) -> None:
        """Raise UsageError if the network cannot be built or trained on patches of this size."""
        if len(self.channels) < 3 or min(self.channels) < 1:
            raise UsageError(
                f"a network of channels {self.channels} cannot be built",
                "give three or more numbers, each above 0, finest level first",
            )
        if self.window % self.architecture.multiple or self.window < 2 * self.architecture.multiple:
            least = 2 * self.architecture.multiple
            raise UsageError(
                f"patches of {self.window} voxels do not fit a network of {len(self.channels)} levels",
                f"give a multiple of {self.architecture.multiple}, at least {least}",
            )
        if not 1 <= len(self.heads) <= len(self.channels) - 1:
            raise UsageError(
                f"a network of {len(self.channels)} levels cannot be supervised at {len(self.heads)} resolutions",
                "give more channels, or leave deep supervision out",
            )
        if self.mirror_symmetric and not can_be_symmetric(self.channels, self.residual, self.mirror_loss):
            blocks = ", residual blocks" if self.residual else ""
            raise UsageError(
                f"a network of channels {self.channels}{blocks} with a mirror loss of {self.mirror_loss:g} cannot be "
                "symmetric",
                f"give channels that are multiples of {ORBIT}, no residual blocks and no mirror loss; or train without "
                "mirror symmetry (mirror_symmetric)",
            )

    @property
    def architecture(self) -> UNetArchitecture:
        """Return the architecture of the network."""
        return UNetArchitecture(self.channels, self.residual)

    @property
    def loss(self) -> SegmentationLoss:
        """Return the loss function of the labels."""
        return SegmentationLoss(self.surface_dice, self.smooth, self.heads)

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 0.

        Parameters
        ----------
        step : int
            Index of the step, from 0.
        """
        if self.schedule == "polynomial":
            epochs = max(1, -(-self.steps // self.epoch_steps))
            return float(self.learning_rate * float(1 - step // self.epoch_steps / epochs) ** 0.9)
        warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
        left = (self.steps - step) / (0.25 * self.steps)
        return self.learning_rate * warm * min(1.0, max(left, 0.0))

    def digest_settings(self) -> dict[str, Any]:
        """Return the settings that affect results, by name."""
        return {name: value for name, value in asdict(self).items() if name not in _SPEED}


# MemBrain-seg's training (train_advanced) with all parts of its network and loss. The clipping is nnU-Net's.
MEMBRAIN_SEG = SegmentationTraining(
    channels=(32, 64, 128, 256, 512, 1024),
    residual=True,
    window=160,
    optimizer="sgd",
    learning_rate=1e-2,
    weight_decay=3e-5,
    schedule="polynomial",
    clip_norm=12.0,
    surface_dice=1.0,
    smooth=1e-5,
    heads=(1.0, 0.5, 0.25),
    augmentations=PRESETS["membrain-seg"],
)
# A symmetric network needs no mirrors in test-time augmentation, so fast mode loses nothing with it.
RECIPES = {"built-in": SegmentationTraining(mirror_symmetric=True), "membrain-seg": MEMBRAIN_SEG}
# Default number of epochs on the user's own data.
EPOCHS = {"built-in": 300, "membrain-seg": 1000}
FINE_TUNING_EPOCHS = 100


def fine_tuning(
    recipe: SegmentationTraining, architecture: UNetArchitecture, window: int, *, mirror_symmetric: bool = False
) -> SegmentationTraining:
    """Return the recipe for fine-tuning: a small learning rate, and an early stop if validation gets worse.

    Parameters
    ----------
    recipe : SegmentationTraining
        Recipe whose other settings are used.
    architecture : UNetArchitecture
        Architecture of the trained network.
    window : int
        Edge length of its patches, in voxels.
    mirror_symmetric : bool
        Whether its weights are tied; they then stay so. Default: False.

    Returns
    -------
    settings : SegmentationTraining
        Settings for the fine-tuning.
    """
    return replace(
        recipe,
        channels=architecture.channels,
        residual=architecture.residual,
        window=window,
        learning_rate=1e-5,
        schedule="polynomial",
        tolerance=0.05,
        mirror_symmetric=mirror_symmetric,
        mirror_loss=0.0,  # it doubles the time
        heads=(1.0,),  # heads start from random weights and cannot catch up at a learning rate of 1e-5
    )
