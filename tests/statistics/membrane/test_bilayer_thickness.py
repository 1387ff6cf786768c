"""Thickness of bilayers in synthetic densities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from membrain_cloud.geometry import Grid
from membrain_cloud.mesh.leaflets import split_leaflets
from membrain_cloud.mesh.surface import Surface
from membrain_cloud.statistics.membrane.bilayer_thickness import Density, fit_leaflets, measure_bilayer, offsets_nm
from membrain_cloud.statistics.membrane.gaps import find_gaps


def profiles(distance: float, width: float, rng: np.random.Generator, noise: float = 0.05) -> np.ndarray:
    x = offsets_nm() - 0.2
    dark = np.exp(-0.5 * ((x - distance / 2) / width) ** 2) + 0.8 * np.exp(-0.5 * ((x + distance / 2) / width) ** 2)
    return -dark + rng.normal(0, noise, (100, len(x)))


@pytest.mark.parametrize("distance", [3.2, 4.0, 5.3])
@pytest.mark.parametrize("width", [0.6, 1.0])
def test_two_lines_are_as_far_apart_as_they_were_drawn(distance: float, width: float) -> None:
    fitted = fit_leaflets(profiles(distance, width, np.random.default_rng(0)))
    assert np.isfinite(fitted).all()
    assert fitted.mean() == pytest.approx(distance, abs=0.05)
    assert fitted.std() < 0.1


def test_lines_that_are_not_resolved_have_no_distance() -> None:
    rng, x = np.random.default_rng(1), offsets_nm()
    one_line = -np.exp(-0.5 * (x / 1.5) ** 2) + rng.normal(0, 0.05, (100, len(x)))
    assert np.isnan(fit_leaflets(one_line)).all()
    assert np.isnan(fit_leaflets(rng.normal(size=(300, len(x))))).all()
    assert np.isnan(fit_leaflets(-profiles(4.0, 0.8, rng))).all()  # bright lines are no leaflets
    assert np.isnan(fit_leaflets(np.zeros((2, len(x))))).all()


@pytest.fixture(scope="module")
def vesicle(shapes: Any) -> tuple[Surface, np.ndarray, np.ndarray]:
    mesh = shapes.vesicle(275.0, 215.0, (400.0, 400.0, 400.0))
    leaflets = split_leaflets(Surface(mesh))
    assert leaflets is not None
    return Surface(mesh, leaflets), leaflets, find_gaps({0: mesh}, reach_angstrom=300.0)[0].across


def density_of(lines: tuple[float, ...], noise: float) -> Density:
    grid = Grid((80, 80, 80), 10.0)
    z, y, x = np.indices(grid.shape) * 10.0 - 400.0
    radius = np.sqrt(x * x + y * y + z * z)
    dark = sum(np.exp(-0.5 * ((radius - line) / 8.0) ** 2) for line in lines)
    values = -np.asarray(dark) + np.random.default_rng(2).normal(0, noise, grid.shape)
    return Density(values.astype(np.float32), grid.box, grid)


def test_a_vesicle_in_noise(vesicle: tuple[Surface, np.ndarray, np.ndarray]) -> None:
    """Leaflets 4 nm apart in a segmentation 6 nm thick; the noise is about as strong as the lines."""
    surface, leaflets, across = vesicle
    bilayer = measure_bilayer(surface, leaflets, across, density_of((225.0, 265.0), 1.0))
    assert bilayer is not None
    assert bilayer.thickness == pytest.approx(40.0, abs=1.5)
    assert bilayer.error is not None
    assert 0.0 < bilayer.error < 2.0
    known = np.isfinite(bilayer.at_faces)
    assert known.mean() > 0.5
    assert np.median(bilayer.at_faces[known]) == pytest.approx(40.0, abs=2.0)
    assert {bool(known[leaflets == side].any()) for side in (0, 1)} == {True}


def test_noise_and_constant_density_give_no_thickness(vesicle: tuple[Surface, np.ndarray, np.ndarray]) -> None:
    surface, leaflets, across = vesicle
    noise = measure_bilayer(surface, leaflets, across, density_of((), 1.0))
    assert noise is not None
    assert (noise.thickness, noise.error) == (None, None)
    assert np.isnan(noise.at_faces).all()
    flat = density_of((), 0.0)
    assert measure_bilayer(surface, leaflets, across, flat) is None
    flat.values[3, 4, 5] = np.nan
    assert measure_bilayer(surface, leaflets, across, flat) is None
    assert measure_bilayer(surface, leaflets, np.full(len(across), np.inf), density_of((225.0,), 1.0)) is None
