"""Patches for a segmentation training: the split for validation, the description, and one voxel spacing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest

from membrain_cloud.errors import UsageError, VoxelSpacingError
from membrain_cloud.pipeline.training.segmentation_data import TrainingData, prepare_data, require_one_spacing
from membrain_cloud.training.augmentation.policy import PRESETS
from membrain_cloud.training.segmentation.config import SegmentationTraining
from membrain_cloud.training.segmentation.labelled_patches import VolumePatches

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = SegmentationTraining(channels=(4, 8, 8), window=16, batch=1, augmentations=PRESETS["membrain-seg"])


def write_mrc(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as file:
        file.set_data(array)
        file.voxel_size = 12.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of six volumes, all with membrane."""
    label = np.zeros((20, 20, 20), np.int8)
    label[8:11] = 1
    for k in range(6):
        noise = np.random.default_rng(k).standard_normal(label.shape).astype(np.float32)
        write_mrc(tmp_path / "data" / "imagesTr" / f"v{k}_0000.mrc", noise)
        write_mrc(tmp_path / "data" / "labelsTr" / f"v{k}.mrc", label)
    return tmp_path / "data"


def test_every_fifth_volume_of_a_folder_is_held_out(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    prepared = prepare_data(
        TrainingData(f"{folder}/../data"),
        tmp_path / "work",
        SETTINGS,
        fine_tuning=False,
        progress=lambda _, line: lines.append(line),
    )
    training, validation = prepared.training, prepared.validation
    assert isinstance(training, VolumePatches)
    assert isinstance(validation, VolumePatches)
    assert [volume.name for volume in validation.labelled] == ["v4"]
    assert [volume.name for volume in training.labelled] == ["v0", "v1", "v2", "v3", "v5"]
    assert (training.augmentations, validation.augmentations) == (PRESETS["membrain-seg"], PRESETS["none"])
    assert prepared.trained_on == {"source": "data", "labels": [], "volumes": ["v0", "v1", "v2", "v3", "v5"]}
    assert prepared.voxel_spacing_angstrom == 12.0
    assert lines == ["5 volumes to train on"]


def test_a_single_volume_is_validated_on_as_well(folder: Path, tmp_path: Path) -> None:
    for path in [*folder.glob("*/v[1-5]*")]:
        path.unlink()
    lines: list[str] = []
    prepared = prepare_data(
        TrainingData(str(folder)),
        tmp_path / "work",
        SETTINGS,
        fine_tuning=False,
        progress=lambda _, line: lines.append(line),
    )
    for source in (prepared.training, prepared.validation):
        assert isinstance(source, VolumePatches)
        assert [volume.name for volume in source.labelled] == ["v0"]
    assert "too few have membranes" in lines[0]


def test_labels_need_a_project(folder: Path, tmp_path: Path) -> None:
    data = TrainingData(str(folder), labels=("membrane:alice/1",))
    with pytest.raises(UsageError, match="labels and runs are for copick projects -> leave them out"):
        prepare_data(data, tmp_path, SETTINGS, fine_tuning=False, progress=lambda *_: None)


def test_voxel_spacings_of_one_training_agree() -> None:
    assert require_one_spacing([None, None], "x") is None
    assert require_one_spacing([10.0, None, 10.4, 10.1], "x") == 10.1
    with pytest.raises(VoxelSpacingError, match="x: voxels of 10 and of 11 Å in one training"):
        require_one_spacing([11.0, 10.0], "x")
