"""Volume and particle files of other programs, with the lies that real headers tell."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from membrain_cloud.errors import ProjectError, TomogramError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, Picks, orientations_from_normals
from membrain_cloud.store.formats.any_volume import (
    file_stem,
    read_csv_picks,
    read_header,
    read_star_picks,
    read_volume,
    star_text,
    write_mrc,
    write_star,
)

VALUES = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def patch(path: Path, offset: int, content: bytes) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw)
    return path


def mrc(path: Path, values: np.ndarray = VALUES, spacing: float = 10.0) -> Path:
    write_mrc(str(path), values, spacing)
    return path


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
def test_mrc_comes_back(tmp_path: Path, dtype: str) -> None:
    values = (VALUES * 10).astype(dtype) if dtype[0] != "u" else (abs(VALUES) * 10000).astype(dtype)
    found, header = read_volume(str(mrc(tmp_path / "x.mrc", values, 7.84)))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    assert header.voxel_spacing_angstrom == pytest.approx(7.84)
    assert header.notes == ()
    with mrcfile.open(tmp_path / "x.mrc") as file:
        assert file.is_volume()
        assert file.voxel_size.x == pytest.approx(7.84)
    assert mrcfile.validate(str(tmp_path / "x.mrc"))


def test_types_mrc_does_not_have_are_widened(tmp_path: Path) -> None:
    for values, dtype in (
        (np.ones((2, 2, 2), bool), "int8"),
        (np.full((2, 2, 2), 127, np.uint8), "int8"),
        (np.full((2, 2, 2), 200, np.uint8), "uint16"),
        (np.full((2, 2, 2), 40000, np.uint32), "uint16"),
        (np.full((2, 2, 2), 70000, np.uint32), "float32"),
        (np.full((2, 2, 2), 0.5, np.float64), "float32"),
    ):
        found, _ = read_volume(str(mrc(tmp_path / "x.mrc", values)))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, values)


def test_equal_volumes_give_equal_mrc_bytes(tmp_path: Path) -> None:
    assert mrc(tmp_path / "a.mrc").read_bytes() == mrc(tmp_path / "b.mrc").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.mrc", "b.mrc"]


@pytest.mark.parametrize("spacing", [0.0, 1.0, -5.0, 0.1, 3173.75, float("nan")])
def test_an_unbelievable_spacing_is_none(tmp_path: Path, spacing: float) -> None:
    _, header = read_volume(str(mrc(tmp_path / "x.mrc", spacing=spacing)))
    assert header.voxel_spacing_angstrom is None
    assert any("spacing" in note for note in header.notes)


def test_voxels_that_are_no_cubes_are_not_believed(tmp_path: Path) -> None:
    path = patch(mrc(tmp_path / "x.mrc"), 48, np.float32(33.0).tobytes())
    header = read_header(str(path))
    assert header.voxel_spacing_angstrom is None
    assert "no cubes" in header.notes[0]


def test_an_origin_is_told(tmp_path: Path) -> None:
    path = patch(mrc(tmp_path / "x.mrc"), 196, np.array([0, 0, 3173.75], np.float32).tobytes())
    header = read_header(str(path))
    assert header.origin == (0.0, 0.0, 3173.75)
    assert "origin (0, 0, 3173.75) Å is left out" in header.notes[0]


def test_a_missing_map_id_and_stamp_are_told(tmp_path: Path) -> None:
    path = patch(mrc(tmp_path / "x.mrc"), 208, bytes(8))
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES)
    assert any("map id" in note for note in header.notes)


def test_big_endian_and_turned_axes(tmp_path: Path) -> None:
    path = tmp_path / "x.mrc"
    with mrcfile.new(path) as file:
        file.set_data(VALUES)
        file.voxel_size = 10.0
        file.header.mapc, file.header.maps = 3, 1
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES.transpose(2, 1, 0))
    assert header.shape == (7, 6, 5)
    assert any("axes" in note for note in header.notes)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(VALUES.astype(">f4"))
        file.voxel_size = 10.0
    found, _ = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES)
    assert found.dtype.isnative


def test_unsigned_bytes_under_mode_0(tmp_path: Path) -> None:
    values = np.arange(210, dtype=np.uint8).reshape(5, 6, 7)
    path = mrc(tmp_path / "x.mrc", values.view(np.int8))
    assert read_header(str(path)).dtype == np.int8
    patch(path, 76, np.array([0.0, 209.0], np.float32).tobytes())
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, values)
    assert "unsigned" in header.notes[0]
    for flags, dtype in ((1, np.int8), (0, np.uint8)):
        patch(path, 152, np.array([1146047817, flags], np.int32).tobytes())
        assert read_header(str(path)).dtype == dtype


def test_files_that_are_no_volume_are_named(tmp_path: Path) -> None:
    whole = mrc(tmp_path / "x.mrc").read_bytes()
    for name, content, why in (
        ("short.mrc", whole[:-1], "truncated"),
        ("tiny.mrc", whole[:100], "no MRC header"),
        ("text.mrc", b"no volume " * 200, "not one of an MRC file"),
        ("x.mrc.gz", gzip.compress(whole)[:-30], "damaged"),
        ("y.mrc.gz", b"\x1f\x8bxx", "damaged"),
        ("x.tif", b"II*\x00garbage", "TIFF"),
        ("x.npy", b"garbage", "cannot be read"),
        ("x.dm4", b"", "not known"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TomogramError, match=why) as caught:
            read_volume(str(tmp_path / name))
        assert caught.value.next_step
    with pytest.raises(TomogramError, match="no such file"):
        read_volume(str(tmp_path / "absent.mrc"))


def test_tiff(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, VALUES, imagej=True, resolution=(1.0, 1.0), metadata={"unit": "nm", "spacing": 1.0})
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES)
    assert header.voxel_spacing_angstrom == 10.0
    tifffile.imwrite(path, VALUES, imagej=True, resolution=(1.0, 1.0), metadata={"unit": "nm", "spacing": 2.0})
    assert "no cubes" in read_header(str(path)).notes[0]
    tifffile.imwrite(path, VALUES, compression="zlib", photometric="minisblack")
    found, header = read_volume(str(path))
    np.testing.assert_array_equal(found, VALUES)
    assert header.voxel_spacing_angstrom is None


def test_numpy_and_stems(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    found, header = read_volume(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(found, VALUES)
    assert header.voxel_spacing_angstrom is None
    for name, stem in (
        ("a/TS_1.rec.gz", "TS_1"),
        ("TS.1.mrc", "TS.1"),
        ("x.ome.zarr", "x"),
        ("y.zarr/", "y"),
        ("Z.TIF", "Z"),
    ):
        assert file_stem(name) == stem


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


def test_mrc_is_read_as_mrcfile_reads_it(reference: Path) -> None:
    for name in ("membrain-seg/tomo.mrc", "membrain-seg/tomo_int8.mrc", "simulated-mixed/tomogram_snr_hi.mrc.gz"):
        found, header = read_volume(str(reference / name))
        np.testing.assert_array_equal(found, mrcfile.read(reference / name))
        assert header.voxel_spacing_angstrom == 10.0


def some_picks(count: int = 50) -> Picks:
    random = np.random.default_rng(3)
    normals = random.normal(size=(count, 3))
    normals[:2] = [(0, 0, 1), (0, 0, -1)]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    turned = orientations_from_normals(normals, random.uniform(0, 6, count))
    return Picks(random.uniform(0, 4000, (count, 3)), turned, random.uniform(size=count), np.arange(count))


def test_star_comes_back(tmp_path: Path) -> None:
    picks = some_picks()
    path = str(tmp_path / "x.star")
    write_star(path, picks, voxel_spacing_angstrom=7.84, tomogram="TS_1")
    for found in (read_star_picks(path), read_star_picks(path, voxel_spacing_angstrom=7.84, tomogram="TS_1")):
        np.testing.assert_allclose(found.positions, picks.positions, atol=1e-5)
        np.testing.assert_allclose(found.orientations, picks.orientations, atol=1e-7)
        np.testing.assert_allclose(found.scores, picks.scores, atol=1e-6)
        np.testing.assert_array_equal(found.membrane_ids, picks.membrane_ids)
    write_star(path, Picks(np.zeros((0, 3))), voxel_spacing_angstrom=7.84, tomogram="TS_1")
    assert "_rlnCoordinateX" in Path(path).read_text()
    text = star_text(picks, voxel_spacing_angstrom=7.84, tomogram="TS_1")
    assert text == star_text(picks, voxel_spacing_angstrom=7.84, tomogram="TS_1")


def test_angles_are_those_of_copick() -> None:
    from copick.util.formats import _relion_eulers

    turned = some_picks().orientations
    assert turned is not None
    turned = turned[2:]  # the first two stand upright, where the angles are not unique
    lines = star_text(Picks(np.zeros((len(turned), 3)), turned), voxel_spacing_angstrom=1.0, tomogram="A").split("\n")
    ours = np.array([line.split("\t")[4:7] for line in lines if line.startswith("A\t")], np.float64)
    np.testing.assert_allclose(ours, _relion_eulers(turned), atol=1e-5)


def test_star_of_relion_4_and_5(tmp_path: Path) -> None:
    path = tmp_path / "x.star"
    path.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnTomoTiltSeriesPixelSize #2\n1 2.0\n\n"
        "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
        "_rlnOriginXAngst #5\n_rlnOriginYAngst #6\n_rlnOriginZAngst #7\n_rlnOpticsGroup #8\n"
        "A 10 20 30 1 2 3 1\nB 1 1 1 0 0 0 1\n"
    )
    np.testing.assert_allclose(read_star_picks(str(path), tomogram="A").positions, [[19, 38, 57]])
    moved = read_star_picks(str(path), tomogram="A", origin_angstrom=(9, 8, 7))
    np.testing.assert_allclose(moved.positions, [[10, 30, 50]])
    with pytest.raises(UsageError, match="2 tomograms"):
        read_star_picks(str(path))
    with pytest.raises(ProjectError, match="no tomogram 'C'"):
        read_star_picks(str(path), tomogram="C")
    path.write_text(
        "data_\n\nloop_\n_rlnTomoName #1\n"
        + "".join(f"_rlnCenteredCoordinate{axis}Angst #{k}\n" for k, axis in enumerate("XYZ", 2))
        + "A 5 -5 0\nA 0 0 0\n"
    )
    found = read_star_picks(str(path), grid=Grid((10, 20, 40), 10.0))
    np.testing.assert_allclose(found.positions, [[205, 95, 50], [200, 100, 50]])
    with pytest.raises(UsageError, match="centre"):
        read_star_picks(str(path))


def test_a_star_without_pixel_size_asks_for_it(reference: Path, tmp_path: Path) -> None:
    star = str(reference / "membrain-pick/input/gt/Tomo0001_mb1.star")
    with pytest.raises(VoxelSpacingError) as caught:
        read_star_picks(star)
    assert "--voxel-spacing" in caught.value.next_step
    found = read_star_picks(star, voxel_spacing_angstrom=10.0)
    np.testing.assert_allclose(found.positions[0], [368.23729, 535.86559, 323.04439], atol=1e-4)
    (tmp_path / "x.star").write_text("data_\n\nloop_\n_rlnVoltage #1\n300\n200\n")
    with pytest.raises(ProjectError, match="no coordinates"):
        read_star_picks(str(tmp_path / "x.star"))


def test_real_star(reference: Path) -> None:
    star = reference / "real/chlamy_star/10.1126-science.ads8738/star/atpase.star"
    found = read_star_picks(str(star), voxel_spacing_angstrom=1.96)
    assert len(found) == 933
    assert found.orientations is not None
    np.testing.assert_allclose(found.positions[0], np.array([756, 2256, 896]) * 1.96)


def test_particles_stand_on_the_surface_they_were_picked_on(reference: Path) -> None:
    """Surforama writes RELION's angles from the mesh's normals: read the other way round they would not match."""
    import trimesh

    folder = reference / "membrain-pick"
    found = read_star_picks(str(folder / "surforama/Tomo0001_mb2_surforama.star"), voxel_spacing_angstrom=1.0)
    mesh = trimesh.load_mesh(folder / "mesh_data/Tomo0001_mb2.obj", process=False)
    nearest = np.linalg.norm(mesh.vertices[None] - found.positions[:, None], axis=2).argmin(1)
    assert found.orientations is not None
    along = np.sum(found.orientations[:, :, 2] * mesh.vertex_normals[nearest], axis=1)
    np.testing.assert_allclose(along, -1.0, atol=1e-3)  # surforama's normals point the other way


def test_real_photosystems_of_one_membrane_are_parallel(reference: Path) -> None:
    star = str(reference / "real/chlamy_star/10.1101-2024.12.28.630444/star/ps2.star")

    def parallel(**options: bool) -> float:
        found = read_star_picks(star, voxel_spacing_angstrom=1.96, tomogram="tomo_0024", **options)
        assert found.orientations is not None
        close = np.linalg.norm(found.positions[None] - found.positions[:, None], axis=2) < 300.0
        axes = found.orientations[:, :, 2]
        return float(np.abs(axes @ axes.T)[np.triu(close, 1)].mean())

    assert parallel() > 0.8
    assert parallel(inverse_angles=True) < 0.7


def test_angles_of_the_inverse_convention(reference: Path) -> None:
    """This simulator's STAR holds the rotation of the particle itself; its CSV says where the particle points."""
    import pandas as pd

    star = str(reference / "simulated-mixed/membrane_particles.star")
    truth = pd.read_csv(reference / "simulated-mixed/particles.csv.gz")
    normals = truth[["nx", "ny", "nz"]].to_numpy()

    def agreement(inverse_angles: bool) -> float:
        found = read_star_picks(star, inverse_angles=inverse_angles)
        assert found.orientations is not None
        places = truth[["x_A", "y_A", "z_A"]].to_numpy()
        nearest = np.linalg.norm(places[None] - found.positions[:, None], axis=2).argmin(1)
        return float(np.sum(found.orientations[:, :, 2] * normals[nearest], axis=1).mean())

    assert agreement(True) > 0.999
    assert agreement(False) < 0.5


def test_csv(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("x,y,z,score\n1,2,3,0.5\n")
    found = read_csv_picks(str(path), voxel_spacing_angstrom=10.0)
    np.testing.assert_allclose(found.positions, [[10, 20, 30]])
    assert found.scores.tolist() == [0.5]
    with pytest.raises(VoxelSpacingError):
        read_csv_picks(str(path))
    for content, why in (
        ("a,b\n1,2\n", "no columns"),
        ("x_A,y_A,z_A\n1,,3\n", "gaps"),
        ("x_A,y_A,z_A\n1,u,3\n", "not numb"),
    ):
        path.write_text(content)
        with pytest.raises(ProjectError, match=why):
            read_csv_picks(str(path))
    thylakoid = reference / "real/thylakoid_membrain1"
    labels, header = read_volume(str(thylakoid / "T1S1M1_crop_z194y280x68.mrc.gz"))
    picks = read_csv_picks(str(thylakoid / "T1S1M1_picks.csv"), origin_angstrom=header.origin)
    voxels = np.argwhere(labels > 0)[:, ::-1] * 13.68
    distances = [np.linalg.norm(voxels - position, axis=1).min() for position in picks.positions]
    assert len(picks) == 105
    assert max(distances) < 3 * 13.68
