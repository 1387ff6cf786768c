"""Training MemBrain v1's network on boxes of density around the vertices of a few membranes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from membrain_cloud.errors import InputError
from membrain_cloud.networks.picking.subvolume_net import EDGE, SubvolumeNet
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker
from membrain_cloud.picking.vertex_scores import scale_of_boxes
from membrain_cloud.training.picking.epoch_loop import EpochPlan, run_epochs
from membrain_cloud.training.picking.examples import SubvolumeExample, content_digest
from membrain_cloud.training.picking.targets import FAR_SCORE, ParticleShape, targets_of_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.training.picking.validation import Validation


@dataclass(frozen=True)
class SubvolumeTraining:
    """Everything that decides a training.

    spacing_angstrom : voxel size of the boxes.  classes : a name for each kind of particle; empty for one without.
    shapes : half axes of each class's particles, for distances that follow them (Mahalanobis); empty: round ones.
    samples : boxes a step; half of them, where there are so many, from places near particles.
    epochs, steps : an epoch is so many optimiser steps.  Adam, learning rate x (1 - epoch/epochs)^0.9.
    validate_every : as of `picker_loop.PickerTraining`.
    """

    spacing_angstrom: float
    score_unit_angstrom: float
    epochs: int
    steps: int
    samples: int
    learning_rate: float
    seed: int
    validate_every: int = 1
    classes: tuple[str, ...] = ()
    shapes: tuple[ParticleShape, ...] = ()

    @property
    def outputs(self) -> int:
        return max(1, len(self.classes))


def train_subvolume_picker(
    examples: Sequence[SubvolumeExample],
    *,
    settings: SubvolumeTraining,
    checkpoint: Path | None,
    progress: Callable[[int, float], None],
    validation: Validation | None = None,
) -> SubvolumePicker:
    """Train a SubvolumeNet on membranes with known particles; the loss is the mean squared error of its distances.

    checkpoint, progress : as `epochs.run_epochs`. Going on gives the same weights as training without a pause.
    validation : membranes to choose the best epoch by, whose examples have their meshes; None: the last is taken.

    Raises InputError without any particle near a membrane, UsageError where the checkpoint is of other settings.
    """
    boxes, targets = _material(examples, settings)
    near = np.flatnonzero((targets < FAR_SCORE).any(axis=1))
    if not len(near):
        raise InputError("no particle lies on any of the meshes", "give examples with particles on their membranes")
    torch.manual_seed(settings.seed)
    network = SubvolumeNet(outputs=settings.outputs)
    with torch.no_grad():
        network.mlp1.bias.fill_(0.9 * FAR_SCORE)
    plan = EpochPlan(
        settings.epochs,
        settings.learning_rate,
        settings.validate_every,
        settings_digest=hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest(),
        data_digest=content_digest(examples) + ("" if validation is None else validation.digest()),
        checkpoint=checkpoint,
    )
    state = run_epochs(
        network,
        plan,
        train_epoch=lambda optimiser, epoch: _train_epoch(
            network, optimiser, boxes, targets, near, settings, np.random.default_rng((settings.seed, epoch))
        ),
        validate=None if validation is None else lambda: validation.scores(_made(network, settings), settings.shapes),
        progress=progress,
    )
    notes: dict[str, Any] = {} if validation is None else {"best_epoch": state.best_at}
    return replace(_made(network, settings), notes=notes)


def _made(network: SubvolumeNet, settings: SubvolumeTraining) -> SubvolumePicker:
    return SubvolumePicker(
        network, EDGE, settings.spacing_angstrom, settings.score_unit_angstrom, classes=settings.classes
    )


def _material(
    examples: Sequence[SubvolumeExample], settings: SubvolumeTraining
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All boxes (N, e, e, e), each membrane's scaled by its own mean and deviation, and their targets (N, K)."""
    boxes, targets = [np.zeros((0, EDGE, EDGE, EDGE), np.float32)], [np.zeros((0, settings.outputs), np.float32)]
    for example in examples:
        mean, deviation = scale_of_boxes(example.boxes)
        boxes.append((example.boxes - np.float32(mean)) / np.float32(deviation))
        targets.append(
            targets_of_classes(
                example.vertices,
                example.normals,
                example.particles,
                score_unit_angstrom=settings.score_unit_angstrom,
                shapes=settings.shapes,
            )
        )
    return np.concatenate(boxes).astype(np.float32), np.concatenate(targets)


def _train_epoch(
    network: SubvolumeNet,
    optimiser: torch.optim.Optimizer,
    boxes: NDArray[np.float32],
    targets: NDArray[np.float32],
    near: NDArray[np.int64],
    settings: SubvolumeTraining,
    rng: np.random.Generator,
) -> float:
    total = 0.0
    for _ in range(settings.steps):
        some = rng.integers(len(boxes), size=settings.samples)
        some[: settings.samples // 2] = near[rng.integers(len(near), size=settings.samples // 2)]
        x: NDArray[np.floating] = np.stack([_turned(boxes[index], rng) for index in some])
        x = x * rng.uniform(0.7, 1.3) + rng.uniform(-0.2, 0.2)
        x = x + rng.uniform(0.0, 0.4) * rng.standard_normal(x.shape)
        predicted = network(torch.from_numpy(x.astype(np.float32)[:, None]))
        loss = functional.mse_loss(predicted, torch.from_numpy(targets[some]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
    return total / settings.steps


def _turned(box: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """One of the eight ways a box can lie on its membrane: quarter turns about the normal, and their mirrors."""
    turned = np.rot90(box, int(rng.integers(4)), axes=(1, 2))
    return turned[:, :, ::-1] if rng.random() < 0.5 else turned
