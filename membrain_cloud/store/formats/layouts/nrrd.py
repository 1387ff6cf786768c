"""NRRD volumes (.nrrd), in which MemBrain-seg's users keep corrections of patches: MITK and 3D Slicer write them.

They are read as SimpleITK hands them to MemBrain-seg: the fastest axis of the file is x, arrays are z, y, x.
Orientation and origin are left out. pynrrd reads the header and unpacks compressed voxels; uncompressed ones are read
box by box by `volume_layout`, since pynrrd would load the whole volume.
"""

from __future__ import annotations

import io
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.volume_layout import VolumeHeader, VolumeLayout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Zyx

_PACKED = ("gzip", "gz", "bzip2", "bz2")
_ELSEWHERE = ("data file", "datafile", "byte skip", "byteskip", "line skip", "lineskip")


def nrrd_layout(file: BinaryIO, path: str) -> VolumeLayout:
    """Read the header of a NRRD file; its spacing is not believed, since its unit is nowhere said.

    Parameters
    ----------
    file : binary file
        The file, at its beginning.
    path : str
        The file's name for errors.

    Returns
    -------
    VolumeLayout

    Raises
    ------
    TomogramError
        If the file is no NRRD, has its voxels in another file or in another encoding than raw, gzip or bzip2, is no
        single volume, or of a voxel type that no tomogram has.

    References
    ----------
    https://teem.sourceforge.net/nrrd/format.html
    """
    fields = _fields(file, path)
    shape, dtype = _shape(path, fields), _dtype(path, fields)
    header = VolumeHeader(shape, dtype, None, notes=("NRRD header: the unit of its spacing is not known",))
    encoding = fields["encoding"]
    if encoding not in ("raw", *_PACKED) or any(name in fields for name in _ELSEWHERE):
        raise TomogramError(f"{path}: an encoding of NRRD that is not read", "save it as raw or gzip, in one file")
    decode = partial(_decode, fields, file.tell(), path) if encoding in _PACKED else None
    return VolumeLayout(header, dtype, offset=file.tell(), decode=decode)


def _decode(fields: dict[str, Any], offset: int, path: str, file: BinaryIO) -> NDArray[Any]:
    """Unpack all voxels (z, y, x)."""
    import nrrd

    file.seek(offset)
    try:
        voxels: NDArray[Any] = nrrd.read_data(fields, file, index_order="C")
    except (nrrd.NRRDError, OSError, EOFError, ValueError, zlib.error) as error:
        raise TomogramError(f"{path}: the voxels are damaged ({error})", "copy it again") from error
    return voxels


def _fields(file: BinaryIO, path: str) -> dict[str, Any]:
    import nrrd

    try:
        fields = dict(nrrd.read_header(file))
    except (nrrd.NRRDError, ValueError, StopIteration) as error:
        raise TomogramError(
            f"{path}: the header is not one of a NRRD file ({error})", "check that the file is what its name says"
        ) from error
    fields.setdefault("endian", "little")  # files of bytes need none
    for name in ("type", "encoding", "endian"):
        fields[name] = str(fields.get(name, "")).lower()
    return fields


def _shape(path: str, fields: dict[str, Any]) -> Zyx:
    sizes = [int(size) for size in fields.get("sizes", ())]
    if len(sizes) != 3 or min(sizes) <= 0:
        raise TomogramError(f"{path}: sizes {sizes} are of no single volume", "give one 3D volume a file")
    return sizes[2], sizes[1], sizes[0]


def _dtype(path: str, fields: dict[str, Any]) -> np.dtype[Any]:
    """Return the type of the voxels: that of one voxel of zeros, since pynrrd's table of names is private."""
    import nrrd

    probe = {"type": fields["type"], "endian": fields["endian"], "encoding": "raw"}
    try:
        voxel = nrrd.read_data({**probe, "dimension": 1, "sizes": np.ones(1, int)}, io.BytesIO(bytes(8)))
    except (nrrd.NRRDError, KeyError, ValueError) as error:
        raise TomogramError(
            f"{path}: voxels of NRRD type {fields['type']!r} are not read", "convert it to uint8 or float"
        ) from error
    dtype: np.dtype[Any] = voxel.dtype
    return dtype
