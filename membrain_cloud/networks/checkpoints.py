"""Segmentation models in files: safetensors whose header says what the network is and where it comes from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.unet import UNetArchitecture, build_unet, load_own_state, own_state

MODELS = Path(__file__).parents[1] / "models"
_USE_OURS = "give a model made by `membrain-cloud train`, or see `membrain-cloud models list`"


def built_in_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.stem for path in MODELS.glob("*.safetensors"))


def resolve_model(source: str) -> Path:
    """A built-in name or a path -> the path of an existing file. Raises ModelError."""
    for candidate in (MODELS / f"{source}.safetensors", Path(source)):
        if candidate.is_file():
            return candidate
    known = ", ".join(built_in_models()) or "none"
    raise ModelError(f"model {source!r}: no such file or built-in model", f"give a path, or one of: {known}")


def model_sha256(source: str) -> str:
    """Hex digest of the model's file; read once as long as the file stays as it is."""
    path = resolve_model(source)
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_header(source: str) -> dict[str, Any]:
    """The facts a model file carries about itself. Raises ModelError where it carries none."""
    path = resolve_model(source)
    try:
        with safe_open(path, framework="pt") as stored:
            header = (stored.metadata() or {}).get("membrain_cloud")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model {source!r}: not a safetensors file ({error})", _USE_OURS) from None
    if header is None:
        raise ModelError(f"model {source!r}: its header does not say what network it is", _USE_OURS)
    return dict(json.loads(header))


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A segmentation network ready to run.

    window : edge of the windows it was made for (voxels).  voxel_spacing_angstrom : what it was trained at.
    precision : "float32" or "bfloat16", the arithmetic of the convolutions.
    """

    network: nn.Module
    architecture: UNetArchitecture
    name: str
    sha256: str
    window: int
    voxel_spacing_angstrom: float
    device: torch.device
    precision: str

    def predict(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 1, w, w, w) float32, normalised -> (B, 1, w, w, w) float32 logits (membrane where positive)."""
        tensor = torch.from_numpy(windows).to(self.device, memory_format=torch.channels_last_3d)
        lower = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            logits: NDArray[np.float32] = self.network(tensor).float().cpu().numpy()
        return logits


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the device has matrix units for it (CUDA, or a CPU with AMX), else float32."""
    if device.type == "cuda":
        return "bfloat16"
    return "bfloat16" if bool(torch.cpu._is_amx_tile_supported()) else "float32"


def load_segmenter(source: str, *, device: str = "cpu", precision: str = "auto") -> Segmenter:
    """Load a model by built-in name or path.

    precision : "float32", "bfloat16" or "auto" (see `fastest_precision`).
    Raises ModelError for a file that is not one of ours.
    """
    header = read_header(source)
    if header.get("task") != "segmentation":
        raise ModelError(f"model {source!r} is for {header.get('task')!r}, not for segmentation", "see `models list`")
    architecture = UNetArchitecture.from_dict(header["architecture"])
    network = build_unet(architecture)
    with safe_open(resolve_model(source), framework="pt") as stored:
        state = {key: stored.get_tensor(key).float() for key in stored.keys()}  # noqa: SIM118
    try:
        load_own_state(network, state)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"model {source!r}: weights do not fit its architecture ({error})", "get it again") from None
    where = torch.device(device)
    network = network.to(where, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    chosen = fastest_precision(where) if precision == "auto" else precision
    return Segmenter(
        network,
        architecture,
        Path(source).stem,
        model_sha256(source),
        int(header["window"]),
        float(header["voxel_spacing_angstrom"]),
        where,
        chosen,
    )


def save_segmenter(path: Path, network: nn.Module, architecture: UNetArchitecture, facts: dict[str, Any]) -> None:
    """Write weights (float16, contiguous) and facts; facts must hold `window` and `voxel_spacing_angstrom`."""
    header = {"task": "segmentation", "architecture": architecture.as_dict(), **facts}
    state = {k: v.detach().cpu().half().contiguous() for k, v in own_state(network).items()}
    staging = path.with_name(f".{path.name}")
    save_file(state, staging, {"membrain_cloud": json.dumps(header, sort_keys=True)})
    staging.replace(path)
