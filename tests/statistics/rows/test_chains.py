"""Rows about a row of particles on a flat membrane, and about the same particles with random orientations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from standins.shapes import GRID, OPTIONS

from membrain_cloud.geometry import Picks, orientations_from_normals
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane
from membrain_cloud.statistics.rows.chains import chain_member_rows, chain_rows, random_chain_rows

if TYPE_CHECKING:
    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane


def row_of_six(shapes: Any, *, in_plane: np.ndarray | None = None, n_simulations: int) -> MeasuredMembrane:
    """Return a plane with six particles 20 nm apart, all turned alike."""
    mesh = shapes.plane(60, 25.0)
    places = np.column_stack([np.arange(6) * 200.0, np.zeros(6), np.zeros(6)]) + np.array([200.0, 700.0, 30.0])
    frames = orientations_from_normals(np.tile([0.0, 0.0, 1.0], (6, 1)))
    membrane = Membrane(mesh, Picks(places, frames, in_plane=in_plane), np.zeros(len(mesh.vertices), bool), "protein")
    options = replace(OPTIONS, cutoff_nm=30.0, n_simulations=n_simulations)
    return prepare_membrane(membrane, grid=GRID, options=options)


def test_a_row_is_one_chain_with_its_members_in_order(shapes: Any) -> None:
    membrane = row_of_six(shapes, n_simulations=0)
    (chain,) = chain_rows(membrane)
    assert chain["n_members"] == 6
    assert chain["length_nm"] == pytest.approx(100.0)
    assert chain["span_nm"] == pytest.approx(100.0)
    assert (chain["mean_in_plane_angle_degrees"], chain["mean_turn_degrees"]) == pytest.approx((0.0, 0.0), abs=1e-5)
    members = chain_member_rows(membrane)
    assert [member["particle_id"] for member in members] in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])
    assert [member["next_nm"] for member in members] == [pytest.approx(20.0)] * 5 + [None]
    assert random_chain_rows(membrane) == []


def test_random_orientations_rarely_make_the_whole_row(shapes: Any) -> None:
    longest = np.array([row["longest"] for row in random_chain_rows(row_of_six(shapes, n_simulations=99))])
    assert len(longest) == 99
    # the angle of two random orientations is at most 60 of 180 degrees in a third of the cases: five in a row are rare
    assert np.mean(longest >= 6) < 0.05


def test_unknown_in_plane_rotations_make_no_chain(shapes: Any, measure: Any) -> None:
    membrane = row_of_six(shapes, in_plane=np.zeros(6, bool), n_simulations=9)
    assert chain_rows(membrane) == chain_member_rows(membrane) == random_chain_rows(membrane) == []
    tables = measure(membrane.surface.mesh, membrane.picks, n_simulations=9)
    assert [len(tables[table]) for table in ("chains", "chain_members", "random_chains")] == [0, 0, 0]
    assert {row["in_plane_angle_degrees"] for row in tables["neighbors"]} == {None}
