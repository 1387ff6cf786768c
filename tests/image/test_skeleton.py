"""The skeleton of slabs of known mid-surface: thin, centred, without holes, whatever the orientation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.image.skeleton import skeletonize, skeletonize_box

LATTICE = [(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, -1, 0), (0, 1, -1), (1, 1, 1), (1, -1, 1), (-1, 1, 1)]
OBLIQUE = [(1, 2, 3), (1, -2, 0.3), (0.31, 0.87, -0.52), (1, 0.1, 0.05), (3, -2, 1)]
SIZE = 48


def _coordinates(shape: tuple[int, int, int], centre: tuple[float, float, float]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - np.array(centre)


def _plane(normal: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance from a plane through (nearly) the middle, and from the axis through it."""
    unit = np.array(normal, float) / np.linalg.norm(normal)
    points = _coordinates((SIZE,) * 3, (SIZE / 2 - 0.5 + 0.17, SIZE / 2 - 0.5 - 0.11, SIZE / 2 - 0.5 + 0.23))
    along = points @ unit
    return along, np.linalg.norm(points - along[..., None] * unit, axis=-1)


def _separates(sheet: np.ndarray, one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    parts, _ = ndimage.label(~sheet)
    return bool(parts[one] != parts[other])


@pytest.mark.parametrize("normal", OBLIQUE)
@pytest.mark.parametrize("thickness", [3, 4, 5, 6])
def test_oblique_planes(normal: tuple[float, float, float], thickness: float) -> None:
    along, across = _plane(normal)
    sheet = skeletonize(np.abs(along) <= thickness / 2)
    inner = sheet & (across < 17)
    per_area = inner.sum() / (np.pi * 17**2)
    assert 0.78 < per_area < 1.15  # (1, 2, 3): 3 or 4 lattice planes, 0.267 voxel apart, are within half a voxel
    assert np.abs(along[inner]).max() < 0.87
    assert _separates(sheet, *(tuple(np.argwhere(side)[0]) for side in (along < -5, along > 5)))


@pytest.mark.parametrize("normal", LATTICE)
@pytest.mark.parametrize("thickness", [3, 4, 6])
def test_planes_along_the_lattice(normal: tuple[float, float, float], thickness: float) -> None:
    # here the voxels lie in planes 1, 0.71 or 0.58 voxel apart: one or two of these are within half a voxel
    along, across = _plane(normal)
    mask = np.abs(along) <= thickness / 2
    inner = skeletonize(mask) & (across < 17)
    centre = along[mask & (across < 17)].mean()  # of the voxels, not of the ideal slab
    layers = inner.sum() / (np.pi * 17**2) * np.linalg.norm(normal)
    assert min(abs(layers - 1), abs(layers - 2)) < 0.06
    assert np.abs(along[inner] - centre).max() < 0.6


def test_opposite_and_mirrored_normals_give_mirrored_sheets() -> None:
    along, _ = _plane((1, 1, 0.2))
    mask = np.abs(along) <= 2.4
    sheet = skeletonize(mask)
    mirrored = skeletonize(mask[:, ::-1])[:, ::-1]
    # ties may fall to either side; everything else is the same
    assert abs(int(sheet.sum()) - int(mirrored.sum())) < 0.02 * sheet.sum()
    assert (sheet & mirrored).sum() > 0.95 * sheet.sum()


@pytest.mark.parametrize("thickness", [3, 4, 5])
@pytest.mark.parametrize("radius", [10, 20])
def test_spheres(radius: float, thickness: float) -> None:
    points = _coordinates((56,) * 3, (27.3, 27.6, 27.9))
    distance = np.linalg.norm(points, axis=-1) - radius
    sheet = skeletonize(np.abs(distance) <= thickness / 2)
    assert 0.9 < sheet.sum() / (4 * np.pi * radius**2) < 1.12
    # at the poles a mask of even thickness is itself up to 0.4 voxel off
    assert np.abs(distance[sheet]).max() < (0.9 if thickness == 4 else 0.87)
    assert (np.abs(distance[sheet]) < 0.87).mean() > 0.998
    assert _separates(sheet, (28, 28, 28), (0, 0, 0))


def test_cylinder() -> None:
    points = _coordinates((48, 48, 60), (23.4, 23.7, 0))
    distance = np.hypot(points[..., 0], points[..., 1]) - 14
    sheet = skeletonize(np.abs(distance) <= 2.3)
    assert 0.93 < sheet.sum() / (2 * np.pi * 14 * 60) < 1.07  # it runs on to the border, where there is no rim
    assert np.abs(distance[sheet]).max() < 0.87


def test_lies_within_the_mask_and_keeps_thin_sheets() -> None:
    along, _ = _plane((0.31, 0.87, -0.52))
    mask = np.abs(along) <= 0.9
    sheet = skeletonize(mask)
    assert not (sheet & ~mask).any()
    assert sheet.sum() > 0.45 * mask.sum()
    flat = np.zeros((7, 20, 20), bool)
    flat[3] = True
    np.testing.assert_array_equal(skeletonize(flat), flat)


def test_empty_and_integer_masks() -> None:
    assert not skeletonize(np.zeros((5, 6, 7), np.uint8)).any()
    mask = np.zeros((12, 20, 20), np.uint8)
    mask[4:8] = 2
    assert skeletonize(mask).sum() == 400


def _in_pieces(mask: np.ndarray, cut: Zyx) -> np.ndarray:
    """Box by box; none reads more than its surroundings."""
    sheet = np.zeros(mask.shape, bool)
    z, y, x = mask.shape
    for box in iterate_chunks((z, y, x), cut):
        read: list[Box] = []

        def remember(wanted: Box, read: list[Box] = read) -> np.ndarray:
            read.append(wanted)
            return mask[wanted.slices]

        sheet[box.slices] = skeletonize_box(remember, (z, y, x), box)
        assert all(b - a <= c + 72 for wanted in read for a, b, c in zip(wanted.start, wanted.stop, cut, strict=True))
    return sheet


def _tangle(shape: Zyx, thickness: float, seed: int) -> np.ndarray:
    """Curved sheets that meet, end and leave the volume."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 9)
    steepness = np.sqrt(sum(np.square(g) for g in np.gradient(noise)))
    return (np.abs(noise) < thickness / 2 * steepness) & (np.indices(shape)[2] > 5)


@pytest.mark.parametrize("cut", [(17, 90, 90), (90, 23, 31), (45, 45, 45), (1, 90, 90)])
def test_the_same_however_it_is_cut(cut: Zyx) -> None:
    mask = _tangle((70, 80, 75), 5.0, 1)
    assert 0.05 < mask.mean() < 0.4
    sheet = skeletonize(mask)
    assert sheet.sum() > 5000
    np.testing.assert_array_equal(_in_pieces(mask, cut), sheet)


def test_the_same_however_it_is_cut_where_it_is_thick() -> None:
    z, y, x = np.indices((100, 64, 60))
    mask = np.abs(z - 50 + 0.2 * y) < 21.3  # deeper than what is read at first
    mask |= np.hypot(y - 32, x - 36) < 5.0
    sheet = skeletonize(mask)
    inner = sheet[20:60, 20:44, 5:20]
    assert inner.any()
    assert np.abs((z - 50 + 0.2 * y)[20:60, 20:44, 5:20][inner]).max() < 1.0
    for cut in ((37, 64, 25), (55, 22, 60)):
        np.testing.assert_array_equal(_in_pieces(mask, cut), sheet)


def test_what_is_too_thick_for_a_sheet_has_no_skeleton_and_no_shell() -> None:
    z = np.indices((90, 40, 40))[0]
    assert not skeletonize(np.abs(z - 45) < 40).any()
    assert not skeletonize(np.ones((40, 40, 40), bool)).any()


def test_larger_volumes_are_done_in_blocks() -> None:
    mask = np.zeros((40, 20, 300), np.uint8)
    mask[18:22] = 1
    sheet = skeletonize(mask)
    assert (sheet.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(_in_pieces(mask, (40, 20, 77)), sheet)
