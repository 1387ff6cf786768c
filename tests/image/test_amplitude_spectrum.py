"""Radial spectra against a direct transform, and matching: what comes out has the target's spectrum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.fft

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.image.amplitude_spectrum import (
    EqualizerLimits,
    Spectrum,
    bin_middles,
    check_spectrum,
    equalizer,
    equalizing_kernel,
    radial_spectrum,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.geometry import Zyx


def spectrum_of(volume: np.ndarray, spacing: float = 10.0) -> Spectrum:
    z, y, x = volume.shape
    half = np.fft.rfftn((volume - volume.mean()) / volume.std(), norm="forward")

    def columns() -> Iterator[tuple[range, np.ndarray]]:
        for start in range(0, y, 5):
            yield range(start, min(start + 5, y)), half[:, start : start + 5].astype(np.complex64)

    return radial_spectrum(
        columns(),
        (z, y, x),
        voxel_spacing_angstrom=spacing,
        lowest=float(volume.min()),
        highest=float(volume.max()),
        std=float(volume.std()),
    )


def coloured(shape: Zyx, slope: float, seed: int = 0) -> np.ndarray:
    frequencies = np.sqrt(sum(np.meshgrid(*(np.fft.fftfreq(n) ** 2 for n in shape), indexing="ij")))
    white = np.random.default_rng(seed).normal(size=shape)
    return np.fft.ifftn(np.fft.fftn(white) * np.exp(-slope * frequencies)).real + 5


def test_intensities_are_means_of_amplitudes_over_shells_up_to_the_corner() -> None:
    """MemBrain-seg's numbers in a cube of even edge: scaled to 0 ... 1, the whole transform, its first bin left out."""
    volume = coloured((24, 24, 24), 3.0)
    found = spectrum_of(volume)
    scaled = (volume - volume.min()) / (volume.max() - volume.min())
    amplitudes = np.abs(np.fft.fftshift(np.fft.fftn(scaled)))
    z, y, x = np.indices(volume.shape) - 12.0
    bins = (12 * np.hypot(np.hypot(y, z), x) / np.hypot(np.hypot(12.0, 12.0), 12.0)).astype(int)
    expected = [amplitudes[bins == number].mean() for number in range(1, 13)]
    np.testing.assert_allclose(found.intensity, expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(24, 24, 24), (16, 30, 41), (48, 20, 33)])
def test_white_noise_has_one_amplitude_whatever_the_shape(shape: Zyx) -> None:
    found = spectrum_of(np.random.default_rng(4).normal(7, 3, shape))
    assert found.amplitude is not None
    np.testing.assert_allclose(found.amplitude[2:-2], math.sqrt(math.pi) / 2, rtol=0.1)


def test_frequencies_are_physical() -> None:
    """A wave of 50 Å shows at 1/50 per Å, along any axis of a flat volume."""
    for axis, shape in enumerate([(40, 80, 80)] * 3):
        along = np.arange(shape[axis]) * 10.0
        wave = np.cos(2 * np.pi * along / 50.0).reshape([-1 if k == axis else 1 for k in range(3)])
        found = spectrum_of(wave + 1e-3 * np.random.default_rng(0).normal(size=shape))
        assert found.frequency_per_angstrom is not None
        top = found.frequency_per_angstrom[np.argmax(found.intensity)]
        assert abs(top - 1 / 50) < math.sqrt(3) / 80 / 10


def matched(volume: np.ndarray, target: Spectrum, spacing: float, **settings: float | bool | None) -> np.ndarray:
    given: dict[str, float | bool | None] = {
        "cutoff_angstrom": None,
        "smoothen_bins": 10.0,
        "almost_zero_cutoff": True,
        "largest_factor": 50.0,
    }
    z, y, x = volume.shape
    factors = equalizer(
        spectrum_of(volume, spacing),
        target,
        (z, y, x),
        EqualizerLimits(**given | settings),  # type: ignore[arg-type]
        voxel_spacing_angstrom=spacing,
    )
    kernel = equalizing_kernel((z, y, x), factors)(range(y))
    return scipy.fft.irfftn(scipy.fft.rfftn(volume) * kernel, (z, y, x))


@pytest.mark.parametrize("shape", [(32, 32, 32), (25, 40, 37)])
def test_the_matched_volume_has_the_targets_spectrum(shape: Zyx) -> None:
    target = spectrum_of(coloured((48, 48, 48), 6.0, seed=1), 8.0)
    result = spectrum_of(matched(coloured(shape, 1.0), target, 10.0), 10.0)
    assert target.frequency_per_angstrom is not None
    assert target.amplitude is not None
    assert result.amplitude is not None
    assert result.frequency_per_angstrom is not None
    wanted = np.interp(result.frequency_per_angstrom, target.frequency_per_angstrom, target.amplitude)
    ratio = result.amplitude / wanted
    np.testing.assert_allclose(ratio[1:-2] / np.median(ratio), 1.0, atol=0.08)


def test_a_spectrum_without_frequencies_is_of_a_cube_at_equal_spacing() -> None:
    volume = coloured((32, 32, 32), 2.0)
    full = spectrum_of(coloured((24, 24, 24), 4.0, seed=2))
    bare = Spectrum(full.intensity, None, None)
    named = Spectrum(full.intensity, full.frequency_per_angstrom, None)
    np.testing.assert_allclose(matched(volume, bare, 10.0), matched(volume, named, 10.0), rtol=1e-6)


def factors_of(**settings: float | bool | None) -> np.ndarray:
    given = Spectrum(np.full(48, 100.0), bin_middles((96, 96, 96), 48) / 10.0, np.full(48, 1.0))
    target = Spectrum(np.full(48, 200.0), given.frequency_per_angstrom, np.full(48, 2.0))
    target.intensity[30:] = settings.pop("rest", 200.0)  # type: ignore[call-overload]
    given_settings: dict[str, float | bool | None] = {
        "cutoff_angstrom": None,
        "smoothen_bins": 0.0,
        "almost_zero_cutoff": True,
        "largest_factor": None,
    }
    limits = EqualizerLimits(**given_settings | settings)  # type: ignore[arg-type]
    return equalizer(given, target, (96, 96, 96), limits, voxel_spacing_angstrom=10.0)


def test_factors_are_cut_smoothed_and_limited() -> None:
    np.testing.assert_array_equal(factors_of(), 2.0)
    np.testing.assert_array_equal(factors_of(largest_factor=1.5), 1.5)
    cut = factors_of(cutoff_angstrom=25.0)
    kept = bin_middles((96, 96, 96), 48) / 10.0 <= 1 / 25
    np.testing.assert_array_equal(cut, np.where(kept, 2.0, 0.0))
    nothing = factors_of(rest=0.0)
    assert (nothing[:26] == 2).all()  # four bins before the first that holds next to nothing
    assert not nothing[26:].any()
    np.testing.assert_array_equal(factors_of(rest=0.0, almost_zero_cutoff=False), 2.0)
    smooth = factors_of(cutoff_angstrom=25.0, smoothen_bins=2.0)
    assert (np.diff(smooth) <= 0).all()
    middle = int(kept.sum()) - 8  # four widths before the cut-off
    assert smooth[middle] == pytest.approx(1.0)


def test_a_cut_off_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves nothing"):
        factors_of(cutoff_angstrom=1e5)


@pytest.mark.parametrize(
    ("spectrum", "what"),
    [
        (Spectrum(np.ones(2), None, None), "2 values"),
        (Spectrum(np.array([1, 2, np.nan, 4.0]), None, None), "intensity"),
        (Spectrum(np.array([1, 2, -3, 4.0]), None, None), "intensity"),
        (Spectrum(np.zeros(8), None, None), "is 0"),
        (Spectrum(np.ones(4), np.array([1, 2, 2, 3.0]), None), "does not rise"),
        (Spectrum(np.ones(4), None, np.array([1, np.inf, 1, 1])), "amplitude"),
    ],
)
def test_bad_spectra_are_refused(spectrum: Spectrum, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        check_spectrum(spectrum, "target.tsv")
    assert "target.tsv" in caught.value.message
    assert "extract-spectrum" in caught.value.next_step
