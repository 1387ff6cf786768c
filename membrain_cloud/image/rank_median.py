"""The median over cubes, at a cost that hardly grows with the cube.

scipy's takes 13 s for 160³ voxels and a cube of 7, since it sorts every neighbourhood anew. Here the voxels are sorted
into 256 levels once, and a histogram slides along the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.jit import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVELS, _FINE, _COARSE = 256, 16, 16
_BINS = 1 << 14


def median(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Compute the median over cubes, with borders reflected as in `scipy.ndimage.median_filter`.

    Parameters
    ----------
    image : ndarray, shape (Z, Y, X), float32
        Finite values.
    size : int
        Edge of the cube in voxels.

    Returns
    -------
    ndarray, shape (Z, Y, X), float32
        At most 256 different values: half of them follow the voxels, half are evenly spaced. For normal noise the steps
        are 0.02 standard deviations in the middle and 0.08 in the tails.

    References
    ----------
    Huang et al., IEEE Trans. ASSP 27 (1979); Perreault & Hébert, IEEE Trans. Image Process. 16 (2007), here in 3D.
    """
    low, high = float(image.min()), float(image.max())
    if high <= low:
        return image.copy()
    bins = ((image - np.float32(low)) * np.float32((_BINS - 1) / (high - low))).astype(np.uint16)
    level_of_bin, value_of_level = _levels(image, bins)
    before, after = size // 2, size - 1 - size // 2
    padded = np.pad(level_of_bin[bins], ((before, after),) * 3, mode="symmetric")
    result = np.empty(image.shape, np.uint8)
    _slide(padded, size, size**3 // 2, result)
    return value_of_level[result]


def _levels(image: NDArray[np.float32], bins: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the level of each bin, and the mean value of each level."""
    counts = np.bincount(bins.ravel(), minlength=_BINS)
    sums = np.bincount(bins.ravel(), weights=image.ravel(), minlength=_BINS)
    share = ((np.cumsum(counts) - counts / 2) / image.size + (np.arange(_BINS) + 0.5) / _BINS) / 2
    levels = (share * _LEVELS).astype(np.uint8)
    in_level = np.bincount(levels, weights=counts, minlength=_LEVELS)
    values = np.bincount(levels, weights=sums, minlength=_LEVELS) / np.maximum(in_level, 1)
    return levels, values.astype(np.float32)


@compiled
def _slide(padded: Any, size: int, rank: int, result: Any) -> None:  # noqa: C901, PLR0912 - one compiled loop
    """Write the levels (uint8) of rank `rank` of each cube into `result`; `padded` is size - 1 longer on each axis."""
    depth, rows, length = result.shape
    wide = length + size - 1
    columns = np.empty((wide, _LEVELS), np.uint16)
    coarse_columns = np.empty((wide, _COARSE), np.uint16)
    window, coarse = np.empty(_LEVELS, np.uint16), np.empty(_COARSE, np.uint16)
    for z in range(depth):
        columns[:] = 0
        coarse_columns[:] = 0
        for y in range(rows):
            for dz in range(size):
                if y == 0:
                    for dy in range(size):
                        for x in range(wide):
                            level = padded[z + dz, dy, x]
                            columns[x, level] += 1
                            coarse_columns[x, level // _FINE] += 1
                else:
                    for x in range(wide):
                        gone, come = padded[z + dz, y - 1, x], padded[z + dz, y + size - 1, x]
                        columns[x, gone] -= 1
                        coarse_columns[x, gone // _FINE] -= 1
                        columns[x, come] += 1
                        coarse_columns[x, come // _FINE] += 1
            window[:] = 0
            coarse[:] = 0
            for x in range(size - 1):
                window += columns[x]
                coarse += coarse_columns[x]
            for x in range(length):
                for k in range(_LEVELS):
                    window[k] += columns[x + size - 1, k]
                for k in range(_COARSE):
                    coarse[k] += coarse_columns[x + size - 1, k]
                left, block = rank, 0
                while left >= coarse[block]:
                    left -= coarse[block]
                    block += 1
                level = block * _FINE
                while left >= window[level]:
                    left -= window[level]
                    level += 1
                result[z, y, x] = level
                for k in range(_LEVELS):
                    window[k] -= columns[x, k]
                for k in range(_COARSE):
                    coarse[k] -= coarse_columns[x, k]
