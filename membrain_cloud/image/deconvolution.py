"""Deconvolve a tomogram as Warp does: a Wiener filter of the CTF with an assumed signal-to-noise ratio.

References
----------
Tegunov & Cramer, Nat. Methods 16 (2019), in the form of MemBrain-seg, which follows focustools (R. Righetto). Their
wavelength is 3e-5 shorter than that of `image.ctf`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import UsageError
from membrain_cloud.image.ctf import contrast_transfer, electron_wavelength_angstrom
from membrain_cloud.image.fourier import Kernel, cycles_per_voxel, radial_kernel

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

Float64 = NDArray[np.float64]
# The zero frequency is filtered as this one, in cycles a voxel (MemBrain-seg's): the mean gets a finite factor.
_IN_PLACE_OF_ZERO = 1e-3


def first_zero_per_angstrom(*, defocus_angstrom: float, amplitude_contrast: float, voltage_kv: float) -> float:
    """Return the frequency at which the contrast transfer function first crosses zero.

    Parameters
    ----------
    defocus_angstrom : float
        Defocus in Å; underfocus is positive.
    amplitude_contrast : float
        Amplitude contrast, 0 to 1.
    voltage_kv : float
        Acceleration voltage in kV.

    Returns
    -------
    float
        Frequency in 1/Å. The spherical aberration is left out: it shifts the zero by less than 1e-3 at the defocus of
        tomograms. In MemBrain-seg's formula it cancels up to 1e-6.
    """
    lag = math.atan2(amplitude_contrast, math.sqrt(1 - amplitude_contrast**2))
    return math.sqrt((math.pi - lag) / (math.pi * defocus_angstrom * electron_wavelength_angstrom(voltage_kv)))


@dataclass(frozen=True)
class Deconvolution:
    """The settings of a deconvolution.

    Attributes
    ----------
    defocus_angstrom, amplitude_contrast, spherical_aberration_mm, voltage_kv : float
        The lens, as for `contrast_transfer`.
    strength : float
        A third of the decimal exponent of the SNR at frequency 0.
    falloff : float
        How fast the SNR falls with the frequency.
    highpass_cycles_per_voxel : float
        The SNR rises from 0 at frequency 0 to its full value here. MemBrain-seg calls it a fraction of Nyquist; its
        arithmetic has this unit.
    lowpass : bool
        Whether the SNR falls to 0 towards the first zero of the CTF.
    membrain_seg_radii : bool
        Whether frequencies are measured as in MemBrain-seg: the radius in voxels of the spectrum over the root mean
        square of the axes, rounded to whole voxels for the CTF. In a flat volume this gives z the frequencies of x.
        False: true frequencies.
    """

    defocus_angstrom: float
    amplitude_contrast: float
    spherical_aberration_mm: float
    voltage_kv: float
    strength: float
    falloff: float
    highpass_cycles_per_voxel: float
    lowpass: bool
    membrain_seg_radii: bool


def deconvolution_kernel(shape: Zyx, settings: Deconvolution, *, voxel_spacing_angstrom: float) -> Kernel:
    """Return the Wiener filter of the contrast transfer function.

    The filter is CTF / (CTF² + 1 / SNR), with SNR = 10^(3 strength) exp(-100 falloff f), faded at both ends.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the volume along (z, y, x).
    settings : Deconvolution
        The lens and the filter.
    voxel_spacing_angstrom : float
        Voxel spacing in Å.

    Returns
    -------
    Kernel
        The filter, as `FourierVolume.filter` takes it.

    Raises
    ------
    UsageError
        If a value is out of range.
    """
    _check(settings)
    zero = first_zero_per_angstrom(
        defocus_angstrom=settings.defocus_angstrom,
        amplitude_contrast=settings.amplitude_contrast,
        voltage_kv=settings.voltage_kv,
    )
    root_mean_square = math.sqrt(sum(n * n for n in shape) / 3)
    radii = settings.membrain_seg_radii

    def response(cycles: Float64) -> Float64:
        of_ctf = np.round(cycles * root_mean_square) / root_mean_square if radii else cycles
        ctf = contrast_transfer(
            _not_zero(of_ctf) / voxel_spacing_angstrom,
            defocus_angstrom=settings.defocus_angstrom,
            amplitude_contrast=settings.amplitude_contrast,
            spherical_aberration_mm=settings.spherical_aberration_mm,
            voltage_kv=settings.voltage_kv,
        )
        cycles = _not_zero(cycles)
        ratio = np.exp(-100 * settings.falloff * cycles / voxel_spacing_angstrom) * 10 ** (3 * settings.strength)
        if settings.highpass_cycles_per_voxel > 0:
            ratio *= 1 - np.cos(np.minimum(1, cycles / settings.highpass_cycles_per_voxel) * (math.pi / 2))
        if settings.lowpass:
            ratio *= np.cos(np.minimum(1, cycles / (voxel_spacing_angstrom * zero)) * (math.pi / 2))
        result: Float64 = ctf * ratio / (ctf * ctf * ratio + 1)
        return result

    step = 1 / root_mean_square
    return radial_kernel(shape, response, spacings=(step, step, step) if radii else cycles_per_voxel(shape))


def _not_zero(cycles: Float64) -> Float64:
    """Return the frequencies with 0 replaced."""
    return np.where(cycles == 0, _IN_PLACE_OF_ZERO, cycles)


def _check(settings: Deconvolution) -> None:
    defocus = settings.defocus_angstrom
    if not 1000 <= defocus <= 300_000:
        cure = f"in Å it is {defocus * 1e4:g}" if 0.1 <= defocus <= 30 else "underfocus is positive; 50000 Å is 5 µm"
        raise UsageError(f"a defocus of {defocus:g} Å is outside of 1000 to 300000", f"give it in Å: {cure}")
    for name, value, low, high in (
        ("amplitude contrast", settings.amplitude_contrast, 0.0, 1.0),
        ("spherical aberration (mm)", settings.spherical_aberration_mm, 1e-3, 20.0),
        ("voltage (kV)", settings.voltage_kv, 10.0, 2000.0),
        ("high-pass (cycles a voxel)", settings.highpass_cycles_per_voxel, 0.0, 0.5),
        ("strength", settings.strength, 0.0, 10.0),
        ("falloff", settings.falloff, 0.0, 100.0),
    ):
        if not low <= value <= high:
            raise UsageError(f"{name} {value:g} is outside of {low:g} to {high:g}", "check its unit")
