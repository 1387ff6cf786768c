"""Warp's deconvolution of a tomogram: a Wiener filter of the CTF with an assumed signal-to-noise ratio.

Tegunov & Cramer, Nat. Methods 2019, in the form and with the constants of MemBrain-seg (which has them from focustools,
R. Righetto): the CTF is Mindell & Grigorieff's (J. Struct. Biol. 2003).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import UsageError
from membrain_cloud.image.fourier import Kernel, cycles_per_voxel, radial_kernel

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

Float64 = NDArray[np.float64]
# The zero frequency is filtered as this one, in cycles a voxel (MemBrain-seg's): the mean gets a finite factor.
_IN_PLACE_OF_ZERO = 1e-3


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic, in Å."""
    return 12.2639 / math.sqrt(voltage_kv * 1e3 + 0.97845 * voltage_kv**2)


def contrast_transfer(
    frequency_per_angstrom: Float64,
    *,
    defocus_angstrom: float,
    amplitude_contrast: float,
    spherical_aberration_mm: float,
    voltage_kv: float,
) -> Float64:
    """The CTF with the sign that leaves the contrast as it is: amplitude contrast at frequency 0, then rising."""
    wavelength, squares = electron_wavelength_angstrom(voltage_kv), frequency_per_angstrom**2
    bent = 0.5 * wavelength**2 * spherical_aberration_mm * 1e7 * squares
    phase = math.pi * wavelength * squares * (defocus_angstrom - bent)
    return math.sqrt(1 - amplitude_contrast**2) * np.sin(phase) + amplitude_contrast * np.cos(phase)


def first_zero_per_angstrom(*, defocus_angstrom: float, amplitude_contrast: float, voltage_kv: float) -> float:
    """The frequency at which the CTF first crosses zero, in 1/Å, but for the spherical aberration.

    That shifts it by less than 1e-3 at the defocus of tomograms. (MemBrain-seg's formula has the aberration in it,
    where it cancels up to 1e-6.)
    """
    lag = math.atan2(amplitude_contrast, math.sqrt(1 - amplitude_contrast**2))
    return math.sqrt((math.pi - lag) / (math.pi * defocus_angstrom * electron_wavelength_angstrom(voltage_kv)))


def deconvolution_kernel(
    shape: Zyx,
    *,
    voxel_spacing_angstrom: float,
    defocus_angstrom: float,
    amplitude_contrast: float,
    spherical_aberration_mm: float,
    voltage_kv: float,
    strength: float,
    falloff: float,
    highpass_cycles_per_voxel: float,
    lowpass: bool,
    membrain_seg_radii: bool,
) -> Kernel:
    """The filter CTF / (CTF^2 + 1 / SNR), with SNR = 10^(3 strength) exp(-100 falloff f) and its fading at both ends.

    Parameters
    ----------
    highpass_cycles_per_voxel : the SNR rises from 0 at frequency 0 to its full value here. (MemBrain-seg calls it a
        fraction of Nyquist; its arithmetic has this unit.)
    lowpass : the SNR falls to 0 towards the CTF's first zero.
    membrain_seg_radii : its way of measuring frequencies: the radius in voxels of the spectrum over the root mean
        square of the axes, rounded to whole voxels for the CTF. That is right (but for the rounding) in a cube; in a
        flat volume it gives z the frequencies of x, so the filter is another one along z. False: true frequencies.

    Raises UsageError for settings out of range.
    """
    _check(
        defocus_angstrom,
        ("amplitude contrast", amplitude_contrast, 0.0, 1.0),
        ("spherical aberration (mm)", spherical_aberration_mm, 1e-3, 20.0),
        ("voltage (kV)", voltage_kv, 10.0, 2000.0),
        ("high-pass (cycles a voxel)", highpass_cycles_per_voxel, 0.0, 0.5),
        ("strength", strength, 0.0, 10.0),
        ("falloff", falloff, 0.0, 100.0),
    )
    lens = {
        "defocus_angstrom": defocus_angstrom,
        "amplitude_contrast": amplitude_contrast,
        "spherical_aberration_mm": spherical_aberration_mm,
        "voltage_kv": voltage_kv,
    }
    zero = first_zero_per_angstrom(
        defocus_angstrom=defocus_angstrom, amplitude_contrast=amplitude_contrast, voltage_kv=voltage_kv
    )
    root_mean_square = math.sqrt(sum(n * n for n in shape) / 3)

    def response(cycles: Float64) -> Float64:
        of_ctf = np.round(cycles * root_mean_square) / root_mean_square if membrain_seg_radii else cycles
        ctf = contrast_transfer(_not_zero(of_ctf) / voxel_spacing_angstrom, **lens)
        cycles = _not_zero(cycles)
        ratio = np.exp(-100 * falloff * cycles / voxel_spacing_angstrom) * 10 ** (3 * strength)
        if highpass_cycles_per_voxel > 0:
            ratio *= 1 - np.cos(np.minimum(1, cycles / highpass_cycles_per_voxel) * (math.pi / 2))
        if lowpass:
            ratio *= np.cos(np.minimum(1, cycles / (voxel_spacing_angstrom * zero)) * (math.pi / 2))
        return ctf * ratio / (ctf * ctf * ratio + 1)

    step = 1 / root_mean_square
    return radial_kernel(
        shape, response, spacings=(step, step, step) if membrain_seg_radii else cycles_per_voxel(shape)
    )


def _not_zero(cycles: Float64) -> Float64:
    return np.where(cycles == 0, _IN_PLACE_OF_ZERO, cycles)


def _check(defocus: float, *ranges: tuple[str, float, float, float]) -> None:
    if not 1000 <= defocus <= 300_000:
        cure = f"in Å it is {defocus * 1e4:g}" if 0.1 <= defocus <= 30 else "underfocus is positive; 50000 Å is 5 µm"
        raise UsageError(f"a defocus of {defocus:g} Å is outside of 1000 to 300000", f"give it in Å: {cure}")
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise UsageError(f"{name} {value:g} is outside of {low:g} to {high:g}", "check its unit")
