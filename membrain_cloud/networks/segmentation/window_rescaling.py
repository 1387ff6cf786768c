"""Rescale windows from the tomogram's voxel spacing to the network's and back, on the device, as MemBrain-seg does.

In by cropping or padding the centred Fourier transform, without correcting the amplitude; out by trilinear
interpolation, as its rescaling of patches does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_AXES = (-3, -2, -1)


def rescaled_edge(window: int, *, from_angstrom: float, to_angstrom: float) -> int:
    """Return the edge of a window at another voxel spacing.

    Parameters
    ----------
    window : int
        Edge in voxels.
    from_angstrom, to_angstrom : float
        Voxel spacings before and after, in Å.

    Returns
    -------
    int
        Edge in voxels, rounded, then up to an even number.
    """
    edge = round(window * from_angstrom / to_angstrom)
    return edge + edge % 2


def fourier_resize(windows: Tensor, edge: int) -> Tensor:
    """Resample windows in Fourier space; values scale by (s / edge)³.

    Parameters
    ----------
    windows : Tensor, shape (..., s, s, s), float32
        Windows with an even edge.
    edge : int
        New edge, even.

    Returns
    -------
    Tensor, shape (..., edge, edge, edge), float32
        The windows.
    """
    size = windows.shape[-1]
    if size == edge:
        return windows
    spectrum = torch.fft.fftshift(torch.fft.fftn(windows, dim=_AXES), dim=_AXES)
    # A negative padding crops.
    spectrum = F.pad(spectrum, [(edge - size) // 2] * 6)
    resized: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=_AXES), dim=_AXES).real
    return resized


def trilinear_resize(logits: Tensor, edge: int) -> Tensor:
    """Resample logits by trilinear interpolation.

    Parameters
    ----------
    logits : Tensor, shape (B, 1, w, w, w), float32
        Logits.
    edge : int
        New edge.

    Returns
    -------
    Tensor, shape (B, 1, edge, edge, edge), float32
        The logits.
    """
    if logits.shape[-1] == edge:
        return logits
    return F.interpolate(logits, size=(edge, edge, edge), mode="trilinear", align_corners=False)
