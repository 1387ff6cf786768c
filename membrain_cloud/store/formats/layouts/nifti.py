"""NIfTI-1 volumes (.nii, also packed as .nii.gz), the format of MemBrain-seg's training data.

They are read as SimpleITK hands them to MemBrain-seg: the fastest axis of the file is x, arrays are z, y, x, and slope
and intercept are applied. The orientation is left out: tomograms have none. nibabel reads the header; the voxels are
read box by box by `volume_layout`, since nibabel would map the file and scale the whole volume at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from membrain_cloud.errors import TomogramError
from membrain_cloud.store.formats.volume_layout import VolumeHeader, VolumeLayout, believable_spacing, cubic_voxels

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

_NIFTI_2_BYTES = 540
# Of xyzt_units, the lower three bits: metre, millimetre, micrometre.
_SPACE_UNIT_BITS = 7
_ANGSTROM_PER_UNIT = {1: 1e10, 2: 1e7, 3: 1e4}
_LARGEST_TYPE_BYTES = 8
_FIRST_VOXEL = 352


def nifti_layout(file: BinaryIO, path: str) -> VolumeLayout:
    """Read the header of a NIfTI-1 file.

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
        If the file is no NIfTI-1 file with header and voxels in one file, no single volume, or of a voxel type that
        no tomogram has.

    References
    ----------
    https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    """
    from nibabel.spatialimages import HeaderDataError

    fields = _fields(file.read(_NIFTI_2_BYTES), path)
    code = int(fields["datatype"])
    try:
        stored = fields.get_data_dtype()
    except HeaderDataError:
        stored = np.dtype(np.void)
    real = stored.kind in "iuf" and stored.itemsize <= _LARGEST_TYPE_BYTES
    if not real or stored.itemsize * 8 != int(fields["bitpix"]):
        raise TomogramError(f"{path}: voxels of NIfTI type {code} are not read", "convert it to float32 or uint8")
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    notes: list[str] = []
    if not np.isfinite(slope):
        notes.append(f"NIfTI header: a slope of {slope:g} is none, the stored values are taken")
        slope = 0.0
    if slope != 0.0 and not np.isfinite(intercept):
        raise TomogramError(f"{path}: an intercept of {intercept:g} beside a slope of {slope:g}", "correct the header")
    scaled = slope not in (0.0, 1.0) or (slope != 0.0 and intercept != 0.0)
    shape, spacing = _shape(fields, path), _spacing(fields, notes)
    header = VolumeHeader(shape, np.dtype(np.float32) if scaled else stored, spacing, notes=tuple(notes))
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and offset >= _FIRST_VOXEL and offset % 1 == 0):
        if offset != 0.0:
            raise TomogramError(f"{path}: the voxels cannot begin at byte {offset:g}", "copy or convert the file again")
        offset = _FIRST_VOXEL  # what nibabel and ITK take for 0
    return VolumeLayout(header, stored, offset=int(offset), scale=(slope, intercept) if scaled else None)


def _fields(content: bytes, path: str) -> Any:
    """Return the header as nibabel's, in the byte order that makes sense of it."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if Nifti2Header.may_contain_header(content.ljust(_NIFTI_2_BYTES, b"\0")):
        raise TomogramError(f"{path}: a NIfTI-2 file", "convert it to NIfTI-1 (.nii.gz) or MRC")
    raw = content[: Nifti1Header.sizeof_hdr]
    if not Nifti1Header.may_contain_header(raw):
        raise TomogramError(
            f"{path}: the header is not one of a NIfTI file", "check that the file is what its name says"
        )
    fields = Nifti1Header(raw, check=False)
    if fields["sizeof_hdr"] != Nifti1Header.sizeof_hdr:
        raise TomogramError(
            f"{path}: the header is not one of a NIfTI file", "check that the file is what its name says"
        )
    if fields["magic"] != Nifti1Header.single_magic:
        raise TomogramError(f"{path}: header and voxels are in two files", "convert it to a single .nii file")
    return fields


def _shape(fields: Any, path: str) -> Zyx:
    dimensions = [int(n) for n in fields["dim"]]
    count = dimensions[0]
    if not 3 <= count <= 7 or min(dimensions[1:4]) <= 0 or any(n > 1 for n in dimensions[4 : count + 1]):
        raise TomogramError(
            f"{path}: dimensions {dimensions[1 : count + 1]} are no single volume", "give one 3D volume a file"
        )
    return dimensions[3], dimensions[2], dimensions[1]


def _spacing(fields: Any, notes: list[str]) -> float | None:
    """Return the spacing in Å. Headers often say millimetres and mean ångström: no voxel is a millimetre wide."""
    steps, unit = [float(step) for step in fields["pixdim"][1:4]], int(fields["xyzt_units"]) & _SPACE_UNIT_BITS
    if not all(np.isfinite(steps)) or not cubic_voxels(steps):
        notes.append(f"NIfTI header: the voxels are no cubes ({', '.join(f'{s:g}' for s in steps)}), not believed")
        return None
    physical = steps[0] * _ANGSTROM_PER_UNIT.get(unit, 1.0)
    if physical <= 1000.0 and unit in _ANGSTROM_PER_UNIT:
        return believable_spacing(physical, notes, "NIfTI header")
    spacing = believable_spacing(steps[0], notes, "NIfTI header")
    if spacing is not None and unit in _ANGSTROM_PER_UNIT:
        notes.append(f"NIfTI header: a voxel of {steps[0]:g} mm or more is taken as {spacing:g} Å")
    return spacing
