"""Uncertainty of a segmentation: how much the network's results differ over the mirrored tomogram.

As MemBrain-seg 0.0.10 defines it: the variance (ddof 1) of the probability over the eight mirrors. Inside the mask it
is the value at the nearest voxel of the mask eroded by one voxel, since at the surface of a membrane the variance is
always high. Then a median is taken. Two points differ here:

- the median is over 5 x 5 voxels in XY. MemBrain-seg means it so and applies it in YZ, because its arrays are x, y, z;
- "nearest" reaches 6 voxels. Farther away, as in parts of the mask too thin to be eroded, a voxel keeps its own value;
  MemBrain-seg takes that of another membrane at any distance.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_NEAREST = 6
_MEDIAN = (1, 5, 5)
#: Planes above and below that decide on a plane's uncertainty.
HALO = _NEAREST + 1


def uncertainty_planes(variance: NDArray[np.float32], mask: NDArray[Any], first: int, last: int) -> NDArray[np.float32]:
    """Compute the uncertainty of some planes.

    Parameters
    ----------
    variance : ndarray, shape (n, Y, X), float32
        Variances of whole planes: `HALO` more than asked for on either side, or fewer at the ends of the volume.
    mask : ndarray, shape (n, Y, X)
        Nonzero on membranes, in the same planes.
    first, last : int
        Planes [first, last) of these.

    Returns
    -------
    ndarray, shape (last - first, Y, X), float32
        The uncertainty.
    """
    mask = np.asarray(mask) != 0
    outer = slice(max(0, first - _NEAREST), min(len(mask), last + _NEAREST))
    inner = ndimage.binary_erosion(mask)[outer]
    taken = variance[first:last].copy()
    wanted = mask[first:last].copy()
    wanted &= ~inner[first - outer.start : last - outer.start]
    _take_nearest(taken, wanted, variance[outer], inner, first - outer.start)
    return np.asarray(ndimage.median_filter(taken, _MEDIAN))


def _take_nearest(
    taken: NDArray[np.float32], wanted: NDArray[np.bool_], values: NDArray[Any], sources: NDArray[np.bool_], shift: int
) -> None:
    """Set each wanted voxel to the value of the nearest source, in place; `sources` starts `shift` planes above."""
    voxels = np.argwhere(wanted)
    framed = np.pad(sources, ((_NEAREST, _NEAREST),) * 3)
    for offset in _offsets():
        if not len(voxels):
            return
        z, y, x = (voxels + offset + np.array([shift + _NEAREST, _NEAREST, _NEAREST])).T
        found = framed[z, y, x]
        target = voxels[found]
        source = target + offset
        taken[tuple(target.T)] = values[source[:, 0] + shift, source[:, 1], source[:, 2]]
        voxels = voxels[~found]


def _offsets() -> Iterator[NDArray[np.intp]]:
    """Set each wanted voxel to the nearest source's value, in place; `sources` starts `shift` planes above."""
    reach = range(-_NEAREST, _NEAREST + 1)
    steps = [(z * z + y * y + x * x, z, y, x) for z, y, x in itertools.product(reach, reach, reach)]
    return (np.array(step[1:]) for step in sorted(steps) if 0 < step[0] <= _NEAREST**2)
