"""DynUNet's forward pass on an NVIDIA GPU: cuDNN's convolutions on channels-last maps, one kernel between each two.

In a plain forward pass instance normalisation copies a channels-last map to the other layout and back, and activation,
residual and concatenation each walk through it once more. At 160 voxels and 32 channels a map is 262 MB, so that takes
longer than the convolutions. Here, between two convolutions, a map is read once for its statistics and once more to be
normalised, activated and joined by the residual, in place; what the decoder needs later is written into its half of the
joined map in the same pass. Maps and convolutions are in half precision, all else in float32.

Maps come from torch's caching allocator, none is kept from call to call: recorded as a CUDA graph they share the
graph's own pool, which hands the same memory to maps that do not live at the same time. Nothing waits for the host.
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

from membrain_cloud.networks.graphs import Forward, first_line

_LOG = logging.getLogger(__name__)
# The first convolution, of one channel: our own kernel, or cuDNN's.
OWN_FIRST_CONVOLUTION = True


def fused_is_available(device: torch.device | None = None) -> bool:
    """Whether the device (default: the current one) is an NVIDIA GPU of capability 8.0 or more, and Triton is there."""
    if (device is not None and device.type != "cuda") or not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class _Convolution:
    """A convolution without bias and the instance normalisation after it."""

    weight: Tensor
    stride: int
    norm_weight: Tensor
    norm_bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """(B, D, H, W, Cin) -> (B, D', H', W', Cout)."""
        padding = self.weight.shape[-1] // 2
        made = F.conv3d(rows.permute(0, 4, 1, 2, 3), self.weight, None, self.stride, padding)
        # No copy where cuDNN wrote channels last, as it does for weights in that layout.
        return made.permute(0, 2, 3, 4, 1).contiguous()


@dataclass(frozen=True)
class _Block:
    """conv1, norm, ReLU, conv2, norm, (+ residual), ReLU. `residual`: None, or its 1 x 1 x 1 convolution."""

    first: _Convolution
    second: _Convolution
    is_residual: bool = False
    projection: _Convolution | None = None


class FusedUNet:
    """A DynUNet of one input and one output channel, ready to run on windows; MONAI's modules are only read.

    dtype : torch.float16 or torch.bfloat16, of maps and convolutions.
    Raises ImportError where Triton is missing, ValueError for another number of channels.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        from membrain_cloud.networks import fused_kernels

        unet: Any = network
        self.dtype, self._kernels = dtype, fused_kernels
        self._encoder = [self._block(b) for b in (unet.input_block, *unet.downsamples, unet.bottleneck)]
        self._decoder = [self._block(up.conv_block) for up in unet.upsamples]
        self._upsampling = [self._matrix(up.transp_conv.conv) for up in unet.upsamples]
        head = unet.output_block.conv.conv
        if head.weight.shape[0] != 1 or self._encoder[0].first.weight.shape[1] != 1:
            raise ValueError("only networks of one input and one output channel are fused")
        self._head = head.weight.detach().float().reshape(-1).contiguous(), head.bias.detach().float().contiguous()
        self._taps = fused_kernels.padded_taps(self._encoder[0].first.weight)

    def _block(self, module: Any) -> _Block:
        first = self._convolution(module.conv1, module.norm1)
        second = self._convolution(module.conv2, module.norm2)
        if not hasattr(module, "downsample"):
            return _Block(first, second)
        projection = self._convolution(module.conv3, module.norm3) if module.downsample else None
        return _Block(first, second, True, projection)

    def _convolution(self, module: Any, norm: Any) -> _Convolution:
        weight = module.conv.weight.detach().to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        affine = (norm.weight.detach().float().contiguous(), norm.bias.detach().float().contiguous())
        return _Convolution(weight, module.conv.stride[0], *affine)

    def _matrix(self, convolution: Any) -> Tensor:
        """(Cin, Cout, 2, 2, 2) -> (Cin, 8, Cout)."""
        weight = convolution.weight.detach().to(self.dtype)
        return weight.permute(0, 2, 3, 4, 1).reshape(weight.shape[0], 8, -1).contiguous()

    def __call__(self, windows: Tensor) -> Tensor:
        """(B, 1, w, w, w) float32 -> (B, 1, w, w, w) float32 logits."""
        # Triton launches on the current device, wherever its tensors are.
        with torch.cuda.device(windows.device) if windows.is_cuda else nullcontext():
            return self._logits(windows[:, 0].float().contiguous())[:, None]

    def _logits(self, windows: Tensor) -> Tensor:
        current = windows[..., None]
        joined_maps = []
        for block in self._encoder[:-1]:
            made = self._two_convolutions(block, current)
            joined = made.new_empty((*made.shape[:-1], 2 * made.shape[-1]))
            current = self._finished(block, current, made, joined)
            joined_maps.append(joined)
        bottleneck = self._encoder[-1]
        made = self._two_convolutions(bottleneck, current)
        # A decoder's map has one reader, which normalises it: the upsampling, or the output's convolution.
        affine: Tensor | None = None
        if bottleneck.is_residual:
            current = self._finished(bottleneck, current, made, None)
        else:
            current, affine = made, self._affine(bottleneck.second, made)
        for block, upsampling in zip(self._decoder, self._upsampling, strict=True):
            joined = joined_maps.pop()
            self._kernels.upsample_into(joined, current, upsampling, affine)
            current = self._two_convolutions(block, joined)
            affine = self._affine(block.second, current)
        assert affine is not None
        return self._kernels.logits(current, affine, *self._head)

    def _two_convolutions(self, block: _Block, rows: Tensor) -> Tensor:
        """What the second leaves, not yet normalised."""
        if rows.shape[-1] > 1:
            between = block.first(rows)
        elif OWN_FIRST_CONVOLUTION:
            between = self._kernels.first_convolution(rows[..., 0], self._taps)
        else:
            between = block.first(rows.to(self.dtype))
        self._kernels.normalise_(between, self._affine(block.first, between))
        return block.second(between)

    def _affine(self, convolution: _Convolution, rows: Tensor) -> Tensor:
        return self._kernels.Moments(rows).affine(convolution.norm_weight, convolution.norm_bias)

    def _finished(self, block: _Block, source: Tensor, made: Tensor, joined: Tensor | None) -> Tensor:
        """Normalise what the block's second convolution left, in place; add the residual, activate."""
        residual, residual_affine = source if block.is_residual else None, None
        if block.projection is not None:
            third = block.projection
            if source.shape[-1] == 1:  # the projection of one channel is never made
                moments = self._kernels.Moments(source)
                weights = third.weight.float().reshape(-1)
                residual_affine = moments.affine(third.norm_weight, third.norm_bias, weights)
            else:
                residual = third(source)
                residual_affine = self._affine(third, residual)
        affine = self._affine(block.second, made)
        normalise_ = self._kernels.normalise_
        return normalise_(made, affine, residual=residual, residual_affine=residual_affine, joined=joined)


class FusedForward:
    """The fused forward pass; from the first failure on, the plain one: Triton needs a C compiler, among other things.

    plain : what to call then, on the same windows.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, plain: Forward) -> None:
        self._network, self._dtype, self._plain = network, dtype, plain
        self._fused: FusedUNet | None = None
        self._works = True

    def __call__(self, windows: Tensor) -> Tensor:
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
