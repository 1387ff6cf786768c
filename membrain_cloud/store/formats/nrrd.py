"""NRRD volumes (.nrrd), in which MemBrain-seg's users keep corrections of patches: MITK and 3D Slicer write them.

Read as SimpleITK hands them to MemBrain-seg: the fastest axis of the file is x, voxels are z, y, x. Orientation and
origin are left out. Source: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.mrc import Header

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC = b"NRRD000"
_HEADER_BYTES = 1 << 16
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": gzip.decompress,
    "gz": gzip.decompress,
    "bzip2": bz2.decompress,
    "bz2": bz2.decompress,
}


def open_nrrd(path: str, *, header_only: bool) -> tuple[Any, Header]:
    """The volume and its header; its spacing is not believed, since the units are nowhere said.

    TomogramError for a file that is truncated, no NRRD with its voxels in the same file, or no single volume.
    """
    with open(path, "rb") as file:
        start = file.read(_HEADER_BYTES)
        if not start.startswith(_MAGIC):
            raise TomogramError(f"{path}: the header is not one of a NRRD file", "check that it is what its name says")
        ends = [start.find(gap) + len(gap) for gap in (b"\n\n", b"\r\n\r\n") if gap in start]
        if not ends:
            raise TomogramError(f"{path}: the header has no end, or lies in a file of its own", "save it as one .nrrd")
        fields = _fields(start[: min(ends)].decode("latin-1"))
        shape, dtype = _shape(path, fields), _dtype(path, fields)
        header = Header(shape, dtype, None, notes=("NRRD header: the unit of its spacing is not known",))
        if header_only:
            return None, header
        file.seek(min(ends))
        packed = file.read()
    unpack = _UNPACK.get(fields.get("encoding", "").lower())
    if unpack is None or "data file" in fields or "byte skip" in fields or "line skip" in fields:
        raise TomogramError(f"{path}: an encoding of NRRD that is not read", "save it as raw or gzip, in one file")
    try:
        content = unpack(packed)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TomogramError(f"{path}: the voxels are damaged ({error})", "copy it again") from error
    needed = math.prod(shape) * dtype.itemsize
    if len(content) < needed:
        raise TomogramError(f"{path}: the file is truncated ({len(content)} of {needed} bytes)", "copy it again")
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape), header


def _fields(text: str) -> dict[str, str]:
    """`name: value`; comments and key/value pairs (`:=`) are left out."""
    parted = [line.partition(":") for line in text.splitlines()[1:] if not line.startswith("#") and ":=" not in line]
    return {name.strip().lower(): value.strip() for name, colon, value in parted if colon}


def _shape(path: str, fields: dict[str, str]) -> tuple[int, int, int]:
    try:
        sizes = [int(size) for size in fields.get("sizes", "").split()]
    except ValueError:
        sizes = []
    if len(sizes) != 3 or min(sizes) <= 0:
        raise TomogramError(f"{path}: sizes {fields.get('sizes')!r} are of no single volume", "give one 3D volume")
    x, y, z = sizes
    return z, y, x


def _dtype(path: str, fields: dict[str, str]) -> np.dtype[Any]:
    said = fields.get("type", "").lower()
    code = next((code for code, names in _TYPES.items() if said in names), None)
    if code is None:
        raise TomogramError(f"{path}: voxels of NRRD type {said!r} are not read", "convert it to uint8 or float")
    return np.dtype((">" if fields.get("endian", "little").lower() == "big" else "<") + code)
