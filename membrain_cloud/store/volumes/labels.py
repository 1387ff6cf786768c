"""Arrays of labels as unsigned integers, marks of annotators among them, and the extent of labels and tomogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, TomogramError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid

FULL_BYTE = 255
"""What programs for images write for 1 in a mask."""
LARGEST_LABEL = 2**32 - 1
"""Largest number that can be a label."""
_LARGEST_MARK = 3
# A mask and its tomogram end within one voxel of the coarser of both, and half a per cent for rounded spacings.
_EXTENT_TOLERANCE = 0.005


def as_labels(array: NDArray[Any], what: str) -> NDArray[Any]:
    """Return labels as an unsigned integer array.

    Parameters
    ----------
    array : ndarray, any shape, bool, integer or float dtype
        Labels as stored.
    what : str
        The volume, for error messages.

    Returns
    -------
    ndarray, shape of `array`
        uint8 for bool, uint32 for float, else the unsigned type of the same size.

    Raises
    ------
    TomogramError
        If a value is negative, fractional or not finite.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "u":
        return array
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise TomogramError(f"{what}: the values are not whole numbers", "give labels, not scores or densities")
    if array.dtype.kind == "f" and array.size and float(array.max()) > LARGEST_LABEL:
        raise TomogramError(f"{what}: the value {array.max():g} is too large for a label", "give labels up to 2^32 - 1")
    if array.size and array.min() < 0:
        raise TomogramError(f"{what}: label {array.min():g} is below 0", "give labels of 0 and above")
    return array.astype(np.uint32 if array.dtype.kind == "f" else f"u{array.dtype.itemsize}")


def as_marks(labels: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Return labels of a mask as marks: 0 unmarked, 1 membrane, 2 ignore, 3 background.

    Parameters
    ----------
    labels : ndarray, any shape, unsigned integer dtype
        As `as_labels` returns them. 255 is membrane, as in masks of programs for images.
    what : str
        The volume, for error messages.

    Returns
    -------
    ndarray, shape of `labels`, uint8

    Raises
    ------
    InputError
        If a value is another.
    """
    marks = np.where(labels == FULL_BYTE, 1, labels)
    if marks.size and marks.max() > _LARGEST_MARK:
        raise InputError(
            f"{what} holds the value {marks.max()}",
            "marks are 0 unmarked, 1 membrane, 2 ignore, 3 background; numbered membranes must be imported as "
            "instances, and are then read as URI?instance=true",
        )
    return marks.astype(np.uint8)


def check_extent(grid: Grid, what: str, others: Mapping[str, Grid]) -> None:
    """Refuse labels whose physical size is that of none of some volumes.

    Parameters
    ----------
    grid : Grid
        Of the labels.
    what : str
        The labels, for the error message.
    others : mapping of str to Grid
        Names and grids of the tomograms that the labels may belong to. If it is empty, nothing is checked.

    Raises
    ------
    InputError
        If the labels end elsewhere than each of them.
    """
    if not others or any(_same_extent(grid, other) for other in others.values()):
        return
    name, other = next(iter(others.items()))
    raise InputError(
        f"{what}: {_size(grid)}, but {name} has {_size(other)}",
        "give the right voxel_spacing_angstrom, or the labels of this tomogram",
    )


def _same_extent(first: Grid, second: Grid) -> bool:
    voxel = max(first.voxel_spacing_angstrom, second.voxel_spacing_angstrom)
    return all(
        abs(a - b) <= voxel + _EXTENT_TOLERANCE * max(a, b)
        for a, b in zip(first.size_angstrom, second.size_angstrom, strict=True)
    )


def _size(grid: Grid) -> str:
    voxels = " x ".join(str(n) for n in reversed(grid.shape))
    lengths = " x ".join(f"{length:g}" for length in grid.size_angstrom)
    return f"{voxels} voxels of {grid.voxel_spacing_angstrom:g} Å, {lengths} Å"
