"""Convolve in eight-bit integers on a CPU, in a quarter of float32's time where it has VNNI instructions.

Weights are quantised by output channel, once. Inputs are quantised as they come, between their minimum and a value that
few exceed: these few are clipped, so that all others have finer steps. The kernels are oneDNN's, as torch's quantised
export calls them.
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
    """Return whether torch convolves fast in eight-bit integers on this CPU (AVX-512 with VNNI)."""
    return bool(torch.cpu._is_vnni_supported()) and hasattr(torch.ops.onednn, "qconv_pointwise")


class QuantizedWeights:
    """Weights (Cout, Cin, k, k, k) in 255 steps by output channel, in oneDNN's layout.

    Parameters
    ----------
    weight : Tensor, shape (Cout, Cin, k, k, k), float32 or bfloat16
        The weights.
    stride : int
        Stride of the convolution.
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
        """Convolve a map.

        Parameters
        ----------
        rows : Tensor, shape (D, H, W, Cin), float32 or bfloat16
            A contiguous map.
        padding : tuple of int
            Zeros added along (z, y, x).
        stride : int
            Stride.

        Returns
        -------
        Tensor, shape (D', H', W', Cout)
            The result, in the dtype of the map.
        """
        steps, scale, zero = _quantized(rows)
        made: Tensor = torch.ops.onednn.qconv_pointwise(
            steps.permute(3, 0, 1, 2)[None], scale, zero, self._packed, self._scales, self._zeros, None,
            [stride] * 3, list(padding), [1, 1, 1], 1, 1.0, 0, rows.dtype, "none", [], "",
        )  # fmt: skip
        return made[0].permute(1, 2, 3, 0)


def _quantized(rows: Tensor) -> tuple[Tensor, float, int]:
    """Return uint8 steps, the value of a step, and the step that is 0, so that the padding is exactly 0."""
    least, greatest = min(float(rows.amin()), 0.0), max(_almost_greatest(rows), 0.0)
    scale = max(greatest - least, 1e-12) / _STEPS
    zero = round(-least / scale) + 1
    # By way of 16 bits, and so that negative steps wrap round to where adding the zero brings them back: far faster
    # than clamping and converting at once.
    steps = rows.clamp(max=greatest).mul_(1 / scale).round_().to(torch.int16).to(torch.uint8)
    return steps.add_(zero), scale, zero


def _almost_greatest(rows: Tensor) -> float:
    """Return a value that few exceed."""
    sample = rows.reshape(-1)[::_SAMPLED]
    return float(torch.topk(sample, max(1, round(_CUT_OFF * len(sample)))).values[-1])
