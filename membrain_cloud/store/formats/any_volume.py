"""Files of other programs: volumes as MRC, TIFF, NIfTI, NumPy and Zarr, particles as STAR and CSV.

Real headers lie. What a reader could not believe or had to assume stands in `Header.notes`, and a voxel spacing
nobody can have meant is None, never a guess.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ChunkError, InputError, TomogramError
from membrain_cloud.geometry import Box
from membrain_cloud.store.formats.mrc import Header, believable_spacing, open_mrc, write_mrc
from membrain_cloud.store.formats.nifti import open_nifti
from membrain_cloud.store.formats.nrrd import open_nrrd
from membrain_cloud.store.formats.star import read_csv_picks, read_star_picks, star_text, write_star
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes import ome_zarr as volumes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from membrain_cloud.store.volumes.zarr_array import ChunkedArray

__all__ = [
    "Header",
    "file_stem",
    "open_volume",
    "read_csv_picks",
    "read_header",
    "read_star_picks",
    "read_volume",
    "star_text",
    "write_mrc",
    "write_star",
]

_MRC, _TIFF, _NUMPY, _ZARR = (".mrc", ".rec", ".map", ".st", ".ali"), (".tif", ".tiff"), (".npy",), (".zarr",)
_NIFTI, _NRRD = (".nii",), (".nrrd",)
_LENGTH_UNITS = {"nm": 10.0, "nanometer": 10.0, "um": 1e4, "µm": 1e4, "\\u00B5m": 1e4, "micron": 1e4, "pm": 0.01}
_LENGTH_UNITS |= dict.fromkeys(("A", "Å", "\\u00C5", "angstrom", "Angstrom", "angstroms"), 1.0)


def file_stem(path: str) -> str:
    """The file's name without folder and known endings: `TS_1.rec.gz` -> `TS_1`; TomogramError for other files."""
    return _split(path)[0]


def read_header(path: str) -> Header:
    """Shape, type and spacing without reading voxels. TomogramError for a file that is no readable volume."""
    with _open(path, None) as (_, header):
        return header


@contextlib.contextmanager
def open_volume(path: str, scratch: str | None = None) -> Iterator[tuple[Any, Header]]:
    """A volume as something with `shape`, `dtype` and zyx slicing, not loaded where the format allows.

    A compressed file is unpacked under `scratch` (default: the system's temporary folder) and removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=scratch) as folder, _open(path, folder) as opened:
        yield opened


def read_volume(path: str) -> tuple[NDArray[Any], Header]:
    """The whole volume, zyx, in its own type (native byte order), and its header.

    TomogramError for a file that is truncated, not a volume, or of a type that no tomogram has.
    """
    with open_volume(path) as (volume, header):
        return np.array(volume[:, :, :], volume.dtype.newbyteorder("=")), header


def _split(path: str) -> tuple[str, str]:
    """(stem, kind) of a volume file's name."""
    name = os.path.basename(path.rstrip("/"))
    lowered = name.lower().removesuffix(".gz")
    stem = name[: len(lowered)]
    for kind, endings in (
        ("mrc", _MRC),
        ("tiff", _TIFF),
        ("numpy", _NUMPY),
        ("nifti", _NIFTI),
        ("nrrd", _NRRD),
        ("zarr", (".ome.zarr", *_ZARR)),
    ):
        for ending in endings:
            if lowered.endswith(ending):
                return stem[: -len(ending)], kind
    raise TomogramError(
        f"{path}: the kind of this file is not known",
        "give .mrc, .rec, .map, .nii (also .gz), .nrrd, .tif, .npy or .zarr",
    )


@contextlib.contextmanager
def _open(path: str, scratch: str | None) -> Iterator[tuple[Any, Header]]:
    """`scratch` is None when only the header is asked for."""
    kind = _split(path)[1]
    if not Path(path).exists() and "://" not in path:
        raise TomogramError(f"{path}: there is no such file", "check the path")
    readers = {
        "mrc": open_mrc,
        "tiff": _open_tiff,
        "numpy": _open_numpy,
        "nifti": open_nifti,
        "nrrd": open_nrrd,
        "zarr": _open_zarr,
    }
    try:
        if path.lower().endswith(".gz") and not (kind == "mrc" and scratch is None):
            with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=scratch) as folder:
                unpacked = os.path.join(folder, os.path.basename(path)[:-3])
                with gzip.open(path) as packed, open(unpacked, "wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 24)
                yield readers[kind](unpacked, header_only=scratch is None)
        else:
            yield readers[kind](path, header_only=scratch is None)
    except (EOFError, gzip.BadGzipFile) as error:
        raise TomogramError(f"{path}: the compressed file is damaged ({error})", "copy it again") from error


def _open_tiff(path: str, *, header_only: bool) -> tuple[Any, Header]:
    import tifffile

    notes: list[str] = []
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape, dtype = tuple(map(int, series.shape)), np.dtype(series.dtype)
            if len(shape) != 3:
                raise TomogramError(f"{path}: shape {shape} is no stack of slices", "give a grey-scale stack z, y, x")
            header = Header(shape, dtype, _tiff_spacing(file, notes), notes=tuple(notes))
            if header_only:
                return None, header
            if series.dataoffset is not None:  # one uncompressed run of bytes
                return np.memmap(path, dtype.newbyteorder(file.byteorder), "r", series.dataoffset, shape), header
            return series.asarray(), header
    except InputError:
        raise
    except Exception as error:  # tifffile raises many kinds for a damaged file
        raise TomogramError(f"{path}: the TIFF cannot be read ({error})", "convert or copy the file again") from error


def _tiff_spacing(file: Any, notes: list[str]) -> float | None:
    """ImageJ's unit and resolution; plain TIFF knows only inch and cm, which nobody means for a tomogram."""
    description = file.imagej_metadata or {}
    unit = _LENGTH_UNITS.get(str(description.get("unit", "")).strip())
    tag = file.pages[0].tags.get("XResolution")
    if unit is None or tag is None or not tag.value[0]:
        notes.append("TIFF: no voxel spacing")
        return None
    spacing = unit * tag.value[1] / tag.value[0]
    depth = unit * float(description.get("spacing", spacing / unit))
    if abs(depth - spacing) > 0.01 * spacing:
        notes.append(f"TIFF: the voxels are no cubes ({spacing:g} Å in the slice, {depth:g} Å between), not believed")
        return None
    return believable_spacing(spacing, notes, "TIFF")


def _open_numpy(path: str, *, header_only: bool) -> tuple[Any, Header]:
    try:
        volume = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise TomogramError(f"{path}: cannot be read ({error})", "write it with numpy.save") from error
    if volume.ndim != 3 or volume.dtype.kind not in "biuf":
        raise TomogramError(f"{path}: shape {volume.shape}, type {volume.dtype}: no volume", "give an array z, y, x")
    return volume, Header(volume.shape, volume.dtype, None, notes=("NumPy files carry no voxel spacing",))


class _ZarrVolume:
    """A stored array that is read where it is sliced."""

    def __init__(self, array: ChunkedArray) -> None:
        self._array = array
        self.shape = array.format.shape
        self.dtype = array.format.dtype.newbyteorder("=")

    def __getitem__(self, slices: tuple[slice, slice, slice]) -> NDArray[Any]:
        ranges = [s.indices(n) for s, n in zip(slices, self.shape, strict=True)]
        z, y, x = (start for start, _, _ in ranges)
        return self._array.read(Box((z, y, x), (ranges[0][1], ranges[1][1], ranges[2][1])))


def _open_zarr(path: str, *, header_only: bool) -> tuple[Any, Header]:
    notes: list[str] = []
    files = Files(path)
    try:
        array, attributes = volumes.open_volume(files, "", sparse=False)
    except ChunkError as error:
        raise TomogramError(error.message, error.next_step) from error
    spacing = volumes.spacing_from_attributes(attributes, path)
    if spacing is None:
        notes.append("Zarr: no voxel spacing")
    else:
        spacing = believable_spacing(spacing, notes, "Zarr")
    volume = _ZarrVolume(array)
    return volume, Header(volume.shape, volume.dtype, spacing, notes=tuple(notes))
