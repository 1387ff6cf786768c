"""Masks, components and skeletons of files: correct, on the input's grid, and written whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from membrain_cloud.errors import TomogramError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Box, iterate_chunks
from membrain_cloud.image.connected_components import find_components
from membrain_cloud.image.skeleton import skeletonize
from membrain_cloud.pipeline.files import postprocess

SHAPE = (30, 34, 38)


@pytest.fixture
def scores() -> np.ndarray:
    """Return a shell of score 3 and a smaller one of score 1, in noise."""
    z, y, x = np.indices(SHAPE)
    large = np.abs(np.sqrt((z - 14) ** 2 + (y - 15) ** 2 + (x - 15) ** 2) - 9) < 2
    small = np.abs(np.sqrt((z - 15) ** 2 + (y - 25) ** 2 + (x - 31) ** 2) - 4) < 1.5
    noise = np.random.default_rng(0).normal(0, 0.1, SHAPE)
    return (np.where(large, 3.0, np.where(small, 1.0, -4.0)) + noise).astype(np.float32)


def mrc(path: Path, array: np.ndarray, spacing: float = 7.5) -> str:
    with mrcfile.new(path) as file:
        file.set_data(array)
        file.voxel_size = spacing
        file.header.origin.x, file.header.origin.z = 12.5, -300.0
    return str(path)


def read(path: str) -> np.ndarray:
    with mrcfile.open(path) as file:
        assert float(file.voxel_size.x) == pytest.approx(7.5)
        assert (float(file.header.origin.x), float(file.header.origin.z)) == (12.5, -300.0)
        return file.data.copy()


def kwargs(output: Path, **more: object) -> dict[str, object]:
    return {"output": str(output), "voxel_spacing_angstrom": None, "overwrite": False, **more}


def test_masks_of_stored_scores(tmp_path: Path, scores: np.ndarray) -> None:
    path = mrc(tmp_path / "TS_1_scores.mrc", scores)
    made = postprocess.threshold_file(path, [-1.5, 0, 2.0], **kwargs(tmp_path / "out"))  # type: ignore[arg-type]
    names = [f"TS_1_scores_threshold_{t}.mrc" for t in ("-1.5", "0.0", "2.0")]  # as `membrain thresholds` names them
    assert [Path(name).name for name in made.outputs] == names
    for name, threshold, count in zip(made.outputs, (-1.5, 0.0, 2.0), made.counts, strict=True):
        mask = read(name)
        assert mask.dtype == np.int8
        np.testing.assert_array_equal(mask, scores > threshold)
        assert count == mask.sum()
    assert made.notes == ()


def test_a_compressed_file_and_half_precision(tmp_path: Path, scores: np.ndarray) -> None:
    halves = scores.astype(np.float16)
    path = mrc(tmp_path / "a.mrc", halves)
    packed = tmp_path / "b.mrc.gz"
    packed.write_bytes(gzip.compress(Path(path).read_bytes()))
    made = postprocess.threshold_file(str(packed), [0.3], **kwargs(tmp_path / "out"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(read(made.outputs[0]), halves > np.float32(0.3))
    assert made.outputs[0].endswith("out/b_threshold_0.3.mrc")


def test_components_of_a_mask(tmp_path: Path, scores: np.ndarray) -> None:
    mask = (scores > 0).astype(np.int8)
    mask[0, 0, 0] = mask[29, 33, 37] = 1
    path = mrc(tmp_path / "TS_1_segmented.mrc", mask)
    made = postprocess.components_file(path, min_voxels=1, **kwargs(tmp_path))  # type: ignore[arg-type]
    assert made.outputs == (str(tmp_path / "TS_1_segmented_components.mrc"),)
    labels = read(made.outputs[0])
    assert made.counts == (4,)
    assert labels[0, 0, 0] == 1  # numbered by the first voxel
    np.testing.assert_array_equal(labels != 0, mask != 0)
    made = postprocess.components_file(path, min_voxels=2, **kwargs(tmp_path / "b"))  # type: ignore[arg-type]
    assert made.counts == (2,)
    assert sorted(np.unique(read(made.outputs[0]))) == [0, 1, 2]


def test_many_components_take_a_wider_type(tmp_path: Path) -> None:
    mask = np.zeros((4, 40, 40), np.int8)
    mask[::2, ::2, ::2] = 1
    path = mrc(tmp_path / "a.mrc", mask)
    made = postprocess.components_file(path, min_voxels=1, **kwargs(tmp_path))  # type: ignore[arg-type]
    labels = read(made.outputs[0])
    assert labels.dtype == np.int16
    np.testing.assert_array_equal(labels[mask != 0], np.arange(1, 801))
    components = find_components(lambda box: mask[box.slices], mask.shape, min_voxels=1, slab_voxels=1600)  # type: ignore[arg-type]
    assert components.count == 800


def test_the_skeleton_of_a_mask(tmp_path: Path, scores: np.ndarray) -> None:
    path = mrc(tmp_path / "TS_1_segmented.mrc", (scores > 0).astype(np.int8))
    made = postprocess.skeletonize_file(path, **kwargs(tmp_path))  # type: ignore[arg-type]
    thin = read(made.outputs[0])
    assert made.outputs == (str(tmp_path / "TS_1_segmented_skel.mrc"),)
    np.testing.assert_array_equal(thin, skeletonize(scores > 0))
    assert made.counts == (int(thin.sum()),)


def test_an_existing_output_is_kept_unless_overwrite(tmp_path: Path, scores: np.ndarray) -> None:
    path = mrc(tmp_path / "a.mrc", scores)
    postprocess.threshold_file(path, [0.0], **kwargs(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="exists"):
        postprocess.threshold_file(path, [0.0], **kwargs(tmp_path))  # type: ignore[arg-type]
    postprocess.threshold_file(path, [0.0], **kwargs(tmp_path, overwrite=True))  # type: ignore[arg-type]


def test_bad_files_are_refused_and_leave_nothing(tmp_path: Path, scores: np.ndarray) -> None:
    out = tmp_path / "out"
    labels = mrc(tmp_path / "labels.mrc", (scores > 0).astype(np.int8))
    with pytest.raises(TomogramError, match="no scores"):
        postprocess.threshold_file(labels, [0.0], **kwargs(out))  # type: ignore[arg-type]
    with pytest.raises(TomogramError, match="no such file"):
        postprocess.skeletonize_file(str(tmp_path / "absent.mrc"), **kwargs(out))  # type: ignore[arg-type]
    unknown = mrc(tmp_path / "unknown.mrc", scores, 1.0)
    with pytest.raises(VoxelSpacingError, match="voxel_spacing_angstrom"):
        postprocess.threshold_file(unknown, [0.0], **kwargs(out))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threshold"):
        postprocess.threshold_file(unknown, [], **kwargs(out))  # type: ignore[arg-type]
    assert not out.exists()
    made = postprocess.threshold_file(unknown, [0.0], **kwargs(out, voxel_spacing_angstrom=7.5))  # type: ignore[arg-type]
    np.testing.assert_array_equal(read(made.outputs[0]), scores > 0)


def test_uncertainty_does_not_depend_on_the_planes_read_at_once(
    tmp_path: Path, scores: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    variance = np.random.default_rng(1).random(SHAPE).astype(np.float32)
    frame = postprocess.Frame(SHAPE, 7.5, (12.5, 0.0, -300.0))

    def make(name: str) -> np.ndarray:
        path = str(tmp_path / name)
        postprocess.write_uncertainty(
            frame, path, lambda box: variance[box.slices], lambda box: scores[box.slices] > 0, overwrite=False
        )
        return read(path)

    whole = make("whole.mrc")
    monkeypatch.setattr(postprocess, "planes", lambda shape: iterate_chunks(shape, (4, *shape[1:])))
    np.testing.assert_array_equal(make("parts.mrc"), whole)
    assert not np.array_equal(whole, variance)


def test_patterns_leave_out_outputs() -> None:
    for name in ("a_scores.mrc", "x/a_segmented.mrc", "a_segmented_skel.mrc", "a_scores_threshold_0.0.mrc"):
        assert postprocess.is_output(name)
    for name in ("a.mrc", "a.mrc.gz", "scores.mrc", "a_segmented_by_hand.mrc"):
        assert not postprocess.is_output(name)


def test_planes_tile_a_volume() -> None:
    boxes = list(postprocess.planes((10, 4, 5), voxels=65))
    assert [box.start[0] for box in boxes] == [0, 3, 6, 9]
    assert boxes[-1] == Box((9, 0, 0), (10, 4, 5))
    assert len(list(postprocess.planes((3, 40, 50), voxels=65))) == 3
