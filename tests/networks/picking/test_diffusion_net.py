"""The network equals MemBrain-pick's on its own data, and models survive being written and read."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.spatial import cKDTree

from membrain_cloud.errors import ModelError
from membrain_cloud.mesh.spectral.operators import Operators, surface_operators
from membrain_cloud.networks.picking.diffusion_net import Architecture, DiffusionNet
from membrain_cloud.networks.picking.picker import Picker, load_picker, normalise_profiles, save_picker, surface_tensors
from membrain_cloud.picking.vertex_scores import PatchOptions, vertex_scores
from membrain_cloud.store.formats.meshes import read_h5

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, NDArray]:
    with np.load(reference / "membrain-pick" / "golden_partition.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def released(reference: Path) -> Picker:
    return load_picker(reference / "membrain-pick" / "random_membrain_pick_t.ckpt")


def golden_operators(golden: dict[str, NDArray]) -> Operators:
    count = len(golden["mass"])
    x, y = (
        scipy.sparse.csr_matrix((golden[f"{n}_val"], (golden[f"{n}_row"], golden[f"{n}_col"])), shape=(count, count))
        for n in ("gradX", "gradY")
    )
    return Operators(golden["mass"], golden["evals"], golden["evecs"], x, y)


def small_picker(seed: int = 0) -> Picker:
    torch.manual_seed(seed)
    network = DiffusionNet(Architecture(channels=6, width=5, outputs=1, blocks=2, hidden=4, profile_blocks=1))
    return Picker(
        network=network.eval(),
        offsets_angstrom=np.linspace(-10.0, 25.0, 8),
        spline_order=1,
        window_starts=(0, 1, 2),
        eigenpairs=12,
        partition_vertices=300,
        length_unit_angstrom=500.0,
        score_unit_angstrom=15.0,
        inward_normals=False,
        notes={"seed": seed},
    )


def bent_sheet(count: int = 12) -> tuple[NDArray, NDArray, NDArray]:
    x, y = (c.ravel() * 20.0 for c in np.meshgrid(np.arange(count), np.arange(count), indexing="ij"))
    vertices = np.stack([x, y, 15.0 * np.sin(x / 60.0)], axis=1)
    corner = (np.arange(count - 1)[:, None] * count + np.arange(count - 1)).ravel()
    right, up = corner + count, corner + 1
    faces = np.concatenate([np.stack([corner, right, up], 1), np.stack([right, right + 1, up], 1)])
    normals = np.stack([-0.25 * np.cos(x / 60.0), 0 * x, np.ones_like(x)], axis=1)
    return vertices, faces, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def test_network_equals_the_release_on_its_operators(golden: dict[str, NDArray], released: Picker) -> None:
    features = torch.from_numpy(golden["features"])
    surface = surface_tensors(golden_operators(golden), mirrored=False, device=CPU)
    with torch.inference_mode():
        middle = released.network.conv_block(features, surface).numpy()
        score = released.network(features, surface)[:, 0].numpy()
    np.testing.assert_allclose(middle, golden["conv_block_random_t"], atol=1e-5)
    np.testing.assert_allclose(score, golden["score_random_t"], atol=1e-5)


def test_network_equals_the_release_on_our_operators_of_an_outward_mesh(
    golden: dict[str, NDArray], released: Picker
) -> None:
    """The release's normals point inwards; ours outwards: `inward_normals` makes up for it."""
    operators = surface_operators(
        golden["verts_orig_A"],
        golden["faces"][:, ::-1],
        -golden["normals"],
        eigenpairs=released.eigenpairs,
        length_unit_angstrom=released.length_unit_angstrom,
    )
    surface = surface_tensors(operators, mirrored=released.inward_normals, device=CPU)
    with torch.inference_mode():
        score = released.network(torch.from_numpy(golden["features"]), surface)[:, 0].numpy()
    np.testing.assert_allclose(score, golden["score_random_t"], atol=1e-5)


@pytest.mark.parametrize(
    ("checkpoint", "predicted", "membrane"),
    [
        ("random_membrain_pick_t.ckpt", "predict_random_t", "mb1"),
        ("trained_3_epochs.ckpt", "predict_trained3ep", "mb1"),
        ("trained_3_epochs.ckpt", "predict_trained3ep", "mb2"),
    ],
)
def test_whole_membranes_equal_the_release(reference: Path, checkpoint: str, predicted: str, membrane: str) -> None:
    """Their mesh and checkpoint in, their scores out: patches, operators, network and merging are all the same."""
    folder = reference / "membrain-pick"
    given = read_h5(str(folder / f"mesh_data/Tomo0001_{membrane}.h5"), voxel_spacing_angstrom=10.0)
    theirs = read_h5(str(folder / predicted / f"Tomo0001_{membrane}.h5"))
    picker = load_picker(folder / checkpoint)
    assert given.profiles is not None
    assert theirs.scores is not None
    scores = vertex_scores(
        given.mesh,
        given.profiles,
        picker.predict,
        PatchOptions.of_picker(picker),
        normals=given.normals,
    )
    nearest = cKDTree(theirs.mesh.vertices).query(given.mesh.vertices)[1]
    error = np.abs(scores - theirs.scores[nearest])
    assert np.quantile(error, 0.99) < 1e-3
    assert np.median(error) < 1e-4


def test_released_checkpoints_load_strictly_and_say_how_to_feed_them(reference: Path) -> None:
    picker = load_picker(reference / "membrain-pick" / "trained_3_epochs.ckpt")
    assert picker.network.architecture == Architecture(16, 16, 1, 4, 16, 2)
    assert sum(p.numel() for p in picker.network.parameters()) == 9701
    assert (picker.eigenpairs, picker.window_starts, picker.inward_normals) == (128, (2,), True)
    # Along outward normals, the release's first sample lies 25 Å outside.
    np.testing.assert_allclose(picker.offsets_angstrom, np.arange(25.0, -25.0, -2.5))


def test_prediction_is_the_mean_over_the_windows() -> None:
    vertices, faces, normals = bent_sheet()
    picker = small_picker()
    operators = surface_operators(vertices, faces, normals, eigenpairs=12, length_unit_angstrom=500.0)
    profiles = np.random.default_rng(0).normal(100.0, 7.0, (len(vertices), 8)).astype(np.float32)
    single = [replace(picker, window_starts=(start,)).predict(profiles, operators) for start in (0, 1, 2)]
    np.testing.assert_allclose(picker.predict(profiles, operators), np.mean(single, axis=0), atol=1e-5)
    assert np.ptp([s.mean() for s in single]) > 0
    # The scale of the density does not matter.
    np.testing.assert_allclose(
        picker.predict(3.0 * profiles - 50.0, operators), picker.predict(profiles, operators), atol=1e-4
    )


def test_prediction_does_not_see_how_the_mesh_lies_in_space() -> None:
    vertices, faces, normals = bent_sheet()
    picker = small_picker()
    profiles = np.random.default_rng(0).normal(0, 1, (len(vertices), 8)).astype(np.float32)
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    turn = turn @ np.array([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])
    here = surface_operators(vertices, faces, normals, eigenpairs=12, length_unit_angstrom=500.0)
    there = surface_operators(
        vertices @ turn.T + 3000.0, faces, normals @ turn.T, eigenpairs=12, length_unit_angstrom=500.0
    )
    np.testing.assert_allclose(picker.predict(profiles, here), picker.predict(profiles, there), atol=2e-3)


def test_turning_the_normals_round_is_undone_by_mirroring() -> None:
    vertices, faces, normals = bent_sheet()
    out = surface_operators(vertices, faces, normals, eigenpairs=12, length_unit_angstrom=500.0)
    into = surface_operators(vertices, faces[:, ::-1], -normals, eigenpairs=12, length_unit_angstrom=500.0)
    ours, theirs = surface_tensors(out, mirrored=False, device=CPU), surface_tensors(into, mirrored=True, device=CPU)
    assert ours.slopes_y.abs().max() > 1
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_window_can_be_averaged_or_centred() -> None:
    picker = replace(small_picker(), window_starts=(0,))  # 8 samples, windows of 6
    assert picker.averaged().window_starts == (0, 1, 2)
    assert picker.centred().window_starts == (1,)


def test_a_network_of_several_classes_scores_each(tmp_path: Path) -> None:
    vertices, faces, normals = bent_sheet()
    torch.manual_seed(0)
    network = DiffusionNet(Architecture(channels=6, width=5, outputs=3, blocks=1, hidden=4, profile_blocks=1)).eval()
    picker = replace(small_picker(), network=network, classes=("a", "b", "c"))
    operators = surface_operators(vertices, faces, normals, eigenpairs=12, length_unit_angstrom=500.0)
    profiles = np.random.default_rng(0).normal(0, 1, (len(vertices), 8)).astype(np.float32)
    found = picker.predict(profiles, operators)
    assert found.shape == (len(vertices), 3)
    save_picker(picker, tmp_path / "three.safetensors")
    read = load_picker(tmp_path / "three.safetensors")
    assert read.classes == ("a", "b", "c")
    np.testing.assert_array_equal(read.predict(profiles, operators), found)


def test_constant_profiles_stay_finite() -> None:
    assert np.array_equal(normalise_profiles(np.full((5, 4), 7.0)), np.zeros((5, 4)))


def test_a_picker_survives_writing_and_reading(tmp_path: Path) -> None:
    picker = small_picker()
    save_picker(picker, tmp_path / "deep" / "a.safetensors")
    save_picker(picker, tmp_path / "b.safetensors")
    assert (tmp_path / "deep" / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.safetensors", "deep"]
    read = load_picker(tmp_path / "b.safetensors")
    assert (read.name, read.window_starts, read.eigenpairs, read.notes) == ("b", (0, 1, 2), 12, {"seed": 0})
    assert len(read.sha256) == 64
    for name, value in picker.network.state_dict().items():
        assert torch.equal(value, read.network.state_dict()[name])


@pytest.mark.parametrize("name", ["none.safetensors", "none.ckpt"])
def test_an_absent_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="none"):
        load_picker(tmp_path / name)


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.ckpt"])
@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"{" * 16])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="not a picker model"):
        load_picker(tmp_path / name)


def test_a_checkpoint_with_a_missing_tensor_is_refused(tmp_path: Path, reference: Path) -> None:
    path = reference / "membrain-pick" / "random_membrain_pick_t.ckpt"
    stored = torch.load(path, weights_only=True)
    del stored["state_dict"]["model.block_2.mlp.miniMLP_mlp_layer_001.weight"]
    torch.save(stored, tmp_path / "cut.ckpt")
    with pytest.raises(ModelError, match="not a picker model"):
        load_picker(tmp_path / "cut.ckpt")


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    content = safetensors.torch.save({"a": torch.zeros(1)}, {"membrain_cloud": '{"task": "segmentation"}'})
    (tmp_path / "seg.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="segmentation"):
        load_picker(tmp_path / "seg.safetensors")


def test_operators_are_read_by_name_only() -> None:
    """The network knows nothing of the membranes' room: anything with the five attributes will do."""
    vertices, faces, normals = bent_sheet()
    operators = surface_operators(vertices, faces, normals, eigenpairs=12, length_unit_angstrom=500.0)
    profiles = np.random.default_rng(1).normal(0, 1, (len(vertices), 8)).astype(np.float32)
    other = SimpleNamespace(**vars(operators))
    picker = small_picker()
    np.testing.assert_array_equal(picker.predict(profiles, other), picker.predict(profiles, operators))
