"""Instance normalisation of channels-last maps in Triton: statistics, then scale, residual and leaky ReLU in one pass.

A map is a contiguous tensor (B, D, H, W, C) of any floating type; its voxels are rows of C values. All arithmetic is in
float32. Every kernel is bound by memory, so each reads its input once, with vector loads along the channels.

Importing this module needs Triton. With TRITON_INTERPRET=1 in the environment the same kernels run on tensors of a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_SLOPE = tl.constexpr(0.01)
_EPS = tl.constexpr(1e-5)
# Values that one program holds at a time, channels of them at most, and programs that share a map's statistics.
_VALUES, _WIDEST, _PROGRAMS = 4096, 128, 1024
# Spans and channels that are merged at a time.
_MERGED_SPANS, _MERGED_CHANNELS = 1024, 4


@triton.jit
def leaky(value: tl.tensor) -> tl.tensor:
    """Compute the leaky ReLU.

    Parameters
    ----------
    value : tensor
        Values of a block, of any shape, float32.
    """
    return tl.where(value > 0, value, value * _SLOPE)


@triton.jit
def store_moments(
    at: tl.tensor, value: tl.tensor, mask: tl.tensor, inside: tl.tensor, held: tl.tensor, channels: tl.tensor
) -> None:
    """Store mean and sum of squared deviations of a span that is held whole.

    Parameters
    ----------
    at : tensor
        Addresses of the span's mean, one a channel; the sums follow after `channels` values.
    value : tensor
        Values of the span, (rows, channels), float32.
    mask : tensor
        Which values are valid, (rows, channels), bool.
    inside : tensor
        Which channels exist, (channels,), bool.
    held : tensor
        Number of valid rows.
    channels : tensor
        Number of channels of the whole map.
    """
    mean = tl.sum(tl.where(mask, value, 0.0), 0) / held
    away = tl.where(mask, value - mean[None, :], 0.0)
    tl.store(at, mean, mask=inside)
    tl.store(at + channels, tl.sum(away * away, 0), mask=inside)


@triton.jit
def _moments_kernel(
    x: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Compute the moments of a span of STEPS blocks of ROWS rows. Grid (channel blocks, spans, B)."""
    channel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    span = tl.program_id(1)
    sample = tl.program_id(2)
    inside = channel < channels
    first = span * STEPS * ROWS
    local = tl.arange(0, ROWS)
    offsets = local[:, None] * channels + channel[None, :]
    base = x + (sample.to(tl.int64) * rows + first) * channels
    count = tl.minimum(rows - first, ROWS)
    mask = (local < count)[:, None] & inside[None, :]
    # Sums are taken about the first block's mean: about zero, a large mean would eat the digits of a small variance.
    block = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    about = tl.sum(block, 0) / count.to(tl.float32)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    squares = tl.zeros((ROWS, WIDTH), tl.float32)
    for step in tl.range(0, STEPS, num_stages=3):
        mask = (first + step * ROWS + local < rows)[:, None] & inside[None, :]
        block = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
        away = tl.where(mask, block - about[None, :], 0.0)
        total += away
        squares += away * away
        base += ROWS * channels
    held = tl.minimum(rows - first, STEPS * ROWS).to(tl.float32)
    shift = tl.sum(total, 0) / held
    out = partial + (sample * tl.num_programs(1) + span) * 2 * channels + channel
    tl.store(out, about + shift, mask=inside)
    tl.store(out + channels, tl.sum(squares, 0) - shift * shift * held, mask=inside)


@triton.jit
def _merged(
    base: tl.tensor,
    first: tl.tensor,
    inside: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    spans: tl.tensor,
    span_rows: tl.tensor,
    SPANS: tl.constexpr,
) -> tl.tensor:
    """Merge SPANS spans from `first` on by Chan's formula: mean, sum of squared deviations and count.

    `base` are the addresses of the first span's mean, by channel.
    """
    span = first + tl.arange(0, SPANS)
    mask = (span < spans)[:, None] & inside[None, :]
    about = tl.load(base + first * 2 * channels, mask=inside, other=0.0)
    at = base[None, :] + span[:, None] * 2 * channels
    away = tl.where(mask, tl.load(at, mask=mask, other=0.0) - about[None, :], 0.0)
    inner = tl.load(at + channels, mask=mask, other=0.0)
    held = tl.minimum(tl.maximum(rows - span * span_rows, 0), span_rows).to(tl.float32)[:, None]
    count = tl.minimum(rows - first * span_rows, SPANS * span_rows).to(tl.float32)
    shift = tl.sum(away * (held / count), 0)
    return about + shift, tl.sum(inner + away * away * held, 0) - shift * shift * count, count


@triton.jit
def _merge_kernel(
    partial: tl.tensor,
    merged: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    spans: tl.tensor,
    span_rows: tl.tensor,
    SPANS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Merge every SPANS spans into one. Grid (channel blocks, spans afterwards, B)."""
    channel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    sample = tl.program_id(2)
    inside = channel < channels
    base = partial + sample * spans * 2 * channels + channel
    first = tl.program_id(1) * SPANS
    mean, squares, _ = _merged(base, first, inside, rows, channels, spans, span_rows, SPANS)
    out = merged + (sample * tl.num_programs(1) + tl.program_id(1)) * 2 * channels + channel
    tl.store(out, mean, mask=inside)
    tl.store(out + channels, squares, mask=inside)


@triton.jit
def _affine_kernel(
    partial: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    projection: tl.tensor,
    affine: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    spans: tl.tensor,
    span_rows: tl.tensor,
    PROJECTED: tl.constexpr,
    SPANS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Merge all spans, then compute scale and shift by channel. Grid (channel blocks, B).

    PROJECTED: the moments are those of a map of one channel, times `projection` for each channel.
    """
    channel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    sample = tl.program_id(1)
    inside = channel < channels
    if PROJECTED:
        base = partial + sample * spans * 2 + channel * 0
        mean, squares, count = _merged(base, 0, inside, rows, 1, spans, span_rows, SPANS)
    else:
        base = partial + sample * spans * 2 * channels + channel
        mean, squares, count = _merged(base, 0, inside, rows, channels, spans, span_rows, SPANS)
    variance = tl.maximum(squares / count, 0.0)
    scale = tl.load(weight + channel, mask=inside, other=0.0)
    if PROJECTED:
        times = tl.load(projection + channel, mask=inside, other=0.0)
        scale = scale * times / tl.sqrt(variance * times * times + _EPS)
    else:
        scale = scale / tl.sqrt(variance + _EPS)
    out = affine + sample * 2 * channels + channel
    tl.store(out, scale, mask=inside)
    tl.store(out + channels, tl.load(bias + channel, mask=inside, other=0.0) - mean * scale, mask=inside)


@triton.jit
def _normalise_kernel(
    x: tl.tensor,
    affine: tl.tensor,
    other: tl.tensor,
    other_affine: tl.tensor,
    joined: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    RESIDUAL: tl.constexpr,
    JOINED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Compute leaky(x * scale + shift + residual) in place, and copy it to the second half of `joined`'s channels.

    RESIDUAL: "none", "map", "normalised" (a map with its own scale and shift) or "single" (the same, of one channel).
    Grid (channel blocks * row blocks, B).
    """
    parts = tl.cdiv(channels, WIDTH)
    channel = (tl.program_id(0) % parts) * WIDTH + tl.arange(0, WIDTH)
    first = (tl.program_id(0) // parts) * ROWS
    sample = tl.program_id(1)
    inside = channel < channels
    local = tl.arange(0, ROWS)
    mask = (first + local < rows)[:, None] & inside[None, :]
    start = sample.to(tl.int64) * rows + first
    at = start * channels + local[:, None] * channels + channel[None, :]
    scale = tl.load(affine + sample * 2 * channels + channel, mask=inside, other=0.0)
    shift = tl.load(affine + (sample * 2 + 1) * channels + channel, mask=inside, other=0.0)
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if RESIDUAL == "map":
        value += tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL == "normalised" or RESIDUAL == "single":
        scale = tl.load(other_affine + sample * 2 * channels + channel, mask=inside, other=0.0)
        shift = tl.load(other_affine + (sample * 2 + 1) * channels + channel, mask=inside, other=0.0)
        if RESIDUAL == "single":
            beside = tl.load(other + start + local, mask=first + local < rows, other=0.0).to(tl.float32)[:, None]
        else:
            beside = tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
        value += beside * scale[None, :] + shift[None, :]
    made = leaky(value).to(x.dtype.element_ty)
    tl.store(x + at, made, mask=mask)
    if JOINED:
        wide = joined + start * 2 * channels + channels
        tl.store(wide + local[:, None] * 2 * channels + channel[None, :], made, mask=mask)


@dataclass(frozen=True)
class Moments:
    """Mean and sum of squared deviations of a map, by sample, span of voxels and channel.

    Attributes
    ----------
    partial : Tensor, shape (B, spans, 2, C), float32
        Mean and sum of squared deviations.
    rows : int
        Voxels of a sample.
    span_rows : int
        Voxels of a span; the last one may be shorter.
    """

    partial: Tensor
    rows: int
    span_rows: int

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Compute the moments of a map in one pass.

        Parameters
        ----------
        rows : Tensor, shape (B, D, H, W, C), floating
            The map.

        Returns
        -------
        Moments
            Its moments.
        """
        batch, channels, count = len(rows), rows.shape[-1], rows[0, ..., 0].numel()
        block, width = block_of(channels)
        parts = triton.cdiv(channels, width)
        blocks = triton.cdiv(count, block)
        steps = triton.cdiv(blocks * parts * batch, _PROGRAMS)
        partial = rows.new_empty((batch, triton.cdiv(blocks, steps), 2, channels), dtype=torch.float32)
        grid = (parts, partial.shape[1], batch)
        _moments_kernel[grid](rows, partial, count, channels, STEPS=steps, ROWS=block, WIDTH=width)
        return cls(partial, count, steps * block)

    def affine(self, weight: Tensor, bias: Tensor, projection: Tensor | None = None) -> Tensor:
        """Compute scale and shift of the instance normalisation.

        Parameters
        ----------
        weight, bias : Tensor, shape (C,), float32
            Of the normalisation.
        projection : Tensor, shape (C,), float32, optional
            The map to normalise is this map of one channel times `projection`; mean and variance of w x are w mean(x)
            and w² var(x), so it need not be computed. Scale and shift then apply to x. Default: this map itself.

        Returns
        -------
        Tensor, shape (B, 2, C), float32
            Scale and shift.
        """
        batch, spans, _, _ = self.partial.shape
        if spans > _MERGED_SPANS:
            return self._merged().affine(weight, bias, projection)
        channels = len(weight)
        made = self.partial.new_empty((batch, 2, channels))
        _affine_kernel[(triton.cdiv(channels, _MERGED_CHANNELS), batch)](
            self.partial, weight, bias, weight if projection is None else projection, made, self.rows, channels, spans,
            self.span_rows, PROJECTED=projection is not None, SPANS=width_of(spans, 1, _MERGED_SPANS),
            WIDTH=_MERGED_CHANNELS,
        )  # fmt: skip
        return made

    def _merged(self) -> Moments:
        batch, spans, _, channels = self.partial.shape
        fewer = triton.cdiv(spans, _MERGED_SPANS)
        partial = self.partial.new_empty((batch, fewer, 2, channels))
        _merge_kernel[(triton.cdiv(channels, _MERGED_CHANNELS), fewer, batch)](
            self.partial, partial, self.rows, channels, spans, self.span_rows, SPANS=_MERGED_SPANS,
            WIDTH=_MERGED_CHANNELS,
        )  # fmt: skip
        return Moments(partial, self.rows, self.span_rows * _MERGED_SPANS)


def normalise_(
    rows: Tensor,
    affine: Tensor,
    *,
    residual: Tensor | None = None,
    residual_affine: Tensor | None = None,
    joined: Tensor | None = None,
) -> Tensor:
    """Scale, shift, add the residual and apply the leaky ReLU, in place.

    Parameters
    ----------
    rows : Tensor, shape (B, D, H, W, C), floating
        The map.
    affine : Tensor, shape (B, 2, C), float32
        Scale and shift.
    residual : Tensor, shape (B, D, H, W, C) or (B, D, H, W, 1), optional
        A map to add. Default: none.
    residual_affine : Tensor, shape (B, 2, C), float32, optional
        Scale and shift of the residual. Default: added as it is.
    joined : Tensor, shape (B, D, H, W, 2 C), optional
        Its second half gets the result too. Default: none.

    Returns
    -------
    Tensor
        `rows`.
    """
    channels, count = rows.shape[-1], rows[0, ..., 0].numel()
    kind = "none"
    if residual is not None:
        kind = "map" if residual_affine is None else "normalised" if residual.shape == rows.shape else "single"
    block, width = block_of(channels)
    grid = (triton.cdiv(channels, width) * triton.cdiv(count, block), len(rows))
    _normalise_kernel[grid](
        rows, affine, rows if residual is None else residual, affine if residual_affine is None else residual_affine,
        rows if joined is None else joined, count, channels, RESIDUAL=kind, JOINED=joined is not None, ROWS=block,
        WIDTH=width,
    )  # fmt: skip
    return rows


def block_of(channels: int) -> tuple[int, int]:
    """Return the rows and channels that one program processes at a time.

    Parameters
    ----------
    channels : int
        Channels of the map.

    Returns
    -------
    tuple of int
        Rows and channels.
    """
    width = width_of(channels, 1, _WIDEST)
    return _VALUES // width, width


def width_of(channels: int, least: int, most: int) -> int:
    """Return a power of two for a number of channels, within limits.

    Parameters
    ----------
    channels, least, most : int
        The channels, and the limits.

    Returns
    -------
    int
        Channels of a block.
    """
    return int(max(least, min(most, triton.next_power_of_2(channels))))
