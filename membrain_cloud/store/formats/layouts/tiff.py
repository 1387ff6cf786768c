"""TIFF stacks (.tif, .tiff), as ImageJ and IMOD write them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from membrain_cloud.errors import InputError, TomogramError
from membrain_cloud.store.formats.volume_layout import VolumeHeader, VolumeLayout, believable_spacing
from membrain_cloud.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Zyx

_GREY, _MOST_CHANNELS = ("MINISBLACK",), 4
_ANGSTROM_PER_UNIT = {"nm": ANGSTROM_PER_NM, "nanometer": ANGSTROM_PER_NM, "pm": 0.01}
_ANGSTROM_PER_UNIT |= dict.fromkeys(("um", "µm", "\\u00B5m", "micron"), 1e4)
_ANGSTROM_PER_UNIT |= dict.fromkeys(("A", "Å", "\\u00C5", "angstrom", "Angstrom", "angstroms"), 1.0)


def tiff_layout(file: BinaryIO, path: str) -> VolumeLayout:
    """Read the header of a TIFF stack.

    Parameters
    ----------
    file : binary file
        The file; it must be seekable.
    path : str
        The file's name for errors.

    Returns
    -------
    VolumeLayout

    Raises
    ------
    TomogramError
        If the file is no TIFF, damaged, or no stack of grey-scale slices.
    """
    import tifffile

    notes: list[str] = []
    try:
        with tifffile.TiffFile(file) as tiff:
            _count_pages(tiff)
            series, dtype = tiff.series[0], np.dtype(tiff.series[0].dtype)
            z, y, x = _stack(tiff, path)
            if len(tiff.series) > 1:
                notes.append(f"TIFF: {len(tiff.series) - 1} further images in the file are left out")
            header = VolumeHeader((z, y, x), dtype, _spacing(tiff, notes), notes=tuple(notes))
            if series.dataoffset is None:
                return VolumeLayout(header, dtype, decode=partial(_decode, path))
            return VolumeLayout(header, dtype.newbyteorder(tiff.byteorder), offset=int(series.dataoffset))
    except InputError:
        raise
    except Exception as error:  # tifffile raises many kinds for a damaged file
        raise _unreadable(path, error) from error


def _count_pages(tiff: Any) -> None:
    """Have tifffile follow the chain of pages to its end: going through an uncounted damaged chain may not end."""
    len(tiff.pages)


def _stack(tiff: Any, path: str) -> Zyx:
    """Return the shape z, y, x of a grey-scale stack; axes of length one beside them are left out."""
    series, photometric = tiff.series[0], tiff.pages[0].photometric
    shape, axes = tuple(map(int, series.shape)), str(series.axes)
    said = f"{' x '.join(map(str, shape))} (axes {axes})"
    if photometric is not None and photometric.name not in _GREY:
        raise TomogramError(f"{path}: colours ({photometric.name.lower()}), {said}", "save it as grey values")
    # ImageJ calls the slices of a plain stack channels; of real channels there are few, or slices beside them.
    channels = sum(n for axis, n in zip(axes, shape, strict=True) if axis == "C" and n > 1)
    others = sum(n > 1 for axis, n in zip(axes, shape, strict=True) if axis not in "CYX")
    if "S" in axes or (channels and (others or channels <= _MOST_CHANNELS)):
        raise TomogramError(f"{path}: several channels, {said}", "save one channel as a grey-scale stack")
    lengths = [n for axis, n in zip(axes, shape, strict=True) if n > 1 or axis in "YX"]
    if len(lengths) == 2 and len(shape) >= 3:
        lengths = [1, *lengths]
    if len(lengths) != 3:
        raise TomogramError(f"{path}: {said} is no stack of slices", "give a grey-scale stack z, y, x")
    z, y, x = lengths
    return z, y, x


def _decode(path: str, file: BinaryIO) -> NDArray[Any]:
    """Read the voxels (z, y, x) of a stack that is compressed or scattered over the file."""
    import tifffile

    try:
        file.seek(0)
        with tifffile.TiffFile(file) as tiff:
            _count_pages(tiff)
            return np.asarray(tiff.series[0].asarray()).reshape(_stack(tiff, path))
    except InputError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> TomogramError:
    return TomogramError(f"{path}: the TIFF cannot be read ({error})", "convert or copy the file again")


def _spacing(tiff: Any, notes: list[str]) -> float | None:
    """Return the spacing of ImageJ's unit and resolution; plain TIFF has only inch and cm, unused for tomograms."""
    description = tiff.imagej_metadata or {}
    unit = _ANGSTROM_PER_UNIT.get(str(description.get("unit", "")).strip())
    tag = tiff.pages[0].tags.get("XResolution")
    if unit is None or tag is None or not tag.value[0]:
        notes.append("TIFF: no voxel spacing")
        return None
    spacing = unit * tag.value[1] / tag.value[0]
    depth = unit * float(description.get("spacing", spacing / unit))
    if abs(depth - spacing) > 0.01 * spacing:
        notes.append(f"TIFF: the voxels are no cubes ({spacing:g} Å in the slice, {depth:g} Å between), not believed")
        return None
    return believable_spacing(spacing, notes, "TIFF")
