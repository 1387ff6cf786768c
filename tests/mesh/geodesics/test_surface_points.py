"""Points on surfaces: where they lie, and how far from the points they were projected from."""

from __future__ import annotations

import numpy as np
from standins.shapes import Shapes

from membrain_cloud.mesh.geodesics.surface_points import SurfacePoints, Survey
from membrain_cloud.mesh.surface import Surface


def test_points_and_surveys_are_counted_by_points_and_sources() -> None:
    surface = Surface(Shapes().plane(5, 10.0))
    points = surface.closest_points(np.array([[20.0, 20.0, 5.0], [10.0, 10.0, -2.0], [20.0, 15.0, 0.0]]))
    assert isinstance(points, SurfacePoints)
    assert len(points) == 3
    np.testing.assert_allclose(points.distances, [5.0, 2.0, 0.0])
    np.testing.assert_allclose(points.positions[:, 2], 0.0)
    survey = surface.survey(points, points, cutoff_angstrom=100.0, edges_angstrom=np.array([0.0, 10.0, 100.0]))
    assert isinstance(survey, Survey)
    assert survey.distances.shape == (3, 3)
    assert survey.annulus_areas.shape == (3, 2)
    assert np.isinf(survey.to_seam).all()
