"""Labelled volumes as a source of patches: checked, prepared once, cut where labels are not ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import InputError, TomogramError
from membrain_cloud.training.augmentation.policy import PRESETS
from membrain_cloud.training.segmentation.labelled_patches import (
    LabelledVolume,
    PlanewiseVolume,
    VolumePatches,
    prepare_volume,
    require_membrane,
)

if TYPE_CHECKING:
    from pathlib import Path


def volume(shape: tuple[int, int, int] = (40, 50, 60)) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).normal(7, 3, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[10:14] = 1
    return image, label


def prepared(
    folder: Path, image: np.ndarray, label: np.ndarray, *, identity: str = "1", margin: int = 8
) -> LabelledVolume:
    planes = PlanewiseVolume(image.shape, lambda a, b: image[a:b], lambda a, b: label[a:b], 10.0)  # type: ignore[arg-type]
    return prepare_volume(folder, "v", identity, lambda: planes, margin=margin)


def test_a_volume_is_normalised_and_prepared_once(tmp_path: Path) -> None:
    image, label = volume()
    made = prepared(tmp_path, image, label)
    np.testing.assert_allclose(made.image(), (image - image.mean()) / image.std(), atol=5e-3)
    np.testing.assert_array_equal(made.label(), label)
    assert made.membrane_voxels == 4 * 50 * 60
    assert len(made.cells()) == 3 * 4 * 4
    assert set(made.cells()[made.cells()[:, 3] == 1][:, 0]) == {0}

    def never() -> PlanewiseVolume:
        raise AssertionError("read again")

    assert prepare_volume(tmp_path, "v", "1", never, margin=8) == made
    with pytest.raises(AssertionError, match="read again"):
        prepare_volume(tmp_path, "v", "2", never, margin=8)


def test_volumes_are_cropped_to_the_labelled_part_with_a_margin(tmp_path: Path) -> None:
    image, label = volume((64, 96, 96))
    label[:] = 2
    label[20:24, 40:60, 50:70] = 1
    made = prepared(tmp_path, image, label, margin=16)
    # Cells 16-32, 32-64, 48-80, and 16 voxels more on each side.
    np.testing.assert_array_equal(made.label(), label[0:48, 16:80, 32:96])
    np.testing.assert_allclose(made.image(), ((image - image.mean()) / image.std())[0:48, 16:80, 32:96], atol=5e-3)
    source = VolumePatches((made,), 32, PRESETS["none"])
    assert all((source.patch(3, n).label == 1).any() for n in range(12))


def test_patches_are_reproducible_and_a_pass_takes_every_volume(tmp_path: Path) -> None:
    volumes = []
    for k in range(3):
        image, label = volume((24, 24, 24))
        label[:] = 0
        label[k] = 1  # identifies the volume of a patch
        volumes.append(prepared(tmp_path / str(k), image, label))
    source = VolumePatches(tuple(volumes), 24, PRESETS["none"])
    for first in (0, 3, 6):
        patches = [source.patch(1, n) for n in range(first, first + 3)]
        assert sorted(int(np.argmax((p.label == 1).any(axis=(1, 2)))) for p in patches) == [0, 1, 2]
    turned = VolumePatches(tuple(volumes), 16, PRESETS["membrain-seg"])
    np.testing.assert_array_equal(turned.patch(1, 5).image, turned.patch(1, 5).image)
    assert not np.array_equal(turned.patch(1, 5).image, turned.patch(2, 5).image)
    assert source.identity != turned.identity


def test_a_small_volume_is_centred_in_ignored_voxels(tmp_path: Path) -> None:
    image, label = volume((20, 20, 20))
    patch = VolumePatches((prepared(tmp_path, image, label),), 32, PRESETS["none"]).patch(1, 0)
    assert (patch.label[6:26, 6:26, 6:26] == label).all()
    assert (patch.label != 2).sum() == 20**3


def test_volumes_that_cannot_be_trained_on_are_refused_by_name(tmp_path: Path) -> None:
    image, label = volume()
    with pytest.raises(InputError, match="v: every voxel is labelled ignore"):
        prepared(tmp_path, image, np.full_like(label, 2))
    with pytest.raises(InputError, match="v: labels hold the value 5"):
        prepared(tmp_path, image, np.where(label == 1, 5, label))
    with pytest.raises(InputError, match=r"v: labels hold the value 0\.5"):
        prepared(tmp_path, image, label / 2)
    with pytest.raises(TomogramError, match="v: the image is constant"):
        prepared(tmp_path, np.full_like(image, 3.0), label)
    broken = image.copy()
    broken[30, 4, 4] = np.nan
    with pytest.raises(TomogramError, match="v: the image holds values that are not finite"):
        prepared(tmp_path, broken, label)
    with pytest.raises(InputError, match="no voxel is labelled membrane in v"):
        require_membrane([prepared(tmp_path, image, np.zeros_like(label))])
    # Whole numbers may be stored as floats.
    assert prepared(tmp_path, image, label.astype(np.float64), identity="f").membrane_voxels == 4 * 50 * 60
