"""What the header of a volume file says, and how the file's voxels are read box by box.

Real headers lie. What a reader does not believe or has to assume stands in `VolumeHeader.notes`, and a voxel spacing
that no tomogram has is None, never a guess.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.geometry import Box
from membrain_cloud.store.volumes.ome_zarr import LARGEST_SPACING_ANGSTROM, SMALLEST_SPACING_ANGSTROM
from membrain_cloud.store.volumes.scratch_array import RawArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Zyx

# Programs write a spacing of 1 where they know none.
_PLACEHOLDER_SPACING, _PLACEHOLDER_TOLERANCE = 1.0, 1e-4
# Voxels are cubes if the spacings of the axes differ by at most this share.
_CUBE_TOLERANCE = 0.01


@dataclass(frozen=True)
class VolumeHeader:
    """What a volume file says of itself.

    Attributes
    ----------
    shape : tuple of int
        Voxels along z, y, x.
    dtype : numpy.dtype
        Type of the voxels, in the file's byte order.
    voxel_spacing_angstrom : float or None
        None where the file gives no believable value: 0, exactly 1, outside 0.5 to 100 Å, or voxels that are no cubes.
    origin : tuple of float
        Of an MRC header, xyz in Å; 0 elsewhere. Volumes start at 0 here: from positions made by programs that count
        the origin, it must be subtracted.
    notes : tuple of str
        What was assumed about the file, as sentences.
    imod_signed_bytes : bool
        Whether IMOD stamped the file as one of signed bytes, which it stores shifted by 128.
    """

    shape: Zyx
    dtype: np.dtype[Any]
    voxel_spacing_angstrom: float | None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()
    imod_signed_bytes: bool = False


@dataclass(frozen=True)
class VolumeLayout:
    """A volume's header, and where its voxels lie in the file.

    Attributes
    ----------
    header : VolumeHeader
    stored : numpy.dtype
        Type of the voxels in the file.
    offset : int
        Byte of the first voxel.
    axes : tuple of int
        For each of z, y, x the axis under which it is stored, 0 for the slowest one.
    scale : tuple of float or None
        Slope and intercept to apply to the stored values; None where there are none.
    announced : int
        Bytes of an extended header before the voxels that the file may lack, although its header announces them.
    decode : callable or None
        Reads all voxels, zyx, from the open file, where they are compressed inside of it; None where they are one run
        of bytes.
    """

    header: VolumeHeader
    stored: np.dtype[Any]
    offset: int = 0
    axes: Zyx = (0, 1, 2)
    scale: tuple[float, float] | None = None
    announced: int = 0
    decode: Callable[[BinaryIO], NDArray[Any]] | None = None

    @property
    def chunk(self) -> Zyx:
        """The box (z, y, x) whose voxels are one run of bytes: a plane across the slowest axis."""
        z, y, x = (1 if axis == 0 else n for axis, n in zip(self.axes, self.header.shape, strict=True))
        return z, y, x


class VoxelSource(Protocol):
    """Anything that reads the voxels (z, y, x) of a box."""

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box.

        Parameters
        ----------
        box : Box
            Within the volume.

        Returns
        -------
        (Z, Y, X) array of the source's type
        """
        ...


def fit_to_size(layout: VolumeLayout, size: int, path: str) -> VolumeLayout:
    """Return a layout whose voxels lie within a file of a size.

    Parameters
    ----------
    layout : VolumeLayout
        What the header says.
    size : int
        Bytes of the uncompressed file.
    path : str
        The file's name for errors.

    Returns
    -------
    VolumeLayout
        The same; or with the voxels right behind the header where an extended header was announced and is not there.

    Raises
    ------
    TomogramError
        If the file is shorter than its header says.
    """
    if layout.decode is not None:
        return layout
    voxels = math.prod(layout.header.shape) * layout.stored.itemsize
    end = layout.offset + voxels
    if size >= end:
        return layout
    if layout.announced and size == end - layout.announced:
        note = f"an extended header of {layout.announced} bytes is announced and not there: read without it"
        header = replace(layout.header, notes=(*layout.header.notes, f"MRC header: {note}"))
        return replace(layout, header=header, offset=layout.offset - layout.announced)
    parts = f"{layout.offset} before the voxels, {voxels} of voxels"
    raise TomogramError(
        f"{path}: the file is truncated ({size} bytes, its header asks for {end}: {parts})", "copy it again"
    )


def open_voxels(layout: VolumeLayout, file: BinaryIO, path: str) -> VoxelSource:
    """Return a reader of boxes of an open file.

    The voxels are read and not mapped, so that no more of a large file is resident than was asked for. Voxels that are
    compressed inside of the file are decoded into memory as a whole.

    Parameters
    ----------
    layout : VolumeLayout
        Of this file.
    file : binary file
        The file, uncompressed; it must stay open as long as boxes are read.
    path : str
        The file's name for errors.

    Returns
    -------
    VoxelSource

    Raises
    ------
    TomogramError
        If the file is shorter than its header says, or the compressed voxels are damaged.
    """
    if layout.decode is not None:
        return _ArraySource(layout.decode(file))
    layout = fit_to_size(layout, os.fstat(file.fileno()).st_size, path)
    lengths = dict(zip(layout.axes, layout.header.shape, strict=True))
    shape = lengths[0], lengths[1], lengths[2]
    source: VoxelSource = RawArray(file.fileno(), layout.offset, shape, layout.stored, path)
    if layout.axes != (0, 1, 2):
        source = _PermutedSource(source, layout.axes)
    return source if layout.scale is None else _ScaledSource(source, *layout.scale)


class _ArraySource:
    """An array in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def read(self, box: Box) -> NDArray[Any]:
        return self._array[box.slices].copy()


class _PermutedSource:
    """Voxels whose axes are stored in another order than z, y, x."""

    def __init__(self, source: VoxelSource, axes: Zyx) -> None:
        self._source, self._axes = source, axes

    def read(self, box: Box) -> NDArray[Any]:
        start, stop = [0, 0, 0], [0, 0, 0]
        for axis, stored in enumerate(self._axes):
            start[stored], stop[stored] = box.start[axis], box.stop[axis]
        stored_box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        return self._source.read(stored_box).transpose(self._axes)


class _ScaledSource:
    """Voxels that are float32 values of stored numbers, by a slope and an intercept."""

    def __init__(self, source: VoxelSource, slope: float, intercept: float) -> None:
        self._source, self._slope, self._intercept = source, slope, intercept

    def read(self, box: Box) -> NDArray[Any]:
        values = self._source.read(box).astype(np.float64)
        return (values * self._slope + self._intercept).astype(np.float32)


def believable_spacing(spacing: float, notes: list[str], source: str) -> float | None:
    """Return a voxel spacing, or None and a note where it is a placeholder or absurd.

    Parameters
    ----------
    spacing : float
        Å.
    notes : list of str
        The note is appended here.
    source : str
        Where the spacing is from, for the note: "MRC header".

    Returns
    -------
    float or None
        Å, rounded to 1e-6.
    """
    placeholder = abs(spacing - _PLACEHOLDER_SPACING) < _PLACEHOLDER_TOLERANCE
    if placeholder or not SMALLEST_SPACING_ANGSTROM <= spacing <= LARGEST_SPACING_ANGSTROM:
        notes.append(f"{source} gives a voxel spacing of {spacing:g} Å, which is not believed")
        return None
    return round(spacing, 6)


def cubic_voxels(spacings: Sequence[float]) -> bool:
    """Return whether the spacings of the axes are one within 1 %.

    Parameters
    ----------
    spacings : sequence of float
        Of the axes, in any unit, finite.

    Returns
    -------
    bool
    """
    return max(spacings) - min(spacings) <= _CUBE_TOLERANCE * max(abs(spacing) for spacing in spacings)
