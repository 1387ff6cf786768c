"""Meshes, picks and axes that a caller passes: what is refused, and that it is refused with a next step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr

import membrain_cloud as mc
from membrain_cloud.api.surfaces import checked_meshes, checked_picks

VERTICES = np.array([[100.0, 100.0, 100.0], [300.0, 100.0, 100.0], [100.0, 300.0, 100.0], [100.0, 100.0, 300.0]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
MESHES = {1: mc.Mesh(VERTICES, FACES)}
POINT = np.array([[150.0, 150.0, 100.0]])
DENSITY = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)


def density(dims: str = "zyx", **changes: Any) -> xr.DataArray:
    return xr.DataArray(DENSITY, dims=tuple(dims), coords={axis: np.arange(40) * 10.0 for axis in dims} | changes)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mc.measure([MESHES[1]]), "list"),
        (lambda: mc.measure(MESHES[1]), "Mesh"),
        (lambda: mc.measure({"a": MESHES[1]}), "'a'"),
        (lambda: mc.measure({1: VERTICES}), "ndarray"),
        (lambda: mc.measure({1: mc.Mesh(VERTICES[:, :2], FACES)}), "(4, 2)"),
        (lambda: mc.measure({1: mc.Mesh(VERTICES, FACES.astype(float))}), "float64"),
        (lambda: mc.measure({1: mc.Mesh(VERTICES, np.zeros((3, 4), int))}), "(3, 4)"),
        (lambda: mc.measure({1: mc.Mesh(VERTICES.astype(str) + "x", FACES)}), "no numbers"),
        (lambda: mc.measure(MESHES, mc.Picks(POINT)), "{1: picks}"),
        (lambda: mc.measure(MESHES, {1: POINT}), "ndarray"),
        (lambda: mc.measure(MESHES, {1: mc.Picks(POINT[:, :2])}), "(1, 2)"),
        (lambda: mc.measure(MESHES, {1: mc.Picks(POINT, scores=np.ones(5))}), "scores"),
        (lambda: mc.measure(MESHES, {1: mc.Picks(POINT, np.zeros((1, 3)))}), "orientations"),
        (lambda: mc.measure(MESHES, shape=(40, 40), voxel_spacing_angstrom=10.0), "(40, 40)"),
        (lambda: mc.measure(MESHES, shape=(-4, 40, 40), voxel_spacing_angstrom=10.0), "(-4, 40, 40)"),
        (lambda: mc.measure(MESHES, shape=(40, 40, 40)), "voxel_spacing_angstrom"),
        (lambda: mc.measure(MESHES, shape=(40, 40, 40), voxel_spacing_angstrom=1.0), "beyond the tomogram"),
        (lambda: mc.measure(MESHES, tomogram=density(), shape=(4, 4, 4)), "(4, 4, 4)"),
        (lambda: mc.pick(MESHES, DENSITY, voxel_spacing_angstrom=1.0), "beyond the tomogram"),
        (lambda: mc.pick({1: mc.Mesh(VERTICES - 1e4, FACES)}, density()), "beyond the tomogram"),
        (lambda: mc.pick(DENSITY, MESHES, voxel_spacing_angstrom=10.0), "no array|shape"),
        (lambda: mc.particle_context(MESHES, {1: mc.Picks(POINT)}), "dict"),
        (lambda: mc.particle_context(MESHES, mc.Picks(POINT), reach_nm=-1.0), "reach_nm"),
        (lambda: mc.particle_context(MESHES, mc.Picks(POINT), density(), voxel_spacing_angstrom=1.0), "beyond"),
        (lambda: mc.segment(density("xyz")), "transpose"),
        (lambda: mc.segment(density(z=np.arange(40)[::-1] * 10.0)), "mirror"),
        (lambda: mc.segment(density().to_dataset(name="a")), "no array"),
        (lambda: mc.segment(DENSITY, voxel_spacing_angstrom=[10.0, 10.0, 10.0]), "one number"),
        (lambda: mc.segment(DENSITY, voxel_spacing_angstrom=10.0, progress=3), "progress"),
        (lambda: mc.separate(DENSITY > 0, settings={"separate": {}}), "Settings"),
        (lambda: mc.simulate(shape=64), "64"),
        (lambda: mc.simulate(shape=(20.5, 32, 32)), "20.5"),
        (lambda: mc.simulate(seed=-1), "seed"),
        (lambda: mc.simulate(membranes="2"), "membranes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_next_step(call: Any, words: str) -> None:
    with pytest.raises(mc.MembrainCloudError) as caught:
        call()
    assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize("kind", [np.float32, ">f8", int, list])
def test_vertices_and_positions_of_any_real_dtype_are_read(kind: Any) -> None:
    vertices = VERTICES.tolist() if kind is list else VERTICES.astype(kind)
    faces = FACES.tolist() if kind is list else FACES.astype(np.uint64)
    mesh = checked_meshes({np.int64(1): mc.Mesh(vertices, faces)})[1]
    np.testing.assert_array_equal(mesh.vertices, VERTICES)
    assert mesh.vertices.dtype == np.float64
    assert checked_picks(mc.Picks(vertices), "picks").positions.dtype == np.float64
    assert mc.measure({1: mesh})["membranes"].error.isna().all()


def test_no_picks_and_unknown_positions_are_no_error() -> None:
    for picks in (mc.Picks(np.zeros((0, 3))), mc.Picks.concatenate([]), mc.Picks(np.full((1, 3), np.nan))):
        rows = mc.measure(MESHES, {1: picks})
        assert int(rows["membranes"].n_particles[0]) == 0


def test_an_array_that_cannot_be_written_is_segmented_without_a_warning() -> None:
    part = DENSITY[:32, :32, :32].copy()
    part.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = mc.segment(part, voxel_spacing_angstrom=10.0)
    np.testing.assert_array_equal(labels, mc.segment(part.copy(), voxel_spacing_angstrom=10.0))
