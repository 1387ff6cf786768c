"""A membrane has one area and one density, whether its mesh is a shell, one side, or the mid-surface."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from standins.membranes import GRID, measure, random_picks, sphere, vesicle

from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.pipeline.settings import MeshSettings
from membrain_cloud.pipeline.stages.mesh import select_surface
from membrain_cloud.store.formats.copick_files import meshes_from_glb, meshes_to_glb

TRUE_NM2 = 4.0 * np.pi * 30.0**2


def surfaces() -> dict[str, Mesh]:
    """Return the three meshes of a vesicle of 30 nm, 4 nm thick, as the stage `mesh` makes and stores them."""
    shell = vesicle(320.0, 280.0)
    meshes = {}
    for name in ("shell", "side", "midsurface"):
        made = select_surface(shell, MeshSettings(surface=name))
        assert made is not None
        (meshes[name],) = meshes_from_glb(meshes_to_glb({7: made}), "test").values()
    return meshes


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the tables of the three meshes with the same 50 particles."""
    picks = random_picks(sphere(2000, 300.0), 50, 3)
    return {name: measure(mesh, picks, n_simulations=0) for name, mesh in surfaces().items()}


def test_area_and_density_agree(rows: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    for name, tables in rows.items():
        (row,) = tables["membranes"]
        assert row["mesh_surface"] == name
        assert row["one_sided_area_nm2"] == pytest.approx(TRUE_NM2, rel=0.01)
        assert row["particles_per_um2"] == pytest.approx(50 / TRUE_NM2 * 1e6, rel=0.01)
        assert row["thickness_nm"] == pytest.approx(4.0, rel=0.05)
        assert row["is_closed"]
        assert row["area_without_edges_nm2"] == pytest.approx(row["one_sided_area_nm2"])
        areas = [
            line["one_sided_area_nm2"]
            for line in tables["membrane_histograms"]
            if line["property"] == "mean_curvature_per_nm"
        ]
        assert sum(areas) == pytest.approx(row["one_sided_area_nm2"])


def test_an_open_mesh_is_taken_for_a_mid_surface() -> None:
    grid = np.arange(41) * 25.0 + 500.0
    x, y = np.meshgrid(grid, grid)
    number = np.arange(41 * 41).reshape(41, 41)
    a, b, c, d = (number[i, j].reshape(-1) for i in (np.s_[:-1], np.s_[1:]) for j in (np.s_[:-1], np.s_[1:]))
    faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)]).astype(np.int32)
    sheet = Mesh(np.stack([x.reshape(-1), y.reshape(-1), np.full(x.size, 500.0)], 1), faces)
    (row,) = measure(sheet, Picks(np.array([[1000.0, 1000.0, 510.0]])), n_simulations=0)["membranes"]
    assert row["mesh_surface"] == "midsurface"
    assert row["one_sided_area_nm2"] == pytest.approx(100.0**2)
    assert row["particles_per_um2"] == pytest.approx(100.0)
    assert row["thickness_nm"] is None
    assert not row["is_closed"]
    assert not row["touches_border"]


def test_a_closed_surface_may_say_that_it_is_a_mid_surface() -> None:
    ball = sphere(2000, 300.0)
    (shell,) = measure(ball, None)["membranes"]
    (middle,) = measure(replace(ball, surface="midsurface"), None)["membranes"]
    assert middle["one_sided_area_nm2"] == pytest.approx(2.0 * shell["one_sided_area_nm2"])
    assert middle["lumen_volume_nm3"] == pytest.approx(4.0 / 3.0 * np.pi * 30.0**3, rel=0.01)
    assert GRID.voxel_spacing_angstrom == 10.0
