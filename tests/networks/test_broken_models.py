"""Models whose weights or arithmetic are not finite."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.model_file import require_finite_weights, resolve_model
from membrain_cloud.networks.picking.picker import load_picker
from membrain_cloud.networks.segmentation.segmenter import load_network, load_segmenter
from membrain_cloud.networks.segmentation.window_network import WindowNetwork

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, lightning_checkpoint: Callable[..., Path], value: float
) -> None:
    path = lightning_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["_model.input_block.conv1.conv.weight"][0, 0, 1, 1, 1] = value
    torch.save(content, path)
    for load in (load_network, load_segmenter):
        with pytest.raises(ModelError, match=r"1 of \d+ weights are NaN or infinite \(first in"):
            load(str(path))


def test_a_pickers_weights_are_checked(tmp_path: Path) -> None:
    import safetensors.torch
    from safetensors import safe_open

    from membrain_cloud.networks.model_file import MODELS

    source = next(path for path in sorted(MODELS.glob("*.safetensors")) if "pick" in path.name)
    with safe_open(source, framework="pt") as stored:
        metadata = stored.metadata()
    weights = safetensors.torch.load_file(source)
    name = next(iter(weights))
    weights[name].view(-1)[0] = float("nan")
    safetensors.torch.save_file(weights, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ModelError, match="1 of"):
        load_picker(tmp_path / "x.safetensors")
    require_finite_weights({"a": torch.zeros(3)}, "x")


def test_overflow_in_half_precision_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    network, _ = load_network("membrain-cloud-small")
    device, window = torch.device("cpu"), torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 32, 32, 32)))
    exact = WindowNetwork(network, device, "float32")(window.float())
    half = WindowNetwork(network, device, "bfloat16")
    forward = half._forward
    half._forward = lambda windows: forward(windows) * float("inf")
    np.testing.assert_array_equal(half(window.float()), exact)
    assert "overflow in bfloat16: its results are computed in float32" in caplog.text
    np.testing.assert_array_equal(half(window.float()), exact)
    broken = WindowNetwork(network, device, "bfloat16")
    caplog.clear()
    assert torch.isfinite(broken(window.float())).all()
    assert not caplog.text


def test_a_model_of_an_impossible_name_is_no_bug() -> None:
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(ModelError):
            resolve_model(name)


@pytest.mark.parametrize(
    "damaged", [b"\x80\x02.", b"", b"\x80\x02]q\x00K\x01s."], ids=["empty-stack", "empty", "wrong-type"]
)
def test_a_damaged_picker_checkpoint_is_no_picker(tmp_path: Path, damaged: bytes) -> None:
    """The pickle within a checkpoint of torch ends early, or sets an item of a list."""
    whole, path = tmp_path / "whole.ckpt", tmp_path / "damaged.ckpt"
    torch.save({"state_dict": {}}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, damaged if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(ModelError, match="not a picker model"):
        load_picker(path)
