"""Arrays as bytes in a file, read and written box by box without mapping, so that only the box is in memory."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import StorageError, TomogramError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Box, Zyx

_MOST_BYTES = 1 << 30  # one read or write of the system takes no more than 2 GiB


class RawArray:
    """A zyx array in C order in an open file, which grows as it is written.

    Parameters
    ----------
    descriptor : int
        Descriptor of the file.
    offset : int
        Position of the first voxel in bytes.
    shape : tuple of 3 ints
        Shape, zyx.
    dtype : numpy.dtype
        Data type.
    what : str
        The file, for error messages.
    """

    def __init__(self, descriptor: int, offset: int, shape: Zyx, dtype: np.dtype[Any], what: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._descriptor, self._offset, self._what = descriptor, offset, what

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box.

        Parameters
        ----------
        box : Box
            The voxels to read.

        Returns
        -------
        ndarray, shape of `box`, dtype of the array
            Values, zyx.

        Raises
        ------
        TomogramError
            If the file ends before them.
        """
        out = np.empty(box.shape, self.dtype)
        for part, start in self._runs(out, box):
            view, position = _bytes(part), start
            while len(view):
                count = os.preadv(self._descriptor, [view[:_MOST_BYTES]], position)
                if count == 0:
                    raise TomogramError(f"{self._what}: the file ends early", "copy or reconstruct it again")
                view, position = view[count:], position + count
        return out

    def write(self, box: Box, array: NDArray[Any]) -> None:
        """Write the voxels of a box.

        Parameters
        ----------
        box : Box
            The voxels to write.
        array : ndarray, shape of `box`
            Values, zyx; cast to the array's dtype.

        Raises
        ------
        StorageError
            If the disk is full.
        ValueError
            If the shapes differ.
        """
        if array.shape != box.shape:
            raise ValueError(f"{box} asks for {box.shape}, got {array.shape}")
        try:
            for part, start in self._runs(np.ascontiguousarray(array, self.dtype), box):
                view, position = _bytes(part), start
                while len(view):
                    count = os.pwrite(self._descriptor, view[:_MOST_BYTES], position)
                    view, position = view[count:], position + count
        except OSError as error:
            raise storage_error(error, self._what) from error

    def _runs(self, array: NDArray[Any], box: Box) -> Iterator[tuple[NDArray[Any], int]]:
        """Split a contiguous array of the box into runs of bytes, each with its position in the file."""
        (z0, y0, x0), (_, ny, nx) = box.start, self.shape
        count_z, count_y, count_x = box.shape
        if min(box.shape) == 0:
            return
        if count_x == nx and count_y == ny:
            yield array.reshape(-1), self._position(z0, 0, 0)
        elif count_x == nx:
            for z in range(count_z):
                yield array[z].reshape(-1), self._position(z0 + z, y0, 0)
        else:
            for z, y in itertools.product(range(count_z), range(count_y)):
                yield array[z, y], self._position(z0 + z, y0 + y, x0)

    def _position(self, z: int, y: int, x: int) -> int:
        return self._offset + ((z * self.shape[1] + y) * self.shape[2] + x) * self.dtype.itemsize


def _bytes(part: NDArray[Any]) -> memoryview:
    return part.view(np.uint8).data


class _InMemory:
    """An array in memory, with the methods of `RawArray`."""

    def __init__(self, shape: Zyx, dtype: np.dtype[Any]) -> None:
        self._array = np.empty(shape, dtype)

    def read(self, box: Box) -> NDArray[Any]:
        return self._array[box.slices].copy()

    def write(self, box: Box, array: NDArray[Any]) -> None:
        self._array[box.slices] = array


class ScratchSpace:
    """Arrays that last as long as this context manager: in memory while there is room, then in files without a name.

    Files without a name end with the process, however it ends.

    Parameters
    ----------
    folder : str or None
        Folder of the files; None: the system's temporary folder.
    memory_bytes : int
        Total size of the arrays that are kept in memory, in bytes.
    moved_by : str
        The setting or variable that chooses the folder, for error messages.
    """

    def __init__(self, folder: str | None, *, memory_bytes: int, moved_by: str) -> None:
        self.folder, self.moved_by = folder or tempfile.gettempdir(), moved_by
        self.memory_bytes = memory_bytes
        self._files = contextlib.ExitStack()

    def __enter__(self) -> ScratchSpace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def array(self, shape: Zyx, dtype: np.dtype[Any] | type[Any]) -> RawArray | _InMemory:
        """Return a new array with undefined values.

        Parameters
        ----------
        shape : tuple of 3 ints
            Shape, zyx.
        dtype : dtype-like
            Data type.

        Raises
        ------
        StorageError
            If the disk has no room for it.
        """
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size <= self.memory_bytes:
            self.memory_bytes -= size
            return _InMemory(shape, dtype)
        check_room(self.folder, size, "scratch files", self.moved_by)
        try:
            opened = tempfile.TemporaryFile(dir=self.folder, prefix=".scratch-")  # noqa: SIM115 - closed by the stack
        except OSError as error:
            raise storage_error(error, self.folder) from error
        file = self._files.enter_context(opened)
        return RawArray(file.fileno(), 0, shape, dtype, f"scratch file in {self.folder}")


def check_room(folder: str, size: int, what: str, moved_by: str) -> None:
    """Raise StorageError if a folder has less room than is needed, or is no folder.

    Parameters
    ----------
    folder : str
        The folder.
    size : int
        Number of bytes that are needed.
    what : str
        What needs them, for the message.
    moved_by : str
        The setting or variable that chooses the folder, for the message.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}", f"give another folder: {moved_by}") from None
    if free < size:
        raise StorageError(
            f"{folder} has {free / 1e9:.1f} GB left, the {what} take {size / 1e9:.1f} GB",
            f"free some space, or give another folder: {moved_by}",
        )
