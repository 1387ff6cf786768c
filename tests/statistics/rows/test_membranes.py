"""Rows about a membrane against closed forms: areas, volumes, leaflets, histograms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from standins.membranes import GRID, measure, random_picks, slab, sphere, vesicle
from standins.shapes import OPTIONS

from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.statistics.membrane.lamella import Lamella
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane
from membrain_cloud.statistics.rows.membranes import membrane_rows


def test_a_vesicle() -> None:
    outer, inner = 300.0, 260.0
    (row,) = measure(vesicle(outer, inner), None)["membranes"]
    area = 2 * np.pi * (30.0**2 + 26.0**2)
    volume = 4 / 3 * np.pi * (30.0**3 - 26.0**3)
    assert row["one_sided_area_nm2"] == pytest.approx(area, rel=5e-3)
    assert row["shell_area_nm2"] == pytest.approx(2 * area, rel=5e-3)
    assert row["volume_nm3"] == pytest.approx(volume, rel=2e-2)
    assert row["lumen_volume_nm3"] == pytest.approx(4 / 3 * np.pi * 26.0**3, rel=2e-2)
    assert row["thickness_nm"] == pytest.approx(4.0, rel=2e-2)
    assert (row["is_closed"], row["touches_border"], row["euler_characteristic"], row["n_components"]) == (
        True,
        False,
        4,
        2,
    )
    assert row["mean_curvature_p95_per_nm"] == pytest.approx(1 / 30.0, rel=0.05)
    assert row["mean_curvature_p05_per_nm"] == pytest.approx(-1 / 26.0, rel=0.05)
    assert 1 / 30.5 < row["abs_mean_curvature_p50_per_nm"] < 1 / 25.5
    assert row["box_min_z_angstrom"] == pytest.approx(200.0, abs=1.0)
    assert row["box_max_x_angstrom"] == pytest.approx(1300.0, abs=1.0)
    assert row["n_particles"] is None
    assert row["particles_per_um2"] is None


def test_a_membrane_at_the_border_has_neither_caps_nor_a_lumen() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    (row,) = measure(mesh, Picks(np.zeros((0, 3))), border_vertices=border)["membranes"]
    # the triangles in the corners have border vertices only
    assert row["one_sided_area_nm2"] == pytest.approx(60.0**2, rel=2e-3)
    assert row["shell_area_nm2"] == pytest.approx(2 * 60.0**2 + 4 * 60.0 * 4.0)
    assert row["thickness_nm"] == pytest.approx(4.0, rel=2e-3)
    assert (row["is_closed"], row["touches_border"], row["euler_characteristic"], row["n_components"]) == (
        False,
        True,
        2,
        2,
    )
    assert row["lumen_volume_nm3"] is None
    assert row["mean_curvature_p50_per_nm"] == pytest.approx(0.0, abs=1e-9)
    assert (row["n_particles"], row["particles_per_um2"]) == (0, 0.0)


def test_a_sheet_with_a_rim_or_a_hole_inside_is_not_closed() -> None:
    mesh, _ = slab(600.0, 40.0, 20.0)
    (row,) = measure(mesh, None)["membranes"]
    assert (row["is_closed"], row["touches_border"], row["n_components"]) == (False, False, 1)
    bubble = sphere(40, 10.0)
    with_bubble = Mesh(
        np.concatenate([mesh.vertices, bubble.vertices]),
        np.concatenate([mesh.faces, bubble.faces[:, ::-1] + len(mesh.vertices)]).astype(np.int32),
    )
    (row,) = measure(with_bubble, None)["membranes"]
    assert (row["is_closed"], row["lumen_volume_nm3"]) == (False, None)


def test_open_shells_and_shells_of_caps_have_unknown_sizes() -> None:
    mesh = sphere(400, 200.0)
    open_shell = Mesh(mesh.vertices, mesh.faces[1:])
    (row,) = measure(open_shell, random_picks(mesh, 5, 0))["membranes"]
    assert (row["volume_nm3"], row["thickness_nm"], row["lumen_volume_nm3"]) == (None, None, None)
    assert row["particles_per_um2"] > 0
    tables = measure(mesh, random_picks(mesh, 5, 0), border_vertices=np.ones(400, bool))
    (row,) = tables["membranes"]
    assert (row["one_sided_area_nm2"], row["thickness_nm"], row["particles_per_um2"]) == (None, None, None)
    assert row["touches_border"] is True
    assert len(tables["particles"]) == 5


def test_particle_density_is_per_one_sided_area() -> None:
    mesh = vesicle(300.0, 260.0)
    (row,) = measure(mesh, random_picks(mesh, 80, 1))["membranes"]
    assert row["n_particles"] == 80
    assert row["particles_per_um2"] == pytest.approx(80 / row["one_sided_area_nm2"] * 1e6)


def test_leaflets_apart_have_no_common_neighbours_around_a_rim() -> None:
    mesh, _ = slab(600.0, 40.0, 20.0)
    both = Picks(np.array([[300.0, 20.0, 520.0], [300.0, 30.0, 480.0], [300.0, 60.0, 481.0]]))
    tables = measure(mesh, both, leaflets_apart=True)
    assert [(row["particle_id"], row["target_id"]) for row in tables["neighbors"]] == [(1, 2), (2, 1)]
    sides = [row["leaflet"] for row in tables["particles"]]
    assert sides[1] == sides[2] == 1 - sides[0]
    (row,) = tables["membranes"]
    # the walls are rims, and no area
    assert row["outer_leaflet_area_nm2"] == pytest.approx(60**2, rel=0.01)
    assert row["inner_leaflet_area_nm2"] == pytest.approx(60**2, rel=0.01)
    # the rim is an edge: 2.5 nm beyond y = 2 nm the surface turns
    assert [row["is_edge"] for row in tables["particles"]] == [True, True, False]
    assert row["n_particles_without_edges"] == 1
    assert row["area_without_edges_nm2"] == pytest.approx(50**2, rel=0.1)  # faces of 2 nm count whole


def test_a_closed_surface_has_no_edges() -> None:
    mesh = vesicle(300.0, 260.0)
    tables = measure(mesh, random_picks(mesh, 50, 3), leaflets_apart=True)
    (row,) = tables["membranes"]
    assert row["area_without_edges_nm2"] == pytest.approx(row["one_sided_area_nm2"], rel=1e-12)
    assert row["n_particles_without_edges"] == 50
    assert row["outer_leaflet_area_nm2"] == pytest.approx(4 * np.pi * 30**2, rel=0.01)
    assert row["inner_leaflet_area_nm2"] == pytest.approx(4 * np.pi * 26**2, rel=0.01)


def test_histograms_hold_all_area_and_all_particles() -> None:
    mesh, border = slab(600.0, 40.0, 20.0)
    tables = measure(mesh, random_picks(mesh, 40, 4), border_vertices=border, leaflets_apart=True)
    (membrane,) = tables["membranes"]
    for name in {row["property"] for row in tables["membrane_histograms"]} - {"shape_index"}:
        area = sum(row["area_nm2"] for row in tables["membrane_histograms"] if row["property"] == name)
        assert area == pytest.approx(2 * membrane["one_sided_area_nm2"])
        count = sum(row["n_particles"] for row in tables["particle_histograms"] if row["property"] == name)
        assert count == (0 if name == "distance_to_protein_nm" else 40)  # no class against its own distance
    rings = [row for row in tables["membrane_histograms"] if row["property"] == "distance_to_edge_nm"]
    first = sum(row["area_nm2"] for row in rings if row["bin_max"] <= 10.0)
    assert first == pytest.approx(2 * (60**2 - 40**2), rel=0.03)


@pytest.mark.parametrize(("top_angstrom", "expected"), [(1000.0, False), (840.0, True), (700.0, True)])
def test_a_membrane_touches_the_lamella_within_the_edge_width(top_angstrom: float, expected: bool) -> None:
    mesh = sphere(400, 300.0)  # up to z = 800 Å
    prepared = prepare_membrane(Membrane(mesh, None, np.zeros(400, bool), ""), grid=GRID, options=OPTIONS)
    (row,) = membrane_rows(prepared)
    assert row["touches_lamella"] is None
    lamella = Lamella((0.0, 0.0, 1.0, top_angstrom), None)
    (row,) = membrane_rows(replace(prepared, lamella=lamella))
    assert row["touches_lamella"] is expected
