"""Instance normalisation with gradients in Triton, for channels-last maps: few passes instead of PyTorch's many.

PyTorch copies a channels-last map to the other layout to normalise it, and back, in both directions: on a GPU this
takes longer than all convolutions of a U-Net together. Here the map keeps its layout. Forward it is read for its
statistics, and read and written to be normalised; backward it is read with its gradient for two sums, and once more.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from membrain_cloud.networks.segmentation.gpu.instance_norm import Moments, block_of

# Programs that share the sums of a map.
_PROGRAMS = 1024


@triton.jit
def _products_kernel(
    gradient: tl.tensor,
    x: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Sum the gradient, and the gradient times x, over STEPS blocks of rows. Grid (channel blocks, spans, B)."""
    channel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    span = tl.program_id(1)
    sample = tl.program_id(2)
    inside = channel < channels
    first = span * STEPS * ROWS
    local = tl.arange(0, ROWS)
    offsets = local[:, None] * channels + channel[None, :]
    start = (sample.to(tl.int64) * rows + first) * channels
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    product = tl.zeros((ROWS, WIDTH), tl.float32)
    for step in tl.range(0, STEPS, num_stages=3):
        mask = (first + step * ROWS + local < rows)[:, None] & inside[None, :]
        slope = tl.load(gradient + start + offsets, mask=mask, other=0.0).to(tl.float32)
        total += slope
        product += slope * tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
        start += ROWS * channels
    out = partial + (sample * tl.num_programs(1) + span) * 2 * channels + channel
    tl.store(out, tl.sum(total, 0), mask=inside)
    tl.store(out + channels, tl.sum(product, 0), mask=inside)


@triton.jit
def _combine_kernel(
    one: tl.tensor,
    other: tl.tensor,
    factors: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    BOTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Compute factors[0] one + factors[1] (+ factors[2] other) by sample and channel. Grid of `_normalise_kernel`."""
    parts = tl.cdiv(channels, WIDTH)
    channel = (tl.program_id(0) % parts) * WIDTH + tl.arange(0, WIDTH)
    first = (tl.program_id(0) // parts) * ROWS
    sample = tl.program_id(1)
    inside = channel < channels
    local = tl.arange(0, ROWS)
    mask = (first + local < rows)[:, None] & inside[None, :]
    at = (sample.to(tl.int64) * rows + first) * channels + local[:, None] * channels + channel[None, :]
    factor = factors + sample * (3 if BOTH else 2) * channels + channel
    scale = tl.load(factor, mask=inside, other=0.0)
    shift = tl.load(factor + channels, mask=inside, other=0.0)
    value = tl.load(one + at, mask=mask, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if BOTH:
        times = tl.load(factor + 2 * channels, mask=inside, other=0.0)
        value += tl.load(other + at, mask=mask, other=0.0).to(tl.float32) * times[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def _sums(gradient: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of the gradient, and of the gradient times the map: (B, C) float32 each."""
    batch, channels, count = len(rows), rows.shape[-1], rows[0, ..., 0].numel()
    block, width = block_of(channels)
    parts, blocks = triton.cdiv(channels, width), triton.cdiv(count, block)
    steps = triton.cdiv(blocks * parts * batch, _PROGRAMS)
    partial = rows.new_empty((batch, triton.cdiv(blocks, steps), 2, channels), dtype=torch.float32)
    _products_kernel[(parts, partial.shape[1], batch)](
        gradient, rows, partial, count, channels, STEPS=steps, ROWS=block, WIDTH=width
    )
    total, product = partial.sum(1).unbind(1)
    return total, product


def _combined(one: Tensor, factors: Tensor, other: Tensor | None = None) -> Tensor:
    """Combine maps with factors (B, 2 or 3, C) float32."""
    channels, count, out = one.shape[-1], one[0, ..., 0].numel(), torch.empty_like(one)
    block, width = block_of(channels)
    grid = (triton.cdiv(channels, width) * triton.cdiv(count, block), len(one))
    _combine_kernel[grid](
        one, one if other is None else other, factors, out, count, channels, BOTH=other is not None, ROWS=block,
        WIDTH=width,
    )  # fmt: skip
    return out


class _Normalised(torch.autograd.Function):
    """Normalisation with gradients: rows (B, D, H, W, C), weight (C,), bias (C,) -> rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ones, zeros = torch.ones_like(weight), torch.zeros_like(bias)
        standard = Moments.of(rows).affine(ones, zeros)  # 1 / deviation, and minus the mean by it
        ctx.save_for_backward(rows, standard, weight)
        return _combined(rows, torch.stack([weight * standard[:, 0], bias + weight * standard[:, 1]], 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (rows, standard, weight), (gradient,) = ctx.saved_tensors, gradients
        gradient, count = gradient.contiguous(), rows[0, ..., 0].numel()
        inverse, shift = standard.unbind(1)
        total, product = _sums(gradient, rows)
        along = inverse * product + shift * total  # with the normalised map
        scale = weight * inverse
        factors = [scale, -scale * (total + shift * along) / count, -scale * inverse * along / count]
        return _combined(gradient, torch.stack(factors, 1), rows), along.sum(0), total.sum(0)


class FusedInstanceNorm(nn.Module):
    """`nn.InstanceNorm3d` with weight and bias for channels-last maps (B, C, D, H, W), with the same parameters."""

    def __init__(self, plain: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps.

        Parameters
        ----------
        maps : Tensor, shape (B, C, D, H, W), floating
            Maps in channels-last layout.

        Returns
        -------
        Tensor, shape (B, C, D, H, W)
            The normalised maps, in the dtype of the input.
        """
        rows = maps.permute(0, 2, 3, 4, 1).contiguous()
        result: Tensor = _Normalised.apply(rows, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result.permute(0, 4, 1, 2, 3)


def fuse_normalisation(network: nn.Module) -> None:
    """Replace every instance normalisation by `FusedInstanceNorm` with the same parameters.

    Parameters
    ----------
    network : nn.Module
        A network; it is changed in place.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, FusedInstanceNorm(child))
