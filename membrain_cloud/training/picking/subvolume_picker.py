"""Training of MemBrain v1's network on boxes of density around the vertices of a few membranes."""

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
from membrain_cloud.picking.vertex_scores import FAR_SCORE, scale_of_boxes
from membrain_cloud.training.picking.epoch_loop import EpochPlan, run_epochs
from membrain_cloud.training.picking.examples import SubvolumeExample, content_digest
from membrain_cloud.training.picking.targets import ParticleShape, class_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.training.picking.validation import Validation


@dataclass(frozen=True)
class SubvolumeTraining:
    """Settings of a training. All of them affect its result.

    Attributes
    ----------
    spacing_angstrom : float
        Voxel spacing of the boxes, in Å.
    score_unit_angstrom : float
        Unit of the predicted distances, in Å.
    epochs, steps : int
        Number of epochs, and optimiser steps in an epoch.
    samples : int
        Boxes in a step; half of them are near particles.
    learning_rate : float
        Initial learning rate of Adam; epoch e has this times (1 - e / epochs)^0.9.
    seed : int
        Seed of all random numbers.
    validate_every : int
        Epochs between validations, if there are membranes to validate with.
    classes : tuple of str
        Names of the classes of particles. Default: a single class without a name.
    shapes : tuple of tuple of float
        Half axes of each class, in Å (`targets.particle_targets`). Default: Euclidean distances.
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
        """Return the number of classes."""
        return max(1, len(self.classes))


@dataclass(frozen=True, eq=False)
class _Samples:
    """Normalised boxes (N, e, e, e) float32, their targets (N, K) float32, and the indices of those near particles."""

    boxes: NDArray[np.float32]
    targets: NDArray[np.float32]
    near: NDArray[np.int64]


def train_subvolume_picker(
    examples: Sequence[SubvolumeExample],
    *,
    settings: SubvolumeTraining,
    checkpoint: Path | None,
    progress: Callable[[int, float], None],
    validation: Validation | None = None,
) -> SubvolumePicker:
    """Train a SubvolumeNet on membranes with known particles; the loss is the mean squared error of the distances.

    Parameters
    ----------
    examples : sequence of SubvolumeExample
        Membranes to train on.
    settings : SubvolumeTraining
        Settings of the training.
    checkpoint : Path or None
        File of the training's state. A second call with the same arguments continues from there, and ends with the same
        weights as an uninterrupted training. None: no state is kept.
    progress : callable
        Called after each epoch with the number of epochs done and the mean loss.
    validation : Validation or None
        Membranes that choose the best epoch; its examples need their meshes. Default None: the last epoch is taken.

    Returns
    -------
    picker : SubvolumePicker
        The trained picker; its notes hold `best_epoch` if there was a validation.

    Raises
    ------
    InputError
        If no particle lies near a membrane.
    UsageError
        If the checkpoint belongs to other settings.
    """
    samples = _collect_samples(examples, settings)
    if not len(samples.near):
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
            network, optimiser, samples, settings, np.random.default_rng((settings.seed, epoch))
        ),
        validate=None if validation is None else lambda: validation.scores(_picker(network, settings), settings.shapes),
        progress=progress,
    )
    notes: dict[str, Any] = {} if validation is None else {"best_epoch": state.best_at}
    return replace(_picker(network, settings), notes=notes)


def _picker(network: SubvolumeNet, settings: SubvolumeTraining) -> SubvolumePicker:
    return SubvolumePicker(
        network, EDGE, settings.spacing_angstrom, settings.score_unit_angstrom, classes=settings.classes
    )


def _collect_samples(examples: Sequence[SubvolumeExample], settings: SubvolumeTraining) -> _Samples:
    """Collect the boxes of all membranes, each membrane's scaled by its own mean and deviation, and their targets."""
    boxes, targets = [np.zeros((0, EDGE, EDGE, EDGE), np.float32)], [np.zeros((0, settings.outputs), np.float32)]
    for example in examples:
        mean, deviation = scale_of_boxes(example.boxes)
        boxes.append((example.boxes - np.float32(mean)) / np.float32(deviation))
        targets.append(
            class_targets(
                example.vertices,
                example.normals,
                example.particles,
                score_unit_angstrom=settings.score_unit_angstrom,
                shapes=settings.shapes,
            )
        )
    pooled = np.concatenate(targets)
    near = np.flatnonzero((pooled < FAR_SCORE).any(axis=1))
    return _Samples(np.concatenate(boxes).astype(np.float32), pooled, near)


def _train_epoch(
    network: SubvolumeNet,
    optimiser: torch.optim.Optimizer,
    samples: _Samples,
    settings: SubvolumeTraining,
    rng: np.random.Generator,
) -> float:
    """Take the steps of one epoch, and return the mean loss."""
    half, total = settings.samples // 2, 0.0
    for _ in range(settings.steps):
        indices = rng.integers(len(samples.boxes), size=settings.samples)
        indices[:half] = samples.near[rng.integers(len(samples.near), size=half)]
        x: NDArray[np.floating[Any]] = np.stack([_rotate_randomly(samples.boxes[index], rng) for index in indices])
        x = x * rng.uniform(0.7, 1.3) + rng.uniform(-0.2, 0.2)
        x = x + rng.uniform(0.0, 0.4) * rng.standard_normal(x.shape)
        predicted = network(torch.from_numpy(x.astype(np.float32)[:, None]))
        loss = functional.mse_loss(predicted, torch.from_numpy(samples.targets[indices]))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        total += float(loss.detach())
    return total / settings.steps


def _rotate_randomly(box: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotate a box by quarter turns about the normal, and mirror every other one: eight equivalent views."""
    turned = np.rot90(box, int(rng.integers(4)), axes=(1, 2))
    return turned[:, :, ::-1] if rng.random() < 0.5 else turned
