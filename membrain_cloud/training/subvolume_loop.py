"""Training MemBrain v1's network on boxes of density around the vertices of a few membranes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from membrain_cloud.errors import InputError
from membrain_cloud.geometry import Picks
from membrain_cloud.membranes.scoring import scale_of_boxes
from membrain_cloud.networks.subvolume_net import EDGE, SubvolumeNet
from membrain_cloud.networks.subvolume_picker import SubvolumePicker
from membrain_cloud.training.checkpointing import resume, save
from membrain_cloud.training.targets import FAR_SCORE, ParticleShape, targets_of_classes


@dataclass(frozen=True, eq=False)
class SubvolumeExample:
    """One membrane with its truth: places and outward normals (V, 3) of its vertices, the boxes around them
    (V, e, e, e) as `membranes.sampling.subvolumes_from_volume` cuts them, and the particles of each class."""

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    boxes: NDArray[np.float32]
    particles: tuple[Picks, ...]


@dataclass(frozen=True)
class SubvolumeTraining:
    """Everything that decides a training.

    spacing_angstrom : voxel size of the boxes.  classes : a name for each kind of particle; empty for one without.
    shapes : half axes of each class's particles, for distances that follow them (Mahalanobis); empty: round ones.
    samples : boxes a step; half of them, where there are so many, from places near particles.
    epochs, steps : an epoch is so many optimiser steps.  Adam, learning rate x (1 - epoch/epochs)^0.9.
    """

    spacing_angstrom: float
    score_unit_angstrom: float
    epochs: int
    steps: int
    samples: int
    learning_rate: float
    seed: int
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
) -> SubvolumePicker:
    """Train a SubvolumeNet on membranes with known particles; the loss is the mean squared error of its distances.

    checkpoint : a file to write after each epoch and to go on from where it exists, with the same result; None: none.
    progress : called with (epochs done, mean loss) after each epoch.

    Raises InputError without any particle near a membrane, UsageError where the checkpoint is another training's.
    """
    boxes, targets = _material(examples, settings)
    near = np.flatnonzero((targets < FAR_SCORE).any(axis=1))
    if not len(near):
        raise InputError("no particle lies on any of the meshes", "give examples with particles on their membranes")
    torch.manual_seed(settings.seed)
    network = SubvolumeNet(outputs=settings.outputs)
    with torch.no_grad():
        network.mlp1.bias.fill_(0.9 * FAR_SCORE)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    digest = _digest(boxes, targets, settings)
    for epoch in range(resume(checkpoint, digest, network, optimiser), settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1.0 - epoch / settings.epochs) ** 0.9
        rng = np.random.default_rng((settings.seed, epoch))
        loss = _train_epoch(network, optimiser, boxes, targets, near, settings, rng)
        if checkpoint is not None:
            save(checkpoint, digest, epoch + 1, network, optimiser)
        progress(epoch + 1, loss)
    network.eval().requires_grad_(False)
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
    network.train()
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


def _digest(boxes: NDArray[np.float32], targets: NDArray[np.float32], settings: SubvolumeTraining) -> str:
    found = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    found.update(boxes.tobytes())
    found.update(targets.tobytes())
    return found.hexdigest()
