"""A trained picker: the network and everything a caller must know to feed it. Loads ours and MemBrain-pick's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.model_file import resolve_model
from membrain_cloud.networks.picking.diffusion_net import Architecture, DiffusionNet, SurfaceTensors
from membrain_cloud.networks.picking.subvolume_net import SubvolumeNet
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker, class_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    import scipy.sparse
    from numpy.typing import NDArray

TASK = "picking"
SUBVOLUMES = "subvolumes"
"""How a header names the network of `subvolume_net`."""
_LIGHTNING_PREFIX = "model."


class SurfaceOperators(Protocol):
    """What `Picker.predict` reads of a patch's operators (membranes.operators.Operators has it)."""

    @property
    def mass(self) -> NDArray[np.float32]: ...
    @property
    def eigenvalues(self) -> NDArray[np.float32]: ...
    @property
    def eigenvectors(self) -> NDArray[np.float32]: ...
    @property
    def gradient_x(self) -> scipy.sparse.csr_matrix: ...
    @property
    def gradient_y(self) -> scipy.sparse.csr_matrix: ...


@dataclass(frozen=True, eq=False)
class Picker:
    """A DiffusionNet that predicts, at each vertex, the distance to the nearest particle.

    offsets_angstrom : (C,) where along the *outward* normal the density is to be sampled.
    spline_order : of that sampling.
    window_starts : the network takes `architecture.channels` of the C samples; its outputs for windows that start at
        these samples are averaged. One entry is MemBrain-pick's release, several are its paper.
    eigenpairs, length_unit_angstrom : for the operators of a patch; they must be those of the training.
    partition_vertices : size of the patches it was trained on.
    partitions : how these are cut: "even" as ours, "released" as MemBrain-pick's.
    classes : names of the kinds of particles, one an output; empty where there is one kind and it has no name.
    score_unit_angstrom : a score of 1 is this distance; scores are clipped at 10 in training.
    inward_normals : trained with normals that point into the membrane; `predict` mirrors the tangent planes.
    name, sha256, notes : of the model file; notes say what it was trained on.
    """

    network: DiffusionNet
    offsets_angstrom: NDArray[np.float64]
    spline_order: int
    window_starts: tuple[int, ...]
    eigenpairs: int
    partition_vertices: int
    length_unit_angstrom: float
    score_unit_angstrom: float
    inward_normals: bool
    partitions: str = "even"
    classes: tuple[str, ...] = ()
    name: str = ""
    sha256: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, profiles: NDArray[np.floating], operators: SurfaceOperators) -> NDArray[np.float32]:
        """(V, C) samples of one patch, in any linear scale of density, and its operators -> (V,) scores.

        A score is a distance in `score_unit_angstrom`: about 0 at a particle, 10 far from all. A network of K outputs,
        one a kind of particle, gives (V, K).
        """
        device = next(self.network.parameters()).device
        x = torch.from_numpy(normalise_profiles(profiles)).to(device)
        surface = surface_tensors(operators, mirrored=self.inward_normals, device=device)
        width = self.network.architecture.channels
        with torch.inference_mode():
            outputs = [self.network(x[:, start : start + width], surface) for start in self.window_starts]
            scores = torch.stack(outputs).mean(dim=0).cpu().numpy()
        return scores[:, 0] if scores.shape[1] == 1 else scores

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each output; none where there is one kind of particle that has no name."""
        return class_names(self.classes, self.network.architecture.outputs)

    @property
    def reach_angstrom(self) -> float:
        """How far from a vertex it looks."""
        return float(np.abs(self.offsets_angstrom).max())

    def averaged(self) -> Picker:
        """This picker, its outputs averaged over all positions of its window along the normal, as in the paper."""
        last = len(self.offsets_angstrom) - self.network.architecture.channels
        return replace(self, window_starts=tuple(range(last + 1)))

    def centred(self) -> Picker:
        """This picker with the middle position of its window alone, as MemBrain-pick is released."""
        last = len(self.offsets_angstrom) - self.network.architecture.channels
        return replace(self, window_starts=(last // 2,))


AnyPicker = Picker | SubvolumePicker


def normalise_profiles(profiles: NDArray[np.floating]) -> NDArray[np.float32]:
    """Subtract the mean and divide by the standard deviation of a patch, all samples together."""
    values = np.asarray(profiles, np.float64)
    deviation = values.std()
    return ((values - values.mean()) / (deviation if deviation > 0 else 1.0)).astype(np.float32)


def surface_tensors(operators: SurfaceOperators, *, mirrored: bool, device: torch.device) -> SurfaceTensors:
    """Operators as tensors; `mirrored` flips the tangent planes' y axis, as turning all normals round does."""
    slopes_y = operators.gradient_y @ operators.eigenvectors
    return SurfaceTensors(
        torch.from_numpy(operators.mass).to(device),
        torch.from_numpy(operators.eigenvalues).to(device),
        torch.from_numpy(operators.eigenvectors).to(device),
        torch.from_numpy(operators.gradient_x @ operators.eigenvectors).to(device),
        torch.from_numpy(-slopes_y if mirrored else slopes_y).to(device),
    )


def load_picker(source: str | os.PathLike[str], *, device: str = "cpu") -> AnyPicker:
    """Load a picker: a built-in name, one of our `.safetensors` of either kind, or MemBrain-pick's Lightning `.ckpt`.

    Raises ModelError for a file that is absent or no picker.
    """
    path = resolve_model(str(source))
    read = _from_lightning if path.suffix == ".ckpt" else _from_safetensors
    try:
        picker = read(path.read_bytes(), path.stem)
    except (KeyError, ValueError, TypeError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"picker {source}: not a picker model ({reason})",
            "give a .safetensors written by `membrain-cloud train picking` or a MemBrain-pick .ckpt",
        ) from error
    picker.network.to(torch.device(device)).eval().requires_grad_(False)
    return picker


def _from_lightning(content: bytes, name: str) -> Picker:
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["state_dict"]
    parameters = {key.removeprefix(_LIGHTNING_PREFIX): value for key, value in state.items()}
    return Picker(
        network=_network(Architecture.of(parameters), parameters),
        # MemBrain-pick samples from -25 to +22.5 Å along normals that point inwards.
        offsets_angstrom=np.linspace(25.0, -22.5, 20),
        spline_order=3,
        window_starts=(2,),
        eigenpairs=128,
        partition_vertices=2000,
        length_unit_angstrom=500.0,
        score_unit_angstrom=15.0,
        inward_normals=True,
        partitions="released",
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        notes={"source": "MemBrain-pick checkpoint"},
    )


def _from_safetensors(content: bytes, name: str) -> AnyPicker:
    header_length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_length])
    described = json.loads(header.get("__metadata__", {})["membrain_cloud"])
    if described.get("task") != TASK:
        raise ValueError(f"it is for {described.get('task')!r}")
    if described.get("network") == SUBVOLUMES:
        return _of_subvolumes(described, content, name)
    return Picker(
        network=_network(Architecture(**described["architecture"]), safetensors.torch.load(content)),
        offsets_angstrom=np.array(described["offsets_angstrom"], np.float64),
        spline_order=int(described["spline_order"]),
        window_starts=tuple(described["window_starts"]),
        eigenpairs=int(described["eigenpairs"]),
        partition_vertices=int(described["partition_vertices"]),
        length_unit_angstrom=float(described["length_unit_angstrom"]),
        score_unit_angstrom=float(described["score_unit_angstrom"]),
        inward_normals=bool(described["inward_normals"]),
        partitions=str(described.get("partitions", "even")),
        classes=tuple(described.get("classes", ())),
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        notes=described["notes"],
    )


def _of_subvolumes(described: Mapping[str, Any], content: bytes, name: str) -> SubvolumePicker:
    network = SubvolumeNet(outputs=int(described["outputs"]), edge=int(described["edge"]))
    network.load_state_dict(safetensors.torch.load(content), strict=True)
    return SubvolumePicker(
        network=network,
        edge=network.edge,
        spacing_angstrom=float(described["spacing_angstrom"]),
        score_unit_angstrom=float(described["score_unit_angstrom"]),
        classes=tuple(described["classes"]),
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        notes=described["notes"],
    )


def _network(architecture: Architecture, parameters: Mapping[str, torch.Tensor]) -> DiffusionNet:
    network = DiffusionNet(architecture)
    network.load_state_dict(dict(parameters), strict=True)
    return network


def save_picker(picker: AnyPicker, path: str | os.PathLike[str]) -> None:
    """Write a picker as safetensors with all it needs in the header; atomically, and always the same bytes."""
    described = _described(picker) | {
        "task": TASK,
        "score_unit_angstrom": picker.score_unit_angstrom,
        "classes": list(picker.classes),
        "notes": dict(picker.notes),
    }
    parameters = {name: value.detach().cpu().contiguous() for name, value in picker.network.state_dict().items()}
    content = safetensors.torch.save(parameters, {"membrain_cloud": json.dumps(described, sort_keys=True)})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, target)


def _described(picker: AnyPicker) -> dict[str, Any]:
    """What the header says of one kind of picker alone."""
    if isinstance(picker, SubvolumePicker):
        return {
            "network": SUBVOLUMES,
            "outputs": picker.network.outputs,
            "edge": picker.edge,
            "spacing_angstrom": picker.spacing_angstrom,
        }
    return {
        "architecture": vars(picker.network.architecture),
        "offsets_angstrom": [float(offset) for offset in picker.offsets_angstrom],
        "spline_order": picker.spline_order,
        "window_starts": list(picker.window_starts),
        "eigenpairs": picker.eigenpairs,
        "partition_vertices": picker.partition_vertices,
        "length_unit_angstrom": picker.length_unit_angstrom,
        "inward_normals": picker.inward_normals,
        "partitions": picker.partitions,
    }
