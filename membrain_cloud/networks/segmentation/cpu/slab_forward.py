"""The forward pass of DynUNet in slabs of planes: the same sums in half the time and memory of a plain one on a CPU.

A plain forward pass holds several maps of the finest level at once (at 160 voxels and 32 channels each is half a
gigabyte) and passes through memory once for every convolution, normalisation and activation. Here

- every convolution runs over slabs of some planes that fit into the cache, with channels last, oneDNN's fastest layout;
- a map is stored as the convolution left it; instance normalisation and activation are applied when the next layer
  reads a slab. Means and variances are gathered slab by slab and merged by Chan's formula;
- a convolution works in place where no skip connection needs its input: the result of a slab is stored once the next
  slab has been read;
- the decoder's concatenation and its upsampled half exist for one slab at a time.

Rounding differs from a plain pass as between two libraries: about 1e-6 of a logit's range in float32.

With eight-bit integers (`integers=True`) every convolution but the first quantises its input by slab and its weights by
channel; it adds up in 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from membrain_cloud.networks.segmentation.architecture.unet_layers import Block, unet_parts
from membrain_cloud.networks.segmentation.cpu.int8 import QuantizedWeights

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLOPE = 0.01
_EPS = 1e-5
# A slab's input should stay in the cache between its normalisation and its convolution.
_SLAB_BYTES = 12 * 2**20
_PART_ROWS = 512


@dataclass(frozen=True)
class _Affine:
    """Instance normalisation with known statistics, by channel."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor

    def apply(self, rows: Tensor) -> Tensor:
        """Return normalised rows (n, H, W, C), in new memory."""
        if rows.dtype == torch.float32:
            scale = self.weight * torch.rsqrt(self.variance + _EPS)
            return torch.addcmul(self.bias - self.mean * scale, rows, scale)
        # Half-precision maps are normalised in float32 and rounded once.
        ncdhw = rows.permute(3, 0, 1, 2)[None]
        made = F.batch_norm(ncdhw, self.mean, self.variance, self.weight, self.bias, False, 0.0, _EPS)
        return made[0].permute(1, 2, 3, 0)


class _Source(Protocol):
    """The input of a convolution."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    def read(self, start: int, stop: int) -> Tensor:
        """Return planes [start, stop), ready to use: (n, H, W, channels)."""


@dataclass
class _Map:
    """A stored map; with an affine it is normalised and passed through the leaky ReLU when it is read."""

    rows: Tensor
    affine: _Affine | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        depth, height, width, _ = self.rows.shape
        return depth, height, width

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.rows.shape[3])

    def read(self, start: int, stop: int) -> Tensor:
        """Return planes [start, stop), ready to use: (n, H, W, channels)."""
        rows = self.rows[start:stop]
        return rows if self.affine is None else F.leaky_relu_(self.affine.apply(rows), _SLOPE)


class _Joined:
    """The decoder's input: the level below, upsampled, beside the encoder's map of this level."""

    def __init__(self, below: _Map, upsampling: Tensor, skip: _Map) -> None:
        self.below, self.upsampling, self.skip = below, upsampling, skip
        self.shape = skip.shape
        self.channels = 2 * skip.channels

    def read(self, start: int, stop: int) -> Tensor:
        """Return planes [start, stop), ready to use: (n, H, W, channels)."""
        channels = self.skip.channels
        _, height, width = self.below.shape
        first = start // 2
        below = self.below.read(first, -(-stop // 2))
        # A transposed convolution of kernel and stride 2 is a matrix product: each voxel becomes eight.
        eight = (below.reshape(-1, self.below.channels) @ self.upsampling).view(-1, height, width, 2, 2, 2, channels)
        out = torch.empty((stop - start, *self.shape[1:], self.channels), dtype=below.dtype)
        out[..., channels:] = self.skip.read(start, stop)
        for parity in (0, 1):
            at = (start + parity) % 2
            planes = eight[(start + at) // 2 - first :, :, :, parity].permute(0, 1, 3, 2, 4, 5)
            taken = out[at::2, :, :, :channels]
            taken.view(len(taken), height, 2, width, 2, channels).copy_(planes[: len(taken)])
        return out


@dataclass(frozen=True)
class _Convolution:
    """A convolution and the instance normalisation after it."""

    weight: Tensor
    stride: int
    norm_weight: Tensor
    norm_bias: Tensor
    quantized: QuantizedWeights | None

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return int(self.weight.shape[0])

    def __call__(self, slab: Tensor, depth_padding: int) -> Tensor:
        """Convolve (n, H, W, Cin) to (m, H', W', Cout), with a border of one voxel in the plane and `depth_padding`."""
        padding = (depth_padding, 1, 1)
        if self.quantized is not None:
            return self.quantized.convolve(slab, padding, self.stride)
        ncdhw = slab.permute(3, 0, 1, 2)[None]
        made = torch.mkldnn_convolution(ncdhw, self.weight, None, padding, (self.stride,) * 3, (1,) * 3, 1)
        return made[0].permute(1, 2, 3, 0)


class _Moments:
    """Mean and variance (ddof 0) by channel, gathered slab by slab and merged by Chan's formula in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, made: Tensor) -> None:
        """Add the values of a slab (n, H, W, C), which are overwritten."""
        rows = made.reshape(-1, made.shape[-1])
        if rows.dtype == torch.float32:
            mean = _mean(rows)
            rows -= mean
            variance = _mean(rows.square_())
        else:  # faster by far, exact to 1e-4
            mean, variance = torch.batch_norm_update_stats(rows, None, None, 0.1)
        mean, variance = mean.double(), variance.double()
        total = self.count + len(rows)
        shift = mean - self.mean
        self.mean += shift * (len(rows) / total)
        self.squares += variance * len(rows) + shift * shift * (self.count * len(rows) / total)
        self.count = total

    def affine(self, convolution: _Convolution) -> _Affine:
        """Return the normalisation with these statistics."""
        variance = (self.squares / self.count).float()
        return _Affine(self.mean.float(), variance, convolution.norm_weight, convolution.norm_bias)


def _mean(rows: Tensor) -> Tensor:
    """Return the mean by channel, (n, C) -> (C,), with the same bits for any number of threads."""
    count, channels = rows.shape
    whole = count - count % _PART_ROWS
    parts = rows[:whole].view(-1, _PART_ROWS, channels).sum(1).sum(0) if whole else torch.zeros(channels)
    return (parts + rows[whole:].sum(0)) / count


class StreamedUNet:
    """A DynUNet ready to run window by window on a CPU.

    It is not thread-safe: maps are stored in a workspace that the next window uses again.

    Parameters
    ----------
    network : nn.Module
        A DynUNet; its modules are only read.
    dtype : torch.dtype
        float32, or bfloat16 for maps and convolutions with normalisation in float32.
    integers : bool
        Whether to convolve in eight-bit integers; maps stay in `dtype`. Default: False.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, integers: bool = False) -> None:
        self.dtype, self._integers = dtype, integers
        parts = unet_parts(network, self._convolution)
        self._encoder, self._decoder = parts.encoder, parts.decoder
        self._upsampling = [self._matrix(weight) for weight in parts.upsampling]
        self._head = parts.head[0].reshape(1, -1), parts.head[1]
        self._workspace: dict[int, Tensor] = {}

    def _convolution(self, module: Any, norm: Any) -> _Convolution:
        weight = module.conv.weight.detach().to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        return _Convolution(
            weight,
            module.conv.stride[0],
            norm.weight.detach().float(),
            norm.bias.detach().float(),
            # The tomogram itself, one channel, is convolved as it is: that costs next to nothing.
            QuantizedWeights(weight, module.conv.stride[0]) if self._integers and weight.shape[1] > 1 else None,
        )

    def _matrix(self, weight: Tensor) -> Tensor:
        """Return (Cin, Cout, 2, 2, 2) weights as (Cin, 8 Cout), the eight children slowest."""
        return weight.to(self.dtype).permute(0, 2, 3, 4, 1).reshape(weight.shape[0], -1).contiguous()

    def __call__(self, window: Tensor) -> Tensor:
        """Predict the logits of one window.

        Parameters
        ----------
        window : Tensor, shape (w, w, w), float32
            Normalised densities.

        Returns
        -------
        Tensor, shape (w, w, w), float32
            Logits.
        """
        skips: list[_Map] = []
        current = _Map(window[..., None].to(self.dtype))
        for level, block in enumerate(self._encoder):
            current = self._encode(level, block, current)
            skips.append(current)
        skips.pop()
        for block, upsampling in zip(self._decoder, self._upsampling, strict=True):
            skip = skips.pop()
            current = self._two_convolutions(block, _Joined(current, upsampling, skip), skip.rows)
        return self._logits(current)

    def _encode(self, level: int, block: Block[_Convolution], source: _Map) -> _Map:
        stride = block.first.stride
        depth, height, width = (-(-n // stride) for n in source.shape)
        rows = self._workspace.get(level)
        if rows is None or rows.shape[:3] != (depth, height, width):
            rows = torch.empty((depth, height, width, block.first.channels), dtype=self.dtype)
            self._workspace[level] = rows
        out = self._two_convolutions(block, source, rows)
        if not block.is_residual:
            return self._settled(out, None, None, None)
        if block.projection is None:
            return self._settled(out, source, None, None)
        moments = _Moments(block.projection.channels)
        for start, stop in _slabs(out):
            moments.add(self._projected(source, block.projection, start, stop))
        return self._settled(out, source, block.projection, moments.affine(block.projection))

    def _settled(self, out: _Map, source: _Map | None, projection: _Convolution | None, affine: _Affine | None) -> _Map:
        """Normalise, add the residual and activate in place: an encoder's map is read several times."""
        assert out.affine is not None
        for start, stop in _slabs(out):
            made = out.affine.apply(out.rows[start:stop])
            if source is not None and projection is not None and affine is not None:
                made += affine.apply(self._projected(source, projection, start, stop))
            elif source is not None:
                made += source.rows[start:stop]
            out.rows[start:stop] = F.leaky_relu_(made, _SLOPE)
        return _Map(out.rows)

    def _projected(self, source: _Map, projection: _Convolution, start: int, stop: int) -> Tensor:
        stride = projection.stride
        rows = source.rows[start * stride : (stop - 1) * stride + 1 : stride, ::stride, ::stride]
        matrix = projection.weight.reshape(projection.channels, -1).T
        if rows.shape[3] == 1:
            return rows * matrix
        return (rows.reshape(-1, rows.shape[3]) @ matrix).view(*rows.shape[:3], -1)

    def _two_convolutions(self, block: Block[_Convolution], source: _Source, rows: Tensor) -> _Map:
        """Compute both convolutions into `rows`, which may contain a part of the source."""
        between = _Map(rows, self._convolve(source, block.first, rows))
        return _Map(rows, self._convolve(between, block.second, rows))

    def _convolve(self, source: _Source, convolution: _Convolution, out: Tensor) -> _Affine:
        """Convolve into `out`, whose planes may be the source's, and return the normalisation of the result."""
        moments = _Moments(convolution.channels)
        depth, height, width = source.shape
        stride = convolution.stride
        widest = max(source.channels * stride, convolution.channels)
        step = max(1, _SLAB_BYTES // (height * width * widest * self.dtype.itemsize))
        waiting: tuple[int, Tensor] | None = None
        for start in range(0, len(out), step):
            stop = min(start + step, len(out))
            low, high = start * stride - 1, (stop - 1) * stride + 2
            slab = source.read(max(low, 0), min(high, depth))
            # What was made of the slab before is stored only now: this slab had to read its last plane.
            self._store(waiting, out, moments)
            at_border = low < 0 or high > depth
            made = convolution(slab, int(at_border))
            skipped = int(at_border and low >= 0)
            waiting = start, made[skipped : skipped + stop - start]
        self._store(waiting, out, moments)
        return moments.affine(convolution)

    @staticmethod
    def _store(waiting: tuple[int, Tensor] | None, out: Tensor, moments: _Moments) -> None:
        if waiting is not None:
            start, made = waiting
            out[start : start + len(made)] = made
            moments.add(made)

    def _logits(self, source: _Map) -> Tensor:
        depth, height, width = source.shape
        logits = torch.empty((depth, height, width))
        weight, bias = self._head
        for start, stop in _slabs(source):
            rows = source.read(start, stop).reshape(-1, source.channels).float()
            logits[start:stop] = (rows @ weight.T + bias).view(-1, height, width)
        return logits


def _slabs(source: _Map) -> Iterator[tuple[int, int]]:
    depth, height, width = source.shape
    step = max(1, _SLAB_BYTES // (height * width * source.channels * source.rows.dtype.itemsize))
    return ((start, min(start + step, depth)) for start in range(0, depth, step))
