"""MRC volumes (.mrc, .rec, .map, .st, .ali), whose headers are believed only where they can be."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.volume_layout import VolumeHeader, VolumeLayout, believable_spacing, cubic_voxels

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

HEADER_BYTES = 1024
"""Bytes before the extended header, or before the voxels where there is none."""

_MODES = (0, 1, 2, 4, 6, 12)
_LARGEST_AXIS = 1 << 20
_IMOD_STAMP = 1146047817
_MACHINE_STAMPS = {"<": 0x44, ">": 0x11}
# An origin nearer to 0 than this (Å) is none.
_SMALLEST_ORIGIN = 1e-3


def mrc_layout(file: BinaryIO, path: str) -> VolumeLayout:
    """Read the header of an MRC file.

    Parameters
    ----------
    file : binary file
        The uncompressed content, at its beginning.
    path : str
        The file's name for errors.

    Returns
    -------
    VolumeLayout
        The axes are those of the file's header, so that what is read is z, y, x.

    Raises
    ------
    TomogramError
        If the header is not one of an MRC file, or the file holds no volume of real numbers.

    References
    ----------
    Cheng et al. (2015), "MRC2014: Extensions to the MRC format header for electron cryo-microscopy and tomography",
    J. Struct. Biol. 192.
    """
    import mrcfile

    notes: list[str] = []
    raw = _raw_header(file, path, notes)
    try:
        dtype = mrcfile.utils.data_dtype_from_header(raw)
    except ValueError as error:
        raise TomogramError(f"{path}: {error}", "convert it to MRC mode 2 (float32)") from error
    shape = (int(raw.nz), int(raw.ny), int(raw.nx))
    if min(shape) <= 0 or dtype.kind not in "iuf":
        raise TomogramError(f"{path}: shape {shape}, type {dtype}: no volume", "give a reconstructed tomogram")
    if int(raw.mode) == 0:
        dtype = _byte_type(raw, notes)
    axes = _axes(raw, notes)
    z, y, x = (shape[axis] for axis in axes)
    origin = _origin(raw, notes)
    signed = int(raw.mode) == 0 and _imod_flags(raw) is not None and dtype == np.dtype(np.int8)
    header = VolumeHeader((z, y, x), dtype, _spacing(raw, notes), origin, tuple(notes), imod_signed_bytes=signed)
    extended = int(raw.nsymbt)
    return VolumeLayout(header, dtype, offset=HEADER_BYTES + extended, axes=axes, announced=extended)


def _raw_header(file: BinaryIO, path: str, notes: list[str]) -> Any:
    """Return the header in the byte order that makes sense of it; its own stamp is often missing or wrong.

    It is read here and not by mrcfile, which trusts the length of the extended header and would load gigabytes.
    """
    from mrcfile.dtypes import HEADER_DTYPE

    content = file.read(HEADER_DTYPE.itemsize)
    if len(content) < HEADER_DTYPE.itemsize:
        raise TomogramError(f"{path}: {len(content)} bytes are no MRC header", "copy the file again")
    for order in _MACHINE_STAMPS:
        raw = np.frombuffer(content, HEADER_DTYPE.newbyteorder(order)).reshape(()).view(np.recarray)
        sizes = [int(raw[name]) for name in ("nx", "ny", "nz")]
        if int(raw.mode) in _MODES and all(0 < n < _LARGEST_AXIS for n in sizes) and int(raw.nsymbt) >= 0:
            break
    else:
        raise TomogramError(
            f"{path}: the header is not one of an MRC file", "check that the file is what its name says"
        )
    if bytes(raw.map)[:3] != b"MAP":
        notes.append("MRC header: no map id, taken as MRC all the same")
    stamp = int(raw.machst[0])
    if stamp != _MACHINE_STAMPS[order]:
        notes.append(f"MRC header: machine stamp {stamp:#x}, read in byte order {order!r}")
    return raw


def _axes(raw: Any, notes: list[str]) -> Zyx:
    """Return where z, y, x are stored: 0 for sections, 1 for rows, 2 for columns."""
    stored = (int(raw.maps), int(raw.mapr), int(raw.mapc))
    if sorted(stored) != [1, 2, 3]:
        return 0, 1, 2
    axes = stored.index(3), stored.index(2), stored.index(1)
    if axes != (0, 1, 2):
        notes.append(f"MRC header: the axes are stored in the order {stored} (section, row, column); turned to z, y, x")
    return axes


def _origin(raw: Any, notes: list[str]) -> tuple[float, float, float]:
    origin = (float(raw.origin.x), float(raw.origin.y), float(raw.origin.z))
    if any(abs(value) > _SMALLEST_ORIGIN for value in origin):
        values = ", ".join(f"{value:g}" for value in origin)
        notes.append(f"MRC header: origin ({values}) Å is left out; the volume starts at 0")
    return origin


def _imod_flags(raw: Any) -> int | None:
    """Return the flags that IMOD wrote behind its stamp, or None without a stamp."""
    extra = bytes(raw.extra2)
    stamp, flags = struct.unpack(("<" if raw.mode.dtype.isnative else ">") + "2i", extra[40:48])
    return int(flags) if stamp == _IMOD_STAMP else None


def _byte_type(raw: Any, notes: list[str]) -> np.dtype[Any]:
    """Return the type of mode 0: signed by the standard; IMOD's old files and some others hold unsigned bytes."""
    flags = _imod_flags(raw)
    if flags is not None and not flags & 1:
        notes.append("MRC header: IMOD's flags say that mode 0 holds unsigned bytes")
        return np.dtype(np.uint8)
    if flags is None and float(raw.dmin) >= 0 and 127 < float(raw.dmax) <= 255:
        notes.append(f"MRC header: mode 0 with a maximum of {float(raw.dmax):g}, taken as unsigned bytes")
        return np.dtype(np.uint8)
    return np.dtype(np.int8)


def _spacing(raw: Any, notes: list[str]) -> float | None:
    """Return the spacing in Å, from the cell's size and the numbers of its intervals."""
    cells, counts = [float(raw.cella[k]) for k in "xyz"], [int(raw.mx), int(raw.my), int(raw.mz)]
    if min(counts) <= 0 or not all(np.isfinite(cells)):
        notes.append("MRC header: no voxel spacing")
        return None
    spacings = [cell / count for cell, count in zip(cells, counts, strict=True)]
    if not cubic_voxels(spacings):
        notes.append(f"MRC header: the voxels are no cubes ({', '.join(f'{s:g}' for s in spacings)} Å), not believed")
        return None
    return believable_spacing(spacings[0], notes, "MRC header")
