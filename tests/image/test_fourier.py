"""The transform in three passes is the whole-volume transform, however it is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.fft

from membrain_cloud.errors import UsageError
from membrain_cloud.image.fourier import (
    Affine,
    FourierVolume,
    Kernel,
    cycles_per_voxel,
    half_weights,
    radial_kernel,
    scratch_shape,
)

if TYPE_CHECKING:
    from membrain_cloud.geometry import Box, Zyx


class Memory:
    def __init__(self, shape: Zyx) -> None:
        self.array = np.full(shape, np.nan, np.complex64)

    def read(self, box: Box) -> np.ndarray:
        return self.array[box.slices].copy()

    def write(self, box: Box, array: np.ndarray) -> None:
        self.array[box.slices] = array


def filtered(
    volume: np.ndarray, target: Zyx, kernel: Kernel | None, memory_bytes: int = 1 << 28
) -> tuple[np.ndarray, float, float]:
    z, y, x = volume.shape
    mean, std = float(volume.mean(dtype=np.float64)), float(volume.std(dtype=np.float64))
    scratch, done = Memory(scratch_shape((z, y, x), target)), []
    transform = FourierVolume((z, y, x), target, scratch, memory_bytes=memory_bytes, threads=1, advance=done.append)
    transform.load(lambda box: volume[box.slices], Affine(mean, std))
    zero, power = transform.filter(kernel)
    out = np.empty(target, np.float32)
    for box, values in transform.planes():
        out[box.slices] = values
    assert sum(done) == z + target[1] + target[0]
    return out * std + mean * zero, zero, power * std


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(1).normal(50, 3, (21, 24, 30)).astype(np.float32)


@pytest.mark.parametrize("memory_bytes", [1 << 28, 40_000])
@pytest.mark.parametrize("shape", [(21, 24, 30), (20, 23, 29)])
def test_a_filter_equals_the_whole_volume_transform(noise: np.ndarray, shape: Zyx, memory_bytes: int) -> None:
    volume = noise[tuple(slice(n) for n in shape)]
    kernel = radial_kernel(shape, lambda f: 0.5 + np.exp(-8 * f), spacings=cycles_per_voxel(shape))
    found, zero, std = filtered(volume, shape, kernel, memory_bytes)
    lengths = np.sqrt(
        np.fft.fftfreq(shape[0])[:, None, None] ** 2
        + np.fft.fftfreq(shape[1])[:, None] ** 2
        + np.fft.rfftfreq(shape[2]) ** 2
    )
    expected = scipy.fft.irfftn(scipy.fft.rfftn(volume.astype(np.float64)) * (0.5 + np.exp(-8 * lengths)), shape)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert zero == pytest.approx(1.5)
    assert std == pytest.approx(expected.std(), rel=1e-5)


def test_cuts_do_not_change_the_result(noise: np.ndarray) -> None:
    shape: Zyx = (21, 24, 30)
    kernel = radial_kernel(shape, lambda f: np.exp(-3 * f), spacings=cycles_per_voxel(shape))
    whole, *_ = filtered(noise, shape, kernel)
    for memory_bytes in (24 * 30 * 28, 70_000, 200_000):
        cut, *_ = filtered(noise, shape, kernel, memory_bytes)
        np.testing.assert_allclose(cut, whole, atol=1e-5)


def test_nothing_is_done_without_a_kernel(noise: np.ndarray) -> None:
    found, zero, _ = filtered(noise, (21, 24, 30), None)
    np.testing.assert_allclose(found, noise, atol=1e-4)
    assert zero == 1


@pytest.mark.parametrize("target", [(16, 18, 22), (26, 30, 36), (16, 30, 30), (21, 20, 40), (15, 17, 23), (27, 25, 33)])
def test_resampling_keeps_a_band_limited_density(target: Zyx) -> None:
    """Waves that both grids can hold stay the same function of place, and keep their amplitude."""

    def density(shape: Zyx) -> np.ndarray:
        z, y, x = (np.arange(n) / n for n in shape)
        waves = 7 + np.cos(2 * np.pi * 3 * z)[:, None, None] * np.sin(2 * np.pi * 5 * y)[:, None]
        return (waves + np.cos(2 * np.pi * (4 * x + 2 * y[:, None] - 6 * z[:, None, None]))).astype(np.float32)

    found, *_ = filtered(density((21, 24, 30)), target, None)
    np.testing.assert_allclose(found, density(target), atol=2e-5)


@pytest.mark.parametrize(("length", "target"), [(24, 16), (24, 17), (25, 16), (16, 24), (16, 25), (17, 24), (25, 24)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_highest_frequency_is_shared_between_plus_and_minus(length: int, target: int, axis: int) -> None:
    values = np.random.default_rng(2).normal(size=length)
    top = min(length, target) // 2
    places = np.arange(target) / target
    expected = np.zeros(target, complex)
    for k in range(-top, top + 1):
        share = 0.5 if 2 * abs(k) == min(length, target) else 1.0
        expected += share * np.fft.fft(values)[k % length] * np.exp(2j * np.pi * k * places)
    shape, targets = [4, 4, 4], [4, 4, 4]
    shape[axis], targets[axis] = length, target
    volume = np.broadcast_to(np.moveaxis(values[:, None, None], 0, axis), shape).astype(np.float32)
    found, *_ = filtered(volume, tuple(targets), None)  # type: ignore[arg-type]
    line = np.moveaxis(found, axis, 0)[:, 0, 0]
    np.testing.assert_allclose(line, np.real(expected) / length, atol=1e-5)


@pytest.mark.parametrize("target", [(16, 18, 22), (26, 30, 36)])
def test_a_mirrored_volume_gives_the_mirrored_result(noise: np.ndarray, target: Zyx) -> None:
    def mirrored(array: np.ndarray) -> np.ndarray:  # about voxel 0, which stays where it is
        return np.roll(array[:, ::-1], 1, axis=1)

    straight, *_ = filtered(noise, target, None)
    turned, *_ = filtered(mirrored(noise), target, None)
    np.testing.assert_allclose(turned, mirrored(straight), atol=1e-4)


def test_large_offsets_lose_no_digits() -> None:
    small = np.random.default_rng(3).integers(0, 50, (16, 16, 16)).astype(np.uint16)
    found, *_ = filtered(small + np.uint16(60000), (16, 16, 16), None)
    np.testing.assert_allclose(found - 60000, small, atol=0.01)


def test_too_little_memory_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="MiB") as caught:
        FourierVolume((16, 512, 512), (16, 512, 512), Memory((1, 1, 1)), memory_bytes=1000, threads=1, advance=print)
    assert "memory_gib" in caught.value.next_step


def test_half_weights_count_the_whole_spectrum() -> None:
    for length in (1, 2, 7, 8):
        assert half_weights(length).sum() == length
