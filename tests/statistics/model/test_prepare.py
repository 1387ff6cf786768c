"""From a mesh and picks to a membrane that can be measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from standins.membranes import GRID, random_picks, slab, sphere
from standins.shapes import OPTIONS

from membrain_cloud.geometry import Picks
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane


def test_particles_are_sorted_by_position_and_mapped_back() -> None:
    mesh = sphere(200, 200.0)
    picks = random_picks(mesh, 12, 0)
    picks.positions[5, 1] = np.nan
    membrane = Membrane(mesh, picks, np.zeros(200, bool), [f"p{i}" for i in range(12)])
    prepared = prepare_membrane(membrane, grid=GRID, options=OPTIONS, kinds=["other"])
    assert sorted(prepared.order.tolist()) == [i for i in range(12) if i != 5]
    np.testing.assert_array_equal(prepared.positions, picks.positions[prepared.order])
    assert prepared.positions[:, 0].tolist() == sorted(prepared.positions[:, 0].tolist())
    assert prepared.names == tuple(f"p{i}" for i in prepared.order)
    assert len(prepared.all_names) == 12
    assert prepared.kind_names == tuple(sorted(["other", *(f"p{i}" for i in range(12))]))


def test_caps_are_left_out_unless_there_is_nothing_else() -> None:
    mesh, border = slab(400.0, 40.0, 20.0)
    prepared = prepare_membrane(Membrane(mesh, None, border, ""), grid=GRID, options=OPTIONS)
    assert prepared.touches_border
    assert len(prepared.shell.faces) == len(mesh.faces)
    assert len(prepared.surface.faces) == (~border[mesh.faces].all(axis=1)).sum()
    every = np.ones(len(border), bool)
    only_caps = prepare_membrane(Membrane(mesh, None, every, ""), grid=GRID, options=OPTIONS)
    assert len(only_caps.surface.faces) == len(mesh.faces)
    assert only_caps.one_sided_area_nm2 is None


def test_leaflets_are_told_apart_only_where_asked_for() -> None:
    mesh, _ = slab(400.0, 40.0, 20.0)
    membrane = Membrane(mesh, None, np.zeros(len(mesh.vertices), bool), "")
    assert prepare_membrane(membrane, grid=GRID, options=OPTIONS).leaflets is None
    apart = prepare_membrane(membrane, grid=GRID, options=replace(OPTIONS, leaflets_apart=True))
    assert apart.leaflets is not None
    assert set(apart.leaflets.tolist()) == {0, 1}


def test_lengths_that_do_not_agree_are_refused() -> None:
    mesh = sphere(100, 200.0)
    with pytest.raises(ValueError, match="3 border flags for 100 vertices"):
        prepare_membrane(Membrane(mesh, None, np.zeros(3, bool), ""), grid=GRID, options=OPTIONS)
    two = Picks(mesh.vertices[:2])
    with pytest.raises(ValueError, match="1 object names for 2 particles"):
        prepare_membrane(Membrane(mesh, two, np.zeros(100, bool), ["a"]), grid=GRID, options=OPTIONS)
