"""Mean and standard deviation of a tomogram, without the voxels that are no measurement.

One voxel of 1e30, a border of zeros or a detector's saturation would decide on mean and standard deviation, and every
window would be normalised to noise. Statistics are therefore taken of all voxels but these, where it matters:

- *outliers*: at most one voxel in a thousand, further than 50 robust standard deviations from the median (1.4826 times
  the median absolute deviation; of a sample of voxels at equal distances);
- *padding*: voxels of one exact value that a twentieth of the sample or more has, and four times as many as have any
  other value; so the values of a Gaussian in few integers are none.

Where leaving them out changes mean or standard deviation by less than a tenth of the standard deviation, nothing is
left out, so that tomograms without such voxels keep their statistics to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.errors import TomogramError

Parts = Iterable[NDArray[np.generic]] | Callable[[], Iterable[NDArray[np.generic]]]
"""Parts that together are a tomogram; a function where they can be read twice."""

_OUTLIER_DEVIATIONS, _MAD_TO_STD = 50.0, 1.4826
_MOST_OUTLIERS = 1e-3
_PADDING_SHARE, _PADDING_RATIO = 0.05, 4.0
_LEAST_CHANGE = 0.1
# Voxels of the sample from each part, at equal distances.
_SAMPLE_OF_PART = 4096


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (ddof 0) of a whole tomogram, by which its windows are normalised.

    Attributes
    ----------
    mean, std : float
        In the units of the tomogram.
    voxels : int
        Number of voxels, those that were left out included.
    notes : tuple of str
        What was left out and why, as sentences with numbers.
    """

    mean: float
    std: float
    voxels: int
    notes: tuple[str, ...] = ()


@dataclass
class _Moments:
    """Moments of arrays that come one by one, merged by the formula of Chan et al. (1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    sample: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, values: NDArray[np.float64]) -> None:
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        with np.errstate(over="ignore", invalid="ignore"):
            part_mean = float(values.mean())
            centred = values - part_mean
            part_squares = float(np.einsum("i,i->", centred.ravel(), centred.ravel()))
            shift, total = part_mean - self.mean, self.count + values.size
            self.mean += shift * values.size / total
            self.squares += part_squares + shift * shift * self.count * values.size / total
        self.count = total

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / max(self.count, 1)) if self.squares >= 0 else math.nan


def density_statistics(parts: Parts) -> Statistics:
    """Compute mean and standard deviation over parts of a tomogram, in float64.

    Parameters
    ----------
    parts : iterable of ndarray, any shape, any real dtype; or a function that returns one
        Parts that together are the tomogram. They are read a second time where voxels have to be left out: a function,
        or a collection, makes that possible.

    Returns
    -------
    Statistics
        Of the whole tomogram.

    Raises
    ------
    TomogramError
        If there are NaN or infinite values, or the tomogram is constant or empty.
    """
    moments = _Moments()
    for part in parts() if callable(parts) else parts:
        if part.size == 0:
            continue
        values = part.astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            bad = int(part.size - np.count_nonzero(finite))
            raise TomogramError(
                f"{bad} of {part.size} voxels in one part are NaN or infinite",
                "repair the tomogram (for instance set such voxels to the mean) and run again",
            )
        moments.add(values)
        # A copy: a view would keep the whole part.
        moments.sample.append(values.ravel()[:: max(1, values.size // _SAMPLE_OF_PART)].copy())
    if moments.count == 0:
        raise TomogramError("the tomogram is empty", "check how it was written")
    if not moments.high > moments.low:
        raise TomogramError(
            f"every voxel has the value {moments.low:g}", "there is nothing to segment; check how it was written"
        )
    return _checked(_robust(parts, moments))


def _checked(statistics: Statistics) -> Statistics:
    mean, std = statistics.mean, statistics.std
    if not (math.isfinite(std) and math.isfinite(mean) and std > 1e-9 * max(abs(mean), 1e-30)):
        raise TomogramError(
            f"every voxel has nearly the value {mean:g} (standard deviation {std:g})",
            "there is nothing to segment; check how it was written",
        )
    return statistics


def _robust(parts: Parts, all_voxels: _Moments) -> Statistics:
    """Return the statistics without outliers and padding where leaving them out matters."""
    plain = Statistics(all_voxels.mean, all_voxels.std, all_voxels.count)
    sample = np.concatenate(all_voxels.sample)
    padding = _padding(sample)
    measured = sample if padding is None else sample[sample != padding]
    middle = float(np.median(measured))
    spread = _MAD_TO_STD * float(np.median(np.abs(measured - middle)))
    low, high = middle - _OUTLIER_DEVIATIONS * spread, middle + _OUTLIER_DEVIATIONS * spread
    if spread == 0.0:
        low, high = -math.inf, math.inf
    if padding is None and low <= all_voxels.low and all_voxels.high <= high:
        return plain
    if not callable(parts) and iter(parts) is parts:
        return plain  # read only once
    rest, outliers, padded = _Moments(), 0, 0
    for part in parts() if callable(parts) else parts:
        values = part.astype(np.float64).ravel()
        outside = (values < low) | (values > high)
        pad = np.zeros(values.shape, bool) if padding is None else values == padding
        outliers += int(np.count_nonzero(outside & ~pad))
        padded += int(np.count_nonzero(pad))
        rest.add(values[~(outside | pad)])
    if rest.count == 0 or not rest.std > 0.0:
        return plain
    if outliers > _MOST_OUTLIERS * plain.voxels:
        note = f"{outliers} of {plain.voxels} voxels are beyond {low:.6g} to {high:.6g}: too many to be left out"
        return Statistics(plain.mean, plain.std, plain.voxels, (note,))
    change = max(abs(rest.mean - plain.mean), abs(rest.std - plain.std)) / rest.std
    if change < _LEAST_CHANGE:
        return plain
    notes = []
    if outliers:
        notes.append(
            f"{outliers} of {plain.voxels} voxels are outliers (beyond {low:.6g} to {high:.6g}; the tomogram's values "
            f"run from {all_voxels.low:.6g} to {all_voxels.high:.6g})"
        )
    if padded:
        notes.append(f"{100 * padded / plain.voxels:.1f} % of the voxels have the one value {padding:.6g}")
    notes[-1] += (
        f": left out of mean and standard deviation, which are {rest.mean:.6g} and {rest.std:.6g} instead of "
        f"{plain.mean:.6g} and {plain.std:.6g}"
    )
    return Statistics(rest.mean, rest.std, plain.voxels, tuple(notes))


def _padding(sample: NDArray[np.float64]) -> float | None:
    """Return the value of padding or saturation, or None."""
    values, counts = np.unique(sample, return_counts=True)
    first = int(np.argmax(counts))
    others = np.delete(counts, first)
    second = int(others.max()) if others.size else 0
    # A tomogram of few values is a mask or a phantom, whose background is no padding.
    if len(values) <= 2 or counts[first] < _PADDING_SHARE * len(sample) or counts[first] < _PADDING_RATIO * second:
        return None
    return float(values[first])
