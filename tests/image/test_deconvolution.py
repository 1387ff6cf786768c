"""The deconvolution filter against its closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.image.ctf import contrast_transfer, electron_wavelength_angstrom
from membrain_cloud.image.deconvolution import (
    Deconvolution,
    deconvolution_kernel,
    first_zero_per_angstrom,
)

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx

LENS: dict[str, float] = {
    "defocus_angstrom": 50000.0,
    "amplitude_contrast": 0.07,
    "spherical_aberration_mm": 2.7,
    "voltage_kv": 300.0,
}
FILTER: dict[str, Any] = LENS | {
    "strength": 1.0,
    "falloff": 1.0,
    "highpass_cycles_per_voxel": 0.02,
    "lowpass": True,
    "membrain_seg_radii": False,
}


def test_the_wavelength_is_the_relativistic_one() -> None:
    assert electron_wavelength_angstrom(300.0) == pytest.approx(0.0196875, rel=1e-4)
    assert electron_wavelength_angstrom(200.0) == pytest.approx(0.0250793, rel=1e-4)


def test_the_ctf_starts_at_the_amplitude_contrast_and_has_its_zero() -> None:
    assert contrast_transfer(np.zeros(1), **LENS)[0] == pytest.approx(0.07)
    zero = first_zero_per_angstrom(defocus_angstrom=50000.0, amplitude_contrast=0.07, voltage_kv=300.0)
    assert abs(contrast_transfer(np.array([zero]), **LENS)[0]) < 2e-3
    below = contrast_transfer(np.linspace(0, 0.99 * zero, 500), **LENS)
    assert (below > 0).all()


def kernel(shape: Zyx, changes: dict[str, Any]) -> Any:
    return deconvolution_kernel(shape, Deconvolution(**FILTER | changes), voxel_spacing_angstrom=10.0)


def wiener(cycles: float, *, lowpass: bool = True) -> float:
    """Return the filter at one frequency by the formula of its paper, with MemBrain-seg's constants."""
    cycles = cycles or 1e-3
    frequency = cycles / 10.0
    phase = math.pi * 0.019687489 * frequency**2 * (50000.0 - 0.5 * 0.019687489**2 * frequency**2 * 2.7e7)
    ctf = math.sqrt(1 - 0.07**2) * math.sin(phase) + 0.07 * math.cos(phase)
    ratio = 1000 * math.exp(-100 * frequency) * (1 - math.cos(min(1, cycles / 0.02) * math.pi / 2))
    if lowpass:
        zero = math.sqrt((math.pi - math.atan2(0.07, math.sqrt(1 - 0.07**2))) / (math.pi * 0.019687489 * 50000.0))
        ratio *= math.cos(min(1, frequency / zero) * math.pi / 2)
    return ctf / (ctf**2 + 1 / ratio) if ratio > 0 else 0.0


@pytest.mark.parametrize("lowpass", [True, False])
def test_the_kernel_is_the_wiener_filter_at_true_frequencies(lowpass: bool) -> None:
    shape: Zyx = (21, 40, 64)
    whole = kernel(shape, {"lowpass": lowpass})(range(40))
    assert whole.shape == (21, 40, 33)
    for z, y, x in ((0, 0, 0), (0, 0, 1), (1, 0, 0), (20, 39, 2), (10, 20, 32), (3, 7, 11)):
        cycles = math.sqrt((min(z, 21 - z) / 21) ** 2 + (min(y, 40 - y) / 40) ** 2 + (x / 64) ** 2)
        assert whole[z, y, x] == pytest.approx(wiener(cycles, lowpass=lowpass), rel=1e-3, abs=1e-5)


def test_in_a_cube_both_measures_of_frequency_differ_by_rounding() -> None:
    shape: Zyx = (32, 32, 32)
    right = kernel(shape, {})(range(32))
    theirs = kernel(shape, {"membrain_seg_radii": True})(range(32))
    np.testing.assert_allclose(theirs[0, 0], right[0, 0], atol=1e-6)  # whole radii
    assert abs(theirs[1, 1, 1] - right[1, 1, 1]) > 1e-3  # 1.73 is taken for 2


def test_in_a_flat_volume_true_frequencies_treat_z_like_other_axes() -> None:
    shape: Zyx = (32, 64, 64)
    right = kernel(shape, {})(range(64))
    np.testing.assert_allclose(right[3, 0, 0], right[0, 0, 6], rtol=1e-6)
    theirs = kernel(shape, {"membrain_seg_radii": True})(range(64))
    np.testing.assert_allclose(theirs[3, 0, 0], theirs[0, 0, 3], rtol=1e-6)
    assert abs(theirs[3, 0, 0] - right[3, 0, 0]) > 0.1


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("defocus_angstrom", 5.0, "50000"),
        ("defocus_angstrom", -50000.0, "underfocus"),
        ("defocus_angstrom", 0.0, "underfocus"),
        ("amplitude_contrast", 7.0, "unit"),
        ("voltage_kv", 300000.0, "unit"),
        ("spherical_aberration_mm", 2.7e7, "unit"),
        ("highpass_cycles_per_voxel", 2.0, "unit"),
        ("strength", float("nan"), "unit"),
        ("falloff", -1.0, "unit"),
    ],
)
def test_settings_in_a_wrong_unit_are_refused(name: str, value: float, cure: str) -> None:
    with pytest.raises(UsageError) as caught:
        kernel((16, 16, 16), {name: value})
    assert cure in caught.value.next_step
