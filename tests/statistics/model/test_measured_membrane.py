"""Quantities that several statistics share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from standins.membranes import GRID, random_picks, slab, sphere
from standins.shapes import OPTIONS

from membrain_cloud.geometry import Picks, orientations_from_normals
from membrain_cloud.statistics.membrane.surface_properties import PROPERTY_NAMES
from membrain_cloud.statistics.model.prepare import Membrane, prepare_membrane

if TYPE_CHECKING:
    from membrain_cloud.statistics.model.measured_membrane import MeasuredMembrane


def flat(picks: Picks | None = None) -> MeasuredMembrane:
    """Return a flat membrane that the tomogram's border cuts."""
    mesh, border = slab(600.0, 40.0, 20.0)
    return prepare_membrane(Membrane(mesh, picks, border, "protein"), grid=GRID, options=OPTIONS)


def test_distances_to_the_edge_are_straight_on_a_plane() -> None:
    membrane = flat()
    x, y, _ = (membrane.surface.vertices + 5.0).T
    to_x, to_y = np.minimum(x, 600.0 - x), np.minimum(y, 600.0 - y)
    straight = np.minimum(to_x, to_y)
    # away from the corners, whose triangles are caps
    used = (straight <= membrane.reach) & (np.maximum(to_x, to_y) > 80.0)
    assert used.sum() > 1000
    # distances run from two points on each edge of 20 Å
    np.testing.assert_allclose(membrane.to_edge[used], straight[used], atol=5.1)
    assert abs(membrane.to_edge[used] - straight[used]).mean() < 1.0


def test_areas_of_components_and_leaflets() -> None:
    membrane = flat()
    assert len(membrane.component_areas) == 2  # the caps part the two sides
    assert membrane.component_areas.sum() == pytest.approx(membrane.surface.face_areas.sum())
    assert membrane.face_leaflets.tolist() == [0] * len(membrane.surface.faces)


def test_only_known_properties_are_listed() -> None:
    membrane = flat(Picks(np.array([[300.0, 300.0, 520.0]])))
    names = [values.scale.name for values in membrane.properties]
    assert set(names) & set(PROPERTY_NAMES) == set(PROPERTY_NAMES[:8])
    assert set(names) - set(PROPERTY_NAMES) == {"distance_to_protein_nm"}
    assert membrane.bilayer is None
    for values in membrane.properties:
        assert values.areas.sum() == pytest.approx(membrane.surface.face_areas.sum())
        assert len(values.at_particles) == 1


def test_angles_are_unknown_where_an_in_plane_rotation_is() -> None:
    frames = orientations_from_normals(np.tile([0.0, 0.0, 1.0], (3, 1)), np.radians([0.0, 40.0, 90.0]))
    places = np.array([[300.0, 300.0, 520.0], [320.0, 300.0, 520.0], [340.0, 300.0, 520.0]])
    membrane = flat(Picks(places, frames, in_plane=np.array([True, True, False])))
    assert membrane.in_plane_known.tolist() == [True, True, False]
    angles = membrane.angles_between(np.array([0, 1]), np.array([1, 2]))
    assert angles[0] == pytest.approx(40.0)
    assert np.isnan(angles[1])
    assert np.isnan(flat(Picks(places)).angles_between(np.array([0]), np.array([1]))).all()


def test_edge_particles_lie_within_the_edge_width() -> None:
    picks = Picks(np.array([[30.0, 300.0, 520.0], [60.0, 300.0, 520.0]]))
    membrane = flat(picks)
    assert membrane.edge_distances == pytest.approx([35.0, 65.0], abs=0.1)
    assert membrane.is_edge.tolist() == [True, False]


def test_more_neighbours_are_kept_where_chains_need_them() -> None:
    mesh = sphere(300, 200.0)
    membrane = Membrane(mesh, random_picks(mesh, 30, 1), np.zeros(300, bool), "protein")
    options = replace(OPTIONS, n_neighbors=1)
    assert prepare_membrane(membrane, grid=GRID, options=options).pairs.neighbors.ranks.max() == 3
    without = replace(options, chains=None)
    assert prepare_membrane(membrane, grid=GRID, options=without).pairs.neighbors.ranks.max() == 1
