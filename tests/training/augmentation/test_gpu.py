"""Imaging and changes of intensity in torch against NumPy, on the CPU and on a GPU if there is one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from membrain_cloud.simulation.imaging import Imaging, image_density
from membrain_cloud.training.augmentation.gpu import (
    all_supported,
    augment_intensity,
    collate_specimens,
    image_densities,
)
from membrain_cloud.training.augmentation.policy import CHANCES, PRESETS
from membrain_cloud.training.segmentation.batches import batches
from membrain_cloud.training.segmentation.config import SegmentationTraining
from membrain_cloud.training.segmentation.simulated_patches import SpecimenPatches, random_imaging

if TYPE_CHECKING:
    from pathlib import Path

EDGE = 40
DEVICES = [torch.device(name) for name in (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))]
SIMULATED = PRESETS["simulated"]
INTENSITY = SIMULATED.intensity_names()


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Return files of noise in place of specimens."""
    folder, rng = tmp_path_factory.mktemp("pool"), np.random.default_rng(0)
    for k in range(2):
        density = rng.standard_normal((48, 48, 48)).astype(np.float16)
        label = (rng.random(density.shape) < 0.3).astype(np.uint8)
        np.savez(folder / f"{k}.npz", density=density, label=label, facts='{"voxel_spacing_angstrom": 10.0}')
    return tuple(sorted(folder.glob("*.npz")))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_specimens_are_imaged_as_in_numpy(device: torch.device) -> None:
    rng = np.random.default_rng(0)
    # The last tilt must not hit a frequency exactly: rounding would decide whether that is measured.
    imagings = [replace(random_imaging(rng), tilt_range_degrees=angle) for angle in (52.3, 58.1, 90.0)]
    imagings += [
        Imaging(defocus_um=0, background_fraction=0, tilt_range_degrees=57.0),
        replace(imagings[0], phase_flipped=True),
    ]
    spacings = [8.0, 10.0, 13.5, 10.0, 10.0]
    density = rng.standard_normal((len(spacings), EDGE, EDGE, EDGE)).astype(np.float32)
    measured = slice(8, 30)
    expected, white = [], []
    for seed, (volume, spacing, imaging) in enumerate(zip(density, spacings, imagings, strict=True)):
        expected.append(image_density(volume, spacing, imaging, seed, measured=(measured,) * 3))
        drawn = np.random.default_rng(seed)
        white.append(np.stack([drawn.standard_normal(volume.shape, dtype=np.float32) for _ in range(2)]))
    given = torch.from_numpy(density).to(device), torch.from_numpy(np.stack(white)).to(device)
    found = image_densities(given[0], spacings, imagings, given[1], measured=measured).cpu().numpy()
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) < 2e-5 * np.linalg.norm(other)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("each_axis", [False, True])
@pytest.mark.parametrize("name", [name for name in INTENSITY if getattr(SIMULATED, name)])
def test_intensities_change_as_in_numpy(name: str, each_axis: bool, device: torch.device) -> None:
    only = replace(PRESETS["none"], gaussian_each_axis=each_axis, gamma_exponent=(0.7, 1.5), **{name: 1.0})
    image = np.random.default_rng(5).normal(3, 2, (EDGE, EDGE, EDGE)).astype(np.float32)
    for seed, normalised in itertools.product(range(2), (False, True)):
        wanted = replace(only, normalised=normalised)
        expected = wanted.augment_intensity(image, np.random.default_rng(seed))
        found = augment_intensity(torch.from_numpy(image).to(device), wanted, np.random.default_rng(seed)).cpu().numpy()
        np.testing.assert_allclose(found, expected, atol=3e-5)
        unchanged = replace(PRESETS["none"], normalised=normalised).augment_intensity(
            image, np.random.default_rng(seed)
        )
        assert np.abs(found - unchanged).max() > 0.01


def test_changes_that_the_gpu_lacks_are_reported() -> None:
    assert all_supported(SIMULATED)
    assert all_supported(PRESETS["none"])
    assert not all_supported(PRESETS["membrain-seg"])
    assert not all_supported(SIMULATED.with_chances({"median": 0.1}))
    assert set(INTENSITY) < set(CHANCES)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_patches_do_not_depend_on_the_number_imaged_at_once(specimens: tuple[Path, ...], device: torch.device) -> None:
    source = SpecimenPatches(specimens, 16, SIMULATED)
    pieces = [source.unimaged(3, n) for n in range(6)]
    images, labels = source.image(collate_specimens(pieces), device, 2)
    assert images.shape == labels.shape == (6, 1, 16, 16, 16)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
    again, those = source.image(collate_specimens(pieces[2:4]), device, 2)
    assert torch.allclose(images[2:4], again, atol=1e-4)
    assert torch.equal(labels[2:4], those)
    assert not torch.allclose(images[0], images[1])
    for image, (_, label, conditions) in zip(images, pieces, strict=True):
        if conditions.sign < 0:
            assert not label.any()
        assert not image[0][conditions.outside].any()
        assert not label[conditions.outside].any()


def test_some_patches_are_inverted_or_reach_beyond_the_volume(specimens: tuple[Path, ...]) -> None:
    source = SpecimenPatches(specimens, 16, PRESETS["none"])
    inverted = bordered = 0
    for n in range(200):
        _, label, conditions = source.unimaged(1, n)
        patch = source.patch(1, n)
        np.testing.assert_array_equal(patch.label, label)
        outside = np.zeros(label.shape, bool)
        outside[conditions.outside] = True
        assert not patch.image[outside].any()
        assert patch.image[~outside].all()
        assert label[~outside].any() == (conditions.sign > 0)
        inverted += conditions.sign < 0
        bordered += outside.any()
        assert outside.mean() <= 0.5
    assert 5 <= inverted <= 30
    assert 15 <= bordered <= 50


def test_batches_are_imaged_on_the_device_if_it_supports_them(
    specimens: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path for GPUs, with a stand-in for the imaging."""
    settings = SegmentationTraining(channels=(4, 4, 4), window=16, batch=2, workers=0)
    monkeypatch.setattr(SpecimenPatches, "image", lambda self, pieces, device, batch: (pieces[0][:, None], pieces[1]))
    source = SpecimenPatches(specimens, 16, SIMULATED)
    made = list(batches(source, settings, 7, 4, 40, torch.device("cuda")))
    assert [len(image) for image, _ in made] == [2] * 20
    for k, (image, label) in enumerate(made):
        density, truth, _ = source.unimaged(7, 4 + 2 * k)
        np.testing.assert_array_equal(image[0, 0].numpy(), density)
        np.testing.assert_array_equal(label[0, 0].numpy(), truth)
    other = SpecimenPatches(specimens, 16, PRESETS["membrain-seg"])
    image, _ = next(batches(other, settings, 7, 0, 2, torch.device("cuda")))
    np.testing.assert_array_equal(image[0, 0].numpy(), other.patch(7, 0).image)
