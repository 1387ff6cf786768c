"""Surfaces are coloured by their distances, vertex by vertex."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from PIL import Image

from membrain_cloud.geometry import Mesh
from membrain_cloud.report.mesh_figure import mesh_figure
from membrain_cloud.report.rendering import Camera, render

SQUARE = Mesh(
    np.array([[0.0, 0.0, 0.0], [100.0, 0.0, 0.0], [100.0, 100.0, 0.0], [0.0, 100.0, 0.0]]),
    np.array([[0, 1, 2], [0, 2, 3]], np.int32),
)


def test_colours_of_vertices_are_interpolated() -> None:
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0]])
    camera = Camera((0.0, 0.0, -50.0), (100.0, 100.0, 50.0), -90.0, 90.0, 100)
    image = render([(SQUARE, colours)], [], camera)
    row = image[camera.height // 2]
    inside = np.flatnonzero(row[:, 3] == 1.0)[3:-3]
    red, blue = row[inside, 0] - row[inside, 1], row[inside, 2] - row[inside, 1]
    assert (np.diff(red) < 0.002).all()
    assert (np.diff(blue) > -0.002).all()
    assert abs(red - blue)[len(inside) // 2] < 0.1
    assert red[0] > 4 * blue[0]


def test_one_colour_for_all_vertices_is_that_colour() -> None:
    camera = Camera((0.0, 0.0, -50.0), (100.0, 100.0, 50.0), -62.0, 38.0, 90)
    one = render([(SQUARE, (0.2, 0.4, 0.9))], [], camera)
    assert np.allclose(render([(SQUARE, np.tile([0.2, 0.4, 0.9], (4, 1)))], [], camera), one, atol=1e-5)


def test_the_figure_is_reproducible_and_yellow_at_far_vertices() -> None:
    near, far = np.full(1000, 3.0), np.full(1000, 500.0)

    def drawn(distances: tuple[np.ndarray, np.ndarray]) -> tuple[bytes, np.ndarray]:
        content = mesh_figure(
            distances,
            [(SQUARE, np.full(4, values[0])) for values in distances],
            where="TS_1",
            tolerance_angstrom=20.0,
            title="t",
        )
        with Image.open(io.BytesIO(content)) as image:
            return content, np.asarray(image.convert("RGB")).astype(float)

    content, both_near = drawn((near, near))
    assert drawn((near, near))[0] == content
    _, one_far = drawn((near, far))
    yellow = np.array(matplotlib.colormaps["viridis"](1.0)[:3]) * 255

    def yellows(image: np.ndarray, half: slice) -> int:
        ratio = image[:, half] / np.maximum(image[:, half].max(axis=2, keepdims=True), 1.0)
        return int((np.abs(ratio - yellow / yellow.max()).max(axis=2) < 0.06).sum())

    right = slice(one_far.shape[1] * 2 // 3, one_far.shape[1] * 9 // 10)
    assert yellows(one_far, right) > 3000
    assert yellows(both_near, right) < 300
