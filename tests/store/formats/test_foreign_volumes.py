"""Volumes as other programs write them: read equal to what that program reads, or refused with the cause."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
import warnings
from typing import TYPE_CHECKING, Any

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.spatialimages import HeaderDataError

from membrain_cloud.errors import ChunkError, InputError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Box
from membrain_cloud.store.formats.volume_layout import VolumeHeader, VolumeLayout, fit_to_size
from membrain_cloud.store.formats.volume_reader import open_volume_file, read_header, read_volume
from membrain_cloud.store.projects.create import init_project

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)


def arrays(*names: str, least: int = 1) -> st.SearchStrategy[np.ndarray]:
    """Return arrays of volumes of the given types, with `least` voxels along an axis; NaN and infinity too."""
    shapes = st.tuples(*[st.integers(least, 5)] * 3)
    return st.sampled_from(names).flatmap(lambda name: hnp.arrays(name, shapes))


def write_mrc(path: Path, array: np.ndarray) -> None:
    with warnings.catch_warnings(action="ignore"), mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(array))
        file.set_volume()
        file.voxel_size = 10.0


def patch(path: Path, offset: int, form: str, *values: Any) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(form, *values))


# --- MRC ------------------------------------------------------------


@QUICK
@given(array=arrays("int8", "int16", "uint16", "float16", "float32"))
def test_what_mrcfile_writes_is_read_equal(tmp_path: Path, array: np.ndarray) -> None:
    write_mrc(tmp_path / "x.mrc", array)
    np.testing.assert_array_equal(read_volume(str(tmp_path / "x.mrc"))[0], array)


@pytest.mark.parametrize(
    ("announced", "there", "cause"),
    [(7200, 0, ""), (7200, 7200, ""), (0, 0, ""), (7200, 100, "truncated"), (2**31 - 1, 0, ""), (-5, 0, "not one of")],
)
def test_extended_headers(tmp_path: Path, announced: int, there: int, cause: str) -> None:
    path = tmp_path / "x.mrc"
    write_mrc(path, VALUES)
    content = path.read_bytes()
    path.write_bytes(content[:1024] + bytes(there) + content[1024:])
    patch(path, 92, "<i", announced)
    if cause:
        with pytest.raises(TomogramError, match=cause):
            read_volume(str(path))
        return
    array, header = read_volume(str(path))
    np.testing.assert_array_equal(array, VALUES)
    assert ("is announced and not there" in "; ".join(header.notes)) == (announced > there)
    assert read_header(str(path), check_size=True).notes == header.notes


@pytest.mark.parametrize("pack", [None, gzip.compress, bz2.compress])
def test_sizes_are_checked_with_the_header(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "x.mrc"
    write_mrc(path, VALUES)
    content = path.read_bytes()
    ending = {None: "", gzip.compress: ".gz", bz2.compress: ".bz2"}[pack]
    target = tmp_path / f"y.mrc{ending}"
    for data, cause in ((content, None), (content[:-3], "truncated"), (content[:700], "no MRC header")):
        target.write_bytes(data if pack is None else pack(data))
        if cause is None:
            assert read_header(str(target), check_size=True).shape == VALUES.shape
        else:
            with pytest.raises(TomogramError, match=cause):
                read_header(str(target), check_size=True)
    if pack is not None:
        target.write_bytes(pack(content)[:-20])
        with pytest.raises(TomogramError, match="damaged"):
            read_header(str(target), check_size=True)


def test_a_layout_is_fitted_to_the_files_size() -> None:
    header = VolumeHeader((2, 2, 2), np.dtype(np.int8), None)
    layout = VolumeLayout(header, header.dtype, offset=1024 + 100, announced=100)
    assert fit_to_size(layout, 1132, "x") is layout
    assert fit_to_size(layout, 1032, "x").offset == 1024
    with pytest.raises(TomogramError, match="1124 before the voxels, 8 of voxels"):
        fit_to_size(layout, 1100, "x")


# --- NIfTI ------------------------------------------------------------


@QUICK
@given(array=arrays("uint8", "int16", "int32", "uint16", "float32", "float64"))
def test_what_nibabel_writes_is_read_equal(tmp_path: Path, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([10, 10, 10, 1]), dtype=array.dtype), tmp_path / "x.nii")
    np.testing.assert_array_equal(read_volume(str(tmp_path / "x.nii"))[0], array)


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [(np.nan, np.nan), (np.inf, 0.0), (0.0, np.nan), (0.0, 5.0), (1.0, 0.0), (2.0, 3.0), (-np.inf, 1.0), (2.0, np.nan),
     (1.0, np.inf)],
)  # fmt: skip
def test_slopes_are_those_of_nibabel(tmp_path: Path, slope: float, intercept: float) -> None:
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(VALUES.T, np.diag([10, 10, 10, 1])), path)
    patch(path, 112, "<2f", slope, intercept)
    if np.isfinite(slope) and slope != 0 and not np.isfinite(intercept):
        with pytest.raises(HeaderDataError, match="intercept"):
            nibabel.load(path)
        with pytest.raises(TomogramError, match="intercept"):
            read_volume(str(path))
        return
    expected = np.asarray(nibabel.load(path).dataobj).T  # type: ignore[attr-defined]
    array, header = read_volume(str(path))
    np.testing.assert_allclose(array, expected, rtol=1e-6)
    assert ("stored values are taken" in "; ".join(header.notes)) == (not np.isfinite(slope))


@pytest.mark.parametrize(
    ("offset", "fine"), [(352.0, True), (0.0, True), (np.nan, False), (100.0, False), (1e30, False)]
)
def test_offsets_of_nifti(tmp_path: Path, offset: float, fine: bool) -> None:
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(VALUES.T, np.diag([10, 10, 10, 1])), path)
    patch(path, 108, "<f", offset)
    if fine:
        np.testing.assert_array_equal(read_volume(str(path))[0], VALUES)
    else:
        with pytest.raises(TomogramError, match=r"cannot begin|truncated"):
            read_volume(str(path))


# --- TIFF, NRRD, NumPy ------------------------------------------------------------


@QUICK
@given(array=arrays("uint8", "int16", "uint16", "float32", least=2), compression=st.sampled_from([None, "zlib"]))
def test_what_tifffile_writes_is_read_equal(tmp_path: Path, array: np.ndarray, compression: str | None) -> None:
    tifffile.imwrite(tmp_path / "x.tif", array, compression=compression, photometric="minisblack")
    found = read_volume(str(tmp_path / "x.tif"))[0]
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("array", "options", "expected"),
    [
        (np.zeros((6, 7, 3), np.uint8), {"photometric": "rgb"}, "colours"),
        (np.zeros((5, 6, 7, 3), np.uint8), {"photometric": "rgb"}, "colours"),
        (np.ones((5, 6, 7), np.uint8), {"photometric": "miniswhite"}, "colours"),
        (np.zeros((5, 2, 6, 7), np.uint8), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "several channels"),
        (np.zeros((2, 5, 6, 7), np.uint8), {"imagej": True, "metadata": {"axes": "TZYX"}}, "no stack"),
        (np.zeros((6, 7), np.uint8), {}, "no stack"),
        (VALUES[None, :, None], {"imagej": True, "metadata": {"axes": "TZCYX"}}, VALUES),
        (VALUES, {"imagej": True, "metadata": {"axes": "TYX"}}, VALUES),
        (VALUES, {"compression": "zlib", "photometric": "minisblack"}, VALUES),
        (VALUES, {"photometric": "minisblack", "bigtiff": True, "byteorder": ">"}, VALUES),
    ],
)
def test_axes_and_colours_of_tiff(tmp_path: Path, array: np.ndarray, options: dict[str, Any], expected: Any) -> None:
    tifffile.imwrite(tmp_path / "x.tif", array, **options)
    if isinstance(expected, str):
        with pytest.raises(TomogramError, match=expected):
            read_volume(str(tmp_path / "x.tif"))
    else:
        np.testing.assert_array_equal(read_volume(str(tmp_path / "x.tif"))[0], expected)


@QUICK
@given(array=arrays("uint8", "int16", "uint32", "float32"), encoding=st.sampled_from(["raw", "gzip"]))
def test_what_pynrrd_writes_is_read_equal(tmp_path: Path, array: np.ndarray, encoding: str) -> None:
    nrrd.write(str(tmp_path / "x.nrrd"), array, {"encoding": encoding}, index_order="C")
    np.testing.assert_array_equal(read_volume(str(tmp_path / "x.nrrd"))[0], array)


@QUICK
@given(array=arrays("bool", "int8", "uint64", "float64", ">i2"), order=st.sampled_from("CF"))
def test_what_numpy_writes_is_read_equal(tmp_path: Path, array: np.ndarray, order: str) -> None:
    np.save(tmp_path / "x.npy", np.asarray(array, order=order))  # type: ignore[call-overload]
    np.testing.assert_array_equal(read_volume(str(tmp_path / "x.npy"))[0], array)


# --- OME-Zarr ---


def ome_zarr(folder: Path, scale: list[float], unit: Any, *, write_empty: bool = True, zero: bool = False) -> str:
    """Write an OME-Zarr 0.4 by zarr-python; without `write_empty` empty chunks are left out, as is its default."""
    path = folder / "x.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    values = VALUES.copy()
    if zero:
        values[:3, :3, :3] = 0
    array = group.create_array(
        "0", shape=values.shape, chunks=(3, 3, 3), dtype="f4", fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": write_empty},
    )  # fmt: skip
    array[:] = values
    axes = [{"name": axis, "type": "space"} | ({} if unit == "absent" else {"unit": unit}) for axis in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    content = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    (path / ".zattrs").write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("scale", "unit", "spacing"),
    [
        ([1.0] * 3, "nm", 10.0),
        ([1.0] * 3, "nanometer", 10.0),
        ([0.001] * 3, "µm", 10.0),
        ([0.001] * 3, "micrometer", 10.0),
        ([10.0] * 3, "angstrom", 10.0),
        ([10.0] * 3, "Å", 10.0),
        ([10.0] * 3, "absent", 10.0),
        ([10.0] * 3, None, 10.0),
        ([10.0] * 3, "pixel", None),
        ([10.0] * 3, ["nm"], None),
        ([10.0, 10.0, 20.0], "angstrom", None),
        ([0.0] * 3, "angstrom", None),
        ([1.0] * 3, "angstrom", None),
    ],
)
def test_a_given_spacing_overrides_any_unit(
    tmp_path: Path, scale: list[float], unit: Any, spacing: float | None
) -> None:
    path = ome_zarr(tmp_path, scale, unit)
    assert read_volume(path)[1].voxel_spacing_angstrom == spacing
    options: dict[str, Any] = {"tomogram_type": "wbp", "report": lambda note: None}
    project = init_project(str(tmp_path / "p"), [path], voxel_spacing_angstrom=13.48, **options)
    (ref,) = project.all_tomograms("x")
    assert ref.voxel_spacing_angstrom == 13.48
    np.testing.assert_array_equal(project.read_density(ref), VALUES)
    if spacing is None:
        with pytest.raises(VoxelSpacingError) as caught:
            init_project(str(tmp_path / "q"), [path], voxel_spacing_angstrom=None, **options)
        assert "voxel_spacing_angstrom" in caught.value.next_step


def test_chunks_that_were_empty(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path, [10.0] * 3, "angstrom", write_empty=False, zero=True)
    with pytest.raises(ChunkError, match="write_empty_chunks=False") as caught:
        read_volume(path)
    assert "set empty_chunks to fill" in caught.value.next_step
    with open_volume_file(path, fill_empty_chunks=True) as volume:
        array = volume.read(Box((0, 0, 0), volume.shape))
        assert any("fill value" in note for note in volume.notes)
    assert (array[:3, :3, :3] == 0).all()
    np.testing.assert_array_equal(array[3:], VALUES[3:])
    project = init_project(
        str(tmp_path / "p"), [path], voxel_spacing_angstrom=None, tomogram_type="wbp", report=lambda note: None,
        fill_empty_chunks=True,
    )  # fmt: skip
    np.testing.assert_array_equal(project.read_density(project.all_tomograms("x")[0]), array)


@QUICK
@given(array=arrays("uint8", "int16", "float32"), separator=st.sampled_from("./"), version=st.sampled_from([2, 3]))
def test_what_zarr_writes_is_read_equal(tmp_path: Path, array: np.ndarray, separator: str, version: int) -> None:
    name = "v2" if version == 2 else "default"
    zarr.create_array(
        str(tmp_path / "x.zarr"), data=array, chunks=(2, 2, 2), zarr_format=version, overwrite=True,
        chunk_key_encoding={"name": name, "separator": separator}, config={"write_empty_chunks": True},
    )  # fmt: skip
    np.testing.assert_array_equal(read_volume(str(tmp_path / "x.zarr"))[0], array)


@pytest.mark.parametrize("name", ["x.mrc", "x.nii", "x.nrrd", "x.tif", "x.npy", "x.mrc.gz", "x.zarr"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for make in (lambda: None, path.mkdir if name != "x.zarr" else path.touch):
        make()
        with pytest.raises(InputError):
            read_volume(str(path))
