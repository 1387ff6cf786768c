"""NumPy's files of one array (.npy), without a voxel spacing."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.volume_layout import VolumeHeader, VolumeLayout


def numpy_layout(file: BinaryIO, path: str) -> VolumeLayout:
    """Read the header of a NumPy file.

    Parameters
    ----------
    file : binary file
        The uncompressed content, at its beginning.
    path : str
        The file's name for errors.

    Returns
    -------
    VolumeLayout

    Raises
    ------
    TomogramError
        If the file is no NumPy file, or its array is no volume of numbers.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        shape, fortran, dtype = readers[version](file)
    except (ValueError, EOFError) as error:
        raise TomogramError(f"{path}: cannot be read ({error})", "write it with numpy.save") from error
    if len(shape) != 3 or dtype.kind not in "biuf" or min(shape) <= 0:
        raise TomogramError(f"{path}: shape {shape}, type {dtype}: no volume", "give an array z, y, x")
    header = VolumeHeader(shape, dtype, None, notes=("NumPy files carry no voxel spacing",))
    return VolumeLayout(header, dtype, offset=file.tell(), axes=(2, 1, 0) if fortran else (0, 1, 2))
