"""Network, averaged weights and optimiser of a segmentation training, and one step of each kind."""

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
"""Images (B, 1, w, w, w) float32 and labels (B, 1, w, w, w) uint8."""

# All mirror images of a patch, without the patch itself.
_MIRRORS = [flips for flips in itertools.product((False, True), repeat=3) if any(flips)]


class Trainer:
    """Weights in training, and their running average, which is validated and shipped.

    Parameters
    ----------
    settings : SegmentationTraining
        Settings of the training.
    device : torch.device
        Where the network is trained.
    start : nn.Module or None
        Network of the settings' architecture whose weights are fine-tuned. None: random weights.
    teacher : nn.Module or None
        Network of any architecture that takes the settings' patches; its predictions are learnt too. Default: none.

    Attributes
    ----------
    network, average : nn.Module
        The network, and one with the running average of its weights.
    step : int
        Number of optimiser steps done.
    """

    def __init__(
        self,
        settings: SegmentationTraining,
        device: torch.device,
        start: nn.Module | None,
        teacher: nn.Module | None = None,
    ) -> None:
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
        self._update_average(0.0)
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
        """Return weights, averages, optimiser, step and random state."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned. Other entries of `state` are left alone.

        Parameters
        ----------
        state : dict
            Weights, averages, optimiser, step and random state, by name.
        """
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])
        torch.set_rng_state(state["random"])

    def train(self, image: Tensor, label: Tensor) -> Tensor:
        """Take one step of the optimiser.

        Parameters
        ----------
        image : Tensor of shape (B, 1, w, w, w), float32
            Patches.
        label : Tensor of shape (B, 1, w, w, w), uint8
            Their labels: 0 background, 1 membrane, 2 ignore.

        Returns
        -------
        loss : Tensor
            A scalar on the device, which may still be computing it.
        """
        self.network.train()
        rate = self.settings.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(image, label.to(self.device, non_blocking=True))
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        self.step += 1
        self._update_average(min(0.998, (self.step + 1) / (self.step + 10)))
        return loss.detach()

    def predict(self, image: Tensor) -> Tensor:
        """Return the logits of the averaged weights.

        Parameters
        ----------
        image : Tensor of shape (B, 1, w, w, w), float32
            Patches.

        Returns
        -------
        logits : Tensor of shape (B, 1, w, w, w), float32
            On the device.
        """
        self.average.eval()
        with torch.inference_mode(), self._precision():
            logits: Tensor = self.average(self._placed(image))
        return logits.float()

    def validate(self, batches: Sequence[Batch]) -> float:
        """Return the Dice score of the averaged weights, pooled over all voxels that are not ignored.

        Parameters
        ----------
        batches : sequence of Batch
            Images and labels.

        Returns
        -------
        dice : float
            From 0 to 1; 0 if there is no membrane.
        """
        overlap = total = 0.0
        for image, labels in batches:
            target = labels.to(self.device)
            mask, truth = (self.predict(image) > 0) & (target != IGNORE), target == MEMBRANE
            overlap += float((mask & truth).sum())
            total += float(mask.sum() + truth.sum())
        return 2 * overlap / max(total, 1.0)

    def _loss(self, image: Tensor, label: Tensor) -> Tensor:
        loss, image, logits = (
            self._mirrored_loss(image, label) if self.settings.mirror_loss else self._plain_loss(image, label)
        )
        if self.teacher is not None and self.step < self.settings.teacher_part * self.settings.steps:
            loss = loss + self.settings.teacher_weight * losses.teacher_loss(logits, self._teacher_logits(image))
        return loss

    def _teacher_logits(self, image: Tensor) -> Tensor:
        """Return the teacher's logits, averaged over a patch and one mirror image if the settings ask for it."""
        image = image.to(self.device, non_blocking=True)
        logits = self._teacher_forward(image)
        if self.settings.teacher_looks > 1:
            axes = self._mirrored_axes()
            logits = (logits + self._teacher_forward(image.flip(axes)).flip(axes)) / 2
        return logits

    def _teacher_forward(self, image: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad(), self._precision():
            logits: Tensor = self.teacher(image.contiguous(memory_format=torch.channels_last_3d))
        return logits.float()

    def _plain_loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the network's input, and its logits at full resolution."""
        outputs = self._outputs(image)
        return self.loss(outputs, label), image, outputs[0]

    def _mirrored_loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same for patches together with their mirror images, with the mirror loss added."""
        axes = self._mirrored_axes()
        image, label = (torch.cat([values, values.flip(axes)]) for values in (image, label))
        outputs = self._outputs(image)
        plain, mirrored = outputs[0].chunk(2)
        distance = losses.mirror_loss(plain, mirrored.flip(axes), label.chunk(2)[0])
        return self.loss(outputs, label) + self.settings.mirror_loss * distance, image, outputs[0]

    def _mirrored_axes(self) -> list[int]:
        """Return the axes of a batch that are flipped in this step; the seven mirrors take turns."""
        return [2 + axis for axis in range(3) if _MIRRORS[self.step % len(_MIRRORS)][axis]]

    def _outputs(self, image: Tensor) -> list[Tensor]:
        """Return logits at full, half ... resolution. DynUNet's own `forward` would enlarge the coarser ones."""
        with self._precision():
            full = self.network.output_block(self.network.skip_layers(self._placed(image)))  # type: ignore[operator]
            coarser = list(self.network.heads)[: len(self.settings.heads) - 1]  # type: ignore[arg-type]
        return [logits.float() for logits in (full, *coarser)]

    def _placed(self, image: Tensor) -> Tensor:
        return image.to(self.device, non_blocking=True, memory_format=self.layout)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.lower)

    def _update_average(self, keep: float) -> None:
        """Move the running average towards the current weights; `keep` is the share of the old average."""
        names, means = zip(*self.average.named_parameters(), strict=True)
        with torch.no_grad():
            # By the names of the layers: tied weights are fewer parameters.
            current = [operator.attrgetter(name)(self.network) for name in names]
            torch._foreach_lerp_(list(means), current, 1 - keep)


def trains_in_bfloat16(device: torch.device, precision: str) -> bool:
    """Return whether a training runs under autocast to bfloat16.

    Parameters
    ----------
    device : torch.device
        Where the network is trained.
    precision : str
        "float32", "bfloat16", or "auto": bfloat16 on GPUs, and on CPUs with AMX or AVX-512 BF16, where it halves the
        time.

    Returns
    -------
    lower : bool
        True for bfloat16.

    Raises
    ------
    UsageError
        If `precision` is another word.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"training has no precision {precision!r}", "known are auto, float32, bfloat16")
    if precision != "auto":
        return precision == "bfloat16"
    return has_matrix_units(device) or torch.cpu._is_avx512_bf16_supported()


def _layout(settings: SegmentationTraining, device: torch.device) -> torch.memory_format:
    """Return the memory format of tensors in bfloat16.

    Channels last is faster. But for gradients on maps of 2 voxels oneDNN on CPUs then reads uninitialised memory, and
    they are NaN now and then (torch 2.13).
    """
    coarsest = settings.window // settings.architecture.multiple
    return torch.contiguous_format if device.type == "cpu" and coarsest < 4 else torch.channels_last_3d


def _optimiser(network: nn.Module, settings: SegmentationTraining) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), rate, momentum=0.99, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
