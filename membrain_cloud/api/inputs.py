"""Checks of the arrays that a caller passes, and the voxel spacing that their coordinates state."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ANGSTROM_PER_UNIT = {"angstrom": 1.0, "angstroms": 1.0, "Å": 1.0, "nanometer": 10.0, "nm": 10.0}
_CUBE_TOLERANCE = 1e-3
_AXES = "zyx"


def density_array(tomogram: Any) -> NDArray[np.float32]:
    """Return a tomogram as an array of float32.

    Parameters
    ----------
    tomogram : array_like, shape (Z, Y, X), any real dtype
        A NumPy array, an xarray DataArray, or anything that `numpy.asarray` takes.

    Returns
    -------
    ndarray, shape (Z, Y, X), float32
        The voxels; no copy where they are float32 already.

    Raises
    ------
    TomogramError
        If the array is not three-dimensional, is empty, or does not hold real numbers.
    """
    array = _volume(tomogram, "the tomogram")
    if array.dtype.kind not in "iufb":
        raise TomogramError(f"the tomogram has dtype {array.dtype}", "pass real numbers")
    return np.asarray(array, np.float32)


def label_array(labels: Any, *, name: str) -> NDArray[Any]:
    """Return a label volume as an array of integers or bool.

    Parameters
    ----------
    labels : array_like, shape (Z, Y, X), bool or integer
        0 is background.
    name : str
        What the array is, for the error message.

    Returns
    -------
    ndarray, shape (Z, Y, X), bool or integer
        The labels, not copied.

    Raises
    ------
    InputError
        If the array is not three-dimensional, is empty, or does not hold whole numbers of at least 0.
    """
    array = _volume(labels, name)
    if array.dtype.kind not in "iub":
        raise InputError(f"{name}: dtype {array.dtype} is not bool or integer", "pass a mask, such as `scores > 0`")
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise InputError(f"{name}: the least value is {int(array.min())}", "pass labels of at least 0")
    return array


def grid_of(array: Any, voxel_spacing_angstrom: float | None, *, shape: Any = None) -> Grid:
    """Return the voxel grid of an array.

    Parameters
    ----------
    array : array_like, shape (Z, Y, X)
        A DataArray with coordinates `z`, `y` and `x` states its voxel spacing itself. The attribute `units` of the
        coordinates is read ("angstrom" or "nanometer"); without it they are in Å.
    voxel_spacing_angstrom : float or None
        Voxel spacing in Å; it overrides the coordinates.
    shape : tuple of int, optional
        Voxels along (z, y, x) that the array should have. Default: any.

    Returns
    -------
    Grid
        Shape and voxel spacing.

    Raises
    ------
    TomogramError
        If the array has another shape.
    VoxelSpacingError
        If the spacing is neither passed nor stated, is not positive and finite, or differs between the axes.
    """
    own = _volume(array, "the array").shape if not hasattr(array, "shape") else array.shape
    if shape is not None and tuple(shape) != tuple(own):
        raise TomogramError(f"an array of shape {tuple(own)} with shape = {shape}", "pass one of the two")
    return grid_of_shape(own, _stated_spacing(array) if voxel_spacing_angstrom is None else voxel_spacing_angstrom)


def grid_of_shape(shape: Any, voxel_spacing_angstrom: float | None) -> Grid:
    """Return the voxel grid of a volume that is not passed itself.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    voxel_spacing_angstrom : float or None
        Voxel spacing in Å.

    Returns
    -------
    Grid
        Shape and voxel spacing.

    Raises
    ------
    InputError
        If the shape is not three numbers of at least 1.
    VoxelSpacingError
        If the spacing is not a positive and finite number.
    """
    try:
        z, y, x = (operator.index(length) for length in shape)
    except (TypeError, ValueError):
        z = y = x = 0
    if min(z, y, x) < 1:
        raise InputError(f"shape = {shape!r}: not three whole numbers of at least 1", "pass (z, y, x) in voxels")
    if voxel_spacing_angstrom is None:
        raise VoxelSpacingError("no voxel spacing is passed", "pass voxel_spacing_angstrom, in Å")
    try:
        spacing = float(voxel_spacing_angstrom)
    except (TypeError, ValueError):
        spacing = math.nan
    if not (math.isfinite(spacing) and spacing > 0):
        raise VoxelSpacingError(
            f"voxel_spacing_angstrom = {voxel_spacing_angstrom!r}: not a positive number",
            "pass one number, the spacing in Å",
        )
    return Grid((z, y, x), spacing)


def like_input(values: NDArray[Any], source: Any) -> Any:
    """Return `values` as a DataArray with the coordinates of `source` where that is one, else as they are.

    Parameters
    ----------
    values : ndarray, shape (Z, Y, X)
        The result.
    source : array_like, shape (Z, Y, X)
        The input that the result belongs to.

    Returns
    -------
    ndarray or DataArray, shape (Z, Y, X)
        `values`, in the type of `source`.
    """
    return source.copy(data=values) if _is_data_array(source) else values


def _volume(array: Any, name: str) -> NDArray[Any]:
    if _is_data_array(array):
        _check_axes(array, name)
    try:
        values = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise TomogramError(f"{name}: no array ({error})", "pass an array of shape (Z, Y, X)") from None
    if values.ndim != 3:
        raise TomogramError(f"{name}: an array of shape {values.shape}", "pass a volume of shape (Z, Y, X)")
    if not values.size:
        raise TomogramError(f"{name}: an empty array of shape {values.shape}", "pass at least one voxel an axis")
    return values


def _check_axes(array: Any, name: str) -> None:
    """Refuse a DataArray whose axes are named otherwise than z, y, x in this order, or run backwards."""
    axes = [axis for axis in map(str, array.dims) if axis in _AXES]
    if axes != sorted(axes, reverse=True):
        raise TomogramError(
            f"{name}: axes in the order {', '.join(map(str, array.dims))}",
            'transpose it, array.transpose("z", "y", "x")',
        )
    for axis in axes:
        values = np.asarray(array[axis]) if axis in array.coords else np.arange(2)
        if values.dtype.kind in "iuf" and values.ndim == 1 and values.size > 1 and values[0] > values[-1]:
            raise TomogramError(
                f"{name}: the coordinates of {axis} fall, which would mirror the volume",
                f'sort it, array.sortby("{axis}")',
            )


def _is_data_array(array: Any) -> bool:
    return hasattr(array, "coords") and hasattr(array, "dims") and hasattr(array, "copy")


def _stated_spacing(array: Any) -> float:
    """Return the voxel spacing in Å that a DataArray's coordinates state."""
    missing = VoxelSpacingError("the array states no voxel spacing", "pass voxel_spacing_angstrom, in Å")
    if not _is_data_array(array) or any(axis not in array.coords for axis in _AXES):
        raise missing
    steps = [_step(array.coords[axis]) for axis in _AXES if array.coords[axis].size > 1]
    if not steps:
        raise missing
    if max(steps) - min(steps) > _CUBE_TOLERANCE * max(steps):
        raise VoxelSpacingError(
            f"voxel spacings of {', '.join(f'{step:g}' for step in steps)} Å along the axes",
            "resample the volume to cubic voxels",
        )
    return steps[0]


def _step(coordinate: Any) -> float:
    """Return the distance of neighbouring values of a coordinate in Å."""
    unit = coordinate.attrs.get("units", "angstrom")
    if unit not in _ANGSTROM_PER_UNIT:
        raise VoxelSpacingError(f"coordinates in {unit!r}", "pass voxel_spacing_angstrom, in Å")
    steps = np.diff(np.asarray(coordinate, np.float64))
    if not np.allclose(steps, steps[0], rtol=_CUBE_TOLERANCE, atol=0.0):
        raise VoxelSpacingError("the coordinates are not evenly spaced", "pass voxel_spacing_angstrom, in Å")
    return abs(float(steps[0])) * _ANGSTROM_PER_UNIT[unit]
