"""Windows: distances across them, and which of two may stand for both."""

from __future__ import annotations

import math

import pytest

from membrain_cloud.mesh.geodesics.windows import Window, _covers, crossing, distance_at, hypot

WINDOW = Window(3.0, -4.0, 10.0, 1.0, 6.0)


def test_distance_is_that_of_the_source_and_the_straight_path() -> None:
    assert hypot(3.0, 4.0) == 5.0
    assert distance_at(WINDOW, 6.0) == 15.0
    assert distance_at(WINDOW, 3.0) == 14.0


def test_rays_cross_the_halfedge_on_their_way() -> None:
    assert crossing(WINDOW, 3.0, 8.0) == 3.0
    assert crossing(WINDOW, 9.0, 4.0) == pytest.approx(6.0)
    assert crossing(Window(2.0, 0.0, 0.0, 0.0, 5.0), 4.0, 0.0) == 2.0  # along the halfedge: at the source


@pytest.mark.parametrize(("x", "covers"), [(3.0, True), (6.0, False), (-3.0, True)])
def test_a_window_covers_another_if_its_rays_lead_as_far_outwards(x: float, covers: bool) -> None:
    """At the other one's end, 6 beyond 4, rays from farther left lead farther to the right."""
    kept, dropped = Window(x, -4.0, 0.0, 0.0, 4.0), Window(3.0, -4.0, 0.0, 4.0, 6.0)
    assert _covers(kept, dropped) is covers
    assert math.isclose(distance_at(dropped, 3.0), 4.0)
