"""The contrast transfer function of the electron microscope, in the weak-phase approximation.

The one definition for simulated tomograms, for deconvolution and, by `ctf_phase`, for tensors on a GPU. torch-ctf
computes the same on grids of torch's FFT; here frequencies are any array, and this layer does not import torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)
_ANGSTROM_PER_MM = 1e7


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Return the relativistic wavelength of the electron.

    Parameters
    ----------
    voltage_kv : float
        Acceleration voltage in kV.

    Returns
    -------
    float
        Wavelength in Å: 0.0197 at 300 kV.
    """
    volts = voltage_kv * 1e3
    return 12.2643 / float(np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


def ctf_phase(squared: Any, wavelength: Any, defocus_angstrom: Any, spherical_aberration_mm: Any) -> Any:
    """Return the phase shift of the contrast transfer function without amplitude contrast.

    Parameters
    ----------
    squared : array_like or Tensor
        Squared spatial frequencies in 1/Å².
    wavelength : float, array_like or Tensor
        Wavelength of the electron in Å.
    defocus_angstrom : float, array_like or Tensor
        Defocus in Å; underfocus is positive.
    spherical_aberration_mm : float, array_like or Tensor
        Spherical aberration in mm.

    Returns
    -------
    array_like or Tensor
        Phase in radians, of the type and dtype that the operands give.
    """
    aberration = 0.5 * spherical_aberration_mm * _ANGSTROM_PER_MM * wavelength**2 * squared
    return math.pi * wavelength * squared * (defocus_angstrom - aberration)


def contrast_transfer(
    frequency_per_angstrom: NDArray[Real],
    *,
    defocus_angstrom: float,
    amplitude_contrast: float,
    spherical_aberration_mm: float,
    voltage_kv: float,
) -> NDArray[Any]:
    """Return the contrast transfer function with the sign that keeps the contrast at low frequencies.

    Parameters
    ----------
    frequency_per_angstrom : ndarray, any shape, float32 or float64
        Spatial frequencies in 1/Å.
    defocus_angstrom : float
        Defocus in Å; underfocus is positive.
    amplitude_contrast : float
        Amplitude contrast, 0 to 1.
    spherical_aberration_mm : float
        Spherical aberration in mm.
    voltage_kv : float
        Acceleration voltage in kV.

    Returns
    -------
    ndarray, the shape of the frequencies, float64
        Values in -1 to 1; the amplitude contrast at frequency 0.

    References
    ----------
    Mindell & Grigorieff, J. Struct. Biol. 142 (2003), equations 1 to 5.
    """
    phase = ctf_phase(
        frequency_per_angstrom * frequency_per_angstrom,
        electron_wavelength_angstrom(voltage_kv),
        defocus_angstrom,
        spherical_aberration_mm,
    )
    shifted: NDArray[Any] = np.sin(phase + np.arcsin(amplitude_contrast))
    return shifted
