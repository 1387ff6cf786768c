"""NIfTI-1 volumes (.nii, also packed as .nii.gz), the format of MemBrain-seg's training data.

Read as SimpleITK hands them to MemBrain-seg: the fastest axis of the file is x, voxels are z, y, x, and slope and
intercept are applied. Orientation is left out: tomograms have none.
Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.mrc import Header, believable_spacing

_HEADER_BYTES, _NIFTI_2_BYTES = 348, 540
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
# Of xyzt_units, the lower three bits: metre, millimetre, micrometre.
_ANGSTROM_PER_UNIT = {1: 1e10, 2: 1e7, 3: 1e4}


def open_nifti(path: str, *, header_only: bool) -> tuple[Any, Header]:
    """The volume, mapped from its file where nothing has to be scaled, and its header.

    TomogramError for a file that is truncated, no NIfTI-1, or no single volume.
    """
    with open(path, "rb") as file:
        raw = file.read(_HEADER_BYTES)
    order = _byte_order(path, raw)
    dimensions = struct.unpack_from(f"{order}8h", raw, 40)
    code, bits = struct.unpack_from(f"{order}2h", raw, 70)
    steps = struct.unpack_from(f"{order}8f", raw, 76)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", raw, 108)
    if raw[344:348] != b"n+1\0":
        raise TomogramError(f"{path}: header and voxels are in two files", "convert it to a single .nii file")
    if code not in _TYPES or np.dtype(_TYPES[code]).itemsize * 8 != bits:
        raise TomogramError(f"{path}: voxels of NIfTI type {code} are not read", "convert it to float32 or uint8")
    count = dimensions[0]
    if not 3 <= count <= 7 or min(dimensions[1:4]) <= 0 or any(n > 1 for n in dimensions[4 : count + 1]):
        raise TomogramError(f"{path}: {dimensions[1 : count + 1]} is no single volume", "give one 3D volume a file")
    shape = dimensions[3], dimensions[2], dimensions[1]
    stored = np.dtype(order + _TYPES[code])
    notes: list[str] = []
    scaled = slope not in (0.0, 1.0) or (slope != 0.0 and intercept != 0.0)
    dtype = np.dtype(np.float32) if scaled else stored
    header = Header(shape, dtype, _spacing(steps[1:4], raw[123] & 7, notes), notes=tuple(notes))
    if header_only:
        return None, header
    needed = int(offset) + int(np.prod(shape)) * stored.itemsize
    if os.path.getsize(path) < needed:
        raise TomogramError(
            f"{path}: the file is truncated ({os.path.getsize(path)} bytes, its header asks for {needed})",
            "copy it again",
        )
    volume = np.memmap(path, stored, "r", int(offset), shape)
    if not scaled:
        return volume, header
    return (volume.astype(np.float64) * slope + intercept).astype(np.float32), header


def _byte_order(path: str, raw: bytes) -> str:
    for order in "<>":
        if len(raw) == _HEADER_BYTES and struct.unpack_from(f"{order}i", raw, 0)[0] == _HEADER_BYTES:
            return order
        if len(raw) >= 4 and struct.unpack_from(f"{order}i", raw, 0)[0] == _NIFTI_2_BYTES:
            raise TomogramError(f"{path}: a NIfTI-2 file", "convert it to NIfTI-1 (.nii.gz) or MRC")
    raise TomogramError(f"{path}: the header is not one of a NIfTI file", "check that the file is what its name says")


def _spacing(steps: tuple[float, ...], unit: int, notes: list[str]) -> float | None:
    """In Å. Headers say millimetres where ångström are meant, by habit: no tomogram has voxels of a millimetre."""
    if not all(np.isfinite(steps)) or max(steps) - min(steps) > 0.01 * abs(max(steps)):
        notes.append(f"NIfTI header: the voxels are no cubes ({', '.join(f'{s:g}' for s in steps)}), not believed")
        return None
    physical = steps[0] * _ANGSTROM_PER_UNIT.get(unit, 1.0)
    if physical <= 1000.0 and unit in _ANGSTROM_PER_UNIT:
        return believable_spacing(physical, notes, "NIfTI header")
    spacing = believable_spacing(steps[0], notes, "NIfTI header")
    if spacing is not None and unit in _ANGSTROM_PER_UNIT:
        notes.append(f"NIfTI header: a voxel of {steps[0]:g} mm or more is taken as {spacing:g} Å")
    return spacing
