"""MemBrain-seg's checkpoints: read as they are, and refused, with what is wrong, when they are something else."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.segmentation.architecture.membrain_seg_checkpoint import expected_shapes, read_checkpoint
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet, own_state
from membrain_cloud.networks.segmentation.segmenter import load_network, load_segmenter, read_header, save_segmenter

Write = Callable[..., Path]
WINDOWS = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)


@pytest.fixture
def checkpoint(tmp_path: Path, lightning_checkpoint: Write) -> Path:
    return lightning_checkpoint(tmp_path / "MemBrain_seg_v10_small.ckpt")


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write the checkpoint with its `state_dict` changed in place, or replaced by the result of `change`."""
    content = torch.load(path, weights_only=True)
    content["state_dict"] = change(content["state_dict"]) or content["state_dict"]
    torch.save(content, path)
    return path


def logits(path: Path) -> np.ndarray:
    return load_segmenter(str(path), precision="float32").predict(WINDOWS)


def test_a_checkpoint_is_read_as_its_own_network_would_be(checkpoint: Path) -> None:
    from monai.networks.nets import DynUNet

    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    network = DynUNet(3, 1, 1, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 8, 8], res_block=True,
                      deep_supervision=True, deep_supr_num=2)  # fmt: skip
    network.load_state_dict({k.removeprefix("_model."): v for k, v in state.items() if k.startswith("_model.")})
    # It was trained on volumes in the order x, y, z; ours are z, y, x.
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(WINDOWS.T.reshape(WINDOWS.shape))).numpy().T.reshape(WINDOWS.shape)
    np.testing.assert_allclose(logits(checkpoint), expected, atol=1e-5)
    segmenter = load_segmenter(str(checkpoint), precision="float32")
    assert segmenter.architecture == UNetArchitecture((4, 8, 8, 8), residual=True)
    assert (segmenter.name, segmenter.window, segmenter.voxel_spacing_angstrom) == ("MemBrain_seg_v10_small", 160, 10.0)


def test_the_released_classes_own_file_is_read(reference: Path) -> None:
    path = str(reference / "membrain-seg" / "random_small.ckpt")
    assert read_header(path) == {
        "task": "segmentation",
        "architecture": {"channels": [4, 8, 16, 32, 64, 128], "residual": True},
        "window": 160,
        "voxel_spacing_angstrom": 10.0,
        "format": "membrain-seg",
    }
    network, _ = load_network(path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert len(own_state(network)) == 91
    for name, value in own_state(network).items():
        there = stored[f"_model.{name}"]
        assert torch.equal(value, there.permute(0, 1, 4, 3, 2) if there.ndim == 5 else there)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("channels", [(4, 8, 8), (8, 4, 16, 2), (1, 2, 3), (4, 8, 16, 32, 64, 128)])
def test_expected_shapes_are_those_of_the_network(channels: tuple[int, ...], residual: bool) -> None:
    architecture = UNetArchitecture(channels, residual)
    built = {name: tuple(value.shape) for name, value in own_state(build_unet(architecture)).items()}
    assert expected_shapes(architecture) == built


@pytest.mark.parametrize("residual", [True, False])
def test_blocks_with_and_without_residuals_are_told_apart(
    tmp_path: Path, lightning_checkpoint: Write, residual: bool
) -> None:
    path = lightning_checkpoint(tmp_path / "m.ckpt", residual=residual)
    assert read_checkpoint(path)[0] == UNetArchitecture((4, 8, 8, 8), residual)


@pytest.mark.parametrize(
    "variant",
    [
        lambda s: {k: v for k, v in s.items() if "deep_supervision" not in k and "super_head" not in k},
        lambda s: {k: v for k, v in s.items() if "skip_layers" not in k},
        lambda s: {k: v for k, v in s.items() if k.startswith("_model.")},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {k.replace("_model.", "_model.module."): v for k, v in s.items()},
        lambda s: {k.replace("_model.", "_model._orig_mod."): v for k, v in s.items()},
        lambda s: {k: v.clone() for k, v in s.items()},
        lambda s: {k: v.double() for k, v in s.items()},
    ],
    ids=["no heads", "no aliases", "no loss", "module.", "_model.module.", "compiled", "not shared", "float64"],
)  # fmt: skip
def test_variants_of_the_same_network_give_the_same(checkpoint: Path, variant: Callable[[Any], Any]) -> None:
    before = logits(checkpoint)
    np.testing.assert_array_equal(logits(changed(checkpoint, variant)), before)


def test_the_legacy_format_of_torch_is_read_too(checkpoint: Path) -> None:
    before = logits(checkpoint)
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(logits(checkpoint), before)


def test_weights_saved_on_a_gpu_are_read_without_one(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logits(checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(content, checkpoint)
    assert b"cuda:0" in checkpoint.read_bytes()
    np.testing.assert_array_equal(logits(checkpoint), before)


def test_the_name_of_a_file_does_not_matter(checkpoint: Path) -> None:
    before = logits(checkpoint)
    np.testing.assert_array_equal(logits(checkpoint.rename(checkpoint.with_name("download"))), before)


def test_saved_as_ours_it_gives_the_same_bits(checkpoint: Path, tmp_path: Path) -> None:
    network, header = load_network(str(checkpoint))
    architecture = UNetArchitecture.from_dict(header["architecture"])
    facts = {"window": 160, "voxel_spacing_angstrom": 10.0}
    save_segmenter(tmp_path / "ours.safetensors", network, architecture, facts, dtype=torch.float32)
    np.testing.assert_array_equal(logits(tmp_path / "ours.safetensors"), logits(checkpoint))
    ours = read_header(str(tmp_path / "ours.safetensors"))
    assert header | {"format": "membrain_cloud"} == ours


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.__delitem__(f"_model.{name}")


def with_weight(name: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({f"_model.{name}": torch.zeros(*shape)})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (without("upsamples.1.conv_block.norm1.bias"), "1 weights are missing: upsamples.1.conv_block.norm1.bias"),
        (without("bottleneck.conv1.conv.weight"), "has no U-Net's levels"),
        (with_weight("attention.weight", 3), "1 weights are unknown: attention.weight"),
        (with_weight("input_block.conv1.conv.weight", 4, 1, 5, 5, 5), r"\(5, 5, 5\), not \(3, 3, 3\)"),
        (with_weight("input_block.conv1.conv.weight", 4, 1, 3, 3), r"are \(3, 3\), not"),
        (with_weight("input_block.conv1.conv.weight", 4, 2, 3, 3, 3), "takes 2 channels"),
        (with_weight("output_block.conv.conv.weight", 2, 4, 1, 1, 1), "output_block.conv.conv.weight is"),
        (with_weight("upsamples.0.transp_conv.conv.weight", 8, 8, 1, 2, 2), "transp_conv.conv.weight is"),
        (with_weight("skip_layers.elsewhere.weight", 1), "elsewhere.weight repeats no layer"),
        (with_weight("skip_layers.next_layer.downsample.norm1.bias", 3), "the layer it repeats"),
        (with_weight("module.output_block.conv.conv.bias", 1), "there twice"),
        (lambda s: s.update({"_model.note": "text"}), "_model.note is no tensor"),
        (lambda s: s.update({"_model.output_block.conv.conv.bias": torch.zeros(1, dtype=torch.int64)}), "torch.int64"),
        (lambda s: {"backbone.weight": torch.zeros(1)}, "no weight below `_model.`, but e.g. backbone.weight"),
        (lambda s: {"_model.weight": torch.zeros(1)}, "has no U-Net's levels, but e.g. weight"),
        (lambda s: [1, 2], "without an entry `state_dict`"),
    ],
)
def test_what_is_not_that_network_is_refused(checkpoint: Path, change: Callable[[Any], Any], cause: str) -> None:
    changed(checkpoint, change)
    for read in (read_header, load_segmenter):
        with pytest.raises(ModelError, match=cause) as caught:
            read(str(checkpoint))
        assert str(checkpoint) in caught.value.message
        assert caught.value.next_step


def test_weights_saved_alone_and_a_name_that_misleads_are_no_hindrance(checkpoint: Path, tmp_path: Path) -> None:
    windows = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    expected = load_segmenter(str(checkpoint)).predict(windows)
    alone, misnamed = tmp_path / "alone.ckpt", tmp_path / "checkpoint.safetensors"
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], alone)
    misnamed.write_bytes(checkpoint.read_bytes())
    for path in (alone, misnamed):
        assert read_header(str(path))["format"] == "membrain-seg"
        np.testing.assert_array_equal(load_segmenter(str(path)).predict(windows), expected)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle"])
def test_code_in_a_checkpoint_is_not_run(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    content = torch.load(checkpoint, weights_only=True) | {"callbacks": Payload(tmp_path / "done")}
    if kind == "plain pickle":
        checkpoint.write_bytes(pickle.dumps(Payload(tmp_path / "done")))
    else:
        torch.save(content, checkpoint, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ModelError) as caught:
        load_segmenter(str(checkpoint))
    assert not (tmp_path / "done").exists()
    assert str(checkpoint) in caught.value.message
    if kind != "plain pickle":
        assert "mkdir" in caught.value.message
        assert "state_dict" in caught.value.next_step


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_refused(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    for read in (read_header, load_segmenter):
        with pytest.raises(ModelError, match="cut short") as caught:
            read(str(checkpoint))
        assert "again" in caught.value.next_step


@pytest.mark.parametrize("content", [b"", b"PK", b"hello world, this is a text\n" * 9, b"\x80\x02", b"\x00" * 64])
def test_what_is_no_checkpoint_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"text\.ckpt"):
        read_header(str(path))


def test_a_checkpoint_of_membrain_pick_is_named_as_such(reference: Path, tmp_path: Path) -> None:
    path = shutil.copy(reference / "membrain-pick" / "random_membrain_pick_t.ckpt", tmp_path)
    with pytest.raises(ModelError, match=r"MemBrain-pick.*pick\.model"):
        load_segmenter(str(path))


def test_a_model_for_another_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picker.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"membrain_cloud": '{"task": "picking"}'})
    with pytest.raises(ModelError, match="for 'picking', not for segmentation"):
        load_segmenter(str(path))
