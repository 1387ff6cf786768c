"""Other layers of a U-Net in Triton: the first convolution, the decoder's upsampling, the output's convolution.

Maps are as in `instance_norm`. The last two normalise and activate their input, so no other kernel has to.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from membrain_cloud.networks.segmentation.gpu.instance_norm import Moments, leaky, store_moments, width_of

_VALUES, _TAPS = 4096, 27


@triton.jit
def _first_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    depth: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Convolve one channel as a matrix product over its 27 taps, padded to 32. Grid as of `_normalise_kernel`."""
    parts = tl.cdiv(channels, WIDTH)
    channel = (tl.program_id(0) % parts) * WIDTH + tl.arange(0, WIDTH)
    span = tl.program_id(0) // parts
    first = span * ROWS
    sample = tl.program_id(1)
    inside = channel < channels
    local = tl.arange(0, ROWS)
    row = first + local
    tap = tl.arange(0, 32)
    z = (row // (width * height))[:, None] + (tap // 9 - 1)[None, :]
    y = (row // width % height)[:, None] + (tap // 3 % 3 - 1)[None, :]
    w = (row % width)[:, None] + (tap % 3 - 1)[None, :]
    mask = (row < rows)[:, None] & (tap < 27)[None, :]
    mask &= (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (w >= 0) & (w < width)
    left = tl.load(x + sample.to(tl.int64) * rows + (z * height + y) * width + w, mask=mask, other=0.0)
    right = tl.load(weight + tap[:, None] * channels + channel[None, :], mask=inside[None, :], other=0.0)
    made = tl.dot(left.to(weight.dtype.element_ty), right, input_precision="ieee").to(out.dtype.element_ty)
    at = out + (sample.to(tl.int64) * rows + first) * channels + local[:, None] * channels + channel[None, :]
    there = (row < rows)[:, None] & inside[None, :]
    tl.store(at, made, mask=there)
    at = partial + (sample * tl.cdiv(rows, ROWS) + span) * 2 * channels + channel
    store_moments(at, made.to(tl.float32), there, inside, tl.minimum(rows - first, ROWS).to(tl.float32), channels)


@triton.jit
def _upsample_kernel(
    x: tl.tensor,
    affine: tl.tensor,
    weight: tl.tensor,
    joined: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    INNER: tl.constexpr,
    NORMALISE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DEEP: tl.constexpr,
) -> None:
    """Write x @ weight for the eight children of each voxel to the first half of `joined`; x is normalised first.

    Grid (channel blocks * 8 children * row blocks, B).
    """
    parts = tl.cdiv(channels, WIDTH)
    channel = (tl.program_id(0) % parts) * WIDTH + tl.arange(0, WIDTH)
    child = (tl.program_id(0) // parts) % 8
    first = (tl.program_id(0) // (8 * parts)) * ROWS
    sample = tl.program_id(1)
    local = tl.arange(0, ROWS)
    row = first + local
    there = row < rows
    inside = channel < channels
    base = x + (sample.to(tl.int64) * rows + first) * INNER
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, INNER, DEEP):
        k = start + tl.arange(0, DEEP)
        mask = there[:, None] & (k < INNER)[None, :]
        left = tl.load(base + local[:, None] * INNER + k[None, :], mask=mask, other=0.0)
        if NORMALISE:
            scale = tl.load(affine + sample * 2 * INNER + k, mask=k < INNER, other=0.0)
            shift = tl.load(affine + (sample * 2 + 1) * INNER + k, mask=k < INNER, other=0.0)
            left = leaky(left.to(tl.float32) * scale[None, :] + shift[None, :]).to(x.dtype.element_ty)
        right_at = weight + (k[:, None] * 8 + child) * channels + channel[None, :]
        right = tl.load(right_at, mask=(k < INNER)[:, None] & inside[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    z = 2 * (row // (width * height)) + child // 4
    y = 2 * (row // width % height) + child // 2 % 2
    fine = (z * 2 * height + y) * 2 * width + 2 * (row % width) + child % 2
    out = joined + (sample.to(tl.int64) * 8 * rows + fine)[:, None] * 2 * channels + channel[None, :]
    tl.store(out, total.to(joined.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def _logits_kernel(
    x: tl.tensor,
    affine: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Compute leaky(x * scale + shift) @ weight + bias over all channels. Grid (row blocks, B)."""
    channel = tl.arange(0, WIDTH)
    first = tl.program_id(0) * ROWS
    sample = tl.program_id(1)
    inside = channel < channels
    local = tl.arange(0, ROWS)
    there = first + local < rows
    start = sample.to(tl.int64) * rows + first
    at = start * channels + local[:, None] * channels + channel[None, :]
    scale = tl.load(affine + sample * 2 * channels + channel, mask=inside, other=0.0)
    shift = tl.load(affine + (sample * 2 + 1) * channels + channel, mask=inside, other=0.0)
    value = tl.load(x + at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
    value = leaky(value * scale[None, :] + shift[None, :])
    factor = tl.load(weight + channel, mask=inside, other=0.0)
    tl.store(out + start + local, tl.sum(value * factor[None, :], 1) + tl.load(bias), mask=there)


def upsample_into(joined: Tensor, below: Tensor, weight: Tensor, affine: Tensor | None) -> None:
    """Compute the transposed convolution of kernel and stride 2.

    Parameters
    ----------
    joined : Tensor, shape (B, 2 d, 2 h, 2 w, 2 C)
        Its first half gets the result.
    below : Tensor, shape (B, d, h, w, K)
        The map of the level below.
    weight : Tensor, shape (K, 8, C)
        The children in the order of z, y, x.
    affine : Tensor, shape (B, 2, K), float32, or None
        Normalisation of `below`, after which the leaky ReLU is applied; None: it is used as it is.
    """
    inner, _, channels = weight.shape
    _, depth, height, width = below.shape[:4]
    rows = depth * height * width
    block, across, deep = 128, width_of(channels, 16, 128), width_of(inner, 16, 64)
    grid = (8 * triton.cdiv(channels, across) * triton.cdiv(rows, block), len(below))
    _upsample_kernel[grid](
        below, weight if affine is None else affine, weight, joined, rows, height, width, channels, INNER=inner,
        NORMALISE=affine is not None, ROWS=block, WIDTH=across, DEEP=deep, num_warps=8 if across > 64 else 4,
    )  # fmt: skip


def first_convolution(windows: Tensor, weight: Tensor) -> tuple[Tensor, Moments]:
    """Convolve the densities, with a border of zeros.

    Parameters
    ----------
    windows : Tensor, shape (B, D, H, W), float32
        Windows; they are rounded to the dtype of the weight.
    weight : Tensor, shape (32, C), float16 or bfloat16
        Of `padded_taps`.

    Returns
    -------
    Tensor, shape (B, D, H, W, C)
        The map, in the dtype of the weight.
    Moments
        Its statistics.
    """
    batch, depth, height, width = windows.shape
    channels = weight.shape[1]
    out = torch.empty((*windows.shape, channels), dtype=weight.dtype, device=windows.device)
    rows, block, across = depth * height * width, 128, width_of(channels, 16, 128)
    blocks = triton.cdiv(rows, block)
    partial = windows.new_empty((batch, blocks, 2, channels))
    _first_kernel[(triton.cdiv(channels, across) * blocks, batch)](
        windows, weight, out, partial, rows, depth, height, width, channels, ROWS=block, WIDTH=across
    )
    return out, Moments(partial, rows, block)


def padded_taps(weight: Tensor) -> Tensor:
    """Arrange the weights of the first convolution for `first_convolution`.

    Parameters
    ----------
    weight : Tensor, shape (C, 1, 3, 3, 3)
        The weights.

    Returns
    -------
    Tensor, shape (32, C)
        The same, with zeros from row 27 on.
    """
    taps = weight.new_zeros((32, len(weight)))
    taps[:_TAPS] = weight.reshape(len(weight), _TAPS).T
    return taps


def logits(rows: Tensor, affine: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise, apply the leaky ReLU and convolve to one channel.

    Parameters
    ----------
    rows : Tensor, shape (B, D, H, W, C), floating
        The map.
    affine : Tensor, shape (B, 2, C), float32
        Scale and shift.
    weight : Tensor, shape (C,), float32
        Of the 1 x 1 x 1 convolution.
    bias : Tensor, shape (1,), float32
        Of the convolution.

    Returns
    -------
    Tensor, shape (B, D, H, W), float32
        Logits.
    """
    channels, count = rows.shape[-1], rows[0, ..., 0].numel()
    out = torch.empty(rows.shape[:-1], dtype=torch.float32, device=rows.device)
    width = width_of(channels, 1, 4096)
    block = max(1, _VALUES // width)
    _logits_kernel[(triton.cdiv(count, block), len(rows))](
        rows, affine, weight, bias, out, count, channels, ROWS=block, WIDTH=width
    )
    return out
