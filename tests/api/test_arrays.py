"""The public functions on arrays: results of the stages, refusals of bad input, progress."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import membrain_cloud as mc
from membrain_cloud.api import arrays

if TYPE_CHECKING:
    from membrain_cloud.simulation.phantom import Phantom


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return mc.simulate(seed=1, shape=(64, 96, 96), membranes=1)


@pytest.fixture(scope="module")
def meshes(phantom: Phantom) -> dict[int, mc.Mesh]:
    return mc.mesh(phantom.instances, voxel_spacing_angstrom=10.0)


def steps() -> tuple[list[tuple[int, int]], Any]:
    calls: list[tuple[int, int]] = []
    return calls, lambda done, total: calls.append((done, total))


def test_segment_finds_the_membrane_and_reports_every_window(phantom: Phantom) -> None:
    calls, progress = steps()
    labels = mc.segment(phantom.density, voxel_spacing_angstrom=10.0, progress=progress)
    truth = phantom.labels > 0
    assert labels.dtype == bool
    assert 2 * (labels & truth).sum() / (labels.sum() + truth.sum()) > 0.8
    assert calls[-1][0] == calls[-1][1] > 1
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_segment_in_float64_is_that_in_float32(phantom: Phantom) -> None:
    part = phantom.density[:48, :64, :64]
    one, two = (mc.segment(part.astype(kind), voxel_spacing_angstrom=10.0) for kind in (np.float32, np.float64))
    np.testing.assert_array_equal(one, two)


def test_a_data_array_states_its_spacing_and_comes_back(phantom: Phantom) -> None:
    xarray = pytest.importorskip("xarray")
    axes = {axis: np.arange(n) * 1.0 for axis, n in zip("zyx", phantom.labels.shape, strict=True)}
    labels = xarray.DataArray(phantom.labels, coords=axes, dims=("z", "y", "x"))
    for axis in "zyx":
        labels.coords[axis].attrs["units"] = "nanometer"
    instances = mc.separate(labels, min_voxels=100)
    assert instances.dims == ("z", "y", "x")
    np.testing.assert_array_equal(instances.values, mc.separate(phantom.labels, min_voxels=100))
    by_coordinates, by_number = mc.mesh(instances), mc.mesh(instances.values, voxel_spacing_angstrom=10.0)
    np.testing.assert_array_equal(by_coordinates[1].vertices, by_number[1].vertices)


def test_a_mesh_has_the_area_of_the_membrane(phantom: Phantom, meshes: dict[int, mc.Mesh]) -> None:
    rows = mc.measure(meshes, shape=phantom.labels.shape, voxel_spacing_angstrom=10.0)
    area = float(rows["membranes"].one_sided_area_nm2[0])
    assert area == pytest.approx(phantom.membrane_areas_nm2[1], rel=0.15)


def test_picks_lie_on_the_membrane_and_are_measured(phantom: Phantom, meshes: dict[int, mc.Mesh]) -> None:
    calls, progress = steps()
    picks = mc.pick(meshes, phantom.density, voxel_spacing_angstrom=10.0, progress=progress)
    assert calls == [(k + 1, len(meshes)) for k in range(len(meshes))]
    assert len(picks[1]) > 0
    rows = mc.measure(meshes, picks, tomogram=phantom.density, voxel_spacing_angstrom=10.0)
    assert int(rows["membranes"].n_particles.sum()) == sum(len(some) for some in picks.values())
    assert rows["particles"].distance_to_surface_nm.max() < 10


def test_particles_by_class_keep_their_names(meshes: dict[int, mc.Mesh]) -> None:
    here = mc.Picks(meshes[1].vertices[:3])
    rows = mc.measure(meshes, {"dimer": {1: here}, "tower": {1: mc.Picks(meshes[1].vertices[5:6])}})
    assert sorted(rows["particles"].object_name) == ["dimer"] * 3 + ["tower"]


def test_without_picks_their_number_is_unknown_and_not_zero(meshes: dict[int, mc.Mesh]) -> None:
    assert mc.measure(meshes)["membranes"].n_particles.isna().all()
    assert (mc.measure(meshes, {})["membranes"].n_particles == 0).all()


def test_a_bool_mask_is_one_membrane() -> None:
    mask = np.zeros((24, 40, 40), bool)
    mask[10:14] = True
    assert list(mc.mesh(mask, voxel_spacing_angstrom=10.0)) == [1]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mc.segment(np.zeros((4, 4)), voxel_spacing_angstrom=10.0), "TomogramError", "(4, 4)"),
        (lambda: mc.segment(np.zeros((32, 32, 32)), voxel_spacing_angstrom=10.0), "TomogramError", "every voxel"),
        (lambda: mc.segment(np.full((32, 32, 32), np.nan), voxel_spacing_angstrom=10.0), "TomogramError", "NaN"),
        (lambda: mc.segment(np.zeros((4, 4, 4), complex), voxel_spacing_angstrom=10.0), "TomogramError", "complex"),
        (lambda: mc.segment(np.zeros((4, 4, 4))), "VoxelSpacingError", "voxel_spacing_angstrom"),
        (lambda: mc.segment(np.zeros((4, 4, 4)), voxel_spacing_angstrom=-1.0), "VoxelSpacingError", "positive"),
        (lambda: mc.segment(np.zeros((4, 4, 4)), voxel_spacing_angstrom=10.0, model="none"), "ModelError", "none"),
        (lambda: mc.separate(np.ones((4, 4, 4))), "InputError", "float64"),
        (lambda: mc.separate(np.full((4, 4, 4), -1)), "InputError", "-1"),
        (lambda: mc.separate(np.ones((4, 4, 4), bool), min_voxels=-5), "UsageError", "min_voxels"),
        (lambda: mc.measure({1: mc.Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))}), "InputError", "no vertices"),
        (lambda: mc.simulate(shape=(4, 4, 4)), "UsageError", "16"),
        (lambda: mc.simulate(voxel_spacing_angstrom=0.0), "UsageError", "100"),
    ],
)
def test_bad_input_is_refused_by_name(call: Any, error: str, words: str) -> None:
    with pytest.raises(mc.MembrainCloudError) as caught:
        call()
    assert type(caught.value).__name__ == error
    assert words in str(caught.value)
    assert caught.value.next_step


def test_picks_on_a_membrane_without_a_mesh_are_refused(meshes: dict[int, mc.Mesh]) -> None:
    with pytest.raises(mc.MembrainCloudError, match="7"):
        mc.measure(meshes, {7: mc.Picks(np.ones((1, 3)))})


def test_a_mesh_with_nan_is_refused_by_its_number(phantom: Phantom, meshes: dict[int, mc.Mesh]) -> None:
    broken = replace(meshes[1], vertices=np.full_like(meshes[1].vertices, np.nan))
    with pytest.raises(mc.MembrainCloudError, match="membrane 4"):
        mc.pick({4: broken}, phantom.density, voxel_spacing_angstrom=10.0)


def test_a_class_that_the_picker_has_not_is_refused(phantom: Phantom, meshes: dict[int, mc.Mesh]) -> None:
    with pytest.raises(mc.MembrainCloudError, match="psii"):
        mc.pick(meshes, phantom.density, voxel_spacing_angstrom=10.0, particle_class="psii")


def test_the_package_mesh_is_the_function_too() -> None:
    import membrain_cloud.mesh.surface

    assert membrain_cloud.mesh.surface.Surface
    assert mc.mesh(np.zeros((8, 8, 8), bool), voxel_spacing_angstrom=10.0) == {}
    assert arrays.mesh.__doc__
