"""Segmentation models: written, read back, refused when they are not what they should be."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.model_file import model_sha256, resolve_model
from membrain_cloud.networks.segmentation.architecture.unet import (
    UNetArchitecture,
    build_unet,
    load_own_state,
    own_state,
)
from membrain_cloud.networks.segmentation.segmenter import load_network, load_segmenter, read_header, save_segmenter

if TYPE_CHECKING:
    from pathlib import Path

TINY = UNetArchitecture((4, 8, 8))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_segmenter(path, build_unet(TINY), TINY, {"window": 16, "voxel_spacing_angstrom": 10.0})
    return path


def test_a_saved_model_predicts_as_before(model: Path) -> None:
    torch.manual_seed(0)
    network = build_unet(TINY).eval()
    windows = np.random.default_rng(0).standard_normal((2, 1, 16, 16, 16)).astype(np.float32)
    segmenter = load_segmenter(str(model), precision="float32")
    with torch.inference_mode():
        expected = network(torch.from_numpy(windows)).numpy()
    found = segmenter.predict(windows)
    assert found.shape == windows.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=5e-3)  # weights are stored as float16
    assert segmenter.window == 16
    assert segmenter.sha256 == model_sha256(str(model))


def test_lower_precision_stays_close(model: Path) -> None:
    windows = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    exact = load_segmenter(str(model), precision="float32").predict(windows)
    lower = load_segmenter(str(model), precision="bfloat16").predict(windows)
    assert np.abs(exact - lower).mean() < 0.05 * exact.std() + 0.02


def test_missing_models_name_those_that_exist() -> None:
    with pytest.raises(ModelError, match="no such file or built-in model"):
        resolve_model("nobody/knows/this")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    path.write_text("not a model")
    with pytest.raises(ModelError, match="neither safetensors nor a checkpoint"):
        read_header(str(path))


def test_a_header_without_facts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="does not say what network it is"):
        load_segmenter(str(path))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    wrong = UNetArchitecture((4, 8, 16))
    save_segmenter(path, build_unet(TINY), wrong, {"window": 16, "voxel_spacing_angstrom": 10.0})
    with pytest.raises(ModelError, match="do not fit"):
        load_segmenter(str(path))


@pytest.mark.parametrize(
    "header",
    [
        "not JSON",
        "[]",
        "{}",
        '{"task": "segmentation"}',
        '{"task": "segmentation", "architecture": {"channels": [4, 8, 8]}, "window": 16, "voxel_spacing_angstrom": 10}',
        '{"task": "segmentation", "architecture": {"channels": [4, 8, 8], "residual": false}, "window": 18,'
        ' "voxel_spacing_angstrom": 10}',
        '{"task": "segmentation", "architecture": {"channels": [4, 8, 8], "residual": false}, "window": 16,'
        ' "voxel_spacing_angstrom": 0}',
    ],
)
def test_a_header_that_says_nonsense_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"membrain_cloud": header})
    with pytest.raises(ModelError, match="not one that membrain_cloud writes"):
        read_header(str(path))


def test_a_header_says_what_is_needed_and_its_format(model: Path) -> None:
    assert read_header(str(model)) == {
        "task": "segmentation",
        "architecture": {"channels": [4, 8, 8], "residual": False},
        "window": 16,
        "voxel_spacing_angstrom": 10.0,
        "format": "membrain_cloud",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_are_stored_as_asked(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network, facts = build_unet(TINY), {"window": 16, "voxel_spacing_angstrom": 10.0}
    for name in ("a", "b"):
        save_segmenter(tmp_path / name, network, TINY, facts, dtype=dtype)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    read, _ = load_network(str(tmp_path / "a"))
    for name, value in own_state(network).items():
        assert torch.equal(own_state(read)[name], value.to(dtype).float())


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_a_precision_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    network = build_unet(TINY)
    with torch.no_grad():
        own_state(network)["output_block.conv.conv.bias"].fill_(value)
    with pytest.raises(ModelError, match=r"output_block\.conv\.conv\.bias is not finite as float16"):
        save_segmenter(tmp_path / "m.safetensors", network, TINY, {"window": 16, "voxel_spacing_angstrom": 10.0})
    assert list(tmp_path.iterdir()) == []


def test_the_sum_of_a_file_follows_its_content(tmp_path: Path) -> None:
    path = tmp_path / "big"
    for content in (b"a" * 3_000_001, b"b" * 3_000_002):
        path.write_bytes(content)
        assert model_sha256(str(path)) == hashlib.sha256(content).hexdigest()


def test_own_state_has_no_alias_and_loads_strictly() -> None:
    network = build_unet(TINY)
    state = own_state(network)
    assert not any(key.startswith("skip_layers") for key in state)
    state.pop(next(iter(state)))
    with pytest.raises(KeyError, match="1 weights differ"):
        load_own_state(network, state)


def test_two_levels_are_too_few() -> None:
    with pytest.raises(ModelError, match="too few levels"):
        build_unet(UNetArchitecture((4, 8)))
