"""The training loop of the segmentation network: on simulated patches, resumable to the bit.

Patch number n is a function of the seed and of n alone, and a checkpoint holds weights, averaged weights, optimiser
and step. So a run that is stopped and resumed sees what an uninterrupted one sees.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from membrain_cloud import __version__
from membrain_cloud.networks.checkpoints import save_segmenter
from membrain_cloud.networks.inference import has_matrix_units
from membrain_cloud.networks.unet import UNetArchitecture, build_unet
from membrain_cloud.training.losses import dice_bce_loss
from membrain_cloud.training.patches import draw_patch, load_specimen, make_pool


@dataclass(frozen=True)
class SegmentationTraining:
    """How to train.

    specimens, specimen_edge : the pool of simulated specimens.  window : edge of the patches (voxels).
    steps : optimiser steps; the learning rate warms up, stays, and falls to nothing over the last quarter.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 128)
    window: int = 64
    batch: int = 2
    steps: int = 4500
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    specimens: int = 160
    specimen_edge: int = 112
    validation_specimens: int = 8
    validate_every: int = 500
    seed: int = 1
    threads: int = 2
    workers: int = 1


class _Patches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, paths: list[Path], window: int, seed: int, first: int, count: int) -> None:
        self.paths, self.window, self.seed, self.first, self.count = paths, window, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.first + index))
        patch = draw_patch(load_specimen(self.paths[int(rng.integers(len(self.paths)))]), self.window, rng)
        return torch.from_numpy(patch.image)[None], torch.from_numpy(patch.label)[None]


def _rate(step: int, settings: SegmentationTraining) -> float:
    warm = min(1.0, (step + 1) / 200)
    left = (settings.steps - step) / (0.25 * settings.steps)
    return settings.learning_rate * warm * min(1.0, max(left, 0.0))


def train_segmenter(
    output: Path, work: Path, settings: SegmentationTraining, *, device: str, progress: Callable[[int, str], None]
) -> Path:
    """Train on phantoms and write a model.

    Parameters
    ----------
    output : the safetensors file to write.
    work : folder of the specimen pool, the checkpoint and `log.csv`; a second call goes on from there.
    progress : told (steps done, a line to show).

    Returns
    -------
    output.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    work.mkdir(parents=True, exist_ok=True)
    pool = make_pool(
        work / "pool",
        count=settings.specimens,
        edge=settings.specimen_edge,
        seed=settings.seed,
        processes=settings.threads,
        done=lambda n: progress(0, f"specimens {n}/{settings.specimens}"),
    )
    held_back, training = pool[: settings.validation_specimens], pool[settings.validation_specimens :]
    architecture = UNetArchitecture(settings.channels)
    trainer = _Trainer(architecture, settings, torch.device(device), work)
    trainer.resume()
    validation = list(_loader(held_back, settings, settings.seed + 7919, 0, 24))
    for step, (image, label) in enumerate(
        _loader(training, settings, settings.seed, trainer.step * settings.batch,
                (settings.steps - trainer.step) * settings.batch),
        start=trainer.step,
    ):  # fmt: skip
        loss = trainer.train(image, label, step)
        if (step + 1) % 25 == 0:
            progress(step + 1, f"loss {loss:.3f}")
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            dice = trainer.validate(validation)
            trainer.save(loss, dice)
            progress(step + 1, f"loss {loss:.3f}, validation Dice {dice:.3f}")
    facts = {
        "window": settings.window,
        "voxel_spacing_angstrom": 10.0,
        "trained_on": "simulated specimens of this package, imaged at random",
        "training": asdict(settings),
        "validation_dice": trainer.dice,
        "package_version": __version__,
    }
    save_segmenter(output, trainer.average, architecture, facts)
    return output


def _loader(
    paths: list[Path], settings: SegmentationTraining, seed: int, first: int, count: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    patches = _Patches(paths, settings.window, seed, first, max(count, 0))
    context = "spawn" if settings.workers else None
    return iter(DataLoader(patches, settings.batch, num_workers=settings.workers, multiprocessing_context=context))


class _Trainer:
    """Weights, their running average, optimiser, and the file that holds them."""

    def __init__(
        self, architecture: UNetArchitecture, settings: SegmentationTraining, device: torch.device, work: Path
    ) -> None:
        self.settings, self.device = settings, device
        self.file, self.log = work / "checkpoint.pt", work / "log.csv"
        self.network = build_unet(architecture).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average: nn.Module = build_unet(architecture).to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.lower = has_matrix_units(device)
        self.step, self.dice = 0, 0.0

    def resume(self) -> None:
        if not self.file.exists():
            return
        stored: dict[str, Any] = torch.load(self.file, weights_only=True, map_location=self.device)
        self.network.load_state_dict(stored["network"])
        self.average.load_state_dict(stored["average"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.step, self.dice = int(stored["step"]), float(stored["dice"])

    def save(self, loss: float, dice: float) -> None:
        self.dice = dice
        staging = self.file.with_suffix(".tmp")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "dice": dice,
            },
            staging,
        )
        staging.replace(self.file)
        new = not self.log.exists()
        with self.log.open("a", newline="") as handle:
            writer = csv.writer(handle)
            if new:
                writer.writerow(["step", "loss", "validation_dice"])
            writer.writerow([self.step, f"{loss:.5f}", f"{dice:.5f}"])

    def train(self, image: torch.Tensor, label: torch.Tensor, step: int) -> float:
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = _rate(step, self.settings)
        logits = self._forward(self.network, image)
        loss = dice_bce_loss(logits, label.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.step = step + 1
        self._follow(min(0.998, (self.step + 1) / (self.step + 10)))
        return float(loss.detach())

    def _forward(self, network: nn.Module, image: torch.Tensor) -> torch.Tensor:
        image = image.to(self.device, memory_format=torch.channels_last_3d)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lower):
            return network(image).float()

    def _follow(self, keep: float) -> None:
        """The average of the weights is what is validated and shipped: it is steadier than the last step's."""
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)

    def validate(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Dice of the averaged weights, pooled over all validation patches."""
        self.average.eval()
        overlap = total = 0.0
        with torch.inference_mode():
            for image, label in batches:
                found = self._forward(self.average, image) > 0
                truth = label.to(self.device) == 1
                overlap += float((found & truth).sum())
                total += float(found.sum() + truth.sum())
        return 2 * overlap / max(total, 1.0)
