"""The skeleton of slabs of known mid-surface: thin, centred, without holes, whatever the orientation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from membrain_cloud.membranes.skeleton import skeletonize

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
