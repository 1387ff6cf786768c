"""The forward pass of DynUNet on an NVIDIA GPU: cuDNN's convolutions, with one kernel of ours between each two.

In a plain forward pass instance normalisation copies a channels-last map to the other layout and back, and activation,
residual and concatenation each pass through it once more. At 160 voxels and 32 channels a map is 262 MB, so this takes
longer than the convolutions. Here, between two convolutions, a map is read once for its statistics and once more to be
normalised, activated and added to the residual, in place; what the decoder needs later is written into its half of the
joined map in the same pass. Maps and convolutions are in half precision, everything else in float32.

Maps come from torch's caching allocator and are not kept from call to call: in a CUDA graph they share the graph's own
pool, which gives the same memory to maps that do not live at the same time. No step waits for the host.
"""

from __future__ import annotations

import importlib.util
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from membrain_cloud.networks.segmentation.architecture.unet_layers import Block, unet_parts
from membrain_cloud.networks.segmentation.gpu.cuda_graphs import Forward, first_line

_LOG = logging.getLogger(__name__)
# The first convolution, of one channel: our own kernel, or cuDNN's.
OWN_FIRST_CONVOLUTION = True
# Convolutions of stride 1 to at most so many channels (16, 32 or 64) are our own kernel's, the others cuDNN's.
OWN_CONVOLUTIONS_TO = 32


def fused_is_available(device: torch.device | None = None) -> bool:
    """Return whether fused kernels run on a device.

    Parameters
    ----------
    device : torch.device, optional
        The device. Default: the current one.

    Returns
    -------
    bool
        Whether it is an NVIDIA GPU of capability 8.0 or more, and Triton is installed.
    """
    if (device is not None and device.type != "cuda") or not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class _Convolution:
    """A convolution without bias, and the instance normalisation after it."""

    weight: Tensor
    stride: int
    norm_weight: Tensor
    norm_bias: Tensor
    beside: Tensor | None  # the weight as our own kernel takes it, where there is one for it

    def __call__(self, rows: Tensor) -> Tensor:
        """Convolve (B, D, H, W, Cin) to (B, D', H', W', Cout)."""
        padding = self.weight.shape[-1] // 2
        made = F.conv3d(rows.permute(0, 4, 1, 2, 3), self.weight, None, self.stride, padding)
        # No copy where cuDNN wrote channels last, as it does for weights in that layout.
        return made.permute(0, 2, 3, 4, 1).contiguous()


class FusedUNet:
    """A DynUNet with one input and one output channel, ready to run on windows.

    Parameters
    ----------
    network : nn.Module
        A DynUNet; its modules are only read.
    dtype : torch.dtype
        float16 or bfloat16, of maps and convolutions.

    Raises
    ------
    ImportError
        If Triton is not installed.
    ValueError
        If the network has other numbers of input or output channels.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        from membrain_cloud.networks.segmentation.gpu import convolution as fused_convolution
        from membrain_cloud.networks.segmentation.gpu import instance_norm as fused_normalisation
        from membrain_cloud.networks.segmentation.gpu import layers as fused_layers

        self.dtype = dtype
        self._own, self._layers, self._normalisation = fused_convolution, fused_layers, fused_normalisation
        parts = unet_parts(network, self._convolution)
        self._encoder, self._decoder = parts.encoder, parts.decoder
        self._upsampling = [self._matrix(weight) for weight in parts.upsampling]
        weight, bias = parts.head
        if weight.shape[0] != 1 or self._encoder[0].first.weight.shape[1] != 1:
            raise ValueError("only networks of one input and one output channel are fused")
        self._head = weight.reshape(-1).contiguous(), bias.contiguous()
        self._taps = fused_layers.padded_taps(self._encoder[0].first.weight)

    def _convolution(self, module: Any, norm: Any) -> _Convolution:
        weight = module.conv.weight.detach().to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        affine = (norm.weight.detach().float().contiguous(), norm.bias.detach().float().contiguous())
        stride, (channels, inner) = module.conv.stride[0], weight.shape[:2]
        fits = stride == 1 and weight.shape[-1] == 3 and self._own.can_convolve(inner, channels)
        return _Convolution(weight, stride, *affine, self._own.three_beside(weight) if fits else None)

    def _matrix(self, weight: Tensor) -> Tensor:
        """Return (Cin, Cout, 2, 2, 2) weights as (Cin, 8, Cout)."""
        return weight.to(self.dtype).permute(0, 2, 3, 4, 1).reshape(weight.shape[0], 8, -1).contiguous()

    def __call__(self, windows: Tensor) -> Tensor:
        """Predict the logits of windows.

        Parameters
        ----------
        windows : Tensor, shape (B, 1, w, w, w), float32
            Normalised densities.

        Returns
        -------
        Tensor, shape (B, 1, w, w, w), float32
            Logits.
        """
        # Triton launches on the current device, wherever its tensors are.
        with torch.cuda.device(windows.device) if windows.is_cuda else nullcontext():
            return self._logits(windows[:, 0].float().contiguous())[:, None]

    def _logits(self, windows: Tensor) -> Tensor:
        current = windows[..., None]
        joined_maps = []
        for block in self._encoder[:-1]:
            made, affine = self._two_convolutions(block, current)
            joined = made.new_empty((*made.shape[:-1], 2 * made.shape[-1]))
            current = self._finished(block, current, made, affine, joined)
            joined_maps.append(joined)
        bottleneck = self._encoder[-1]
        made, affine = self._two_convolutions(bottleneck, current)
        # A map with one reader is normalised by it: by the upsampling, or the output's convolution.
        unfinished: Tensor | None = affine
        if bottleneck.is_residual:
            made, unfinished = self._finished(bottleneck, current, made, affine, None), None
        for block, upsampling in zip(self._decoder, self._upsampling, strict=True):
            joined = joined_maps.pop()
            self._layers.upsample_into(joined, made, upsampling, unfinished)
            made, unfinished = self._two_convolutions(block, joined)
        assert unfinished is not None
        return self._layers.logits(made, unfinished, *self._head)

    def _two_convolutions(self, block: Block[_Convolution], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the result of the second convolution, and the normalisation that it still needs."""
        if rows.shape[-1] == 1 and OWN_FIRST_CONVOLUTION:
            between, moments = self._layers.first_convolution(rows[..., 0], self._taps)
            affine = self._affine(block.first, moments)
        else:
            between, affine = self._convolved(block.first, rows.to(self.dtype), None)
        return self._convolved(block.second, between, affine)

    def _convolved(self, convolution: _Convolution, rows: Tensor, affine: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normalise rows in place where `affine` is given, convolve them, and return the next normalisation too."""
        if affine is not None:
            self._normalisation.normalise_(rows, affine)
        if convolution.beside is not None and convolution.weight.shape[0] <= OWN_CONVOLUTIONS_TO:
            made, moments = self._own.convolve(rows, convolution.beside)
            return made, self._affine(convolution, moments)
        made = convolution(rows)
        return made, self._affine(convolution, self._normalisation.Moments.of(made))

    @staticmethod
    def _affine(convolution: _Convolution, moments: Any, projection: Tensor | None = None) -> Tensor:
        affine: Tensor = moments.affine(convolution.norm_weight, convolution.norm_bias, projection)
        return affine

    def _finished(
        self, block: Block[_Convolution], source: Tensor, made: Tensor, affine: Tensor, joined: Tensor | None
    ) -> Tensor:
        """Normalise the result of the block's second convolution in place, add the residual, and activate."""
        residual, residual_affine = source if block.is_residual else None, None
        if block.projection is not None and source.shape[-1] == 1:  # of one channel, it is never made
            weights = block.projection.weight.float().reshape(-1)
            residual_affine = self._affine(block.projection, self._normalisation.Moments.of(source), weights)
        elif block.projection is not None:
            residual = block.projection(source)
            residual_affine = self._affine(block.projection, self._normalisation.Moments.of(residual))
        normalise_ = self._normalisation.normalise_
        return normalise_(made, affine, residual=residual, residual_affine=residual_affine, joined=joined)


class FusedForward:
    """The fused forward pass; from its first failure on the plain one, since Triton needs a C compiler at run time.

    Parameters
    ----------
    network : nn.Module
        A DynUNet.
    dtype : torch.dtype
        As for `FusedUNet`.
    plain : callable
        The forward pass to call after a failure.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, plain: Forward) -> None:
        self._network, self._dtype, self._plain = network, dtype, plain
        self._fused: FusedUNet | None = None
        self._works = True

    def __call__(self, windows: Tensor) -> Tensor:
        """Return the logits of windows (B, 1, w, w, w) float32, in the same shape."""
        if self._works:
            try:
                self._fused = self._fused or FusedUNet(self._network, self._dtype)
                return self._fused(windows)
            except torch.OutOfMemoryError:
                raise  # the caller takes fewer windows
            except Exception as error:  # no compiler, a kernel too large for the GPU: it raises many kinds
                _LOG.warning("the network runs without its fused kernels, which costs time only: %s", first_line(error))
                self._works, self._fused = False, None
        return self._plain(windows)
