"""Training a picker: what it shall predict at each vertex, and the loop that teaches it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.membranes.operators import surface_operators
from membrain_cloud.membranes.partitions import cut_into_patches
from membrain_cloud.networks.diffusion_net import SHORTEST_TIME, Architecture, Diffusion, DiffusionNet, SurfaceTensors
from membrain_cloud.networks.picker import Picker, normalise_profiles, surface_tensors
from membrain_cloud.training.profile_augmentation import augment_profiles, averaging_matrix

FAR_SCORE = 10.0
WRONG_SIDE_SCORE = 10.05


@dataclass(frozen=True, eq=False)
class PickingExample:
    """One membrane with its truth: mesh, profiles (V, C) along its outward normals, the particles on it."""

    mesh: Mesh
    profiles: NDArray[np.float32]
    particles: Picks


@dataclass(frozen=True)
class PickerTraining:
    """Everything that decides a training.

    offsets_angstrom : where the profiles were sampled.  window : of these samples the network takes, at a random start.
    eigenpairs, partition_vertices, length_unit_angstrom, score_unit_angstrom, spline_order : as the picker will use.
    width, hidden, blocks : sizes of the network.
    epochs, learning_rate, accumulate : Adam, x (1 - epoch/epochs)^0.9, a step every `accumulate` patches.
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

    @property
    def architecture(self) -> Architecture:
        return Architecture(
            channels=self.window,
            width=self.width,
            outputs=1,
            blocks=self.blocks,
            hidden=self.hidden,
            profile_blocks=1,
        )


@dataclass(frozen=True, eq=False)
class TrainingPatch:
    """A patch ready for the network: normalised profiles (n, C), targets and weights (n,), operators as tensors."""

    vertices: NDArray[np.float64]
    profiles: NDArray[np.float32]
    targets: torch.Tensor
    weights: torch.Tensor
    surface: SurfaceTensors
    averaging: scipy.sparse.csr_matrix


def particle_targets(mesh: Mesh, particles: Picks, *, score_unit_angstrom: float) -> NDArray[np.float32]:
    """(V,) distance of each vertex to the nearest particle on its side, in `score_unit_angstrom`, clipped at 10.

    A particle is on the side its z axis points to (without orientations: on that of the vertex nearest to it). Its
    place is taken at the height of the surface, so that the target is 0 at the particle although its centre lies in
    the membrane. Vertices that only have particles on the other side get 10.05 (MemBrain-pick's target).
    """
    normals = mesh.vertex_normals()
    targets = np.full(len(mesh.vertices), FAR_SCORE, np.float64)
    if not len(particles) or not len(mesh.vertices):
        return targets.astype(np.float32)
    reach = FAR_SCORE * score_unit_angstrom
    tree = cKDTree(mesh.vertices)
    nearest = tree.query(particles.positions)[1]
    axes = normals[nearest] if particles.orientations is None else particles.orientations[:, :, 2]
    places = np.array([_at_surface(mesh, normals, tree, p, z) for p, z in zip(particles.positions, axes, strict=True)])

    pairs = tree.sparse_distance_matrix(cKDTree(places), reach, output_type="ndarray")
    vertex, distance = pairs["i"], pairs["v"] / score_unit_angstrom
    same_side = (normals[vertex] * axes[pairs["j"]]).sum(axis=1) > 0
    targets[vertex] = WRONG_SIDE_SCORE
    targets[vertex[same_side]] = FAR_SCORE
    np.minimum.at(targets, vertex[same_side], distance[same_side])
    return targets.astype(np.float32)


def _at_surface(
    mesh: Mesh,
    normals: NDArray[np.float64],
    tree: cKDTree,
    position: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The point above `position` along `axis` at the height of the nearest vertex that faces the same way."""
    near = np.array(tree.query_ball_point(position, 80.0), np.int64)
    facing = near[normals[near] @ axis > 0.3] if len(near) else near
    if not len(facing):
        return position
    relative = mesh.vertices[facing] - position
    height = relative @ axis
    aside = (relative**2).sum(axis=1) - height**2
    # The leaflet on the particle's side is the nearest in the plane, of those at or above the centre.
    cost = aside + np.where(height < -10.0, 1e6, 0.0)
    return position + axis * height[np.argmin(cost)]


def training_patches(examples: Sequence[PickingExample], settings: PickerTraining) -> list[TrainingPatch]:
    """Cut the examples' meshes into patches as prediction will, and compute their operators once."""
    patches = []
    for example in examples:
        normals = example.mesh.vertex_normals()
        targets = particle_targets(example.mesh, example.particles, score_unit_angstrom=settings.score_unit_angstrom)
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
                    surface=surface_tensors(operators, mirrored=False, device=torch.device("cpu")),
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
) -> Picker:
    """Train a DiffusionNet on membranes with known particles.

    Loss: sum(w (p - t)^2) / sum(w) over a patch's vertices (MemBrain-pick's).
    checkpoint : a file to write after each epoch and to go on from where it exists; None: none. Going on gives the
        same weights as training without a pause.
    progress : called with (epochs done, mean loss) after each epoch.

    Raises InputError without any patch or particle, UsageError where the checkpoint is another training's.
    """
    patches = training_patches(examples, settings)
    if not any(float(patch.targets.min()) < FAR_SCORE for patch in patches):
        raise InputError("no particle lies on any of the meshes", "give examples with particles on their membranes")
    torch.manual_seed(settings.seed)
    network = DiffusionNet(settings.architecture)
    _start_well(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    digest = _digest(patches, settings)
    done = _resume(checkpoint, digest, network, optimiser)
    for epoch in range(done, settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1.0 - epoch / settings.epochs) ** 0.9
        loss = _train_epoch(network, optimiser, patches, settings, np.random.default_rng((settings.seed, epoch)))
        if checkpoint is not None:
            _save(checkpoint, digest, epoch + 1, network, optimiser)
        progress(epoch + 1, loss)
    network.eval().requires_grad_(False)
    spare = len(settings.offsets_angstrom) - settings.window
    return Picker(
        network=network,
        offsets_angstrom=np.array(settings.offsets_angstrom),
        spline_order=settings.spline_order,
        window_starts=tuple(range(spare + 1)),
        eigenpairs=settings.eigenpairs,
        partition_vertices=settings.partition_vertices,
        length_unit_angstrom=settings.length_unit_angstrom,
        score_unit_angstrom=settings.score_unit_angstrom,
        inward_normals=False,
    )


def _train_epoch(
    network: DiffusionNet,
    optimiser: torch.optim.Optimizer,
    patches: Sequence[TrainingPatch],
    settings: PickerTraining,
    rng: np.random.Generator,
) -> float:
    network.train()
    spare = len(settings.offsets_angstrom) - settings.window
    step_angstrom = abs(settings.offsets_angstrom[1] - settings.offsets_angstrom[0])
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    for count, index in enumerate(rng.permutation(len(patches)), start=1):
        patch = patches[index]
        x = augment_profiles(patch.profiles, patch.vertices, patch.averaging, rng, step_angstrom=step_angstrom)
        start = int(rng.integers(spare + 1))
        surface = patch.surface
        if rng.random() < 0.5:  # a mirrored membrane is a membrane too
            surface = surface._replace(slopes_y=-surface.slopes_y)
        predicted = network(torch.from_numpy(x[:, start : start + settings.window].copy()), surface)[:, 0]
        loss = (patch.weights * (predicted - patch.targets) ** 2).sum() / patch.weights.sum()
        (loss / settings.accumulate).backward()
        total += float(loss.detach())
        if count % settings.accumulate == 0 or count == len(patches):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            _hold_diffusion_times(network)
    return total / len(patches)


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


def _digest(patches: Sequence[TrainingPatch], settings: PickerTraining) -> str:
    found = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for patch in patches:
        found.update(patch.profiles.tobytes())
        found.update(patch.targets.numpy().tobytes())
    return found.hexdigest()


def _save(checkpoint: Path, digest: str, epochs: int, network: DiffusionNet, optimiser: torch.optim.Optimizer) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")
    state = {"digest": digest, "epochs": epochs, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)


def _resume(checkpoint: Path | None, digest: str, network: DiffusionNet, optimiser: torch.optim.Optimizer) -> int:
    """Load an earlier state where there is one; returns the number of epochs done."""
    if checkpoint is None or not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["digest"] != digest:
        raise UsageError(
            f"{checkpoint} belongs to a training with other settings or data",
            "remove it to start anew, or give the settings it was made with",
        )
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epochs"])
