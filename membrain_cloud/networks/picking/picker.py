"""A trained picker: the network and all settings of its input. Loads our files and MemBrain-pick's checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors.torch
import torch

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import ModelError
from membrain_cloud.networks.model_file import require_finite_weights, resolve_model
from membrain_cloud.networks.picking.diffusion_net import Architecture, DiffusionNet, SurfaceTensors
from membrain_cloud.networks.picking.subvolume_net import SubvolumeNet
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker, class_names

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import scipy.sparse
    from numpy.typing import NDArray

TASK = "picking"
SUBVOLUMES = "subvolumes"
"""How a header names the network of `subvolume_net`."""
_LIGHTNING_PREFIX = "model."


class SurfaceOperators(Protocol):
    """The operators of a patch that `Picker.predict` reads, as `mesh.spectral.operators.Operators` has them."""

    @property
    def mass(self) -> NDArray[np.float32]:
        """Areas of the vertices, (V,)."""

    @property
    def eigenvalues(self) -> NDArray[np.float32]:
        """Eigenvalues of the Laplacian, (k,)."""

    @property
    def eigenvectors(self) -> NDArray[np.float32]:
        """Eigenvectors of the Laplacian, (V, k)."""

    @property
    def gradient_x(self) -> scipy.sparse.csr_matrix:
        """Gradient along the first tangent, (V, V)."""

    @property
    def gradient_y(self) -> scipy.sparse.csr_matrix:
        """Gradient along the second tangent, (V, V)."""


@dataclass(frozen=True, eq=False)
class Picker:
    """A DiffusionNet that predicts, at each vertex, the distance to the nearest particle.

    Attributes
    ----------
    offsets_angstrom : tuple of float
        C positions along the *outward* normal at which the density is sampled, in Å.
    spline_order : int
        Order of the interpolation of the samples.
    window_starts : tuple of int
        The network takes `architecture.channels` of the C samples; its outputs for windows that start at these samples
        are averaged. One entry is MemBrain-pick's release, several are its paper.
    eigenpairs, length_unit_angstrom : int, float
        For the operators of a patch, as in the training.
    partition_vertices : int
        Size of the patches of the training.
    partitions : str
        How patches are cut: "even" as ours, "released" as MemBrain-pick's.
    classes : tuple of str
        Names of the classes of particles, one for each output; empty for one class without a name.
    score_unit_angstrom : float
        Distance of a score of 1 in Å; scores are clipped at 10 in training.
    inward_normals : bool
        Whether it was trained with normals that point into the membrane; `predict` mirrors the tangent planes then.
    name, sha256, notes
        Of the model file; notes describe the training.
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
        """Predict the scores of a patch.

        Parameters
        ----------
        profiles : ndarray, shape (V, C), floating
            Samples of the density in any linear scale.
        operators : SurfaceOperators
            Operators of the patch.

        Returns
        -------
        ndarray, shape (V,) or (V, K), float32
            Distances in `score_unit_angstrom`: about 0 at a particle, 10 far from all. One column for each of K
            outputs.
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
        """A name for each output; empty for one class without a name."""
        return class_names(self.classes, self.network.architecture.outputs)

    @property
    def reach_angstrom(self) -> float:
        """Distance from a vertex to its farthest sample, in Å."""
        return float(np.abs(self.offsets_angstrom).max())

    def averaged(self) -> Picker:
        """Return this picker with its outputs averaged over all positions of its window, as in the paper."""
        last = len(self.offsets_angstrom) - self.network.architecture.channels
        return replace(self, window_starts=tuple(range(last + 1)))

    def centred(self) -> Picker:
        """Return this picker with the middle position of its window only, as MemBrain-pick is released."""
        last = len(self.offsets_angstrom) - self.network.architecture.channels
        return replace(self, window_starts=(last // 2,))


AnyPicker = Picker | SubvolumePicker


def normalise_profiles(profiles: NDArray[np.floating]) -> NDArray[np.float32]:
    """Subtract the mean and divide by the standard deviation of a patch, all samples together.

    Parameters
    ----------
    profiles : ndarray, shape (V, C), floating
        Samples.

    Returns
    -------
    ndarray, shape (V, C), float32
        Normalised samples.
    """
    values = np.asarray(profiles, np.float64)
    deviation = values.std()
    result: NDArray[np.float32] = ((values - values.mean()) / (deviation if deviation > 0 else 1.0)).astype(np.float32)
    return result


def surface_tensors(operators: SurfaceOperators, *, mirrored: bool, device: torch.device) -> SurfaceTensors:
    """Convert operators to tensors.

    Parameters
    ----------
    operators : SurfaceOperators
        Operators of a patch.
    mirrored : bool
        Whether to flip the second axis of the tangent planes, as reversing all normals does.
    device : torch.device
        Where the tensors are needed.

    Returns
    -------
    SurfaceTensors
        The tensors.
    """
    slopes_y = operators.gradient_y @ operators.eigenvectors
    return SurfaceTensors(
        torch.from_numpy(operators.mass).to(device),
        torch.from_numpy(operators.eigenvalues).to(device),
        torch.from_numpy(operators.eigenvectors).to(device),
        torch.from_numpy(operators.gradient_x @ operators.eigenvectors).to(device),
        torch.from_numpy(-slopes_y if mirrored else slopes_y).to(device),
    )


def load_picker(source: str | os.PathLike[str], *, device: str = "cpu") -> AnyPicker:
    """Load a picker.

    Parameters
    ----------
    source : str or path
        Name of a built-in picker, or path of our `.safetensors` of either kind or of a MemBrain-pick `.ckpt`.
    device : str
        Device of torch. Default: "cpu".

    Returns
    -------
    AnyPicker
        A Picker or a SubvolumePicker.

    Raises
    ------
    ModelError
        If the file does not exist or is no picker.
    """
    path = resolve_model(str(source))
    read = _from_lightning if path.suffix == ".ckpt" else _from_safetensors
    try:
        picker = read(path.read_bytes(), path.stem)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"picker {source}: cannot be read ({error.strerror})", "check its permissions") from error
    except Exception as error:  # torch raises many kinds for a damaged pickle
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"picker {source}: not a picker model ({reason})",
            "give a .safetensors written by `membrain-cloud train picking` or a MemBrain-pick .ckpt",
        ) from error
    require_finite_weights(picker.network.state_dict(), str(source))
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
    """Write a picker as safetensors with all settings in the header, atomically; the same input gives the same bytes.

    Parameters
    ----------
    picker : AnyPicker
        The picker.
    path : str or path
        The file.
    """
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
    replace_atomically(target, lambda path: path.write_bytes(content))


def _described(picker: AnyPicker) -> dict[str, Any]:
    """Return the entries of the header that one kind of picker has."""
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
