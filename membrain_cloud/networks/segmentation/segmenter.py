"""Load and save segmentation networks: safetensors with a header, and MemBrain-seg's checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import ModelError
from membrain_cloud.networks.model_file import model_sha256, require_finite_weights, resolve_model
from membrain_cloud.networks.segmentation.architecture import membrain_seg_checkpoint as membrain_seg
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied
from membrain_cloud.networks.segmentation.architecture.unet import (
    UNetArchitecture,
    build_unet,
    load_own_state,
    own_state,
)
from membrain_cloud.networks.segmentation.window_averaging import WindowAverager
from membrain_cloud.networks.segmentation.window_network import WindowNetwork, faithful_precision, fastest_precision

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Block
    from membrain_cloud.networks.segmentation.gpu.cuda_graphs import Compilation
    from membrain_cloud.tiling import Tiling

FORMAT = "membrain_cloud"
_USE_OURS = "give a model made by `membrain-cloud train`, a MemBrain-seg .ckpt, or see `membrain-cloud models list`"


def read_header(source: str) -> dict[str, Any]:
    """Read what a model file states about its network, without its weights.

    Parameters
    ----------
    source : str
        Name of a built-in model, or a local path.

    Returns
    -------
    dict of str to Any
        Of a segmentation model: `task`, `architecture` ({channels, residual}), `window`, `voxel_spacing_angstrom`,
        `format` ("membrain_cloud" or "membrain-seg"), and other entries of its header.

    Raises
    ------
    ModelError
        If the file is no model or lacks these entries.
    """
    path = resolve_model(source)
    try:
        is_checkpoint = _is_checkpoint(path)
    except OSError as error:
        raise ModelError(f"model {source!r}: cannot be read ({error.strerror})", "check its permissions") from None
    if is_checkpoint:
        architecture, _ = membrain_seg.read_checkpoint(path)
        return _membrain_seg_header(architecture)
    try:
        with safe_open(path, framework="pt") as stored:
            text = (stored.metadata() or {}).get("membrain_cloud")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model {source!r}: neither safetensors nor a checkpoint ({error})", _USE_OURS) from None
    if text is None:
        raise ModelError(f"model {source!r}: its header does not say what network it is", _USE_OURS)
    header = _parsed(text)
    if header is None or (header["task"] == "segmentation" and not _says_enough(header)):
        raise ModelError(f"model {source!r}: its header is not one that membrain_cloud writes", _USE_OURS)
    return {**header, "format": FORMAT}


def _is_checkpoint(path: Path) -> bool:
    """Return whether a file is a zip or a pickle of torch; safetensors begin with a length of 8 bytes and "{"."""
    with path.open("rb") as opened:
        start = opened.read(9)
    return start[:4] == b"PK\x03\x04" or (start[:2] == b"\x80\x02" and start[8:9] != b"{")


def _membrain_seg_header(architecture: UNetArchitecture) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "architecture": architecture.as_dict(),
        "window": membrain_seg.WINDOW,
        "voxel_spacing_angstrom": membrain_seg.VOXEL_SPACING_ANGSTROM,
        "format": membrain_seg.FORMAT,
    }


def _parsed(text: str) -> dict[str, Any] | None:
    """Return the header in a text, or None."""
    try:
        header = json.loads(text)
    except ValueError:
        return None
    return header if isinstance(header, dict) and isinstance(header.get("task"), str) else None


def _says_enough(header: Mapping[str, Any]) -> bool:
    """Return whether a header has a valid architecture, window and voxel spacing."""
    try:
        multiple = UNetArchitecture.from_dict(header["architecture"]).multiple
        window, spacing = int(header["window"]), float(header["voxel_spacing_angstrom"])
    except (KeyError, TypeError, ValueError):
        return False
    return window >= 2 * multiple and window % multiple == 0 and 0 < spacing < float("inf")


def load_network(source: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a segmentation network for inference.

    Parameters
    ----------
    source : str
        Name of a built-in model, or a local path.

    Returns
    -------
    nn.Module
        The network in float32 on the CPU.
    dict of str to Any
        Its header, as `read_header` returns it.

    Raises
    ------
    ModelError
        If the file is no segmentation model, or its weights do not fit the architecture or are not finite.
    """
    path, header = resolve_model(source), read_header(source)
    if header["task"] != "segmentation":
        raise ModelError(
            f"model {source!r} is for {header['task']!r}, not for segmentation", "see `membrain-cloud models list`"
        )
    with torch.device("meta"):  # 91 million random numbers would take seconds, and be overwritten
        network = build_unet(UNetArchitecture.from_dict(header["architecture"]))
    try:
        if header["format"] == membrain_seg.FORMAT:
            _, state = membrain_seg.read_checkpoint(path)
        else:
            with safe_open(path, framework="pt") as stored:
                state = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        # Copied: a single weight that stayed mapped would keep the whole file in memory.
        load_own_state(network, {name: value.to(torch.float32, copy=True) for name, value in state.items()})
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model {source!r}: weights do not fit its architecture ({error})", "get it again") from None
    require_finite_weights(own_state(network), source)
    return network.eval(), header


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A segmentation network ready to run.

    Attributes
    ----------
    network : WindowNetwork
        Runs on batches of windows.
    architecture : UNetArchitecture
        Its architecture.
    name, sha256 : str
        Of the model file.
    window : int
        Edge of the windows that it was trained on, in voxels.
    voxel_spacing_angstrom : float
        Voxel spacing of the training in Å.
    symmetric : bool
        Whether a mirrored window has the mirrored logits (`architecture.mirror_symmetry`).
    device : torch.device
        Where it runs.
    precision : str
        Its arithmetic.
    """

    network: WindowNetwork
    architecture: UNetArchitecture
    name: str
    sha256: str
    window: int
    voxel_spacing_angstrom: float
    symmetric: bool
    device: torch.device
    precision: str

    def predict(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict the logits of windows.

        Parameters
        ----------
        windows : ndarray, shape (B, 1, w, w, w), float32
            Normalised densities.

        Returns
        -------
        ndarray, shape (B, 1, w, w, w), float32
            Logits; membrane where positive.
        """
        logits: NDArray[np.float32] = self.network(torch.from_numpy(windows).to(self.device)).cpu().numpy()
        return logits

    def averager(
        self,
        tiling: Tiling,
        block: Block,
        *,
        window: int,
        mean: float,
        std: float,
        variance: bool,
        skip_void: bool,
        batch: int,
    ) -> WindowAverager:
        """Return the averager of windows over a block of a volume.

        Parameters
        ----------
        tiling : Tiling
            The windows. Where its `reach` differs from `window`, windows are rescaled.
        block : Block
            The part of the volume.
        window : int
            Edge of the network's input in voxels.
        mean, std : float
            Of the whole tomogram.
        variance, skip_void, batch
            As for `WindowAverager`.

        Returns
        -------
        WindowAverager
            Takes planes of the halo and returns planes of the core.
        """
        seen = None if window == tiling.reach else window
        return WindowAverager(
            lambda windows: self.network(windows, seen),
            self.device,
            reach=tiling.reach,
            halo=block.halo,
            core=block.core,
            mean=mean,
            std=std,
            symmetric=self.symmetric,
            variance=variance,
            skip_void=skip_void,
            batch=batch,
        )


def load_segmenter(
    source: str, *, device: str = "cpu", precision: str = "auto", compilation: Compilation = "no"
) -> Segmenter:
    """Load a segmentation network and prepare it for a device.

    Parameters
    ----------
    source : str
        Name of a built-in model, or path of a model or of a MemBrain-seg checkpoint.
    device : str
        Device of torch. Default: "cpu".
    precision : str
        "float32", "bfloat16", "float16", "int8", "auto" (`fastest_precision`) or "faithful" (`faithful_precision`).
        Default: "auto".
    compilation : str
        As for `WindowNetwork`. Default: "no".

    Returns
    -------
    Segmenter
        The network, ready to run.

    Raises
    ------
    ModelError
        If the file is no segmentation model.
    """
    network, header = load_network(source)
    where = torch.device(device)
    architecture = UNetArchitecture.from_dict(header["architecture"])
    symmetric = mirrors_are_tied(network)
    known = {"auto": fastest_precision(where, architecture, symmetric=symmetric), "faithful": faithful_precision(where)}
    chosen = known.get(precision, precision)
    return Segmenter(
        WindowNetwork(_placed(network, where), where, chosen, compilation),
        architecture,
        Path(source).stem,
        model_sha256(source),
        int(header["window"]),
        float(header["voxel_spacing_angstrom"]),
        symmetric,
        where,
        chosen,
    )


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network on its device, in the memory layout that is fastest there."""
    placed: nn.Module = network.to(device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    return placed


def save_segmenter(
    path: Path,
    network: nn.Module,
    architecture: UNetArchitecture,
    facts: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network as safetensors, atomically; the same input gives the same bytes.

    Parameters
    ----------
    path : Path
        The file.
    network : nn.Module
        The network.
    architecture : UNetArchitecture
        Its architecture.
    facts : mapping of str to Any
        Entries of the header; `window` and `voxel_spacing_angstrom` among them.
    dtype : torch.dtype
        Type of the stored weights. Default: float16.

    Raises
    ------
    ModelError
        If a weight is not finite as `dtype`.
    """
    header = {"task": "segmentation", "architecture": architecture.as_dict(), **facts}
    state = {name: value.detach().cpu().to(dtype).contiguous() for name, value in own_state(network).items()}
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            kind = str(dtype).removeprefix("torch.")
            raise ModelError(f"model {path}: {name} is not finite as {kind}", "save it as float32, or train it again")
    text = json.dumps(header, sort_keys=True)
    replace_atomically(path, lambda temporary: save_file(state, temporary, {FORMAT: text}))
