"""One membrane picked with stand-ins for networks: one class, several classes, boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial import cKDTree
from standins.picking_surfaces import OPTIONS, directions, sphere

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.picking.pick_membrane import best_of_classes, pick_membrane

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CLUSTERING = replace(OPTIONS, center_offset_angstrom=25.0, min_distance_angstrom=70.0, refine=True)


class BrightnessPicker:
    """A stand-in for a network: scores fall from 10 to 1 as the density above the membrane rises from 0 to 1."""

    offsets_angstrom = np.array([0.0, 20.0])
    spline_order = 1
    eigenpairs = 8
    partition_vertices = 700
    length_unit_angstrom = 500.0
    partitions = "even"

    def predict(self, profiles: NDArray, operators: object) -> NDArray[np.float32]:
        return (10.0 - 9.0 * np.clip(profiles[:, 1], 0, 1)).astype(np.float32)


@pytest.fixture
def bumpy() -> tuple[Mesh, NDArray, Grid, NDArray]:
    grid = Grid((90, 90, 90), 10.0)
    middle = np.array([450.0, 440.0, 430.0])
    mesh = sphere(300.0, 4, tuple(middle))
    centers = middle + 325.0 * directions(6, seed=1, apart=0.8)
    places = np.moveaxis(np.indices(grid.shape)[::-1], 0, -1) * 10.0
    density = np.zeros(grid.shape)
    for center in centers:
        density += np.exp(-0.5 * ((places - center) ** 2).sum(-1) / 25.0**2)
    return mesh, density, grid, centers


@pytest.mark.parametrize("partition", [None, 1000])
@pytest.mark.parametrize("convert", [lambda d: d.astype(np.float16), lambda d: d])
def test_a_membrane_is_picked(
    bumpy: tuple[Mesh, NDArray, Grid, NDArray], convert: Callable, partition: int | None
) -> None:
    mesh, density, grid, centers = bumpy
    picks_of_classes, scores = pick_membrane(
        mesh,
        lambda box: convert(density)[box.slices],
        grid,
        BrightnessPicker(),
        outside=0.0,
        partition_vertices=partition,
        clustering=CLUSTERING,
        membrane_id=1,
    )
    (picks,) = picks_of_classes
    assert scores.shape == (len(mesh.vertices),)
    assert isinstance(picks, Picks)
    assert len(picks) == len(centers)
    assert cKDTree(centers).query(picks.positions)[0].max() < 20.0


class TwoClasses(BrightnessPicker):
    """A stand-in with two classes: bright spots are of the first, dark ones of the second."""

    def predict(self, profiles: NDArray, operators: object) -> NDArray[np.float32]:
        bright, dark = np.clip(profiles[:, 1], 0, 1), np.clip(-profiles[:, 1], 0, 1)
        return np.stack([10.0 - 9.0 * bright, 10.0 - 9.0 * dark], axis=1).astype(np.float32)


class BoxBrightness:
    """The same stand-in from boxes: the density a little above their middles."""

    edge, spacing_angstrom = 6, 10.0

    def predict_boxes(self, boxes: NDArray, *, mean: float, deviation: float) -> NDArray[np.float32]:
        assert boxes.shape[1:] == (6, 6, 6)
        return (10.0 - 9.0 * np.clip(boxes[:, 4:, 2:4, 2:4].mean(axis=(1, 2, 3)), 0, 1)).astype(np.float32)


def pick(mesh: Mesh, density: NDArray, grid: Grid, picker: object) -> list[Picks]:
    picks, _ = pick_membrane(
        mesh,
        lambda box: density[box.slices],
        grid,
        picker,  # type: ignore[arg-type]
        outside=0.0,
        partition_vertices=None,
        clustering=CLUSTERING,
        membrane_id=1,
    )
    return picks


def test_each_class_has_its_own_picks(bumpy: tuple[Mesh, NDArray, Grid, NDArray]) -> None:
    mesh, density, grid, centers = bumpy
    signs = np.where(np.arange(len(centers)) % 2, -1.0, 1.0)
    places = np.moveaxis(np.indices(grid.shape)[::-1], 0, -1) * 10.0
    owner = cKDTree(centers).query(places.reshape(-1, 3))[1].reshape(grid.shape)
    bright, dark = pick(mesh, density * signs[owner], grid, TwoClasses())
    for picks, sign in ((bright, 1.0), (dark, -1.0)):
        assert len(picks) == np.count_nonzero(signs == sign)
        assert cKDTree(centers[signs == sign]).query(picks.positions)[0].max() < 20.0


def test_a_picker_that_sees_boxes_finds_the_same(bumpy: tuple[Mesh, NDArray, Grid, NDArray]) -> None:
    mesh, density, grid, centers = bumpy
    (picks,) = pick(mesh, density, grid, BoxBrightness())
    assert len(picks) == len(centers)
    assert cKDTree(centers).query(picks.positions)[0].max() < 20.0


def test_of_two_classes_at_one_place_the_better_stays() -> None:
    up = np.tile(np.eye(3), (2, 1, 1))
    first = Picks(np.array([[0.0, 0, 0], [500.0, 0, 0]]), up, np.array([0.9, 0.3]), in_plane=np.ones(2, bool))
    turned = up * np.array([1.0, -1.0, -1.0])
    second = Picks(np.array([[20.0, 0, 0], [510.0, 0, 0]]), up, np.array([0.5, 0.8]))
    kept = best_of_classes([first, second], within_angstrom=60.0)
    np.testing.assert_array_equal(kept[0].positions, [[0.0, 0, 0]])
    np.testing.assert_array_equal(kept[1].positions, [[510.0, 0, 0]])
    assert kept[0].in_plane is not None
    assert len(kept[0].in_plane) == 1
    other_side = best_of_classes([first, Picks(second.positions, turned, second.scores)], within_angstrom=60.0)
    assert [len(picks) for picks in other_side] == [2, 2]
    assert (
        best_of_classes([Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))] * 2, within_angstrom=60.0)[1].positions.size == 0
    )
