"""Volume files read box by box: what is read equals the whole file, whatever the kind."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from membrain_cloud.errors import ChunkError, MembrainCloudError, TomogramError
from membrain_cloud.geometry import Box, Zyx
from membrain_cloud.store.formats.volume_reader import open_volume_file, read_header, read_volume
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter

SHAPE: Zyx = (9, 11, 13)
WHOLE = Box((0, 0, 0), SHAPE)
BOXES = [
    WHOLE,
    Box((2, 0, 0), (5, 11, 13)),
    Box((0, 3, 0), (9, 7, 13)),
    Box((1, 2, 3), (8, 9, 10)),
    Box((8, 10, 12), SHAPE),
]


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(10, 3, SHAPE).astype(np.float32)


def write_file(path: Path, array: np.ndarray) -> str:
    """Write a volume as the kind of file that its name says."""
    kind = path.name.partition(".")[2]
    if kind.endswith((".gz", ".bz2")):
        plain = Path(write_file(path.with_suffix(""), array))
        packer = gzip.compress if kind.endswith(".gz") else bz2.compress
        path.write_bytes(packer(plain.read_bytes()))
    elif kind == "npy":
        np.save(path, array)
    elif kind == "tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        with VolumeFileWriter(str(path), SHAPE, 7.84, array.dtype) as writer:
            writer.write(WHOLE, array)
    return str(path)


KINDS = ["mrc", "rec", "map", "mrc.gz", "rec.bz2", "zarr", "npy", "npy.gz", "tif", "tif.bz2"]


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_a_file_are_those_of_its_volume(tmp_path: Path, volume: np.ndarray, kind: str) -> None:
    path = write_file(tmp_path / f"a.{kind}", volume)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with open_volume_file(path, str(scratch)) as file:
        assert (file.shape, file.dtype) == (SHAPE, np.float32)
        assert file.voxel_spacing_angstrom == (None if kind.startswith(("npy", "tif")) else 7.84)
        for box in BOXES:
            np.testing.assert_array_equal(file.read(box), volume[box.slices])
        np.testing.assert_array_equal(file[2:5, :, -4:], volume[2:5, :, -4:])
        with pytest.raises(ValueError, match="not inside"):
            file.read(Box((0, 0, 0), (10, 11, 13)))
    assert not list(scratch.iterdir())
    whole, header = read_volume(path)
    np.testing.assert_array_equal(whole, volume)
    assert read_header(path) == header


def test_an_array_in_fortran_order(tmp_path: Path, volume: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(volume))
    with open_volume_file(str(tmp_path / "a.npy")) as file:
        assert file.chunk == (9, 11, 1)
        for box in BOXES:
            np.testing.assert_array_equal(file.read(box), volume[box.slices])


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 1, 3), (3, 1, 2), (1, 3, 2), (2, 3, 1), (3, 2, 1)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_permuted_axes_and_either_byte_order(
    tmp_path: Path, volume: np.ndarray, axes: tuple[int, int, int], order: str
) -> None:
    path = str(tmp_path / "permuted.mrc")
    with mrcfile.new(path) as file:
        file.set_data(volume.astype(order + "f4"))
        file.voxel_size = 5.0
        file.header.mapc, file.header.mapr, file.header.maps = axes
    # x, y, z are stored along columns (1), rows (2) and sections (3) in the order of `axes`.
    expected = volume.transpose([2 - axes.index(axis) for axis in (3, 2, 1)])
    whole, _ = read_volume(path)
    np.testing.assert_array_equal(whole, expected)
    with open_volume_file(path) as opened:
        assert opened.shape == expected.shape
        for box in (Box((0, 0, 0), opened.shape), Box((1, 2, 3), (7, 8, 9)), Box((4, 0, 0), (5, *opened.shape[1:]))):
            values = opened.read(box)
            assert values.dtype.isnative
            np.testing.assert_array_equal(values, expected[box.slices])


def test_files_that_are_no_volume_are_refused(tmp_path: Path, volume: np.ndarray) -> None:
    whole = Path(write_file(tmp_path / "x.mrc", volume)).read_bytes()
    stack = Path(write_file(tmp_path / "y.tif", volume)).read_bytes()
    for name, content, why in (
        ("short.mrc", whole[:-1], "truncated"),
        ("tiny.mrc", whole[:100], "no MRC header"),
        ("text.mrc", b"no volume " * 200, "not one of an MRC file"),
        ("x.mrc.gz", gzip.compress(whole)[:-30], "damaged"),
        ("x.mrc.bz2", bz2.compress(whole)[:-20], "damaged"),
        ("y.mrc.gz", b"\x1f\x8bxx", "damaged"),
        ("noise.mrc.bz2", b"no bzip2 at all", "damaged"),
        ("x.tif", b"II*\x00garbage", "TIFF"),
        ("short.tif", stack[:2000], "truncated"),
        ("x.npy", b"garbage", "cannot be read"),
        ("x.dm4", b"", "not known"),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (read_volume, open_volume_file):
            with pytest.raises(TomogramError, match=why) as caught:
                read(str(tmp_path / name))
            assert name in caught.value.message
            assert caught.value.next_step
    with pytest.raises(TomogramError, match=r"s3://bucket/x\.mrc: of remote files only \.zarr"):
        read_header("s3://bucket/x.mrc")
    for read in (read_volume, read_header, open_volume_file):
        with pytest.raises(TomogramError, match="no such file"):
            read(str(tmp_path / "absent.mrc"))


def test_a_header_needs_no_more_than_the_beginning(tmp_path: Path, volume: np.ndarray) -> None:
    for kind in ("mrc", "npy"):
        path = Path(write_file(tmp_path / f"a.{kind}.gz", volume))
        path.write_bytes(path.read_bytes()[:-30])
        assert read_header(str(path)).shape == SHAPE
        with pytest.raises(TomogramError, match="damaged"):
            read_volume(str(path))


def test_a_missing_scratch_folder_is_named(tmp_path: Path, volume: np.ndarray) -> None:
    path = write_file(tmp_path / "a.mrc.gz", volume)
    with pytest.raises(MembrainCloudError, match=r"unpacked under .*absent"):
        open_volume_file(path, str(tmp_path / "absent"))


def test_a_missing_chunk_is_never_zeros(tmp_path: Path, volume: np.ndarray) -> None:
    path = Path(write_file(tmp_path / "a.zarr", volume))
    (path / "0" / "0" / "0" / "0").write_bytes(b"")
    with open_volume_file(str(path)) as file, pytest.raises(ChunkError):
        file.read(WHOLE)


def test_a_damaged_zarr_is_no_volume(tmp_path: Path, volume: np.ndarray) -> None:
    path = Path(write_file(tmp_path / "a.zarr", volume))
    (path / ".zattrs").write_text("{")
    for read in (open_volume_file, read_header):
        with pytest.raises(TomogramError, match="zattrs"):
            read(str(path))


def test_real_headers(reference: Path) -> None:
    real = reference / "real"
    expected = {
        "golgi_vesicles_pycurv/t74_vesicle3_bin6.Labels.mrc": (None, (50, 100, 100)),
        "golgi_vesicles_pycurv/t2_ny01_lbl.labels_FILLEDpeak.mrc": (10.0, (31, 21, 31)),
        "thylakoid_membrain1/T1S1M1_crop_z194y280x68.mrc.gz": (13.68, (88, 472, 438)),
        "microsome_pyseg/tomo22_z50_ves_4_seg.mrc": (None, (50, 166, 166)),
        "tardis_mt_crops/rec3D.rec": (23.2, (78, 64, 32)),
        "cylindra_mt/13pf_MT.tif": (10.52, (36, 206, 94)),
        "tardis_mt_crops/5_0_28_54_25.tif": (None, (64, 64, 64)),
    }
    for name, (spacing, shape) in expected.items():
        values, header = read_volume(str(real / name))
        assert values.shape == header.shape == shape, name
        assert values.std() > 0, name
        if spacing is None:
            assert header.voxel_spacing_angstrom is None, name
        else:
            assert header.voxel_spacing_angstrom == pytest.approx(spacing, abs=0.01), name
    assert any("map id" in note for note in read_header(str(real / "tardis_mt_crops/rec3D.rec")).notes)
