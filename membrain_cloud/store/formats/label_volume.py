"""The one rule for what a volume file of labels may hold, for every command that reads one.

- Whole numbers from 0 on are labels; 0 is background.
- Signed bytes that IMOD stamped and that begin at -128 are shifted by 128: IMOD stores 0 and 1 so.
- A mask of 0 and 255 is one of 0 and 1.
- Values that are not whole or not finite (scores, resampled masks) are refused, or compared with a threshold on
  request.
- Negative values, and several labels without a background, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.geometry import iterate_chunks
from membrain_cloud.store.volumes.labels import FULL_BYTE, LARGEST_LABEL, as_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box
    from membrain_cloud.store.formats.volume_reader import VolumeFile

# Voxels read at once, and distinct labels that are listed.
_PART_VOXELS, _LISTED = 2**23, 2**16
_IMOD_SHIFT = 128


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """A volume file of labels, checked as a whole.

    Attributes
    ----------
    values : tuple of int
        Its labels above 0, rising.
    notes : tuple of str
        What was assumed, as sentences; the file's own notes are not among them.
    """

    values: tuple[int, ...]
    notes: tuple[str, ...]
    _volume: VolumeFile
    _threshold: float | None
    _shift: int
    _full_byte: bool

    def read(self, box: Box) -> NDArray[Any]:
        """Return the labels of a box.

        Parameters
        ----------
        box : Box
            Within the volume.

        Returns
        -------
        (Z, Y, X) array of unsigned integers
            0 is background; 0 and 1 where a threshold was given.
        """
        values = self._volume.read(box)
        if self._threshold is not None:
            return _above(values, self._threshold)
        if self._shift:
            values = values.astype(np.int16) + np.int16(self._shift)
        labels = as_labels(values, self._volume.path)
        return (labels != 0).astype(np.uint8) if self._full_byte else labels

    @property
    def top(self) -> int:
        """The largest label; 0 where all is background."""
        return self.values[-1] if self.values else 0


def check_labels(volume: VolumeFile, *, threshold: float | None = None) -> LabelVolume:
    """Read a volume once, and say how its labels are read.

    Parameters
    ----------
    volume : VolumeFile
        An open file of labels.
    threshold : float, optional
        Values above it are 1, all others and NaN 0. Default: the values are labels.

    Returns
    -------
    LabelVolume

    Raises
    ------
    TomogramError
        If the values are no labels.
    """
    facts = _facts(volume, threshold)
    notes: list[str] = []
    if threshold is not None:
        if facts.not_finite:
            notes.append(f"{facts.not_finite} voxels are not finite: taken as background")
        above = (1,) if facts.values else ()
        return LabelVolume(above, tuple(notes), volume, threshold, 0, _full_byte=False)
    _refuse_what_is_no_label(facts, volume.path)
    shift = 0
    values = sorted(facts.values)
    if facts.low < 0:
        if facts.low != -_IMOD_SHIFT or not volume.header.imod_signed_bytes:
            raise TomogramError(
                f"{volume.path}: label {facts.low:g} is below 0{_hint(facts)}", "give labels of 0 and above"
            )
        shift = _IMOD_SHIFT
        values = [value + shift for value in values]
        notes.append("IMOD's signed bytes: 128 is added to each value, as IMOD does")
    if values and values[0] > 0 and len(values) > 1:
        listed = ", ".join(f"{value:g}" for value in values[:8])
        raise TomogramError(
            f"{volume.path}: no voxel is 0, so that no background is known (its values: {listed})",
            "give labels whose background is 0",
        )
    labels = [int(value) for value in values if value > 0]
    full_byte = labels == [FULL_BYTE]
    if full_byte:
        notes.append(f"a mask of 0 and {FULL_BYTE}: {FULL_BYTE} is taken as 1")
        labels = [1]
    return LabelVolume(tuple(labels), tuple(notes), volume, None, shift, full_byte)


@dataclass
class _Facts:
    """What the voxels of a volume are."""

    values: set[float]
    low: float = 0.0
    high: float = 0.0
    not_finite: int = 0
    not_whole: int = 0
    voxels: int = 0


def _facts(volume: VolumeFile, threshold: float | None) -> _Facts:
    facts = _Facts(set())
    for box in _parts(volume):
        array = volume.read(box)
        facts.voxels += array.size
        if array.dtype.kind == "f":
            finite = np.isfinite(array)
            facts.not_finite += int(array.size - np.count_nonzero(finite))
            array = array[finite]
        if not array.size:
            continue
        facts.low = min(facts.low, float(array.min()))
        facts.high = max(facts.high, float(array.max()))
        if threshold is not None:
            facts.values |= {1.0} if bool((array > threshold).any()) else set()
            continue
        if array.dtype.kind == "f":
            facts.not_whole += int(np.count_nonzero(array != np.floor(array)))
        if not facts.not_whole and len(facts.values) <= _LISTED:
            facts.values |= set(np.unique(array).astype(float).tolist())
    return facts


def _refuse_what_is_no_label(facts: _Facts, path: str) -> None:
    threshold = "or give label_threshold, e.g. 0.5"
    if facts.not_finite:
        raise TomogramError(
            f"{path}: {facts.not_finite} of {facts.voxels} voxels are NaN or infinite, so no labels",
            f"give labels, {threshold}",
        )
    if facts.not_whole:
        raise TomogramError(
            f"{path}: {facts.not_whole} of {facts.voxels} values are not whole numbers (from {facts.low:g} to "
            f"{facts.high:g}): scores, or a mask that was resampled",
            f"give labels, not scores or densities, {threshold}",
        )
    if facts.high > LARGEST_LABEL:
        raise TomogramError(f"{path}: the value {facts.high:g} is too large for a label", "give labels up to 2^32 - 1")
    if len(facts.values) > _LISTED:
        raise TomogramError(f"{path}: more than {_LISTED} different values are no labels", "give labels, not densities")


def _hint(facts: _Facts) -> str:
    """Return how bytes of another sign may have come about."""
    if facts.values == {-1.0, 0.0}:
        return " (a mask of 0 and 255 whose bytes are read as signed)"
    if facts.low == -_IMOD_SHIFT:
        return " (signed bytes shifted by 128, without IMOD's stamp in the header)"
    return ""


def _above(values: NDArray[Any], threshold: float) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):
        return (values > threshold).astype(np.uint8)


def _parts(volume: VolumeFile) -> Iterator[Box]:
    z, y, x = volume.chunk
    return iterate_chunks(volume.shape, (max(z, _PART_VOXELS // max(1, y * x)), y, x))
