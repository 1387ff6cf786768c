"""Segmentation models: written, read back, refused when they are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.checkpoints import load_segmenter, model_sha256, read_header, resolve_model, save_segmenter
from membrain_cloud.networks.unet import UNetArchitecture, build_unet, load_own_state, own_state

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
    with pytest.raises(ModelError, match="not a safetensors file"):
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
