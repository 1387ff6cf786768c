"""MRC volumes, whose headers are believed only where they can be."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError, storage_error
from membrain_cloud.store.volumes.ome_zarr import LARGEST_SPACING_ANGSTROM, SMALLEST_SPACING_ANGSTROM

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MRC_MODES = (0, 1, 2, 4, 6, 12)
_IMOD_STAMP = 1146047817


@dataclass(frozen=True)
class Header:
    """What a volume file says of itself.

    voxel_spacing_angstrom : None when the file says nothing believable (0, exactly 1, outside 0.5 to 100 Å, no cubes).
    origin : of the MRC header, xyz in Å. Volumes start at 0 here; positions made by programs that count it need it
        subtracted.
    notes : what was assumed, as sentences.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    voxel_spacing_angstrom: float | None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()


def believable_spacing(spacing: float, notes: list[str], what: str) -> float | None:
    if abs(spacing - 1.0) < 1e-4 or not SMALLEST_SPACING_ANGSTROM <= spacing <= LARGEST_SPACING_ANGSTROM:
        notes.append(f"{what} gives a voxel spacing of {spacing:g} Å, which is not believed")
        return None
    return round(spacing, 6)


def open_mrc(path: str, *, header_only: bool) -> tuple[Any, Header]:
    import mrcfile

    notes: list[str] = []
    raw = _mrc_header(path, notes)
    try:
        dtype = mrcfile.utils.data_dtype_from_header(raw)
    except ValueError as error:
        raise TomogramError(f"{path}: {error}", "convert it to MRC mode 2 (float32)") from error
    shape = (int(raw.nz), int(raw.ny), int(raw.nx))
    if min(shape) <= 0 or dtype.kind not in "iuf":
        raise TomogramError(f"{path}: shape {shape}, type {dtype}: no volume", "give a reconstructed tomogram")
    if int(raw.mode) == 0:
        dtype = _byte_type(raw, notes)
    axes = (int(raw.maps), int(raw.mapr), int(raw.mapc))
    turn = [axes.index(axis) for axis in (3, 2, 1)] if sorted(axes) == [1, 2, 3] else [0, 1, 2]
    if turn != [0, 1, 2]:
        notes.append(f"MRC header: the axes are stored in the order {axes} (section, row, column); turned to z, y, x")
    origin = (float(raw.origin.x), float(raw.origin.y), float(raw.origin.z))
    if any(abs(value) > 1e-3 for value in origin):
        notes.append(
            f"MRC header: origin ({', '.join(f'{v:g}' for v in origin)}) Å is left out; the volume starts at 0"
        )
    z, y, x = (shape[axis] for axis in turn)
    header = Header((z, y, x), dtype, _mrc_spacing(raw, notes), origin, tuple(notes))
    if header_only:
        return None, header
    offset, expected = 1024 + int(raw.nsymbt), int(np.prod(shape)) * dtype.itemsize
    if os.path.getsize(path) < offset + expected:
        raise TomogramError(
            f"{path}: the file is truncated ({os.path.getsize(path)} bytes, its header asks for {offset + expected})",
            "copy or reconstruct it again",
        )
    volume: NDArray[Any] = np.memmap(path, dtype, "r", offset, shape)
    return volume.transpose(turn), header


def _mrc_header(path: str, notes: list[str]) -> Any:
    """The header in the byte order that makes sense of it; its own stamp is often missing or wrong.

    Read here and not by mrcfile, which trusts the length of the extended header and would load gigabytes of nothing.
    """
    from mrcfile.dtypes import HEADER_DTYPE

    with gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
        content = file.read(HEADER_DTYPE.itemsize)
    if len(content) < HEADER_DTYPE.itemsize:
        raise TomogramError(f"{path}: {len(content)} bytes are no MRC header", "copy the file again")
    for order in "<>":
        raw = np.frombuffer(content, HEADER_DTYPE.newbyteorder(order)).reshape(()).view(np.recarray)
        sizes = [int(raw[name]) for name in ("nx", "ny", "nz")]
        if int(raw.mode) in _MRC_MODES and all(0 < n < 1 << 20 for n in sizes) and int(raw.nsymbt) >= 0:
            break
    else:
        raise TomogramError(
            f"{path}: the header is not one of an MRC file", "check that the file is what its name says"
        )
    if bytes(raw.map)[:3] != b"MAP":
        notes.append("MRC header: no map id, taken as MRC all the same")
    stamp = int(raw.machst[0])
    if stamp != {"<": 0x44, ">": 0x11}[order]:
        notes.append(f"MRC header: machine stamp {stamp:#x}, read in byte order {order!r}")
    return raw


def _byte_type(raw: Any, notes: list[str]) -> np.dtype[Any]:
    """Mode 0 is signed by the standard; IMOD's old files and some others hold unsigned bytes under it."""
    extra = bytes(raw.extra2)
    stamp, flags = struct.unpack(("<" if raw.mode.dtype.isnative else ">") + "2i", extra[40:48])
    if stamp == _IMOD_STAMP and not flags & 1:
        notes.append("MRC header: IMOD's flags say that mode 0 holds unsigned bytes")
        return np.dtype(np.uint8)
    if stamp != _IMOD_STAMP and float(raw.dmin) >= 0 and 127 < float(raw.dmax) <= 255:
        notes.append(f"MRC header: mode 0 with a maximum of {float(raw.dmax):g}, taken as unsigned bytes")
        return np.dtype(np.uint8)
    return np.dtype(np.int8)


def _mrc_spacing(raw: Any, notes: list[str]) -> float | None:
    cells, counts = [float(raw.cella[k]) for k in "xyz"], [int(raw.mx), int(raw.my), int(raw.mz)]
    if min(counts) <= 0 or not all(np.isfinite(cells)):
        notes.append("MRC header: no voxel spacing")
        return None
    spacings = [cell / count for cell, count in zip(cells, counts, strict=True)]
    if max(spacings) - min(spacings) > 0.01 * max(abs(s) for s in spacings):
        notes.append(f"MRC header: the voxels are no cubes ({', '.join(f'{s:g}' for s in spacings)} Å), not believed")
        return None
    return believable_spacing(spacings[0], notes, "MRC header")


def write_mrc(path: str, array: NDArray[Any], voxel_spacing_angstrom: float) -> None:
    """Write an MRC volume atomically; equal arrays give equal bytes.

    Types that MRC does not have are widened: bool and small uint8 to int8, uint8 to uint16, large integers and float64
    to float32.
    """
    import mrcfile

    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with mrcfile.new(temporary) as file:
            file.set_data(_as_mrc_type(array))
            file.set_volume()
            file.voxel_size = voxel_spacing_angstrom
            file.header.label = b""
            file.header.label[0] = b"membrain_cloud"  # mrcfile writes the time of day here
            file.header.nlabl = 1
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _as_mrc_type(array: NDArray[Any]) -> NDArray[Any]:
    top = array.max() if array.size and array.dtype.kind in "biu" else 0
    if array.dtype == bool or (array.dtype == np.uint8 and top <= 127):
        return array.astype(np.int8)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1 and array.dtype != np.int16:
        return array.astype(np.uint16 if array.min() >= 0 and top <= 65535 else np.float32)
    return array.astype(np.float32) if array.dtype == np.float64 else array
