"""A network in training: weights, their running average, optimiser, and one step of each kind."""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from membrain_cloud.errors import UsageError
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import tie_mirrors
from membrain_cloud.networks.segmentation.architecture.unet import build_unet
from membrain_cloud.networks.segmentation.gpu.forward import fused_is_available
from membrain_cloud.networks.segmentation.window_network import has_matrix_units
from membrain_cloud.training.labels import IGNORE, MEMBRANE
from membrain_cloud.training.segmentation import losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.training.segmentation.config import SegmentationTraining

Batch = tuple[Tensor, Tensor]
# All but the patch as it is, one after the other.
_MIRRORS = [flips for flips in itertools.product((False, True), repeat=3) if any(flips)]


class Trainer:
    """Weights that are trained, and their running average, which is what is validated and shipped."""

    def __init__(
        self,
        settings: SegmentationTraining,
        device: torch.device,
        start: nn.Module | None,
        teacher: nn.Module | None = None,
    ) -> None:
        """Start : a network of the settings' architecture to go on from; None: random weights.

        teacher : a network of any architecture that takes the settings' patches, whose answers are learnt too.
        """
        self.settings, self.device, self.loss = settings, device, settings.loss
        self.network = build_unet(settings.architecture, heads=len(settings.heads) - 1)
        if start is not None:
            self.network.load_state_dict(start.state_dict(), strict=False)
        self.lower = trains_in_bfloat16(device, settings.precision)
        self.layout = _layout(settings, device) if self.lower else torch.channels_last_3d
        self._fuse(self.network)
        if settings.mirror_symmetric:
            tie_mirrors(self.network)
        self.network.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.average = build_unet(settings.architecture).to(device)
        self._follow(0.0)
        self._fuse(self.average)
        self.teacher = None if teacher is None else teacher.eval().to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimiser = _optimiser(self.network, settings)
        self.step = 0
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def _fuse(self, network: nn.Module) -> None:
        if self.lower and fused_is_available(self.device):
            from membrain_cloud.networks.segmentation.gpu.instance_norm_backward import fuse_normalisation

            fuse_normalisation(network)

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])
        torch.set_rng_state(state["random"])

    def train(self, image: Tensor, label: Tensor) -> Tensor:
        """One step of the optimiser; returns the loss, on the device, which may still be at work on it."""
        self.network.train()
        rate = self.settings.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(image, label.to(self.device, non_blocking=True))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        self.step += 1
        self._follow(min(0.998, (self.step + 1) / (self.step + 10)))
        return loss.detach()

    def predict(self, image: Tensor) -> Tensor:
        """(B, 1, w, w, w) -> logits of the averaged weights."""
        self.average.eval()
        with torch.inference_mode(), self._precision():
            logits: Tensor = self.average(self._placed(image))
        return logits.float()

    def validate(self, batches: Sequence[Batch]) -> float:
        """Dice of the averaged weights, pooled over all known voxels of the batches."""
        overlap = total = 0.0
        for image, label in batches:
            label = label.to(self.device)
            found, truth = (self.predict(image) > 0) & (label != IGNORE), label == MEMBRANE
            overlap += float((found & truth).sum())
            total += float(found.sum() + truth.sum())
        return 2 * overlap / max(total, 1.0)

    def _loss(self, image: Tensor, label: Tensor) -> Tensor:
        loss, image, logits = (
            self._mirrored_loss(image, label) if self.settings.mirror_loss else self._plain_loss(image, label)
        )
        if self.teacher is not None and self.step < self.settings.teacher_part * self.settings.steps:
            loss = loss + self.settings.teacher_weight * losses.teacher_loss(logits, self._told(image))
        return loss

    def _told(self, image: Tensor) -> Tensor:
        """The teacher's logits: of one look, or the mean of two."""
        image = image.to(self.device, non_blocking=True)
        told = self._taught(image)
        if self.settings.teacher_looks > 1:
            axes = self._mirrored_axes()
            told = (told + self._taught(image.flip(axes)).flip(axes)) / 2
        return told

    def _taught(self, image: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad(), self._precision():
            told: Tensor = self.teacher(image.contiguous(memory_format=torch.channels_last_3d))
        return told.float()

    def _plain_loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, what the network was shown, and its logits."""
        outputs = self._outputs(image)
        return self.loss(outputs, label), image, outputs[0]

    def _mirrored_loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, of patches and of their mirror images."""
        axes = self._mirrored_axes()
        image, label = (torch.cat([seen, seen.flip(axes)]) for seen in (image, label))
        outputs = self._outputs(image)
        plain, mirrored = outputs[0].chunk(2)
        apart = losses.mirror_loss(plain, mirrored.flip(axes), label.chunk(2)[0])
        return self.loss(outputs, label) + self.settings.mirror_loss * apart, image, outputs[0]

    def _mirrored_axes(self) -> list[int]:
        """Of a batch, flipped in this step's mirror."""
        return [2 + axis for axis in range(3) if _MIRRORS[self.step % len(_MIRRORS)][axis]]

    def _outputs(self, image: Tensor) -> list[Tensor]:
        """Logits at full, half ... resolution. DynUNet's own forward would enlarge the coarser ones instead."""
        with self._precision():
            full = self.network.output_block(self.network.skip_layers(self._placed(image)))  # type: ignore[operator]
            coarser = list(self.network.heads)[: len(self.settings.heads) - 1]  # type: ignore[arg-type]
        return [logits.float() for logits in (full, *coarser)]

    def _placed(self, image: Tensor) -> Tensor:
        return image.to(self.device, non_blocking=True, memory_format=self.layout)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.lower)

    def _follow(self, keep: float) -> None:
        """The average of the weights is steadier than the last step's."""
        names, means = zip(*self.average.named_parameters(), strict=True)
        with torch.no_grad():
            # By the layers' names: where weights are tied, parameters are fewer.
            now = [operator.attrgetter(name)(self.network) for name in names]
            torch._foreach_lerp_(list(means), now, 1 - keep)


def trains_in_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether to train under autocast; "auto": on a GPU, and on a CPU with AMX or AVX-512 BF16, where it saves half."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"training has no precision {precision!r}", "known are auto, float32, bfloat16")
    if precision != "auto":
        return precision == "bfloat16"
    return has_matrix_units(device) or torch.cpu._is_avx512_bf16_supported()


def _layout(settings: SegmentationTraining, device: torch.device) -> torch.memory_format:
    """Of tensors in bfloat16. Channels last is faster, but on CPUs oneDNN then reads memory that nobody has written
    when it takes gradients on maps of 2 voxels: now and then they are no numbers (torch 2.13).
    """
    coarsest = settings.window // settings.architecture.multiple
    return torch.contiguous_format if device.type == "cpu" and coarsest < 4 else torch.channels_last_3d


def _optimiser(network: nn.Module, settings: SegmentationTraining) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), rate, momentum=0.99, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
