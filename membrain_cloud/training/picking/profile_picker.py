"""Training of a DiffusionNet that predicts particles from density profiles along a membrane's normals."""

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
from membrain_cloud.picking.vertex_scores import FAR_SCORE
from membrain_cloud.training.picking.epoch_loop import Anchor, EpochPlan, run_epochs
from membrain_cloud.training.picking.examples import PickingExample, content_digest
from membrain_cloud.training.picking.profile_augmentation import augment_profiles, averaging_matrix
from membrain_cloud.training.picking.targets import ParticleShape, class_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import scipy.sparse
    from numpy.typing import NDArray

    from membrain_cloud.training.picking.validation import Validation

BASE_SHARE = 0.5
"""Share of the base's weights in a fine-tuned picker.

Training on few membranes also learns their noise, and forgets what the base knows of other particles; interpolating the
weights reduces both (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""


@dataclass(frozen=True)
class PickerTraining:
    """Settings of a training. All of them affect its result.

    Attributes
    ----------
    offsets_angstrom : tuple of float
        Where the profiles are sampled along the outward normals, in Å.
    window : int
        Number of consecutive samples that the network takes, from a random start.
    eigenpairs : int
        Eigenpairs of the Laplacian of a mesh patch.
    partition_vertices : int
        Vertices of a mesh patch, about.
    length_unit_angstrom : float
        Unit of length of the network's geometry, in Å.
    score_unit_angstrom : float
        Unit of the predicted distances, in Å.
    spline_order : int
        Order of the spline that interpolates the density.
    width, hidden, blocks : int
        Channels of the network, width of its hidden layers, and number of its blocks.
    epochs : int
        Passes over all patches.
    learning_rate : float
        Initial learning rate of Adam; epoch e has this times (1 - e / epochs)^0.9.
    accumulate : int
        Patches in a step of the optimiser.
    seed : int
        Seed of all random numbers.
    validate_every : int
        Epochs between validations, if there are membranes to validate with.
    classes : tuple of str
        Names of the classes of particles. Default: a single class without a name.
    shapes : tuple of tuple of float
        Half axes of each class, in Å (`targets.particle_targets`). Default: Euclidean distances.
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
        """Return the number of classes."""
        return max(1, len(self.classes))

    @property
    def architecture(self) -> Architecture:
        """Return the architecture of the network."""
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
    """A patch of a mesh with n vertices, ready for the network.

    Attributes
    ----------
    vertices : ndarray of shape (n, 3), float64
        Positions (x, y, z), in Å.
    profiles : ndarray of shape (n, C), float32
        Normalised density profiles.
    targets : Tensor of shape (n, K), float32
        Targets of K classes.
    weights : Tensor of shape (n,), float32
        Weight of each vertex in the loss.
    surface : SurfaceTensors
        Operators; eigenvectors and their slopes in float16, because all patches of a training are in memory.
    averaging : scipy.sparse.csr_matrix of shape (n, n), float32
        Mean over a vertex and its neighbours.
    """

    vertices: NDArray[np.float64]
    profiles: NDArray[np.float32]
    targets: torch.Tensor
    weights: torch.Tensor
    surface: SurfaceTensors
    averaging: scipy.sparse.csr_matrix


def training_patches(examples: Sequence[PickingExample], settings: PickerTraining) -> list[TrainingPatch]:
    """Cut the meshes of examples into patches, as prediction does, and compute the patches' operators.

    Parameters
    ----------
    examples : sequence of PickingExample
        Membranes with their particles.
    settings : PickerTraining
        Size of the patches, eigenpairs, units, classes and shapes.

    Returns
    -------
    patches : list of TrainingPatch
        The patches of all membranes, in order.
    """
    patches = []
    for example in examples:
        normals = example.mesh.vertex_normals()
        targets = class_targets(
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
                    surface=_to_half_precision(surface_tensors(operators, mirrored=False, device=torch.device("cpu"))),
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

    The loss of a patch is sum((w (p - t))^2) / sum(w) over its vertices, as in MemBrain-pick.

    Parameters
    ----------
    examples : sequence of PickingExample
        Membranes to train on.
    settings : PickerTraining
        Settings of the training.
    checkpoint : Path or None
        File of the training's state. A second call with the same arguments continues from there, and ends with the same
        weights as an uninterrupted training. None: no state is kept.
    progress : callable
        Called after each epoch with the number of epochs done and the mean loss.
    validation : Validation or None
        Membranes that choose the best epoch. Default None: the last epoch is taken.
    base : Picker or None
        Picker whose weights training starts from; it is not changed. It must sample densities in the same way
        (`is_compatible`); its network's size replaces that of the settings. With a validation its own weights take part
        as epoch 0, so that the result validates no worse. Default: random weights.
    base_share : float or None
        Share of the base's weights in what is validated and returned, 0 to 1. Default: `BASE_SHARE`.

    Returns
    -------
    picker : Picker
        The trained picker; its notes hold `best_epoch` if there was a validation.

    Raises
    ------
    InputError
        If no particle lies on any of the meshes.
    UsageError
        If the checkpoint belongs to other settings, or the base is incompatible.
    """
    base, share = require_compatible(base, settings), BASE_SHARE if base_share is None else base_share
    patches = training_patches(examples, settings)
    if not any(float(patch.targets.min()) < FAR_SCORE for patch in patches):
        raise InputError("no particle lies on any of the meshes", "give examples with particles on their membranes")
    torch.manual_seed(settings.seed)
    network = DiffusionNet(settings.architecture if base is None else base.network.architecture)
    if base is None:
        _initialise(network)
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
        validate=None if validation is None else lambda: validation.scores(_picker(network, settings), settings.shapes),
        progress=progress,
        validate_first=base is not None,
        anchor=None if base is None else Anchor(base.network.state_dict(), share),
    )
    notes: dict[str, Any] = {} if validation is None else {"best_epoch": state.best_at}
    return replace(_picker(network, settings), notes=notes)


def require_compatible(base: AnyPicker | None, settings: PickerTraining) -> Picker | None:
    """Return `base` if a training with these settings can start from its weights.

    Parameters
    ----------
    base : Picker, SubvolumePicker or None
        The picker. None is returned unchanged.
    settings : PickerTraining
        Settings of the training.

    Returns
    -------
    base : Picker or None
        The picker.

    Raises
    ------
    UsageError
        If it is of another kind or samples densities in another way.
    """
    if base is not None and not isinstance(base, Picker):
        raise UsageError(f"the picker {base.name} is of another kind of network", "give a picker of profiles")
    if base is not None and not is_compatible(base, settings):
        raise UsageError(
            f"the picker {base.name} samples or is built otherwise than this training needs it",
            "train without a base, or with one that this command made",
        )
    return base


def is_compatible(base: Picker, settings: PickerTraining) -> bool:
    """Return whether a training with these settings can start from a picker's weights.

    Parameters
    ----------
    base : Picker
        The picker. Width and depth of its network do not matter.
    settings : PickerTraining
        Settings of the training.

    Returns
    -------
    compatible : bool
        Whether sampling, window, classes, eigenpairs and units agree.
    """
    architecture = base.network.architecture
    return (
        (architecture.channels, architecture.outputs) == (settings.window, settings.outputs)
        and np.array_equal(base.offsets_angstrom, settings.offsets_angstrom)
        and (base.eigenpairs, base.length_unit_angstrom, base.score_unit_angstrom, base.inward_normals)
        == (settings.eigenpairs, settings.length_unit_angstrom, settings.score_unit_angstrom, False)
    )


def _picker(network: DiffusionNet, settings: PickerTraining) -> Picker:
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
    """Train on every patch once, in random order, and return the mean loss."""
    spare = len(settings.offsets_angstrom) - settings.window
    step_angstrom = abs(settings.offsets_angstrom[1] - settings.offsets_angstrom[0])
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    for count, index in enumerate(rng.permutation(len(patches)), start=1):
        patch = patches[index]
        x = augment_profiles(patch.profiles, patch.vertices, patch.averaging, rng, step_angstrom=step_angstrom)
        start = int(rng.integers(spare + 1))
        surface = _to_single_precision(patch.surface, mirrored=rng.random() < 0.5)
        predicted = network(torch.from_numpy(x[:, start : start + settings.window].copy()), surface)
        loss = ((patch.weights[:, None] * (predicted - patch.targets)) ** 2).sum() / patch.weights.sum()
        torch.autograd.backward(loss / settings.accumulate)
        total += float(loss.detach())
        if count % settings.accumulate == 0 or count == len(patches):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            _clamp_diffusion_times(network)
    return total / len(patches)


def _to_half_precision(surface: SurfaceTensors) -> SurfaceTensors:
    return surface._replace(
        eigenvectors=surface.eigenvectors.half(), slopes_x=surface.slopes_x.half(), slopes_y=surface.slopes_y.half()
    )


def _to_single_precision(surface: SurfaceTensors, *, mirrored: bool) -> SurfaceTensors:
    """Return the operators in float32; those of the mirror image of the membrane if `mirrored`."""
    slopes_y = surface.slopes_y.float()
    return surface._replace(
        eigenvectors=surface.eigenvectors.float(),
        slopes_x=surface.slopes_x.float(),
        slopes_y=-slopes_y if mirrored else slopes_y,
    )


def _initialise(network: DiffusionNet) -> None:
    """Predict "far" everywhere at first, and diffuse channels over 0 to about 100 Å: this saves epochs."""
    with torch.no_grad():
        network.last_lin.bias.fill_(0.9 * FAR_SCORE)
        for module in network.modules():
            if isinstance(module, Diffusion):
                count = len(module.diffusion_time)
                module.diffusion_time.copy_(0.02 * torch.linspace(0.0, 1.0, count) ** 2 + SHORTEST_TIME)


def _clamp_diffusion_times(network: DiffusionNet) -> None:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Diffusion):
                module.diffusion_time.clamp_(min=SHORTEST_TIME)


def _settings_digest(settings: PickerTraining, base: Picker | None, share: float) -> str:
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    if base is not None:
        digest.update(f"base {share}".encode())
        for name, value in sorted(base.network.state_dict().items()):
            digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
