"""One membrane as particles around it see it: what is closed, what is a shell, the way to the edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from standins.shapes import OPTIONS, Shapes

from membrain_cloud.geometry import Grid, Mesh
from membrain_cloud.statistics.context.surroundings import Surroundings
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane

GRID = Grid((200, 200, 200), 10.0)


def surroundings(mesh: Mesh, border: np.ndarray | None = None) -> Surroundings:
    border = np.zeros(len(mesh.vertices), bool) if border is None else border
    options = replace(OPTIONS, leaflets_apart=True)
    return Surroundings(prepare_membrane(Membrane(mesh, None, border, ""), grid=GRID, options=options))


def test_shells_and_single_surfaces_are_told_apart() -> None:
    shell, sheet = surroundings(Shapes().vesicle(200.0, 160.0)), surroundings(Shapes().slab(300.0, 40.0, 10.0)[0])
    sphere, plane = surroundings(Shapes().sphere(900, 200.0)), surroundings(Shapes().plane(12, 20.0))
    assert [one.is_shell for one in (shell, sheet, sphere, plane)] == [True, True, False, False]
    assert [one.is_closed for one in (shell, sheet, sphere, plane)] == [True, False, True, False]
    assert shell.lumen_volume == pytest.approx(4 / 3 * np.pi * 160.0**3, rel=0.01)
    assert sphere.lumen_volume == pytest.approx(4 / 3 * np.pi * 200.0**3, rel=0.01)
    assert sphere.in_slab(np.zeros((1, 3))) is None
    assert plane.in_lumen(np.zeros((2, 3))).tolist() == [False, False]


def test_a_vesicle_at_the_border_has_no_inside() -> None:
    mesh = Shapes().vesicle(200.0, 160.0)
    cut = surroundings(mesh, mesh.vertices[:, 2] > 150.0)
    assert cut.membrane.touches_border
    assert not cut.is_closed
    assert not cut.in_lumen(np.zeros((1, 3))).any()


def test_the_distance_to_the_edge_has_no_cutoff() -> None:
    disc = Shapes().plane(60, 20.0)
    wide = surroundings(disc)
    middle = np.argmin(np.linalg.norm(disc.vertices - disc.vertices.mean(axis=0), axis=1))
    x, y = disc.vertices[middle, :2]
    low, high = disc.vertices[:, :2].min(axis=0), disc.vertices[:, :2].max(axis=0)
    expected = min(x - low[0], high[0] - x, y - low[1], high[1] - y)
    assert wide.to_edge[middle] == pytest.approx(expected, abs=10.1)  # the sides of the sheet are zigzags of 10 Å
    assert np.isinf(surroundings(Shapes().sphere(300, 100.0)).to_edge).all()


def test_no_point_of_the_surface_is_nearer_than_its_box() -> None:
    one = surroundings(Shapes().vesicle(200.0, 160.0, (500.0, 500.0, 500.0)))
    points = np.random.default_rng(0).uniform(0, 1000, (200, 3))
    assert (one.box_distances(points) <= one.surface.closest_points(points).distances + 1e-9).all()
    assert one.box_distances(np.array([[500.0, 500.0, 500.0]])).tolist() == [0.0]
