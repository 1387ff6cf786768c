"""Transform volumes that do not fit into memory, exactly: no block is cut and no kernel is truncated.

A 3D transform is one-dimensional transforms along x, y and z, in any order. A volume therefore passes three times:
planes of z (transforms along x and y), columns along z (transform, filter, transform back), planes of z again (y and x
back). Between the passes it is kept in a scratch array of half the complex spectrum, 4 bytes a voxel, which the caller
provides: memory for small volumes, a file for large ones. The results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Box, VoxelArray, Zyx

Complex64 = NDArray[np.complex64]
# A kernel gives its factors for some rows of y, in the order of the transform: (nz, rows, nx // 2 + 1).
Kernel = Callable[[range], NDArray[np.float32]]
Advance = Callable[[int], None]

# What one pass holds at its peak, measured: bytes a voxel of a plane, bytes a value of a column.
_PLANE_BYTES, _COLUMN_BYTES = 28, 40


@dataclass(frozen=True)
class Affine:
    """Shift and scale: `(value - mean) / std` is transformed, so that small numbers keep their digits."""

    mean: float
    std: float


def scratch_shape(shape: Zyx, target: Zyx) -> Zyx:
    """Return the shape of the scratch array of a transform.

    Parameters
    ----------
    shape, target : tuple of int
        Voxels along (z, y, x) before and after.

    Returns
    -------
    tuple of int
        Shape of a complex64 array.
    """
    return max(shape[0], target[0]), target[1], target[2] // 2 + 1


def frequency_squares(shape: Zyx, spacings: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    """Return the squared frequencies of each axis.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    spacings : tuple of float
        Distance between frequencies along (z, y, x), in any unit.

    Returns
    -------
    tuple of ndarray, shapes (Z // 2 + 1,), (Y,), (X // 2 + 1,), float64
        Squares of index times spacing: z and x from 0 up, y in the order of the transform.
    """
    along_y = np.minimum(np.arange(shape[1]), shape[1] - np.arange(shape[1]))
    indices = np.arange(shape[0] // 2 + 1), along_y, np.arange(shape[2] // 2 + 1)
    return tuple((index * spacing) ** 2 for index, spacing in zip(indices, spacings, strict=True))


def cycles_per_voxel(shape: Zyx) -> tuple[float, float, float]:
    """Return the distance between the frequencies of each axis.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).

    Returns
    -------
    tuple of float
        Cycles a voxel along (z, y, x): one period over the whole length.
    """
    z, y, x = (1.0 / n for n in shape)
    return z, y, x


def radial_kernel(
    shape: Zyx,
    response: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    spacings: tuple[float, float, float],
) -> Kernel:
    """Return the kernel of a filter whose response depends on the length of the frequency alone.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (z, y, x).
    response : callable
        Takes frequencies, any shape, float64, in the unit of `spacings`, and returns factors of that shape.
    spacings : tuple of float
        Distance between frequencies along (z, y, x); `cycles_per_voxel` gives true ones.

    Returns
    -------
    Kernel
        Takes rows of y and returns their factors, (Z, rows, X // 2 + 1) float32.
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
    """A volume that passes through a filter, from `shape` to `target` voxels over the same extent.

    Where an axis becomes shorter its high frequencies are left out; where it becomes longer zeros are inserted.
    Intensities keep their scale, and voxel 0 its position. The coefficient at the highest frequency of an even axis
    stands for plus and minus and is shared between them, so that a mirrored volume gives the mirrored result.

    Parameters
    ----------
    shape, target : tuple of int
        Voxels along (z, y, x) before and after.
    scratch : VoxelArray
        A complex64 array of `scratch_shape(shape, target)`.
    memory_bytes : int
        Memory of a pass, the scratch array not counted.
    threads : int
        Threads of the transforms.
    advance : callable
        Called with numbers of planes or rows, as they are finished: Z in a pass of planes, Y in one of columns.

    Raises
    ------
    UsageError
        If a plane or a row of columns does not fit into `memory_bytes`.
    """

    def __init__(
        self, shape: Zyx, target: Zyx, scratch: VoxelArray, *, memory_bytes: int, threads: int, advance: Advance
    ) -> None:
        self.shape, self.target = shape, target
        self._scratch, self._threads, self._advance = scratch, threads, advance
        plane = max(shape[1] * shape[2], target[1] * target[2]) * _PLANE_BYTES
        row = max(shape[0], target[0]) * (target[2] // 2 + 1) * _COLUMN_BYTES
        if memory_bytes < max(plane, row):
            raise UsageError(
                f"the memory allowed leaves {memory_bytes / 2**20:.0f} MiB to work in, "
                f"one plane of this volume takes {max(plane, row) / 2**20:.0f} MiB",
                f"allow {(max(plane, row) - memory_bytes) / 2**30 + 0.1:.1f} GiB more (memory_gib)",
            )
        self._planes, self._rows = memory_bytes // plane, memory_bytes // row

    def load(self, read: Callable[[Box], NDArray[Any]], affine: Affine) -> None:
        """Read the volume by planes and transform x and y: the first pass.

        Parameters
        ----------
        read : callable
            Takes a box and returns its voxels, (Z, Y, X), any real dtype.
        affine : Affine
            Shift and scale of the values.
        """
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
        """Yield the spectrum by rows of y.

        Yields
        ------
        range, ndarray, shape (Z, rows, X // 2 + 1), complex64
            The rows and their coefficients, divided by the number of voxels.
        """
        for start, stop in _steps(self.target[1], self._rows):
            values = self._scratch.read(self._columns_box(start, stop, self.shape[0]))
            values = fft.fft(values, axis=0, norm="forward", workers=self._threads, overwrite_x=True)
            yield range(start, stop), _fit(values, 0, self.target[0])
            self._advance(stop - start)

    def filter(self, kernel: Kernel | None) -> tuple[float, float]:
        """Transform z, multiply by the kernel and transform z back: the second pass.

        Parameters
        ----------
        kernel : Kernel or None
            The filter; None: all factors are 1.

        Returns
        -------
        float
            Factor of the kernel at frequency 0.
        float
            Standard deviation (ddof 0) of the filtered values.
        """
        power, zero = 0.0, 1.0
        for rows, spectrum in self.columns():
            if kernel is not None:
                factors = kernel(rows)
                np.multiply(spectrum, factors, out=spectrum)
                zero = float(factors[0, 0, 0]) if rows.start == 0 else zero
                del factors
            power += self._power(spectrum, rows)
            filtered = fft.ifft(spectrum, axis=0, norm="forward", workers=self._threads, overwrite_x=True)
            self._scratch.write(self._columns_box(rows.start, rows.stop, self.target[0]), filtered)
            del spectrum, filtered  # the next rows need the memory
        return zero, float(np.sqrt(power))

    def planes(self) -> Iterator[tuple[Box, NDArray[np.float32]]]:
        """Transform y and x back and yield the result by planes: the third pass.

        Yields
        ------
        Box, ndarray, shape (Z, Y, X), float32
            Planes of the filtered volume, as `(value - mean) / std`.
        """
        for start, stop in _steps(self.target[0], self._planes):
            half = self._scratch.read(self._half_planes(start, stop))
            half = fft.ifft(half, axis=1, norm="forward", workers=self._threads, overwrite_x=True)
            values = fft.irfft(half, self.target[2], axis=2, norm="forward", workers=self._threads, overwrite_x=True)
            yield Box((start, 0, 0), (stop, *self.target[1:])), values
            self._advance(stop - start)

    def _power(self, values: Complex64, rows: range) -> float:
        """Return the sum of squares over rows, both halves of the spectrum counted, frequency 0 left out."""
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
    """Return the multiplicity of each rFFT coefficient: 2, or 1 at both ends of an even axis.

    Parameters
    ----------
    length : int
        Number of real values.

    Returns
    -------
    ndarray, shape (length // 2 + 1,), float64
        Number of coefficients of the full spectrum that each one stands for.
    """
    weights = np.full(length // 2 + 1, 2.0)
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    return weights


def _steps(length: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of about equal length, at most `step`."""
    count = -(-length // max(1, step))
    even = -(-length // count)
    for start in range(0, length, even):
        yield start, min(start + even, length)


def _fit(values: Complex64, axis: int, target: int) -> Complex64:
    """Leave out or insert high frequencies along a whole axis of the transform."""
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
    """Leave out or insert high frequencies along x, of which only the half from 0 is present."""
    if length == target:
        return values
    out = np.zeros((*values.shape[:2], target // 2 + 1), values.dtype)
    kept = min(values.shape[2], out.shape[2])
    out[..., :kept] = values[..., :kept]
    if target > length and length % 2 == 0:
        out[..., length // 2] *= 0.5
    return out
