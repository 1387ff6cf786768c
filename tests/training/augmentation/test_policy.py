"""Augmentations: the effect of each on a patch, and reproducibility."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

from membrain_cloud.errors import UsageError
from membrain_cloud.image.rank_median import median
from membrain_cloud.training.augmentation import fourier, geometric, intensity
from membrain_cloud.training.augmentation.policy import CHANCES, PRESETS, Augmentations


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((20, 21, 22)), 1.0)
    return intensity.normalise(smooth.astype(np.float32))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_the_median_is_scipys_but_for_its_256_levels(image: np.ndarray, size: int) -> None:
    expected = ndimage.median_filter(image, size, mode="reflect")
    found = median(image, size)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.08
    assert np.abs(found - expected).mean() < 0.01


def test_the_median_of_few_values_is_exact() -> None:
    values = np.random.default_rng(1).integers(0, 5, (12, 13, 14)).astype(np.float32)
    np.testing.assert_array_equal(median(values, 3), ndimage.median_filter(values, 3, mode="reflect"))
    np.testing.assert_array_equal(median(np.full((4, 4, 4), 2.0, np.float32), 3), 2)


@pytest.mark.parametrize("name", CHANCES)
def test_each_augmentation_changes_a_patch_and_is_reproducible(image: np.ndarray, name: str) -> None:
    only = Augmentations().with_chances({name: 1.0})
    label = (image > 1).astype(np.uint8)

    def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
        source = rng(seed)
        patch, truth = only.cut_patch(image, label, np.array([9.5, 9.5, 9.5]), 20, source)
        return only.augment_intensity(patch, source), truth

    plain = PRESETS["none"].cut_patch(image, label, np.array([9.5, 9.5, 9.5]), 20, rng())[0]
    plain = intensity.normalise(plain)
    (first, truth), (again, _), (other, _) = drawn(3), drawn(3), drawn(4)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (20, 20, 20)
    assert first.dtype == np.float32
    assert truth.dtype == np.uint8
    assert np.isfinite(first).all()
    assert any(not np.allclose(found, plain, atol=1e-4) for found in (first, other))


def test_presets_stay_finite_and_simulated_ends_normalised(image: np.ndarray) -> None:
    original = image.copy()
    for seed in range(20):
        for name in ("simulated", "membrain-seg"):
            out = PRESETS[name].augment_intensity(image, rng(seed))
            assert np.isfinite(out).all()
            if name == "simulated":
                assert abs(out.mean()) < 1e-4
                assert out.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(image, original)
    assert (intensity.normalise(np.ones((4, 4, 4), np.float32)) == 0).all()


def test_a_missing_wedge_empties_only_its_part_of_fourier_space(image: np.ndarray) -> None:
    odd = image[:19, :19, :19]  # without the plane of the Nyquist frequency, which holds both signs
    before = np.abs(fft.rfftn(odd))
    after = np.abs(fft.rfftn(fourier.missing_wedge(odd, rng(2), tilt_degrees=(60.0, 60.0))))
    gone = after < 1e-3 * before.mean()
    assert gone.mean() == pytest.approx(30 / 90, abs=0.06)  # 60 of 90 degrees are left
    kept = ~gone & (before > 1)
    ratio = after[kept] / before[kept]
    assert ratio.std() / ratio.mean() < 1e-3


def test_fourier_amplitude_scales_shells_and_keeps_phases(image: np.ndarray) -> None:
    factor = fft.rfftn(fourier.fourier_amplitude(image, rng(1), 0.2))[1:, 1:, 1:-1] / fft.rfftn(image)[1:, 1:, 1:-1]
    assert np.abs(factor.imag).max() < 1e-2 * np.abs(factor.real).max()
    assert factor.real.min() > 0
    assert factor.real.max() > 1.05 * factor.real.min()


def test_sharpening_is_the_laplacian_with_reflected_borders(image: np.ndarray) -> None:
    kernel = -0.5 * ndimage.generate_binary_structure(3, 1).astype(np.float32)
    kernel[1, 1, 1] = 1 + 0.5 * 6
    expected = ndimage.convolve(image, kernel, mode="reflect")
    np.testing.assert_allclose(intensity.sharpen(image, rng(), strength=(0.5, 0.5)), expected, atol=1e-5)


def test_gamma_both_ways_keeps_mean_and_deviation(image: np.ndarray) -> None:
    changed = intensity.gamma_both_ways(image, rng(5), exponent=(2.0, 2.0))
    assert changed.mean() == pytest.approx(image.mean(), abs=1e-3)
    assert changed.std() == pytest.approx(image.std(), rel=1e-3)
    assert np.corrcoef(changed.ravel(), image.ravel())[0, 1] > 0.8  # dark stays dark


def test_a_rotation_applies_to_image_and_label() -> None:
    volume = np.zeros((40, 40, 40), np.float32)
    volume[:, 19:22] = 1
    label = volume.astype(np.uint8)
    matrix = geometric.random_rotation(rng(7), 30.0)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    patch, truth = geometric.cut_patch(volume, label, np.array([19.5, 19.5, 19.5]), 16, matrix)
    assert set(np.unique(truth)) == {0, 1}  # the volume reaches into all corners
    assert np.abs(patch - truth).mean() < 0.06
    whole, cut_off = geometric.cut_patch(volume, label, np.array([19.5, 19.5, 19.5]), 40, matrix)
    assert 0.1 < (cut_off == 2).mean() < 0.6
    assert np.isfinite(whole).all()
    # A quarter turn by the matrix is numpy's.
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    noise = rng(8).standard_normal((9, 9, 9)).astype(np.float32)
    turned, _ = geometric.cut_patch(noise, label[:9, :9, :9], np.array([4.0, 4.0, 4.0]), 9, quarter)
    np.testing.assert_allclose(turned, np.rot90(noise, -1, (0, 1)), atol=1e-6)


def test_a_patch_beyond_the_border_is_filled_with_ignored_zeros() -> None:
    volume = rng(1).standard_normal((6, 9, 9)).astype(np.float32)
    label = np.ones((6, 9, 9), np.uint8)
    patch, truth = geometric.cut_patch(volume, label, np.array([2.5, 3.5, 3.5]), 8, None)
    np.testing.assert_array_equal(patch[1:7], volume[:, :8, :8])
    assert (patch[[0, 7]] == 0).all()
    assert (truth[[0, 7]] == 2).all()
    assert (truth[1:7] == 1).all()


def test_magnification_by_two_shows_half_as_much() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (32, 32, 32))
    label = np.zeros((32, 32, 32), np.uint8)
    patch, _ = geometric.cut_patch(ramp, label, np.array([15.5, 15.5, 15.5]), 16, np.eye(3) / 2)
    np.testing.assert_allclose(patch[0, 0], 15.5 + (np.arange(16) - 7.5) / 2, atol=1e-5)


def test_unknown_names_and_bad_probabilities_are_refused() -> None:
    with pytest.raises(UsageError, match="no augmentations 'all'"):
        Augmentations.preset("all")
    with pytest.raises(UsageError, match="no augmentation 'blur'"):
        Augmentations().with_chances({"blur": 0.5})
    with pytest.raises(UsageError, match="chance of flip is 2"):
        Augmentations().with_chances({"flip": 2.0})
