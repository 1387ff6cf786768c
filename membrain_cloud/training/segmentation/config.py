"""How a segmentation network is trained: all that decides it, and the recipes that go by a name."""

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

# What changes how fast a training goes, and not where.
_EFFORT = ("threads", "workers")


def can_be_symmetric(channels: Sequence[int], residual: bool, mirror_loss: float, **_: Any) -> bool:
    """Whether a training of these values (those of `SegmentationTraining`) can have its mirrors tied."""
    return not residual and not mirror_loss and not any(count % ORBIT for count in channels)


@dataclass(frozen=True)
class SegmentationTraining:
    """How to train; the defaults are those of the built-in model's recipe, whose network is symmetric (`RECIPES`).

    channels, residual : the network (`UNetArchitecture`).  window : edge of the patches (voxels).
    batch : patches a step.  views : steps that a patch is trained on, on average.
    steps : of the optimiser.  epoch_steps : of them in one pass over the data.
    optimizer : "adamw", or "sgd" with Nesterov's momentum of 0.99.
    schedule : of the learning rate: "plateau" warms up over 200 steps, stays, and falls to nothing over the last
        quarter; "polynomial" is (1 - epoch / epochs)^0.9.
    clip_norm : longest gradient; 0: any.
    surface_dice, smooth, heads : of the loss (`SegmentationLoss`).
    mirror_symmetric : weights are tied so that mirrored patches have mirrored answers (`networks.symmetry`).
    mirror_loss : weight of `losses.mirror_loss`: every patch is seen mirrored too, and both answers
        shall be one. 0: patches are seen once, as they are.
    teacher_weight, teacher_part, teacher_looks : of a teacher: weight of its answers, beside 1 of the labels;
        part of the steps in which it is listened to; looks it takes, one at the patch as it is and a second at one of
        its mirrors, whose mean it answers.
    specimens, specimen_edge, validation_specimens : the pool of simulated specimens, and how many are held back.
    coarse : times as often specimens of 11 Å or more are drawn as others.
    validation_patches, validate_every : patches that are validated on, and after how many steps.
    patience : validations without a better Dice after which training stops, and the best is kept; 0: it never does.
    tolerance : training stops where the validation Dice is less than what it began with by more than this part of it,
        and the last weights before that are kept; 0: it never does.
    precision : "float32", "bfloat16" (autocast), or "auto": bfloat16 where the device has it.
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
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: it cannot be that", "give a number above 0")
        if len(self.channels) < 3 or min(self.channels) < 1:
            raise UsageError(
                f"a network of channels {self.channels} cannot be", "give three or more, each above 0, finest first"
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
                f"give channels that are multiples of {ORBIT}, no residual blocks and no --mirror-loss; or "
                "--no-mirror-symmetric",
            )
        if self.optimizer not in ("adamw", "sgd"):
            raise UsageError(f"there is no optimizer {self.optimizer!r}", "known are adamw, sgd")

    @property
    def architecture(self) -> UNetArchitecture:
        return UNetArchitecture(self.channels, self.residual)

    @property
    def loss(self) -> SegmentationLoss:
        return SegmentationLoss(self.surface_dice, self.smooth, self.heads)

    def rate(self, step: int) -> float:
        """The learning rate of step number `step`."""
        if self.schedule == "polynomial":
            epochs = max(1, -(-self.steps // self.epoch_steps))
            return self.learning_rate * float(1 - step // self.epoch_steps / epochs) ** 0.9
        warm = min(1.0, (step + 1) / 200)
        left = (self.steps - step) / (0.25 * self.steps)
        return self.learning_rate * warm * min(1.0, max(left, 0.0))

    def digest_settings(self) -> dict[str, Any]:
        """What the result hangs on."""
        return {name: value for name, value in asdict(self).items() if name not in _EFFORT}


# MemBrain-seg's own (train_advanced), its network and loss with everything on; nnU-Net's clipping, which it lacks.
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
# Fast mode looks at few mirrors of a window, and at one where answers agree by themselves.
RECIPES = {"built-in": SegmentationTraining(mirror_symmetric=True), "membrain-seg": MEMBRAIN_SEG}
# Epochs of a training on data of one's own, where they are not given.
EPOCHS = {"built-in": 300, "membrain-seg": 1000}
FINE_TUNING_EPOCHS = 100


def fine_tuning(
    recipe: SegmentationTraining, architecture: UNetArchitecture, window: int, *, mirror_symmetric: bool = False
) -> SegmentationTraining:
    """The recipe for going on from a trained network: small steps, and a stop where it forgets what it knew.

    mirror_symmetric : whether the trained network is, and so stays.
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
        mirror_loss=0.0,  # it takes twice the time
        heads=(1.0,),  # heads of a trained network begin with random weights, too far from 1e-5 to ever catch up
    )
