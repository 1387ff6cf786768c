"""Training a picker: what it shall predict at each vertex, and the loop that teaches it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.mesh.spectral.operators import surface_operators
from membrain_cloud.networks.picking.diffusion_net import (
    SHORTEST_TIME,
    Architecture,
    Diffusion,
    DiffusionNet,
    SurfaceTensors,
)
from membrain_cloud.networks.picking.picker import AnyPicker, Picker, normalise_profiles, surface_tensors
from membrain_cloud.picking.mesh_patches import cut_into_patches
from membrain_cloud.training.picking.epoch_loop import Anchor, EpochPlan, run_epochs
from membrain_cloud.training.picking.examples import PickingExample, content_digest
from membrain_cloud.training.picking.profile_augmentation import augment_profiles, averaging_matrix
from membrain_cloud.training.picking.targets import FAR_SCORE, ParticleShape, targets_of_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import scipy.sparse
    from numpy.typing import NDArray

    from membrain_cloud.training.picking.validation import Validation

BASE_SHARE = 0.5
"""Of a base's weights in a picker that begins with them: few membranes teach their own noise too, and what the base
knows of other particles would be lost (weight interpolation, Wortsman et al., CVPR 2022)."""


@dataclass(frozen=True)
class PickerTraining:
    """Everything that decides a training.

    offsets_angstrom : where the profiles were sampled.  window : of these samples the network takes, at a random start.
    eigenpairs, partition_vertices, length_unit_angstrom, score_unit_angstrom, spline_order : as the picker will use.
    width, hidden, blocks : sizes of the network.
    classes : a name for each kind of particle; empty for one without.  shapes : as `targets.particle_targets` has
        them, one a class; empty: distances are the same in all directions.
    epochs, learning_rate, accumulate : Adam, x (1 - epoch/epochs)^0.9, a step every `accumulate` patches.
    validate_every : so many epochs the membranes that are kept aside are looked at, where there are some.
    """

    offsets_angstrom: tuple[float, ...]
    window: int
    eigenpairs: int
    partition_vertices: int
    length_unit_angstrom: float
    score_unit_angstrom: float
    spline_order: int
    width: int
    hidden: int
    blocks: int
    epochs: int
    learning_rate: float
    accumulate: int
    seed: int
    validate_every: int = 1
    classes: tuple[str, ...] = ()
    shapes: tuple[ParticleShape, ...] = ()

    @property
    def outputs(self) -> int:
        return max(1, len(self.classes))

    @property
    def architecture(self) -> Architecture:
        return Architecture(
            channels=self.window,
            width=self.width,
            outputs=self.outputs,
            blocks=self.blocks,
            hidden=self.hidden,
            profile_blocks=1,
        )


@dataclass(frozen=True, eq=False)
class TrainingPatch:
    """A patch ready for the network: normalised profiles (n, C), targets (n, K), weights (n,), operators as tensors.

    surface : eigenvectors and their slopes in float16: all patches of a training are held at once.
    """

    vertices: NDArray[np.float64]
    profiles: NDArray[np.float32]
    targets: torch.Tensor
    weights: torch.Tensor
    surface: SurfaceTensors
    averaging: scipy.sparse.csr_matrix


def training_patches(examples: Sequence[PickingExample], settings: PickerTraining) -> list[TrainingPatch]:
    """Cut the examples' meshes into patches as prediction will, and compute their operators once."""
    patches = []
    for example in examples:
        normals = example.mesh.vertex_normals()
        targets = targets_of_classes(
            example.mesh.vertices,
            normals,
            example.of_classes(settings.outputs),
            score_unit_angstrom=settings.score_unit_angstrom,
            shapes=settings.shapes,
        )
        for patch in cut_into_patches(example.mesh, partition_vertices=settings.partition_vertices):
            vertices = example.mesh.vertices[patch.vertices]
            operators = surface_operators(
                vertices,
                patch.faces,
                normals[patch.vertices],
                eigenpairs=settings.eigenpairs,
                length_unit_angstrom=settings.length_unit_angstrom,
            )
            patches.append(
                TrainingPatch(
                    vertices=vertices,
                    profiles=normalise_profiles(example.profiles[patch.vertices]),
                    targets=torch.from_numpy(targets[patch.vertices]),
                    weights=torch.from_numpy(patch.weights.astype(np.float32)),
                    surface=_halved(surface_tensors(operators, mirrored=False, device=torch.device("cpu"))),
                    averaging=averaging_matrix(patch.faces, len(vertices)),
                )
            )
    return patches


def train_picker(
    examples: Sequence[PickingExample],
    *,
    settings: PickerTraining,
    checkpoint: Path | None,
    progress: Callable[[int, float], None],
    validation: Validation | None = None,
    base: Picker | None = None,
    base_share: float | None = None,
) -> Picker:
    """Train a DiffusionNet on membranes with known particles.

    Loss: sum((w (p - t))^2) / sum(w) over a patch's vertices (MemBrain-pick's).
    checkpoint, progress : as `epochs.run_epochs`. Going on gives the same weights as training without a pause.
    validation : membranes to choose the best epoch by; None: the last is taken.
    base : a picker to begin with, of the same sampling (see `fits`), which stays as it is; its sizes go before those of
        the settings. With a validation its own weights count as epoch 0, so that what is returned validates no worse.
    base_share : of its weights in what is validated and returned, beside the trained ones; None: `BASE_SHARE`.

    Raises InputError without any patch or particle, UsageError where the checkpoint is of other settings or the base
    does not fit.
    """
    base, share = fitting(base, settings), BASE_SHARE if base_share is None else base_share
    patches = training_patches(examples, settings)
    if not any(float(patch.targets.min()) < FAR_SCORE for patch in patches):
        raise InputError("no particle lies on any of the meshes", "give examples with particles on their membranes")
    torch.manual_seed(settings.seed)
    network = DiffusionNet(settings.architecture if base is None else base.network.architecture)
    if base is None:
        _start_well(network)
    else:
        network.load_state_dict(base.network.state_dict())
    plan = EpochPlan(
        settings.epochs,
        settings.learning_rate,
        settings.validate_every,
        settings_digest=_settings_digest(settings, base, share),
        data_digest=content_digest(examples) + ("" if validation is None else validation.digest()),
        checkpoint=checkpoint,
    )
    state = run_epochs(
        network,
        plan,
        train_epoch=lambda optimiser, epoch: _train_epoch(
            network, optimiser, patches, settings, np.random.default_rng((settings.seed, epoch))
        ),
        validate=None if validation is None else lambda: validation.scores(_made(network, settings), settings.shapes),
        progress=progress,
        validate_first=base is not None,
        anchor=None if base is None else Anchor(base.network.state_dict(), share),
    )
    notes: dict[str, Any] = {} if validation is None else {"best_epoch": state.best_at}
    return replace(_made(network, settings), notes=notes)


def fitting(base: AnyPicker | None, settings: PickerTraining) -> Picker | None:
    """The base, if a training with these settings can begin with it. UsageError otherwise."""
    if base is not None and not isinstance(base, Picker):
        raise UsageError(f"the picker {base.name} is of another kind of network", "give a picker of profiles")
    if base is not None and not fits(base, settings):
        raise UsageError(
            f"the picker {base.name} samples or is built otherwise than this training wants it",
            "train without a base, or with one that this command made",
        )
    return base


def fits(base: Picker, settings: PickerTraining) -> bool:
    """Whether a picker can be trained on with these settings; how wide and deep it is does not matter."""
    own = base.network.architecture
    return (
        (own.channels, own.outputs) == (settings.window, settings.outputs)
        and np.array_equal(base.offsets_angstrom, settings.offsets_angstrom)
        and (base.eigenpairs, base.length_unit_angstrom, base.score_unit_angstrom, base.inward_normals)
        == (settings.eigenpairs, settings.length_unit_angstrom, settings.score_unit_angstrom, False)
    )


def _made(network: DiffusionNet, settings: PickerTraining) -> Picker:
    return Picker(
        network=network,
        offsets_angstrom=np.array(settings.offsets_angstrom),
        spline_order=settings.spline_order,
        window_starts=tuple(range(len(settings.offsets_angstrom) - settings.window + 1)),
        eigenpairs=settings.eigenpairs,
        partition_vertices=settings.partition_vertices,
        length_unit_angstrom=settings.length_unit_angstrom,
        score_unit_angstrom=settings.score_unit_angstrom,
        inward_normals=False,
        classes=settings.classes,
    )


def _train_epoch(
    network: DiffusionNet,
    optimiser: torch.optim.Optimizer,
    patches: Sequence[TrainingPatch],
    settings: PickerTraining,
    rng: np.random.Generator,
) -> float:
    spare = len(settings.offsets_angstrom) - settings.window
    step_angstrom = abs(settings.offsets_angstrom[1] - settings.offsets_angstrom[0])
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    for count, index in enumerate(rng.permutation(len(patches)), start=1):
        patch = patches[index]
        x = augment_profiles(patch.profiles, patch.vertices, patch.averaging, rng, step_angstrom=step_angstrom)
        start = int(rng.integers(spare + 1))
        surface = _whole(patch.surface, mirrored=rng.random() < 0.5)  # a mirrored membrane is a membrane too
        predicted = network(torch.from_numpy(x[:, start : start + settings.window].copy()), surface)
        loss = ((patch.weights[:, None] * (predicted - patch.targets)) ** 2).sum() / patch.weights.sum()
        (loss / settings.accumulate).backward()
        total += float(loss.detach())
        if count % settings.accumulate == 0 or count == len(patches):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            _hold_diffusion_times(network)
    return total / len(patches)


def _halved(surface: SurfaceTensors) -> SurfaceTensors:
    return surface._replace(
        eigenvectors=surface.eigenvectors.half(), slopes_x=surface.slopes_x.half(), slopes_y=surface.slopes_y.half()
    )


def _whole(surface: SurfaceTensors, *, mirrored: bool) -> SurfaceTensors:
    slopes_y = surface.slopes_y.float()
    return surface._replace(
        eigenvectors=surface.eigenvectors.float(),
        slopes_x=surface.slopes_x.float(),
        slopes_y=-slopes_y if mirrored else slopes_y,
    )


def _start_well(network: DiffusionNet) -> None:
    """Start with "far" everywhere and with channels of different reaches, 0 to about 100 Å: this saves epochs."""
    with torch.no_grad():
        network.last_lin.bias.fill_(0.9 * FAR_SCORE)
        for module in network.modules():
            if isinstance(module, Diffusion):
                count = len(module.diffusion_time)
                module.diffusion_time.copy_(0.02 * torch.linspace(0.0, 1.0, count) ** 2 + SHORTEST_TIME)


def _hold_diffusion_times(network: DiffusionNet) -> None:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Diffusion):
                module.diffusion_time.clamp_(min=SHORTEST_TIME)


def _settings_digest(settings: PickerTraining, base: Picker | None, share: float) -> str:
    found = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    if base is not None:
        found.update(f"base {share}".encode())
        for name, value in sorted(base.network.state_dict().items()):
            found.update(name.encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()
