"""The Fourier transform of a volume that need not fit into memory, exactly: no block is cut, no kernel truncated.

A 3D transform is one-dimensional transforms along x, y and z, in any order. So a volume goes through it three times:
planes of z (x and y), columns of z (z, the filter, z back), planes of z again (y and x back). Between the passes it
rests in a scratch array of half the complex spectrum (real volumes need no more), 4 bytes a voxel, which the caller
provides: memory for small volumes, a file for large ones. The results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Box, Zyx

Complex64 = NDArray[np.complex64]
# A kernel gives its factors for some rows of y, in the order of the transform: (nz, rows, nx // 2 + 1).
Kernel = Callable[[range], NDArray[np.float32]]
Advance = Callable[[int], None]

# What one pass holds at its peak, measured: bytes a voxel of a plane, bytes a value of a column.
_PLANE_BYTES, _COLUMN_BYTES = 28, 40


class Scratch(Protocol):
    """A zyx array outside of the science: in memory or in a file."""

    def read(self, box: Box) -> NDArray[Any]: ...

    def write(self, box: Box, array: NDArray[Any]) -> None: ...


@dataclass(frozen=True)
class Affine:
    """Values that were transformed are `(value - mean) / std` of the volume: small numbers lose no digits."""

    mean: float
    std: float


def half_shape(shape: Zyx) -> Zyx:
    """The shape of the half spectrum of a real volume."""
    return shape[0], shape[1], shape[2] // 2 + 1


def scratch_shape(shape: Zyx, target: Zyx) -> Zyx:
    """The scratch array that a transform from `shape` to `target` needs, of complex64."""
    return max(shape[0], target[0]), target[1], target[2] // 2 + 1


def frequency_squares(shape: Zyx, spacings: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Squared frequencies along z (of the half from 0), y and x (of the half from 0): index times spacing, squared."""
    along_y = np.minimum(np.arange(shape[1]), shape[1] - np.arange(shape[1]))
    indices = np.arange(shape[0] // 2 + 1), along_y, np.arange(shape[2] // 2 + 1)
    return tuple((index * spacing) ** 2 for index, spacing in zip(indices, spacings, strict=True))


def cycles_per_voxel(shape: Zyx) -> tuple[float, float, float]:
    """The distance between frequencies of each axis: its index 1 is one period in its whole length."""
    z, y, x = (1.0 / n for n in shape)
    return z, y, x


def radial_kernel(
    shape: Zyx,
    response: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    spacings: tuple[float, float, float],
) -> Kernel:
    """The kernel of a filter whose response depends on the frequency's length alone.

    response : frequencies (any shape, float64, in the unit of `spacings`) to factors.
    spacings : between the frequencies along z, y, x; `cycles_per_voxel` is the true one.
    """
    squares_z, squares_y, squares_x = frequency_squares(shape, spacings)
    mirrored = np.minimum(np.arange(shape[0]), shape[0] - np.arange(shape[0]))

    def kernel(rows: range) -> NDArray[np.float32]:
        out = np.empty((shape[0], len(rows), len(squares_x)), np.float32)
        for place, y in enumerate(rows):
            lengths = np.sqrt(squares_z[:, None] + squares_y[y] + squares_x)
            out[:, place] = response(lengths)[mirrored]
        return out

    return kernel


class FourierVolume:
    """A volume on its way through a filter, from `shape` to `target` voxels over the same extent.

    Where an axis gets shorter its high frequencies are left out, where it gets longer zeros are put in; intensities
    keep their scale, and voxel 0 its place. At the highest frequency of an even axis the coefficient stands for plus
    and minus, and is shared between them, so that a mirrored volume gives the mirrored result.

    Parameters
    ----------
    shape, target : zyx voxels.
    scratch : complex64 array of `scratch_shape(shape, target)`.
    memory_bytes : what a pass may hold beside the scratch array.
    threads : of the transforms.
    advance : told how many planes or rows more are done; a pass of planes has nz of them, one of columns ny.

    Raises UsageError where one plane or one row of columns does not fit into `memory_bytes`.
    """

    def __init__(
        self, shape: Zyx, target: Zyx, scratch: Scratch, *, memory_bytes: int, threads: int, advance: Advance
    ) -> None:
        self.shape, self.target = shape, target
        self._scratch, self._threads, self._advance = scratch, threads, advance
        plane = max(shape[1] * shape[2], target[1] * target[2]) * _PLANE_BYTES
        row = max(shape[0], target[0]) * (target[2] // 2 + 1) * _COLUMN_BYTES
        if memory_bytes < max(plane, row):
            raise UsageError(
                f"the memory allowed leaves {memory_bytes / 2**20:.0f} MiB to work in, "
                f"one plane of this volume takes {max(plane, row) / 2**20:.0f} MiB",
                f"allow {(max(plane, row) - memory_bytes) / 2**30 + 0.1:.1f} GiB more: --memory-gib",
            )
        self._planes, self._rows = memory_bytes // plane, memory_bytes // row

    def load(self, read: Callable[[Box], NDArray[Any]], affine: Affine) -> None:
        """First pass: read the volume by planes, transform x and y."""
        for start, stop in _steps(self.shape[0], self._planes):
            values = read(Box((start, 0, 0), (stop, *self.shape[1:])))
            exact = np.float64 if values.dtype.itemsize > 4 or values.dtype.kind in "iu" else np.float32
            values = np.subtract(values, affine.mean, dtype=exact)
            values /= affine.std
            half = fft.rfft(values.astype(np.float32, copy=False), axis=2, norm="forward", workers=self._threads)
            half = _fit_half(half, self.shape[2], self.target[2])
            half = fft.fft(half, axis=1, norm="forward", workers=self._threads, overwrite_x=True)
            self._scratch.write(self._half_planes(start, stop), _fit(half, 1, self.target[1]))
            self._advance(stop - start)

    def columns(self) -> Iterator[tuple[range, Complex64]]:
        """The spectrum by rows of y: (nz, rows, nx // 2 + 1) complex64, divided by the number of voxels."""
        for start, stop in _steps(self.target[1], self._rows):
            values = self._scratch.read(self._columns_box(start, stop, self.shape[0]))
            values = fft.fft(values, axis=0, norm="forward", workers=self._threads, overwrite_x=True)
            yield range(start, stop), _fit(values, 0, self.target[0])
            self._advance(stop - start)

    def filter(self, kernel: Kernel | None) -> tuple[float, float]:
        """Second pass: transform z, multiply by the kernel, transform z back.

        Returns the kernel's factor at zero frequency, and the standard deviation (ddof 0) of the filtered values.
        """
        power, zero = 0.0, 1.0
        for rows, values in self.columns():
            if kernel is not None:
                factors = kernel(rows)
                values *= factors
                zero = float(factors[0, 0, 0]) if rows.start == 0 else zero
                del factors
            power += self._power(values, rows)
            values = fft.ifft(values, axis=0, norm="forward", workers=self._threads, overwrite_x=True)
            self._scratch.write(self._columns_box(rows.start, rows.stop, self.target[0]), values)
            del values
        return zero, float(np.sqrt(power))

    def planes(self) -> Iterator[tuple[Box, NDArray[np.float32]]]:
        """Third pass: transform y and x back; the filtered volume by planes, of `(value - mean) / std`."""
        for start, stop in _steps(self.target[0], self._planes):
            half = self._scratch.read(self._half_planes(start, stop))
            half = fft.ifft(half, axis=1, norm="forward", workers=self._threads, overwrite_x=True)
            values = fft.irfft(half, self.target[2], axis=2, norm="forward", workers=self._threads, overwrite_x=True)
            yield Box((start, 0, 0), (stop, *self.target[1:])), values
            self._advance(stop - start)

    def _power(self, values: Complex64, rows: range) -> float:
        """Sum of the squares over the rows, both halves of the spectrum counted, zero frequency left out."""
        total = 0.0
        twice = half_weights(self.target[2])
        for place in range(len(rows)):
            row = values[:, place]
            total += float(np.einsum("zx,zx,x->", row.real, row.real, twice, dtype=np.float64))
            total += float(np.einsum("zx,zx,x->", row.imag, row.imag, twice, dtype=np.float64))
        if rows.start == 0:
            total -= float(abs(complex(values[0, 0, 0])) ** 2)
        return max(total, 0.0)

    def _half_planes(self, start: int, stop: int) -> Box:
        return Box((start, 0, 0), (stop, self.target[1], self.target[2] // 2 + 1))

    def _columns_box(self, start: int, stop: int, length: int) -> Box:
        return Box((0, start, 0), (length, stop, self.target[2] // 2 + 1))


def half_weights(length: int) -> NDArray[np.float64]:
    """How many coefficients of the whole spectrum one of the half along x stands for: 2, but 1 at its ends."""
    weights = np.full(length // 2 + 1, 2.0)
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    return weights


def _steps(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Steps of equal length, as far as that goes."""
    count = -(-length // max(1, step))
    even = -(-length // count)
    for start in range(0, length, even):
        yield start, min(start + even, length)


def _fit(values: Complex64, axis: int, target: int) -> Complex64:
    """Leave out or put in high frequencies along a whole axis of the transform."""
    length = values.shape[axis]
    if length == target:
        return values
    values = np.moveaxis(values, axis, 0)
    out = np.zeros((target, *values.shape[1:]), values.dtype)
    kept = min(length, target)
    out[: (kept + 1) // 2] = values[: (kept + 1) // 2]
    negative = (kept - 1) // 2
    if negative:
        out[-negative:] = values[-negative:]
    if kept % 2 == 0:
        half = kept // 2
        if target < length:
            out[half] = 0.5 * (values[half] + values[-half])
        else:
            out[half] = 0.5 * values[half]
            out[-half] = out[half]
    return np.moveaxis(out, 0, axis)


def _fit_half(values: Complex64, length: int, target: int) -> Complex64:
    """The same along x, of which only the half from 0 is there; the way back takes the real part at its end."""
    if length == target:
        return values
    out = np.zeros((*values.shape[:2], target // 2 + 1), values.dtype)
    kept = min(values.shape[2], out.shape[2])
    out[..., :kept] = values[..., :kept]
    if target > length and length % 2 == 0:
        out[..., length // 2] *= 0.5
    return out
