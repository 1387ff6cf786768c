"""Buffers of a propagation: as they are at first, and after they were cleared."""

from __future__ import annotations

import numpy as np
from standins.shapes import Shapes

from membrain_cloud.mesh.geodesics.pseudosources import add_source
from membrain_cloud.mesh.geodesics.solver import Geodesics
from membrain_cloud.mesh.geodesics.state import clear, new_buffers
from membrain_cloud.mesh.surface import Surface


def test_cleared_buffers_are_as_new_ones_whether_windows_ran_out_or_not() -> None:
    surface = Surface(Shapes().plane(6, 10.0))
    mesh = Geodesics(surface.vertices, surface.faces, surface.twins, np.zeros(len(surface.twins), bool))._mesh
    for windows, overflow in ((64, 0), (1, 1)):
        buffers, fresh = new_buffers(mesh, windows), new_buffers(mesh, windows)
        add_source(mesh, buffers, 20, np.full(3, 1 / 3), np.inf)
        assert buffers.counts[0]["overflow"] == overflow
        assert np.isfinite(buffers.distance).sum() == 3
        if overflow:
            clear(buffers)
            for name in ("bucket", "last", "next_window", "counts", "distance", "to_boundary", "face_reached"):
                np.testing.assert_array_equal(getattr(buffers, name), getattr(fresh, name))
        else:
            clear(buffers)
            np.testing.assert_array_equal(buffers.distance, fresh.distance)
            assert buffers.counts[0]["waiting"] == buffers.counts[0]["faces"] == 0
