"""Figures show their data, checked in the pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.report.data import Curves, ReportData, SliceView
from membrain_cloud.report.figures import (
    PICK_COLOUR,
    curves_figure,
    density_figure,
    membrane_colour,
    slice_figure,
    surface_figure,
)
from membrain_cloud.report.rendering import Camera, render
from membrain_cloud.report.theme import LIGHT, SERIES

if TYPE_CHECKING:
    from collections.abc import Callable

GRID = Grid((20, 40, 60), 10.0)


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def has_colour(image: np.ndarray, colour: str) -> np.ndarray:
    """Return the mask of the pixels of an RGBA image that have a colour, nearly."""
    distance = np.abs(image[..., :3].astype(float) - np.array(to_rgb(colour)) * 255).max(axis=-1)
    return (distance < 12) & (image[..., 3] > 200)


def view(plane: str = "xy", index: int = 10) -> SliceView:
    shape = (40, 60) if plane == "xy" else (20, 60)
    instances = np.zeros(shape, np.uint16)
    instances[2:8, 4:14] = 1
    return SliceView(plane, index, np.zeros(shape, np.float32), instances)  # type: ignore[arg-type]


def test_density_is_dark_where_it_is_low_and_has_y_up() -> None:
    density = np.ones((40, 60), np.float32)
    density[:10] = -1
    image = pixels(density_figure(SliceView("xy", 0, density, np.zeros((40, 60), int))))
    assert image.shape == (40, 60)
    assert image[0].min() == 255
    assert image[-1].max() == 0


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float16, np.float64])
def test_density_of_any_type_and_of_constant_value(dtype: type) -> None:
    assert pixels(density_figure(SliceView("xy", 0, np.full((8, 9), 7, dtype), np.zeros((8, 9), int)))).shape == (8, 9)


def test_large_density_is_averaged_down() -> None:
    checkers = np.indices((1300, 700)).sum(axis=0) % 2
    image = pixels(density_figure(SliceView("xy", 0, checkers, np.zeros((1300, 700), int))))
    assert max(image.shape) <= 640
    assert image.shape == (434, 234)


def test_slice_has_membrane_pick_and_truth_where_they_are() -> None:
    picks = Picks(np.array([[450.0, 300.0, 100.0], [200.0, 300.0, 190.0]]))  # the second is 90 Å off the plane
    image = pixels(slice_figure(view(), GRID, picks, None, width=600))
    assert image.shape[:2] == (400, 600)
    rows, columns = np.nonzero(has_colour(image, PICK_COLOUR))
    assert columns.mean() == pytest.approx(455, abs=3)
    assert rows.mean() == pytest.approx(400 - 305, abs=3)
    filled = image[400 - 50, 90]  # row 5, column 9 of the slice, y up
    assert filled[3] == pytest.approx(0.28 * 255, abs=3)
    assert np.abs(filled[:3] - np.array(to_rgb(membrane_colour(1))) * 255).max() < 6
    truth = pixels(slice_figure(view(), GRID, None, picks, width=600))
    assert not has_colour(truth, PICK_COLOUR).any()
    assert (truth[85:105, 440:470, 3] > 0).any()


def test_slice_along_xz_uses_y_as_depth() -> None:
    picks = Picks(np.array([[300.0, 120.0, 150.0], [100.0, 390.0, 100.0]]))
    image = pixels(slice_figure(view("xz", 12), GRID, picks, None, width=600))
    rows, columns = np.nonzero(has_colour(image, PICK_COLOUR))
    assert columns.mean() == pytest.approx(305, abs=3)
    assert rows.mean() == pytest.approx(200 - 155, abs=3)


def test_membranes_have_different_colours() -> None:
    assert membrane_colour(1) != membrane_colour(2)
    assert membrane_colour(1) == membrane_colour(1 + len(SERIES))
    assert len(set(SERIES)) == len(SERIES)


def square(z: float, size: float = 100.0) -> Mesh:
    corners = np.array([[0, 0, z], [size, 0, z], [size, size, z], [0, size, z]], float)
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32))


def test_render_covers_the_square_once_and_the_nearer_one_wins() -> None:
    camera = Camera((0, 0, 0), (100, 100, 50), azimuth_degrees=-90, elevation_degrees=90, width=200, margin=0.05)
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    for order in ([(square(10), red), (square(40), blue)], [(square(40), blue), (square(10), red)]):
        image = render(order, [], camera)
        assert image.shape == (200, 200, 4)
        assert image[..., 3].sum() == pytest.approx(180 * 180, rel=0.01)
        assert image[100, 100, 2] > 2 * image[100, 100, 0]
    np.testing.assert_array_equal(image[[0, -1], :, 3], 0)


def test_render_puts_a_sphere_where_its_centre_is() -> None:
    camera = Camera((0, 0, 0), (100, 50, 20), azimuth_degrees=-90, elevation_degrees=90, width=400, margin=0.0)
    image = render([], [(np.array([[25.0, 40.0, 10.0]]), 5.0, (1.0, 1.0, 0.0))], camera)
    rows, columns = np.nonzero(image[..., 3] > 0.5)
    assert columns.mean() == pytest.approx(100, abs=1)
    assert rows.mean() == pytest.approx(40, abs=1)  # y = 40 of 50 is near the top
    assert (image[..., 3] > 0.5).sum() == pytest.approx(np.pi * 20**2, rel=0.03)


def test_camera_shows_the_whole_box_from_any_side() -> None:
    for azimuth in range(-180, 180, 30):
        camera = Camera((0, 0, 0), (400, 900, 150), azimuth, 38, 300)
        projected = camera.project(camera.corners())
        assert (projected[:, :2] >= 0).all()
        assert (projected[:, :2] <= [camera.width, camera.height + 1]).all()


def test_render_of_nothing_and_of_faces_seen_edge_on() -> None:
    camera = Camera((0, 0, 0), (100, 100, 50), azimuth_degrees=-90, elevation_degrees=0, width=80)
    assert not render([], [], camera).any()
    assert np.isfinite(render([(square(10), (1.0, 1.0, 1.0))], [], camera)).all()


def test_surface_shows_membranes_and_picks(data: ReportData) -> None:
    tomogram = data.tomograms[0]
    with_picks = pixels(surface_figure(tomogram.meshes, tomogram.picks, tomogram.grid, width=300))
    without = pixels(surface_figure(tomogram.meshes, None, tomogram.grid, width=300))
    yellow = (with_picks[..., 0] > 150) & (with_picks[..., 1] > 120) & (with_picks[..., 2] < 110)
    assert yellow.sum() > 50
    assert not np.array_equal(with_picks, without)
    assert np.array_equal(without, pixels(surface_figure(tomogram.meshes, None, tomogram.grid, width=300)))


@pytest.mark.parametrize(
    "curves",
    [
        Curves(),
        Curves(neighbor_distances_nm=np.array([np.nan, 4.0])),
        Curves(neighbor_distances_nm=np.array([4.0, 4.0, 4.0])),
        Curves(radii_nm=np.arange(1.0, 5), pair_correlation=np.full(4, np.nan), l_difference_nm=np.full(4, np.nan)),
        Curves(truth_neighbor_distances_nm=np.array([3.0, 9.0])),
    ],
)
def test_curves_of_few_particles(curves: Curves) -> None:
    assert pixels(curves_figure(curves, LIGHT)).shape == (465, 1800, 4)


def test_figures_are_the_same_bytes_every_time(data: ReportData) -> None:
    tomogram = data.tomograms[0]
    draw: list[Callable[[], bytes]] = [
        lambda: density_figure(tomogram.slices[0]),
        lambda: slice_figure(tomogram.slices[0], tomogram.grid, tomogram.picks, tomogram.truth_picks, width=300),
        lambda: curves_figure(tomogram.curves, LIGHT),
    ]
    for figure in draw:
        assert figure() == figure()


def test_picks_inside_a_slab_are_drawn_on_their_side() -> None:
    """Seen from above, a particle in the middle of a slab shows if it points up, and not if it points down."""
    slab = Mesh(
        np.concatenate([square(60, 400).vertices, square(140, 400).vertices]),
        np.concatenate([square(0).faces[:, ::-1], square(0).faces + 4]),
    )
    grid = Grid((20, 40, 40), 10.0)
    up = np.eye(3)[None]
    fine = Mesh(*_refined(slab, 4))
    shown = []
    for orientation in (up, up * [1, -1, -1]):
        image = pixels(
            surface_figure({1: fine}, Picks(np.array([[200.0, 200.0, 100.0]]), orientation), grid, width=300)
        )
        shown.append(((image[..., 0] > 150) & (image[..., 1] > 120) & (image[..., 2] < 110)).sum())
    assert shown[0] > 20
    assert shown[1] == 0


def _refined(mesh: Mesh, times: int) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = mesh.vertices, mesh.faces
    for _ in range(times):
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        n = len(faces)
        start = len(vertices)
        vertices = np.concatenate([vertices, (a + b) / 2, (b + c) / 2, (c + a) / 2])
        ab, bc, ca = (start + k * n + np.arange(n) for k in range(3))
        i, j, k = faces.T
        faces = np.concatenate([np.stack(t, 1) for t in ((i, ab, ca), (ab, j, bc), (ca, bc, k), (ab, bc, ca))])
    return vertices, faces.astype(np.int32)
