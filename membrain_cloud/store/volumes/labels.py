"""Arrays of labels as unsigned integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    if array.size and array.min() < 0:
        raise TomogramError(f"{what}: label {array.min():g} is below 0", "give labels of 0 and above")
    return array.astype(np.uint32 if array.dtype.kind == "f" else f"u{array.dtype.itemsize}")
