"""The radial amplitude spectrum of a tomogram, and the filter that gives it the spectrum of another tomogram.

The method is DeePiCt's (de Teresa-Trueba et al., Nat. Methods 2023), which MemBrain-seg adopted. The bins are the same,
up to the corner of the spectrum and without the first, and so are the values in a cube of even edge. Two points differ,
since they are wrong there:

- frequencies are physical (1/Å), not numbers of voxels: in a flat volume one voxel along z is a larger step than one
  along x, and a spectrum of another volume or spacing is interpolated;
- the factor of a bin is applied at the frequency of that bin. There the number of a bin is taken for a radius in
  voxels, which is 1.7 times smaller. Here the factor is the same at plus and minus, and the result keeps its sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.image.fourier import Kernel, cycles_per_voxel, half_weights, radial_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from membrain_cloud.geometry import Zyx

Float64 = NDArray[np.float64]
# Bins reach to the corner of the spectrum, where each axis has half a cycle a voxel.
CORNER_CYCLES_PER_VOXEL = math.sqrt(3) / 2
# Below these an intensity counts as nothing (MemBrain-seg's: of the input, of the target), and so many bins before it.
_NOTHING, _NOTHING_OF_TARGET, _BINS_BEFORE = 1e-1, 1e-4, 4
_SMALLEST_SPECTRUM = 4


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Mean amplitudes in bins of frequency.

    Attributes
    ----------
    intensity : ndarray, shape (B,), float64
        Of the volume scaled to 0 ... 1, as the sum of the transform gives it; it grows with the volume.
    frequency_per_angstrom : ndarray, shape (B,), float64, or None
        Middle of each bin in 1/Å; None where a file does not state it, as MemBrain-seg's do not.
    amplitude : ndarray, shape (B,), float64, or None
        Of the volume scaled to standard deviation 1, over the square root of its number of voxels: 0.886 for white
        noise in any volume. None where a file does not state it.
    """

    intensity: Float64
    frequency_per_angstrom: Float64 | None
    amplitude: Float64 | None


def bin_middles(shape: Zyx, count: int) -> Float64:
    """Return the frequencies in the middle of the first bins.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    count : int
        Number of bins; the bin of frequency 0 is not one of them.

    Returns
    -------
    ndarray, shape (count,), float64
        Cycles a voxel.
    """
    return np.asarray((np.arange(count) + 1.5) * (CORNER_CYCLES_PER_VOXEL / (max(shape) / 2)), np.float64)


def radial_spectrum(
    columns: Iterable[tuple[range, NDArray[Any]]],
    shape: Zyx,
    *,
    voxel_spacing_angstrom: float,
    lowest: float,
    highest: float,
    std: float,
) -> Spectrum:
    """Compute the radial spectrum of a volume.

    Parameters
    ----------
    columns : iterable of (range, ndarray)
        Rows of the half spectrum of `(value - mean) / std`, as `FourierVolume.columns` yields them.
    shape : tuple of int
        Voxels along (z, y, x).
    voxel_spacing_angstrom : float
        Voxel spacing in Å.
    lowest, highest, std : float
        Minimum, maximum and standard deviation of the volume.

    Returns
    -------
    Spectrum
        All three columns.
    """
    # Frequencies in steps of the longest axis, in MemBrain-seg's order of sums: voxels between two bins fall alike.
    steps = [max(shape) * np.minimum(np.arange(n), n - np.arange(n)) / n for n in shape]
    mirrored = np.minimum(np.arange(shape[0]), shape[0] - np.arange(shape[0]))
    along_z, along_x = steps[0][: shape[0] // 2 + 1, None], steps[2][: shape[2] // 2 + 1]
    weights = np.broadcast_to(half_weights(shape[2]), (shape[0], along_x.size)).ravel()
    half = max(shape) / 2
    corner = np.hypot(np.hypot(half, half), half)
    size = int(half) + 2
    sums, counts = np.zeros(size), np.zeros(size)
    for rows, values in columns:
        for place, y in enumerate(rows):
            bins = (half * np.hypot(np.hypot(steps[1][y], along_z), along_x) / corner).astype(np.int64)[mirrored]
            sums += np.bincount(bins.ravel(), weights * np.abs(values[:, place]).ravel(), size)
            counts += np.bincount(bins.ravel(), weights, size)
    last = int(np.flatnonzero(counts)[-1]) + 1
    means = np.divide(sums, counts, out=np.zeros(size), where=counts > 0)[1:last]
    voxels = math.prod(shape)
    return Spectrum(
        means * voxels * std / (highest - lowest),
        bin_middles(shape, len(means)) / voxel_spacing_angstrom,
        means * math.sqrt(voxels),
    )


def check_spectrum(spectrum: Spectrum, what: str) -> Spectrum:
    """Return a spectrum that can be used, or refuse it.

    Parameters
    ----------
    spectrum : Spectrum
        The spectrum.
    what : str
        Name of its source, for the error.

    Returns
    -------
    Spectrum
        The same spectrum.

    Raises
    ------
    InputError
        If it is too short, holds negative or non-finite values, or its frequencies do not rise.
    """
    columns = {
        "intensity": spectrum.intensity,
        "amplitude": spectrum.amplitude,
        "frequency_per_angstrom": spectrum.frequency_per_angstrom,
    }
    cure = "extract the spectrum again (preprocess extract-spectrum)"
    if len(spectrum.intensity) < _SMALLEST_SPECTRUM:
        raise InputError(f"{what}: a spectrum of {len(spectrum.intensity)} values", cure)
    for name, values in columns.items():
        if values is not None and (not np.isfinite(values).all() or (values < 0).any()):
            raise InputError(f"{what}: column {name} holds values that are negative or not finite", cure)
    frequencies = spectrum.frequency_per_angstrom
    if frequencies is not None and (np.diff(frequencies) <= 0).any():
        raise InputError(f"{what}: column frequency_per_angstrom does not rise", cure)
    if not spectrum.intensity.any():
        raise InputError(f"{what}: every intensity is 0", cure)
    return spectrum


@dataclass(frozen=True)
class EqualizerLimits:
    """Cut-off and bounds of the factors of `equalizer`.

    Attributes
    ----------
    cutoff_angstrom : float or None
        Details finer than this period, in Å, are removed; None: none are.
    smoothen_bins : float
        Width in bins of the fall before the cut-off, a logistic function as in MemBrain-seg; 0: none.
    almost_zero_cutoff : bool
        Whether to cut off where one of the spectra is nearly 0 too, as after pixel size matching.
    largest_factor : float or None
        Upper bound of the factors; None: no bound.
    """

    cutoff_angstrom: float | None
    smoothen_bins: float
    almost_zero_cutoff: bool
    largest_factor: float | None


def equalizer(
    source: Spectrum, target: Spectrum, shape: Zyx, limits: EqualizerLimits, *, voxel_spacing_angstrom: float
) -> Float64:
    """Compute the factor of each bin that turns the amplitudes of one spectrum into those of another.

    Parameters
    ----------
    source : Spectrum
        Of a volume of `shape`, as `radial_spectrum` returns it.
    target : Spectrum
        Where it has no frequencies, they are taken from a cube of the same voxel spacing.
    shape : tuple of int
        Voxels along (z, y, x).
    voxel_spacing_angstrom : float
        Voxel spacing in Å.
    limits : EqualizerLimits
        Cut-off and bounds of the factors.

    Returns
    -------
    ndarray, shape (B,), float64
        A factor for each bin of `source`.

    Raises
    ------
    UsageError
        If the cut-off leaves nothing.
    """
    edge = 2 * len(target.intensity)
    at = target.frequency_per_angstrom
    if at is None:
        at = bin_middles((edge, edge, edge), edge // 2) / voxel_spacing_angstrom
    frequencies = bin_middles(shape, len(source.intensity)) / voxel_spacing_angstrom
    amplitudes, wanted = source.amplitude, target.amplitude
    if amplitudes is None or wanted is None:
        amplitudes, wanted = source.intensity, target.intensity
    there = np.interp(frequencies, at, wanted)
    factors = np.divide(there, amplitudes, out=np.zeros_like(there), where=amplitudes > 0)
    cut = math.inf
    if limits.cutoff_angstrom is not None:
        cut = float(np.searchsorted(frequencies, 1 / limits.cutoff_angstrom, side="right"))
    if limits.almost_zero_cutoff:
        nothing = source.intensity < _NOTHING
        nothing |= np.interp(frequencies, at, target.intensity) < _NOTHING_OF_TARGET
        if nothing.any():
            cut = min(cut, float(np.argmax(nothing) - _BINS_BEFORE))
    if cut < 1:
        raise UsageError(
            "the cut-off leaves nothing of the spectrum",
            "use a smaller cutoff_angstrom, or switch off almost_zero_cutoff where a spectrum falls to 0 early",
        )
    places = np.arange(len(factors))
    if limits.smoothen_bins > 0 and cut < math.inf:
        factors *= 1 / (1 + np.exp(np.minimum(700, 2 * (places - cut) / limits.smoothen_bins + 8)))
    factors[places >= cut] = 0
    return factors if limits.largest_factor is None else np.minimum(factors, limits.largest_factor)


def equalizing_kernel(shape: Zyx, factors: Float64) -> Kernel:
    """Return the filter that has given factors in the middles of the bins, linear in between and constant at both ends.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    factors : ndarray, shape (B,), float64
        Factor of each bin.

    Returns
    -------
    Kernel
        The filter. The lowest frequencies, which no bin contains, get the factor of the first bin, as in MemBrain-seg.
    """
    middles = bin_middles(shape, len(factors))
    return radial_kernel(shape, lambda cycles: np.interp(cycles, middles, factors), spacings=cycles_per_voxel(shape))
