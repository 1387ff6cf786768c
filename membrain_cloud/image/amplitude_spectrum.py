"""The radial amplitude spectrum of a tomogram, and the filter that gives it another tomogram's spectrum.

The idea is DeePiCt's (de Teresa-Trueba et al., Nat. Methods 2023), which MemBrain-seg took over. The bins are theirs,
up to the corner of the spectrum and without the first, and so are the numbers in a cube of even edge. What differs,
since there it is not right:

- frequencies are physical (1/Å), not numbers of voxels: in a flat volume one voxel along z is a larger step than one
  along x, and a spectrum of another volume or spacing is interpolated, not cut off or continued by its last value;
- the factor found in a bin is applied at that bin's frequency (there a bin's number is taken for a radius in voxels,
  which is 1.7 times less), at plus and minus the same, and what comes out keeps its sign.
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
    """Mean amplitudes in bins of frequency, (B,) float64 each.

    frequency_per_angstrom : middle of each bin; None where a file does not say (MemBrain-seg's do not).
    intensity : of the volume scaled to 0 ... 1, as the transform's sum gives it (so it grows with the volume).
    amplitude : of the volume scaled to standard deviation 1, over the root of its number of voxels: white noise has
        0.886 in any volume; None where a file does not say.
    """

    intensity: Float64
    frequency_per_angstrom: Float64 | None
    amplitude: Float64 | None


def bin_middles(shape: Zyx, count: int) -> Float64:
    """Cycles a voxel in the middle of the first `count` bins; the bin that holds frequency 0 is no bin."""
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
    """The spectrum of a volume of `shape`.

    Parameters
    ----------
    columns : rows of its half spectrum (see `FourierVolume.columns`), of `(value - mean) / std`.
    lowest, highest, std : of its values.
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
    """The same spectrum, or InputError for one that is too short, has gaps, or frequencies that do not rise."""
    columns = {
        "intensity": spectrum.intensity,
        "amplitude": spectrum.amplitude,
        "frequency_per_angstrom": spectrum.frequency_per_angstrom,
    }
    cure = "make it with: membrain-cloud preprocess extract-spectrum"
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


def equalizer(
    given: Spectrum,
    target: Spectrum,
    shape: Zyx,
    *,
    voxel_spacing_angstrom: float,
    cutoff_angstrom: float | None,
    smoothen_bins: float,
    almost_zero_cutoff: bool,
    largest_factor: float | None,
) -> Float64:
    """The factor for each bin of `given` that turns its amplitudes into the target's.

    Parameters
    ----------
    given : of a volume of `shape`, as `radial_spectrum` makes it.
    target : where it has no frequencies, they are taken from a cube of the same voxel spacing.
    cutoff_angstrom : finer details than this period are removed; None: none are.
    smoothen_bins : width of the fall before the cut-off (a logistic, as MemBrain-seg's; 0: none).
    almost_zero_cutoff : cut off where one of the spectra has next to nothing, too (after pixel size matching).
    largest_factor : larger ones are brought down to it; None: none are.

    Raises UsageError where the cut-off leaves nothing.
    """
    edge = 2 * len(target.intensity)
    at = target.frequency_per_angstrom
    if at is None:
        at = bin_middles((edge, edge, edge), edge // 2) / voxel_spacing_angstrom
    frequencies = bin_middles(shape, len(given.intensity)) / voxel_spacing_angstrom
    amplitudes, wanted = given.amplitude, target.amplitude
    if amplitudes is None or wanted is None:
        amplitudes, wanted = given.intensity, target.intensity
    there = np.interp(frequencies, at, wanted)
    factors = np.divide(there, amplitudes, out=np.zeros_like(there), where=amplitudes > 0)
    cut = math.inf
    if cutoff_angstrom is not None:
        cut = float(np.searchsorted(frequencies, 1 / cutoff_angstrom, side="right"))
    if almost_zero_cutoff:
        nothing = given.intensity < _NOTHING
        nothing |= np.interp(frequencies, at, target.intensity) < _NOTHING_OF_TARGET
        if nothing.any():
            cut = min(cut, float(np.argmax(nothing) - _BINS_BEFORE))
    if cut < 1:
        raise UsageError(
            "the cut-off leaves nothing of the spectrum",
            "give a smaller --cutoff-angstrom, or --keep-almost-zero where a spectrum falls to nothing early",
        )
    places = np.arange(len(factors))
    if smoothen_bins > 0 and cut < math.inf:
        factors *= 1 / (1 + np.exp(np.minimum(700, 2 * (places - cut) / smoothen_bins + 8)))
    factors[places >= cut] = 0
    return factors if largest_factor is None else np.minimum(factors, largest_factor)


def equalizing_kernel(shape: Zyx, factors: Float64) -> Kernel:
    """The filter with these factors in the middles of the bins, between them by straight lines, held at both ends.

    So the few lowest frequencies, which no bin holds, are changed as the first bin is (as in MemBrain-seg).
    """
    middles = bin_middles(shape, len(factors))
    return radial_kernel(shape, lambda cycles: np.interp(cycles, middles, factors), spacings=cycles_per_voxel(shape))
