"""Segmented files: outputs that belong together, on the input's grid, written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.errors import TomogramError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Grid, iterate_chunks
from membrain_cloud.image.skeleton import skeletonize
from membrain_cloud.pipeline.files import segment_file as segment_file_module
from membrain_cloud.pipeline.files.segment_file import FileOptions, SegmentedFile, expand, segment_file
from membrain_cloud.pipeline.settings import SegmentSettings
from membrain_cloud.segmentation.uncertainty import uncertainty_planes
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.ome_zarr import create_volume
from membrain_cloud.store.volumes.pyramid import finish_volume

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (37, 30, 41)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, lightning_checkpoint: Callable[..., Path]) -> str:
    return str(lightning_checkpoint(tmp_path_factory.mktemp("models") / "random.ckpt"))


@pytest.fixture
def tomogram(tmp_path: Path) -> str:
    density = np.random.default_rng(0).normal(20, 5, SHAPE).astype(np.float32)
    with mrcfile.new(tmp_path / "TS_1.mrc") as file:
        file.set_data(density)
        file.voxel_size = 9.5
        file.header.origin.y = -512.25
    return str(tmp_path / "TS_1.mrc")


def settings(model: str, **more: Any) -> SegmentSettings:
    return SegmentSettings(model=model, window=16, **more)


def options(output: Path, **more: Any) -> FileOptions:
    default: dict[str, Any] = {
        "voxel_spacing_angstrom": None,
        "scores": True,
        "components": False,
        "min_voxels": 1,
        "skeleton": False,
        "overwrite": False,
    }
    return FileOptions(output=str(output), **default | more)


def read(path: str | None) -> np.ndarray:
    assert path is not None
    with mrcfile.open(path) as file:
        assert float(file.voxel_size.x) == pytest.approx(9.5)
        assert float(file.header.origin.y) == -512.25
        return file.data.copy()


def counted(made: SegmentedFile) -> list[str]:
    return sorted(os.listdir(Path(made.segmented).parent))


def test_scores_and_mask_with_the_grid_of_the_input(tomogram: str, model: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = segment_file(
        tomogram, settings(model), options(tmp_path / "out"), progress=lambda done, total: seen.append((done, total))
    )
    assert counted(made) == ["TS_1_scores.mrc", "TS_1_segmented.json", "TS_1_segmented.mrc"]
    scores, mask = read(made.scores), read(made.segmented)
    assert (scores.dtype, mask.dtype, scores.shape) == (np.float32, np.int8, SHAPE)
    np.testing.assert_array_equal(mask, scores > 0)
    assert 0 < made.membrane_voxels == mask.sum() < mask.size
    assert made.notes == ()
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_everything_at_once(tomogram: str, model: str, tmp_path: Path) -> None:
    wanted_settings = settings(model, mirrors="yes", uncertainty=True, threshold=0.02)
    made = segment_file(
        tomogram, wanted_settings, options(tmp_path / "out", components=True, min_voxels=20, skeleton=True)
    )
    scores, labels = read(made.scores), read(made.segmented)
    expected, count = ndimage.label(scores > np.float32(0.02), np.ones((3, 3, 3)))
    sizes = np.bincount(expected.ravel())
    large = [i for i in range(1, count + 1) if sizes[i] >= 20]
    assert made.components == len(large) < count
    renumber = np.zeros(count + 1, int)
    renumber[large] = np.arange(1, len(large) + 1)
    np.testing.assert_array_equal(labels, renumber[expected])
    assert made.membrane_voxels == np.count_nonzero(labels)
    np.testing.assert_array_equal(read(made.skeleton), skeletonize(labels))
    assert Path(made.skeleton or "").name == "TS_1_segmented_skel.mrc"
    uncertainty = read(made.uncertainty_map)
    assert 0 < uncertainty.max() < 0.3  # of values within 0 and 1
    assert (uncertainty >= 0).all()


@pytest.mark.parametrize("grid", ["level", "model"])
def test_outputs_on_a_pyramid_level_or_the_models_voxels(model: str, tmp_path: Path, grid: str) -> None:
    shape, spacing = (48, 40, 56), 5.2
    density = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    source, made_of = tmp_path / "TS_2.zarr", Grid(shape, spacing)
    volume = create_volume(Files(str(source)), "", made_of, "float32", 32)
    for box in iterate_chunks(shape, volume.format.chunk):
        volume.write(box, density[box.slices])
    finish_volume(Files(str(source)), "", spacing, mean=True)
    made = segment_file(str(source), settings(model, output_grid=grid), options(tmp_path / "out"))
    expected = (24, 20, 28) if grid == "level" else (25, 21, 29)
    with mrcfile.open(made.segmented) as file:
        assert file.data.shape == expected
        assert float(file.voxel_size.x) == pytest.approx(10.4 if grid == "level" else 10.0)
        assert 0 < file.data.mean() < 1


def test_staging_folders_are_removed_unless_locked(tomogram: str, model: str, tmp_path: Path) -> None:
    for name in ("left", "held"):
        (tmp_path / "out" / f".segmenting-{name}").mkdir(parents=True)
        (tmp_path / "out" / f".segmenting-{name}" / "lock").touch()
        os.utime(tmp_path / "out" / f".segmenting-{name}" / "lock", (0, 0))
    with (tmp_path / "out" / ".segmenting-held" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        segment_file(tomogram, settings(model), options(tmp_path / "out"))
        assert sorted(path.name for path in (tmp_path / "out").glob(".*")) == [".segmenting-held"]


def test_the_uncertainty_map_is_made_of_the_variance(
    tomogram: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variances = []
    predict_slabs = segment_file_module.predict_slabs

    def remember(*arguments: Any, **more: Any) -> Any:
        for slab in predict_slabs(*arguments, **more):
            variances.append(slab.variance)
            yield slab

    monkeypatch.setattr(segment_file_module, "predict_slabs", remember)
    made = segment_file(tomogram, settings(model, mirrors="yes", uncertainty=True), options(tmp_path / "out"))
    expected = uncertainty_planes(np.concatenate(variances), read(made.segmented), 0, SHAPE[0])
    np.testing.assert_array_equal(read(made.uncertainty_map), expected)


def test_a_zarr_and_a_compressed_file_give_the_same(tomogram: str, model: str, tmp_path: Path) -> None:
    import gzip

    first = segment_file(tomogram, settings(model), options(tmp_path / "a"))
    packed = tmp_path / "packed.rec.gz"
    packed.write_bytes(gzip.compress(Path(tomogram).read_bytes()))
    made = segment_file(str(packed), settings(model), options(tmp_path / "b"))
    assert made.segmented.endswith("b/packed_segmented.mrc")
    np.testing.assert_array_equal(read(made.scores), read(first.scores))
    density, files = mrcfile.read(tomogram), Files(str(tmp_path / "TS_1.zarr"))
    array = create_volume(files, "", Grid(SHAPE, 9.5), "float32", 16)
    for box in iterate_chunks(SHAPE, array.format.chunk):
        array.write(box, density[box.slices])
    finish_volume(files, "", 9.5, mean=True)
    made = segment_file(str(tmp_path / "TS_1.zarr"), settings(model), options(tmp_path / "c"))
    with mrcfile.open(made.scores) as stored:
        # its mean is summed in another order
        np.testing.assert_allclose(stored.data, read(first.scores), atol=1e-5)
        assert float(stored.voxel_size.x) == pytest.approx(9.5)


def test_without_scores(tomogram: str, model: str, tmp_path: Path) -> None:
    made = segment_file(tomogram, settings(model), options(tmp_path / "out", scores=False))
    assert made.scores is None
    assert counted(made) == ["TS_1_segmented.json", "TS_1_segmented.mrc"]


def test_complete_outputs_are_not_made_again(tomogram: str, model: str, tmp_path: Path) -> None:
    first = segment_file(tomogram, settings(model), options(tmp_path / "out"))
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in counted(first)}
    again = segment_file(tomogram, settings(model, batch=2), options(tmp_path / "out"))
    assert again.state == "skipped"
    assert again.membrane_voxels == first.membrane_voxels
    assert times == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in counted(first)}


def test_a_missing_companion_is_made(tomogram: str, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = segment_file(tomogram, settings(model), options(out, scores=False))
    before = Path(first.segmented).read_bytes()
    more = segment_file(tomogram, settings(model), options(out, skeleton=True))
    assert more.state == "done"
    assert all(Path(name).is_file() for name in more.outputs)
    assert len(more.outputs) == 3
    assert Path(first.segmented).read_bytes() == before
    Path(more.scores or "").unlink()
    assert segment_file(tomogram, settings(model), options(out, skeleton=True)).state == "done"
    assert segment_file(tomogram, settings(model), options(out, skeleton=True)).state == "skipped"
    Path(first.segmented).write_bytes(b"edited by hand")
    Path(more.scores or "").unlink()
    with pytest.raises(UsageError, match="changed since"):
        segment_file(tomogram, settings(model), options(out, skeleton=True))
    assert Path(first.segmented).read_bytes() == b"edited by hand"


@pytest.mark.parametrize("spacing", [0.0, -5.0, float("nan"), 1e4])
def test_an_absurd_voxel_spacing_is_refused(tomogram: str, model: str, tmp_path: Path, spacing: float) -> None:
    with pytest.raises(VoxelSpacingError, match="absurd"):
        segment_file(tomogram, settings(model), options(tmp_path / "out", voxel_spacing_angstrom=spacing))
    assert not (tmp_path / "out").exists()


def test_facts_of_a_registry_are_part_of_the_recipe(
    tomogram: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_file(tomogram, settings(model), options(tmp_path / "out"))
    monkeypatch.setattr(segment_file_module, "registry_facts", lambda source: {"window": 32})
    with pytest.raises(UsageError, match="made otherwise"):
        segment_file(tomogram, settings(model), options(tmp_path / "out"))


def test_urls_of_files_and_of_outputs(tomogram: str, model: str, tmp_path: Path) -> None:
    made = segment_file(f"file://{tomogram}", settings(model), options(tmp_path / "out"))
    assert read(made.segmented).shape == SHAPE
    with pytest.raises(TomogramError, match=r"only \.zarr"):
        segment_file("memory://tomograms/TS_1.mrc", settings(model), options(tmp_path / "other"))
    with pytest.raises(UsageError, match="no local folder"):
        segment_file(tomogram, settings(model), FileOptions(**vars(options(tmp_path)) | {"output": "file://out"}))
    assert sorted(os.listdir(tmp_path)) == ["TS_1.mrc", "out"]


@pytest.mark.parametrize("change", ["settings", "input", "options", "record"])
def test_outputs_of_another_recipe_are_kept_unless_overwrite(
    tomogram: str, model: str, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    first = segment_file(tomogram, settings(model), options(out))
    before = Path(first.segmented).read_bytes()
    wanted_settings, wanted = settings(model), options(out)
    if change == "settings":
        wanted_settings = settings(model, threshold=0.01)
    elif change == "input":
        os.utime(tomogram, ns=(1, 1))
    elif change == "options":
        wanted = options(out, components=True)
    else:
        (out / "TS_1_segmented.json").unlink()
    with pytest.raises(UsageError, match="overwrite"):
        segment_file(tomogram, wanted_settings, wanted)
    assert Path(first.segmented).read_bytes() == before
    replaced = segment_file(tomogram, wanted_settings, FileOptions(**vars(wanted) | {"overwrite": True}))
    assert replaced.state == "done"
    assert segment_file(tomogram, wanted_settings, wanted).state == "skipped"


def test_an_error_halfway_leaves_nothing(
    tomogram: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_slabs = segment_file_module.predict_slabs

    def fail(*arguments: Any, **more: Any) -> Any:
        slabs = predict_slabs(*arguments, **more)
        yield next(slabs)
        raise TomogramError("the disk was pulled out", "put it back")

    monkeypatch.setattr(segment_file_module, "predict_slabs", fail)
    with pytest.raises(TomogramError, match="pulled out"):
        segment_file(tomogram, settings(model), options(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_bad_input_is_refused(tomogram: str, model: str, tmp_path: Path) -> None:
    for value, message in ((0.0, "every voxel"), (np.nan, "NaN")):
        with mrcfile.mmap(shutil.copy(tomogram, tmp_path / "bad.mrc"), "r+") as file:
            file.data[:] = value
        with pytest.raises(TomogramError, match=message):
            segment_file(str(tmp_path / "bad.mrc"), settings(model), options(tmp_path / "out"))
    with mrcfile.mmap(shutil.copy(tomogram, tmp_path / "one.mrc"), "r+") as file:
        file.voxel_size = 1.0
    with pytest.raises(VoxelSpacingError, match="voxel_spacing_angstrom"):
        segment_file(str(tmp_path / "one.mrc"), settings(model), options(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []
    made = segment_file(
        str(tmp_path / "one.mrc"), settings(model), options(tmp_path / "out", voxel_spacing_angstrom=9.5)
    )
    assert read(made.segmented).shape == SHAPE
    assert "not believed" in made.notes[0]


def test_a_volume_thinner_than_a_window(model: str, tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "thin.mrc") as file:
        file.set_data(np.random.default_rng(1).normal(size=(5, 30, 14)).astype(np.int8))
        file.voxel_size = 10.0
    made = segment_file(str(tmp_path / "thin.mrc"), settings(model), options(tmp_path / "out"))
    assert mrcfile.read(made.scores).shape == (5, 30, 14)
    assert np.isfinite(mrcfile.read(made.scores)).all()


def test_memory_does_not_depend_on_the_depth(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No box that is read or written is more than a part of a deep volume."""
    path = tmp_path / "deep.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(2).normal(size=(300, 16, 16)).astype(np.float32))
        file.voxel_size = 10.0
    monkeypatch.setattr(segment_file_module, "_PART_VOXELS", 16 * 16 * 20)
    largest = 0
    read_box = segment_file_module.VolumeFile.read

    def remember(volume: Any, box: Any) -> np.ndarray:
        nonlocal largest
        largest = max(largest, box.shape[0])
        return read_box(volume, box)

    monkeypatch.setattr(segment_file_module.VolumeFile, "read", remember)
    made = segment_file(str(path), settings(model, mirrors="no"), options(tmp_path / "out"))
    assert mrcfile.read(made.scores).shape == (300, 16, 16)
    assert largest <= 20


def test_patterns(tmp_path: Path) -> None:
    for name in ("b.mrc", "a.mrc", "a_scores.mrc", "a_segmented.mrc", "c.txt"):
        (tmp_path / name).touch()
    files = expand([str(tmp_path / "*.mrc"), str(tmp_path / "a.mrc"), str(tmp_path / "a_scores.mrc"), "absent.mrc"])
    assert [Path(path).name for path in files] == ["a.mrc", "b.mrc", "a_scores.mrc", "absent.mrc"]
    with pytest.raises(UsageError, match="no such file"):
        expand([str(tmp_path / "*.rec")])


def test_the_record_says_how_it_was_made(tomogram: str, model: str, tmp_path: Path) -> None:
    segment_file(tomogram, settings(model), options(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "TS_1_segmented.json").read_text())
    assert record["recipe"]["input"]["name"] == "TS_1.mrc"
    assert record["recipe"]["segment"]["window"] == 16
    assert len(record["recipe"]["model_sha256"]) == 64
    assert set(record["outputs"]) == {"TS_1_scores.mrc", "TS_1_segmented.mrc"}
