"""Windows from the tomogram's voxel spacing to the network's and back, on the device, as MemBrain-seg does it.

In by cropping or padding the centred Fourier transform, without correcting the amplitude; out by trilinear
interpolation. (MemBrain-seg, `--rescale-patches`.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_AXES = (-3, -2, -1)


def rescaled_edge(window: int, *, from_angstrom: float, to_angstrom: float) -> int:
    """Edge at `to_angstrom` a voxel of what is `window` voxels at `from_angstrom`; rounded, then up to an even one."""
    edge = round(window * from_angstrom / to_angstrom)
    return edge + edge % 2


def fourier_resize(windows: Tensor, edge: int) -> Tensor:
    """(..., s, s, s) float32 -> (..., edge, edge, edge); both edges even. Values scale by (s / edge)^3."""
    size = windows.shape[-1]
    if size == edge:
        return windows
    spectrum = torch.fft.fftshift(torch.fft.fftn(windows, dim=_AXES), dim=_AXES)
    # A negative padding crops.
    spectrum = F.pad(spectrum, [(edge - size) // 2] * 6)
    resized: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=_AXES), dim=_AXES).real
    return resized


def trilinear_resize(logits: Tensor, edge: int) -> Tensor:
    """(B, 1, w, w, w) -> (B, 1, edge, edge, edge)."""
    if logits.shape[-1] == edge:
        return logits
    return F.interpolate(logits, size=(edge, edge, edge), mode="trilinear", align_corners=False)
