"""The engine `ome-zarr` of xarray: levels and pyramids, coordinates, laziness, strictness, S3 and Dask."""

from __future__ import annotations

import json
import pickle
import shutil
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from membrain_cloud.errors import ChunkError, ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.volumes.ome_zarr import create_volume
from membrain_cloud.store.volumes.pyramid import finish_volume, local_mean
from membrain_cloud.store.volumes.xarray_backend import OmeZarrBackend

if TYPE_CHECKING:
    from standins.fault_proxy import FaultProxy

    from membrain_cloud.store.projects.project import Project

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


@pytest.fixture
def path(project: Project, tomogram: TomogramRef) -> str:
    """Return the folder of a tomogram of 10 Å in chunks of 16."""
    return f"{project.root_url}/{tomogram.path}"


def open_level(path: str, **keywords: Any) -> xr.DataArray:
    return xr.open_dataset(path, engine=OmeZarrBackend, **keywords).image


def test_a_level_has_its_values_and_coordinates(path: str, density: np.ndarray) -> None:
    level = open_level(path, level=1)
    assert level.dims == ("z", "y", "x")
    assert level.dtype == np.float32
    np.testing.assert_array_equal(level.values, local_mean(density))
    np.testing.assert_allclose(level.z, 5.0 + 20.0 * np.arange(20))
    assert level.x.attrs["units"] == "angstrom"
    assert level.attrs["source"] == path
    assert level.attrs["level"] == "1"


def test_coordinates_select_slices_and_the_nearest_voxel(path: str, density: np.ndarray) -> None:
    level = open_level(path)
    np.testing.assert_array_equal(level.sel(z=slice(95, 305)).values, density[10:31])
    np.testing.assert_array_equal(level.sel(z=101, y=[5.1, 33], method="nearest").values, density[10, [1, 3]])


@pytest.mark.parametrize(
    "key",
    [
        (slice(3, 30, 7), slice(None, None, -1), 5),
        (2, slice(None), slice(4, 4)),
        (slice(None), [1, 30, 2], slice(0, 50, 3)),
        (-1, -1, -1),
        (slice(None), np.arange(37) % 2 == 0, 0),
    ],
    ids=str,
)
def test_any_selection_is_that_of_numpy(path: str, density: np.ndarray, key: Any) -> None:
    np.testing.assert_array_equal(open_level(path)[key].values, density[key])


def test_points_are_selected_one_by_one(path: str, density: np.ndarray) -> None:
    z, y, x = (xr.DataArray(values, dims="point") for values in ([1, 39, 3], [1, 30, 3], [49, 5, 0]))
    np.testing.assert_array_equal(open_level(path)[z, y, x].values, density[[1, 39, 3], [1, 30, 3], [49, 5, 0]])


def test_the_pyramid_is_a_tree(path: str, density: np.ndarray) -> None:
    tree = xr.open_datatree(path, engine=OmeZarrBackend)
    assert [node.path for node in tree.subtree] == ["/", "/0", "/1", "/2"]
    assert [node.image.shape for node in tree.children.values()] == [(40, 37, 50), (20, 19, 25), (10, 10, 13)]
    np.testing.assert_array_equal(tree["0/image"].values, density)
    assert set(xr.open_groups(path, engine=OmeZarrBackend)) == {"/", "/0", "/1", "/2"}


def test_opening_reads_no_chunk_and_a_selection_only_its_own(path: str, density: np.ndarray) -> None:
    first = Path(path) / "0"
    for name in ("1", "2"):
        shutil.rmtree(first / name)  # planes 16 to 39
    level = open_level(path, cache=False)
    np.testing.assert_array_equal(level[:16].values, density[:16])
    np.testing.assert_array_equal(level[::20][:1].values, density[:1])


def test_an_absent_chunk_raises_and_is_never_zeros(path: str) -> None:
    (Path(path) / "0" / "1" / "0" / "0").unlink()
    level = open_level(path, cache=False)
    for values in (level, level[16], level[::5], level.chunk()):
        with pytest.raises(ChunkError, match="1/0/0"):
            values.compute()


def test_label_volumes_of_others_may_be_sparse(tmp_path: Path) -> None:
    from standins.foreign_volumes import write_foreign

    labels = np.zeros((8, 8, 8), np.uint8)
    labels[5:, 5:, 5:] = 3
    write_foreign(tmp_path / "a.zarr", labels, chunks=(4, 4, 4), every_chunk=False, fill_value=0)
    with pytest.raises(ChunkError):
        open_level(str(tmp_path / "a.zarr")).load()
    sparse = open_level(str(tmp_path / "a.zarr"), sparse=True)
    assert sparse.dtype == np.uint8
    np.testing.assert_array_equal(sparse.values, labels)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"axes": "zyx", "unit": "nanometer", "scale": [2.0, 1.0, 0.5]}, {"z": 20.0, "y": 10.0, "x": 5.0}),
        ({"axes": "tczyx", "unit": None, "scale": [1.0, 1.0, 4.0, 4.0, 4.0]}, {"z": 4.0, "y": 4.0, "x": 4.0}),
        ({"axes": "xyz", "unit": "angstrom", "scale": [2.0, 3.0, 4.0]}, {"x": 2.0, "y": 3.0, "z": 4.0}),
    ],
    ids=["nanometer", "time and channel", "xyz"],
)
def test_units_and_axes_are_those_of_the_metadata(tmp_path: Path, metadata: Any, expected: dict[str, float]) -> None:
    path = foreign(tmp_path, **metadata)
    level = open_level(path)
    assert level.dims == tuple(expected)
    for axis, step in expected.items():
        np.testing.assert_allclose(np.diff(level[axis]), step)


def test_translations_move_the_coordinates(tmp_path: Path) -> None:
    level = open_level(foreign(tmp_path, axes="zyx", unit="nanometer", scale=[1.0] * 3, translation=[7.0, 0.0, -1.0]))
    assert [float(level[axis][0]) for axis in "zyx"] == [70.0, 0.0, -10.0]


def test_an_unknown_unit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(VoxelSpacingError, match="parsec"):
        open_level(foreign(tmp_path, axes="zyx", unit="parsec", scale=[1.0] * 3))


def test_without_metadata_there_are_no_coordinates(tmp_path: Path) -> None:
    from standins.foreign_volumes import write_foreign

    write_foreign(tmp_path / "a.zarr", np.ones((4, 5, 6), np.float32))
    level = open_level(str(tmp_path / "a.zarr"))
    assert level.sizes == {"z": 4, "y": 5, "x": 6}
    assert not level.coords


def foreign(tmp_path: Path, *, axes: str, unit: str | None, scale: list[float], translation: Any = None) -> str:
    """Write a volume with metadata of another program; return its path."""
    from standins.foreign_volumes import write_foreign

    spatial = {"type": "space"} | ({"unit": unit} if unit else {})
    described = [{"name": name} | (spatial if name in "zyx" else {}) for name in axes]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if translation:
        transforms.append({"type": "translation", "translation": translation})
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    multiscales = [{"version": "0.4", "axes": described, "datasets": datasets}]
    shape = (1,) * (len(axes) - 3) + (4, 5, 6)
    values = np.arange(120, dtype=np.float32).reshape(shape)
    write_foreign(tmp_path / "a.zarr", values, attributes={"multiscales": multiscales})
    return str(tmp_path / "a.zarr")


def test_what_is_not_there_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no level 3"):
        open_level(path, level=3)
    with pytest.raises(ProjectError, match="there is no volume"):
        open_level(str(tmp_path / "no.zarr"))
    with pytest.raises(UsageError, match="int"):
        xr.open_dataset(3, engine=OmeZarrBackend)  # type: ignore[arg-type]


def test_of_a_folder_of_images_the_first_is_opened(tmp_path: Path) -> None:
    """As bioformats2raw writes them: a group of images, each with axes of time and channel."""
    import zarr

    zarr.open_group(tmp_path, mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    (tmp_path / "0").mkdir()
    image = foreign(tmp_path / "0", axes="tczyx", unit="nanometer", scale=[1.0] * 5)
    Path(image).rename(tmp_path / "image")
    (tmp_path / "0").rmdir()
    (tmp_path / "image").rename(tmp_path / "0")
    for place in (tmp_path, tmp_path / "0"):
        assert open_level(str(place)).sizes == {"z": 4, "y": 5, "x": 6}
        assert list(xr.open_datatree(place, engine=OmeZarrBackend).children) == ["0"]
    np.testing.assert_allclose(open_level(str(tmp_path)).z, 10.0 * np.arange(4))


def test_what_copick_wrote_is_read(tmp_path: Path, density: np.ndarray) -> None:
    """Format 0.5, one shard a level."""
    import copick

    config = tmp_path / "config.json"
    overlay = tmp_path / "overlay"
    content = {"config_type": "filesystem", "name": "a", "description": "", "version": "1", "pickable_objects": []}
    config.write_text(json.dumps(content | {"overlay_root": f"local://{overlay}", "overlay_fs_args": {}}))
    run = copick.from_file(str(config)).new_run("TS_1")
    run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(density)
    (path,) = overlay.rglob("wbp.zarr")
    tree = xr.open_datatree(path, engine=OmeZarrBackend)
    np.testing.assert_array_equal(tree["0/image"].values, density)
    np.testing.assert_allclose(tree["0/image"].x, 10.0 * np.arange(50))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_read_alike(tmp_path: Path, version: Any) -> None:
    values = np.random.default_rng(0).normal(size=(6, 7, 300)).astype(np.float32)
    files = Files(str(tmp_path))
    array = create_volume(files, "a.zarr", Grid((6, 7, 300), 10.0), "float32", version=version)
    array.write(array.box, values)
    finish_volume(files, "a.zarr", 10.0, mean=True)
    level = open_level(str(tmp_path / "a.zarr"), chunks={})
    assert level.chunks == ((6,), (7,), (256, 44) if version == "0.4" else (128, 128, 44))
    np.testing.assert_array_equal(level.sel(x=slice(1000, 2600)).values, values[:, :, 100:261])
    assert float(open_level(str(tmp_path / "a.zarr"), level=2).x[0]) == 15.0


def test_a_lazy_array_pickles_small(path: str, density: np.ndarray) -> None:
    level = open_level(path, cache=False)
    pickled = pickle.dumps(level.variable)
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickled).values, density)  # noqa: S301 - our own


def test_dask_arrays_have_the_chunks_of_the_store(path: str, density: np.ndarray) -> None:
    level = open_level(path, chunks={})
    assert level.chunks == ((16, 16, 8), (16, 16, 5), (16, 16, 16, 2))
    assert level.chunk() is not level
    np.testing.assert_allclose(level.mean(["y", "x"]).values, density.mean((1, 2)), atol=1e-6)
    assert open_level(path, chunks={}).data.name == level.data.name


def test_dask_arrays_compute_on_a_cluster(path: str, density: np.ndarray) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        assert float(client.compute(open_level(path).chunk().max()).result()) == density.max()


def test_a_volume_in_a_bucket_is_read_with_its_options(proxy: FaultProxy, density: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    proxy.calm()
    options = {"key": "x", "secret": "x", "endpoint_url": proxy.url}
    bucket = tmp_path.name.replace("_", "-").lower()
    Files(f"s3://{bucket}", options)._fs.mkdir(bucket)
    ref = bucket_project(bucket, options, tmp_path, density)
    url = f"s3://{bucket}/{ref.path}"
    proxy.requests.clear()
    level = open_level(url, storage_options=options, cache=False)
    assert not [request for request in proxy.requests if "/0/0" in str(request)]
    np.testing.assert_array_equal(level[:10, 20].values, density[:10, 20])
    proxy.rule("0/1/1/1", "404")
    with pytest.raises(ChunkError, match="1/1/1"):
        level.load()
    proxy.calm()


def bucket_project(bucket: str, options: dict[str, Any], folder: Path, density: np.ndarray) -> TomogramRef:
    config = folder / "config.json"
    content = {"config_type": "filesystem", "overlay_root": f"s3://{bucket}", "overlay_fs_args": options}
    config.write_text(json.dumps(content | {"pickable_objects": []}))
    ref = TomogramRef("TS_1", "wbp", 10.0)
    CopickProject.open(str(config)).write_tomogram(ref, density, chunk=16)
    return ref


def test_labels_keep_their_type(project: Project) -> None:
    ref = SegmentationRef("TS_1", "membrane", "membrain", "1", 10.0)
    labels = np.arange(64, dtype=np.uint16).reshape(4, 4, 4) * 1000
    project.write_segmentation(ref, labels)
    level = open_level(f"{project.root_url}/{ref.path}")
    assert level.dtype == np.uint16
    np.testing.assert_array_equal(level.values, labels)


def test_the_engine_is_an_entry_point_of_xarray() -> None:
    points = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["xarray.backends"]
    module, _, name = points["ome-zarr"].partition(":")
    assert getattr(import_module(module), name) is OmeZarrBackend
    assert not OmeZarrBackend().guess_can_open("a.zarr")


def test_an_installation_registers_the_engine(path: str) -> None:
    if "ome-zarr" not in xr.backends.list_engines():
        pytest.skip("the package was installed before it had the engine: install it again")
    assert xr.open_dataset(path, engine="ome-zarr", level=2).image.shape == (10, 10, 13)
