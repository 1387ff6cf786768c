"""Convolutions in eight-bit integers on a CPU: a quarter of float32's time where it has VNNI instructions.

Weights are quantized a channel, once; what is convolved is quantized as it comes, between its least value and one that
few are greater than: those are cut off, so that the many have finer steps.
The kernels are oneDNN's, reached as torch's own quantized export does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Of 255, one is left free at either end for values that are rounded outwards.
_STEPS = 253
# Of the values, that are cut off. A third of that or three times as much is worse on phantoms.
_CUT_OFF = 3e-5
# Every so many values are looked at for where that is.
_SAMPLED = 7


def has_integer_kernels() -> bool:
    """Whether this torch, on this CPU, convolves in eight-bit integers fast (AVX-512 with VNNI)."""
    return bool(torch.cpu._is_vnni_supported()) and hasattr(torch.ops.onednn, "qconv_pointwise")


class QuantizedWeights:
    """(Cout, Cin, k, k, k) in 255 steps an output channel, in oneDNN's own layout.

    weight : float32 or bfloat16.  stride : of the convolution.
    """

    def __init__(self, weight: Tensor, stride: int) -> None:
        exact = weight.float()
        scales = exact.abs().amax((1, 2, 3, 4)).clamp_(min=1e-12) / 127
        steps = torch.round(exact / scales.view(-1, 1, 1, 1, 1)).to(torch.int8)
        self._scales, self._zeros = scales, torch.zeros(len(scales), dtype=torch.int8)
        ones = [1, 1, 1]
        # The scale and zero of what is convolved are given anew with each call; here they only choose the layout.
        self._packed: Any = torch.ops.onednn.qconv_prepack(steps, scales, 1.0, 1, [stride] * 3, ones, ones, 1, None)

    def convolve(self, rows: Tensor, padding: tuple[int, int, int], stride: int) -> Tensor:
        """(D, H, W, Cin) contiguous, float32 or bfloat16 -> (D', H', W', Cout) of the same kind."""
        steps, scale, zero = _quantized(rows)
        made: Tensor = torch.ops.onednn.qconv_pointwise(
            steps.permute(3, 0, 1, 2)[None], scale, zero, self._packed, self._scales, self._zeros, None,
            [stride] * 3, list(padding), [1, 1, 1], 1, 1.0, 0, rows.dtype, "none", [], "",
        )  # fmt: skip
        return made[0].permute(1, 2, 3, 0)


def _quantized(rows: Tensor) -> tuple[Tensor, float, int]:
    """uint8 steps, the value of a step, and the step that is 0; the padding of a convolution is exactly 0."""
    least, greatest = min(float(rows.amin()), 0.0), max(_almost_greatest(rows), 0.0)
    scale = max(greatest - least, 1e-12) / _STEPS
    zero = round(-least / scale) + 1
    # By way of 16 bits, and so that negative steps wrap round to where adding the zero brings them back: far faster
    # than clamping and converting at once.
    steps = rows.clamp(max=greatest).mul_(1 / scale).round_().to(torch.int16).to(torch.uint8)
    return steps.add_(zero), scale, zero


def _almost_greatest(rows: Tensor) -> float:
    sample = rows.reshape(-1)[::_SAMPLED]
    return float(torch.topk(sample, max(1, round(_CUT_OFF * len(sample)))).values[-1])
