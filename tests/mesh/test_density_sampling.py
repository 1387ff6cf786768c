"""Sampling along normals: right places, right numbers, never quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Box, Grid
from membrain_cloud.mesh import density_sampling as sampling
from membrain_cloud.mesh.density_sampling import profiles_from_volume, sample_along_normals, subvolumes_from_volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GRID = Grid((20, 24, 28), 10.0)
PROFILE_OFFSETS_ANGSTROM = np.linspace(-25.0, 22.5, 20)  # where MemBrain-pick samples along the normal


def ramp(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the density x + 10 y + 100 z in Å/10, which shows a wrong axis or shift."""
    z, y, x = np.indices(shape)
    return (x + 10.0 * y + 100.0 * z).astype(np.float64)


def expected(points: np.ndarray) -> np.ndarray:
    return points @ np.array([0.1, 1.0, 10.0])


@pytest.mark.parametrize("order", [1, 3])
def test_samples_lie_at_points_plus_offset_times_normal(order: int) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(60.0, 110.0, (50, 3))
    normals = rng.normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    samples = sample_along_normals(
        ramp(GRID.shape), GRID.box, GRID, points, normals, PROFILE_OFFSETS_ANGSTROM, outside=0.0, spline_order=order
    )
    assert samples.shape == (50, 20)
    assert samples.dtype == np.float32
    places = points[:, None] + PROFILE_OFFSETS_ANGSTROM[:, None] * normals[:, None]
    np.testing.assert_allclose(samples, expected(places), atol=0.3 if order == 3 else 1e-3)


def test_a_box_gives_the_same_as_the_whole() -> None:
    density = np.random.default_rng(1).normal(size=GRID.shape).astype(np.float32)
    box = Box((3, 4, 5), (18, 20, 22))
    points, normals = np.array([[120.0, 110.0, 100.0], [133.0, 121.0, 97.0]]), np.array([[0, 0, 1.0], [1.0, 0, 0]])
    offsets = np.linspace(-30, 30, 7)
    whole, cut = (
        sample_along_normals(d, b, GRID, points, normals, offsets, outside=0.0, spline_order=1)
        for d, b in ((density, GRID.box), (density[box.slices], box))
    )
    np.testing.assert_allclose(whole, cut, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_samples_outside_have_the_given_value(order: int) -> None:
    density = np.ones(GRID.shape, np.float32)
    points, normals = np.array([[0.0, 50.0, 50.0]]), np.array([[1.0, 0.0, 0.0]])
    offsets = np.array([-25.0, -0.5, 0.0, 25.0])
    samples = sample_along_normals(density, GRID.box, GRID, points, normals, offsets, outside=-7.0, spline_order=order)
    np.testing.assert_allclose(samples, [[-7.0, -7.0, 1.0, 1.0]], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.float16, np.float32, np.float64])
def test_integers_are_not_quantised(dtype: type) -> None:
    density = np.zeros(GRID.shape, dtype)
    density[10, 10, 11:] = 1
    samples = sample_along_normals(
        density,
        GRID.box,
        GRID,
        np.array([[105.0, 100.0, 100.0]]),
        np.array([[1.0, 0, 0]]),
        np.array([0.0]),
        outside=0.0,
        spline_order=1,
    )
    assert samples.dtype == np.float32
    assert samples[0, 0] == pytest.approx(0.5)


def test_many_points_are_sampled_in_portions_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    from membrain_cloud.mesh import density_sampling as sampling

    points = np.random.default_rng(2).uniform(50, 150, (101, 3))
    normals = np.tile([0.0, 0.0, 1.0], (101, 1))
    arguments = (ramp(GRID.shape), GRID.box, GRID, points, normals, PROFILE_OFFSETS_ANGSTROM)
    whole = sample_along_normals(*arguments, outside=0.0, spline_order=1)
    monkeypatch.setattr(sampling, "_POINTS_AT_ONCE", 200)
    np.testing.assert_array_equal(sample_along_normals(*arguments, outside=0.0, spline_order=1), whole)


def test_no_points_give_no_profiles() -> None:
    samples = sample_along_normals(
        ramp(GRID.shape),
        GRID.box,
        GRID,
        np.zeros((0, 3)),
        np.zeros((0, 3)),
        PROFILE_OFFSETS_ANGSTROM,
        outside=0.0,
        spline_order=1,
    )
    assert samples.shape == (0, 20)


def test_a_density_of_another_shape_than_its_box_is_refused() -> None:
    with pytest.raises(ValueError, match="does not cover"):
        sample_along_normals(
            np.zeros((3, 3, 3)),
            GRID.box,
            GRID,
            np.zeros((1, 3)),
            np.zeros((1, 3)),
            PROFILE_OFFSETS_ANGSTROM,
            outside=0.0,
            spline_order=1,
        )


def test_equals_membrain_picks_projection(reference: Path) -> None:
    h5py = pytest.importorskip("h5py")
    import mrcfile

    folder = reference / "membrain-pick"
    tomogram = mrcfile.read(folder / "input" / "tomograms" / "Tomo0001.mrc")
    grid = Grid(tomogram.shape, 10.0)
    with h5py.File(folder / "mesh_data" / "Tomo0001_mb2.h5") as mesh:
        points, normals, values = (mesh[k][()] for k in ("points", "normals", "normal_values"))
    # Its points are in voxels; its normals point inwards, and it samples along those.
    samples = sample_along_normals(
        tomogram, grid.box, grid, points * 10.0, normals, PROFILE_OFFSETS_ANGSTROM, outside=0.0, spline_order=3
    )
    np.testing.assert_allclose(samples, values, atol=1e-5)


# -- volumes of any size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "close"), [(1, 0.0), (3, 2e-5)])
def test_reading_block_by_block_gives_what_the_whole_volume_gives(
    monkeypatch: pytest.MonkeyPatch, order: int, close: float
) -> None:
    monkeypatch.setattr(sampling, "_BLOCK", 20)
    rng = np.random.default_rng(0)
    grid = Grid((40, 50, 60), 10.0)
    density = rng.normal(size=grid.shape).astype(np.float32)
    points = rng.uniform(-60.0, 1.1, (400, 3)) + rng.uniform(0, 1, (400, 3)) * np.array(grid.size_angstrom)
    normals = directions(400)
    offsets = np.array([-40.0, 0.0, 35.0])
    whole = sample_along_normals(density, grid.box, grid, points, normals, offsets, outside=-3.0, spline_order=order)
    samples = profiles_from_volume(
        lambda box: density[box.slices], grid, points, normals, offsets, outside=-3.0, spline_order=order
    )
    np.testing.assert_allclose(samples, whole, atol=close)


def test_only_what_lies_near_the_points_is_read() -> None:
    grid = Grid((400, 400, 400), 10.0)
    read: list[Box] = []

    def zeros(box: Box) -> NDArray:
        read.append(box)
        return np.zeros(box.shape, np.float32)

    along = np.linspace(0, 3990, 500)
    points = np.stack([along, along, along], axis=1)  # a diagonal through the volume
    profiles_from_volume(zeros, grid, points, directions(500), np.array([-25.0, 25.0]), outside=0.0, spline_order=3)
    assert sum(np.prod(box.shape) for box in read) < 0.15 * grid.voxels


@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.6, 0.0, 0.8)])
def test_boxes_lie_along_the_normal(normal: tuple[float, float, float]) -> None:
    grid = Grid((60, 60, 60), 10.0)
    places = np.moveaxis(np.indices(grid.shape)[::-1], 0, -1) * 10.0
    point = np.array([[300.0, 290.0, 280.0]])
    height = (places - point[0]) @ np.array(normal)
    (box,) = subvolumes_from_volume(
        lambda wanted: height[wanted.slices],
        grid,
        point,
        np.array([normal]),
        edge=12,
        spacing_angstrom=14.0,
        outside=0.0,
    )
    steps = (np.arange(12) - 5.5) * 14.0
    np.testing.assert_allclose(box, np.broadcast_to(steps[:, None, None], (12, 12, 12)), atol=1e-3)


def test_boxes_beyond_the_volume_are_outside() -> None:
    grid = Grid((20, 20, 20), 10.0)
    boxes = subvolumes_from_volume(
        lambda wanted: np.ones(wanted.shape), grid, np.array([[0.0, 0, 0], [900.0, 0, 0]]), directions(2),
        edge=4, spacing_angstrom=20.0, outside=5.0,
    )  # fmt: skip
    assert set(np.unique(boxes[0])) == {1.0, 5.0}
    np.testing.assert_array_equal(boxes[1], 5.0)
    none = subvolumes_from_volume(
        lambda wanted: np.ones(wanted.shape), grid, np.zeros((0, 3)), np.zeros((0, 3)),
        edge=4, spacing_angstrom=20.0, outside=5.0,
    )  # fmt: skip
    assert none.shape == (0, 4, 4, 4)


def directions(count: int) -> NDArray[np.float64]:
    samples = np.random.default_rng(3).normal(size=(count, 3))
    return samples / np.linalg.norm(samples, axis=1, keepdims=True)
