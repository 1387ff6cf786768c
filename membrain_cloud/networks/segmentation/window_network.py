"""Run a segmentation network on windows: in slabs on a CPU, under autocast on a GPU, rescaled where asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.segmentation.cpu.int8 import has_integer_kernels
from membrain_cloud.networks.segmentation.cpu.slab_forward import StreamedUNet
from membrain_cloud.networks.segmentation.gpu.cuda_graphs import Compilation, CompiledModule, RecordedForward
from membrain_cloud.networks.segmentation.gpu.forward import FusedForward, fused_is_available
from membrain_cloud.networks.segmentation.window_rescaling import fourier_resize, trilinear_resize

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture

_LOG = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def has_matrix_units(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bfloat16 many times faster than of float32.

    A GPU does, and a CPU with AMX.

    Parameters
    ----------
    device : torch.device
        The device.

    Returns
    -------
    bool
        Whether it has matrix units.
    """
    return device.type != "cpu" or bool(torch.cpu._is_amx_tile_supported())


def fastest_precision(device: torch.device, architecture: UNetArchitecture, *, symmetric: bool = False) -> str:
    """Return the fastest arithmetic that keeps the masks.

    bfloat16 on a GPU and on a CPU with AMX; else int8 with VNNI, for networks without residual blocks (with them eight
    bits are too few: logits of a random one were off by a sixth of their spread); else bfloat16 with AVX-512 BF16; else
    float32. Of a symmetric network one mirror decides, and no other averages its rounding away: bfloat16 with AVX-512
    BF16 even where there is VNNI (a tenth slower, with a tenth of the error).

    Parameters
    ----------
    device : torch.device
        The device.
    architecture : UNetArchitecture
        The network's architecture.
    symmetric : bool
        Whether its weights are symmetric. Default: False.

    Returns
    -------
    str
        "bfloat16", "int8" or "float32".
    """
    bfloat16_is_fast = torch.cpu._is_avx512_bf16_supported()
    if has_matrix_units(device) or (symmetric and bfloat16_is_fast):
        return "bfloat16"
    if has_integer_kernels() and not architecture.residual:
        return "int8"
    return "bfloat16" if bfloat16_is_fast else "float32"


def faithful_precision(device: torch.device) -> str:
    """Return the arithmetic of MemBrain-seg: float16 autocast on a GPU, float32 on a CPU.

    Parameters
    ----------
    device : torch.device
        The device.

    Returns
    -------
    str
        "float16" or "float32".
    """
    return "float16" if device.type == "cuda" else "float32"


class WindowNetwork:
    """A network that turns windows into logits.

    In half precision an NVIDIA GPU with Triton runs it with fused kernels (`FusedUNet`), unless it is compiled.

    Parameters
    ----------
    network : nn.Module
        The network.
    device : torch.device
        Where it runs.
    precision : str
        "float32", "bfloat16" or "float16", of maps and convolutions; "int8", of convolutions on a CPU, with maps in
        bfloat16 or float32, whichever is fast.
    compilation : str
        On a GPU: "compile" compiles the network, "graphs" records it as CUDA graphs, "both" does both. No effect on a
        CPU.

    Raises
    ------
    ModelError
        If the device cannot compute in this precision.

    Notes
    -----
    Where the logits of the first windows are not finite, since numbers overflow in half precision or eight bits, these
    and all that follow are computed in float32, with a warning.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, precision: str, compilation: Compilation = "no"
    ) -> None:
        if device.type == "cpu" and precision == "float16":
            raise ModelError("float16 on a CPU is slower than float32", "take float32, bfloat16 or int8")
        if precision == "int8" and not (device.type == "cpu" and has_integer_kernels()):
            raise ModelError("int8 needs a CPU with AVX-512 VNNI", "take segment.precision=auto, or bfloat16 on a GPU")
        self.device, self.dtype = device, DTYPES[_precision_of_maps(precision)]
        # Kept until the first window has shown that the arithmetic does not overflow.
        self._unchecked: nn.Module | None = None if precision == "float32" else network
        self._precision = precision
        self._forward: Callable[[Tensor], Tensor]
        if device.type == "cpu":
            self._streamed = StreamedUNet(network, self.dtype, integers=precision == "int8")
            self._forward = lambda windows: torch.stack([self._streamed(window) for window in windows[:, 0]])[:, None]
        else:
            # All windows have one size: cuDNN may try which of its algorithms is fastest for it.
            torch.backends.cudnn.benchmark = True
            self._module = CompiledModule(network) if compilation in ("compile", "both") else network
            self._forward = self._with_autocast
            if compilation in ("no", "graphs") and self.dtype != torch.float32 and fused_is_available(device):
                self._forward = FusedForward(network, self.dtype, self._with_autocast)
            if compilation in ("graphs", "both"):
                self._forward = RecordedForward(self._forward)

    def __call__(self, windows: Tensor, window: int | None = None) -> Tensor:
        """Predict the logits of windows.

        Where a GPU runs out of memory, smaller batches are tried, down to single windows.

        Parameters
        ----------
        windows : Tensor, shape (B, 1, s, s, s), float32
            Normalised densities, on the device.
        window : int, optional
            Edge of the network's input, to which windows are resampled. Default: s.

        Returns
        -------
        Tensor, shape (B, 1, s, s, s), float32
            Logits; membrane where positive.

        Raises
        ------
        ModelError
            If a single window does not fit into the memory of the GPU.
        """
        with torch.inference_mode():
            edge = windows.shape[-1]
            seen = windows if window is None else fourier_resize(windows, window)
            logits = self._in_parts(seen)
            if self._unchecked is not None and len(seen):
                logits = self._checked(seen, logits, self._unchecked)
            return trilinear_resize(logits, edge)

    def _checked(self, windows: Tensor, logits: Tensor, network: nn.Module) -> Tensor:
        """Return the first logits; compute them and all that follow in float32 if they are not finite."""
        self._unchecked = None
        if bool(logits.isfinite().all()):
            return logits
        _LOG.warning(
            "the network's numbers overflow in %s: its results are computed in float32, which takes longer",
            self._precision,
        )
        exact = WindowNetwork(network, self.device, "float32")
        self.dtype, self._forward, self._precision = exact.dtype, exact._forward, "float32"
        if hasattr(exact, "_module"):
            self._module = exact._module
        logits = self._in_parts(windows)
        if not bool(logits.isfinite().all()):
            raise ModelError("the network gives numbers that are not finite, in float32 too", "take another model")
        return logits

    def _in_parts(self, windows: Tensor) -> Tensor:
        try:
            return self._forward(windows)
        except torch.OutOfMemoryError:
            count, edge = len(windows), windows.shape[-1]
        # Outside of the handler, which would keep the failed batch's maps alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if count == 1:
            raise ModelError(
                f"the GPU has no memory for one window of {edge} voxels",
                "take smaller windows: segment.window=96 (MemBrain-seg's models do a little worse with them)",
            )
        _LOG.warning("the GPU has no memory for %d windows of %d voxels at once: trying %d", count, edge, count // 2)
        halves = windows.split(-(-count // 2))
        return torch.cat([self._in_parts(half) for half in halves])

    def _with_autocast(self, windows: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self._module(windows.contiguous(memory_format=torch.channels_last_3d))
        result: Tensor = logits.float().contiguous()
        return result


def _precision_of_maps(precision: str) -> str:
    if precision != "int8":
        return precision
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
