"""Models by built-in name, path, URL and registry: resolved, fetched, verified, converted; and plans with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from safetensors import safe_open

from membrain_cloud.errors import ModelError, UsageError
from membrain_cloud.networks.model_file import built_in_models
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet, own_state
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.pipeline import models
from membrain_cloud.pipeline.planning.digests import StageDigests
from membrain_cloud.pipeline.settings import settings_from
from membrain_cloud.pipeline.stages.registry import STAGES

Write = Callable[..., Path]
WINDOWS = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMBRAIN_CLOUD_MODELS", str(tmp_path / "models.json"))
    (tmp_path / "models.json").write_text('{"models": {}}')
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path, lightning_checkpoint: Write) -> Path:
    return lightning_checkpoint(tmp_path / "v10.ckpt")


@pytest.fixture
def url(checkpoint: Path) -> Iterator[str]:
    """Put the checkpoint on a file share."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/share/v10.ckpt", checkpoint.read_bytes())
    yield "memory://share/v10.ckpt"
    memory.rm("/share", recursive=True)


@pytest.fixture
def register(tmp_path: Path) -> Callable[..., None]:
    def write(name: str, **entry: Any) -> None:
        (tmp_path / "models.json").write_text(json.dumps({"models": {name: entry}}))

    return write


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def logits(source: str) -> np.ndarray:
    return models.load_segmenter(source, precision="float32").predict(WINDOWS)


def test_one_model_by_all_its_names(checkpoint: Path, url: str, cache: Path, register: Callable[..., None]) -> None:
    expected = sum_of(checkpoint)
    register("seg-v10", url=url, sha256=expected, description="small", license="none")
    sources = {
        "file": str(checkpoint),
        "url": url,
        "registry": "seg-v10",
        "pinned": f"{url}#sha256={expected}",
        "pinned file": f"{checkpoint}#sha256={expected}",
        "file url": f"file://{checkpoint}",
    }
    first = logits(str(checkpoint))
    for name, source in sources.items():
        assert models.model_sha256(source) == expected, name
        assert models.read_header(source)["format"] == "membrain-seg", name
        np.testing.assert_array_equal(logits(source), first)
    assert models.resolve("seg-v10").path == cache / expected / "v10.ckpt"
    facts = models.model_facts("seg-v10")
    assert (facts["name"], facts["origin"], facts["license"]) == ("seg-v10", "registry", "none")


def test_built_in_models_are_resolved_by_name() -> None:
    for name in built_in_models():
        model = models.resolve(name)
        assert (model.origin, model.path.stem) == ("built-in", name)
    with pytest.raises(ModelError, match=r"membrain-cloud-smal'.*did you mean membrain-cloud-small\?"):
        models.resolve("membrain-cloud-smal")


def test_a_wrong_pin_is_refused_everywhere(checkpoint: Path, url: str, cache: Path) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    for source in (f"{checkpoint}#sha256={other}", f"{url}#sha256={other}", f"file://{checkpoint}#sha256={other}"):
        with pytest.raises(ModelError, match=f"{sum_of(checkpoint)}, not {other}"):
            models.resolve(source)
    with pytest.raises(ModelError, match=f"not {other}"):
        models.resolve(f"{built_in_models()[0]}#sha256={other}")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert checkpoint.is_file()


def test_a_registry_with_a_wrong_sum_is_refused(url: str, register: Callable[..., None]) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    register("seg", url=url, sha256=other)
    with pytest.raises(ModelError, match=f"not {other}"):
        models.model_sha256("seg")


def test_a_cached_file_that_was_changed_is_fetched_again(checkpoint: Path, url: str, cache: Path) -> None:
    source = f"{url}#sha256={sum_of(checkpoint)}"
    path = models.resolve(source).path
    path.write_bytes(b"changed")
    assert models.resolve(source).path == path
    assert path.read_bytes() == checkpoint.read_bytes()


def test_the_registry_adds_facts_that_the_file_does_not_store(
    checkpoint: Path, url: str, register: Callable[..., None]
) -> None:
    register("seg", url=url, sha256=sum_of(checkpoint), window=96, voxel_spacing_angstrom=7.5)
    segmenter = models.load_segmenter("seg")
    assert (segmenter.window, segmenter.voxel_spacing_angstrom) == (96, 7.5)
    assert models.read_header("seg")["window"] == 96
    assert models.read_header(str(checkpoint))["window"] == 160


def test_the_registry_may_not_contradict_a_file(tmp_path: Path, register: Callable[..., None]) -> None:
    path, architecture = tmp_path / "ours.safetensors", UNetArchitecture((4, 8, 8))
    save_segmenter(path, build_unet(architecture), architecture, {"window": 16, "voxel_spacing_angstrom": 10.0})
    register("ours", url="ours.safetensors", sha256=sum_of(path), window=16)
    assert models.read_header("ours")["window"] == 16
    register("ours", url="ours.safetensors", sha256=sum_of(path), window=32)
    with pytest.raises(ModelError, match="registry says window 32, the file itself 16"):
        models.load_segmenter("ours")


def test_a_registry_may_not_take_a_built_in_name(register: Callable[..., None]) -> None:
    register(built_in_models()[0], url="a.ckpt", sha256="0" * 64)
    with pytest.raises(ModelError, match="name of a built-in model"):
        models.list_models()


def test_models_of_the_registry_are_listed_and_not_fetched(
    url: str, cache: Path, register: Callable[..., None]
) -> None:
    register("seg", url=url, sha256="0" * 64, description="not fetched")
    listed = {model["name"]: model for model in models.list_models()}
    assert set(listed) == {*built_in_models(), "seg"}
    assert listed["seg"]["description"] == "not fetched"
    assert not cache.exists()


def test_a_model_other_than_planned_is_refused(checkpoint: Path) -> None:
    planned = sum_of(checkpoint)
    models.load_segmenter(str(checkpoint), sha256=planned)
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"planned with.*same file"):
        models.load_segmenter(str(checkpoint), sha256=planned)
    with pytest.raises(ModelError, match="planned with"):
        models.load_picker("membrain-cloud-picker", sha256=planned)


def test_digests_depend_on_the_model_and_not_on_its_name(
    checkpoint: Path, url: str, register: Callable[..., None], tmp_path: Path
) -> None:
    def digest(source: str) -> str:
        return StageDigests.of(settings_from({"segment": {"model": source}}), STAGES, ["segment"]).digests["segment"]

    register("seg", url=url, sha256=sum_of(checkpoint))
    assert digest(str(checkpoint)) == digest(url) == digest("seg")
    register("seg", url=url, sha256=sum_of(checkpoint), window=96)
    assert digest("seg") != digest(str(checkpoint))
    assert digest("membrain-cloud-small") != digest(str(checkpoint))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_converted_checkpoint_is_the_same_network(checkpoint: Path, tmp_path: Path, precision: str) -> None:
    output = tmp_path / "deep" / "v10.safetensors"
    facts = models.convert(str(checkpoint), str(output), precision=precision, overwrite=False)
    assert facts["converted_from"] == {"name": "v10.ckpt", "sha256": sum_of(checkpoint), "format": "membrain-seg"}
    assert (facts["window"], facts["voxel_spacing_angstrom"], facts["format"]) == (160, 10.0, "membrain_cloud")
    assert facts["weights"] == precision
    with safe_open(output, framework="pt") as stored:
        assert {str(stored.get_tensor(key).dtype) for key in stored.keys()} == {f"torch.{precision}"}  # noqa: SIM118
    if precision == "float32":
        np.testing.assert_array_equal(logits(str(output)), logits(str(checkpoint)))
    else:
        difference = np.abs(logits(str(output)) - logits(str(checkpoint)))
        assert 0 < difference.max() < 0.05


def test_the_released_checkpoint_converts_bit_by_bit(reference: Path, tmp_path: Path) -> None:
    source, output = str(reference / "membrain-seg" / "random_small.ckpt"), str(tmp_path / "small.safetensors")
    models.convert(source, output, precision="float32", overwrite=False)
    windows = np.random.default_rng(1).standard_normal((1, 1, 64, 64, 64)).astype(np.float32)
    first, second = (models.load_segmenter(s, precision="float32").predict(windows) for s in (source, output))
    np.testing.assert_array_equal(first, second)


def test_a_conversion_keeps_the_facts_of_the_registry(
    checkpoint: Path, url: str, register: Callable[..., None], tmp_path: Path
) -> None:
    register("seg", url=url, sha256=sum_of(checkpoint), window=96, voxel_spacing_angstrom=7.5)
    output = str(tmp_path / "seg.safetensors")
    models.convert("seg", output, precision="float32", overwrite=False)
    header = models.read_header(output)
    assert (header["window"], header["voxel_spacing_angstrom"]) == (96, 7.5)


def test_a_conversion_replaces_a_file_only_on_request(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "v10.safetensors"
    output.write_text("mine")
    with pytest.raises(UsageError, match=r"there already.*overwrite"):
        models.convert(str(checkpoint), str(output), precision="float32", overwrite=False)
    assert output.read_text() == "mine"
    models.convert(str(checkpoint), str(output), precision="float32", overwrite=True)
    assert models.read_header(str(output))["task"] == "segmentation"
    with pytest.raises(UsageError, match=r"written as \.safetensors"):
        models.convert(str(checkpoint), str(tmp_path / "v10.pt"), precision="float32", overwrite=False)
    with pytest.raises(ModelError, match="for 'picking'"):
        models.convert("membrain-cloud-picker", str(output), precision="float32", overwrite=True)


@pytest.mark.parametrize("name", built_in_models())
def test_the_shipped_models_pass_their_own_check(name: str) -> None:
    assert models.verify(name)["sha256"] == models.model_sha256(name)


def test_a_checkpoint_is_verified_with_a_window(checkpoint: Path) -> None:
    checked = models.verify(f"{checkpoint}#sha256={sum_of(checkpoint)}")
    assert (checked["tested_window"], checked["sha256_checked_against"]) == (16, "pin")
    low, high = checked["logit_range"]
    assert low < high


def test_a_picker_of_membrain_pick_is_recognised_and_verified(reference: Path) -> None:
    path = str(reference / "membrain-pick" / "random_membrain_pick_t.ckpt")
    assert models.read_header(path)["format"] == "membrain-pick"
    assert models.verify(path)["task"] == "picking"
    with pytest.raises(ModelError, match="MemBrain-pick"):
        models.load_segmenter(path)


def test_weights_that_are_not_finite_are_found(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["_model.output_block.conv.conv.bias"].fill_(float("nan"))
    torch.save(content, checkpoint)
    with pytest.raises(ModelError, match="NaN or infinite"):
        models.verify(str(checkpoint))


def test_headers_of_our_networks_and_membrain_segs_have_the_same_keys(checkpoint: Path, tmp_path: Path) -> None:
    architecture = UNetArchitecture((4, 8, 8), residual=True)
    network = build_unet(architecture)
    assert own_state(network)
    facts = {"window": 16, "voxel_spacing_angstrom": 10.0}
    save_segmenter(tmp_path / "ours.safetensors", network, architecture, facts)
    ours, theirs = (models.read_header(str(path)) for path in (tmp_path / "ours.safetensors", checkpoint))
    assert set(ours) == set(theirs) == {"task", "architecture", "window", "voxel_spacing_angstrom", "format"}
    assert set(ours["architecture"]) == set(theirs["architecture"]) == {"channels", "residual"}


def test_a_picker_is_refused_for_segmentation() -> None:
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.stages.inference import sliding_window

    with pytest.raises(ModelError, match="is for picking, not for segmentation"):
        sliding_window(load_settings(None, ["segment.model=membrain-cloud-picker"]).segment, 10.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("segment.model=membrain-cloud-picker", "'membrain-cloud-picker' is for picking, not for segmentation"),
        ("pick.model=membrain-cloud-small", "'membrain-cloud-small' is for segmentation, not for picking"),
    ],
)
def test_a_model_for_another_task_is_refused_at_planning(line: str, message: str) -> None:
    from membrain_cloud.pipeline.planning.digests import StageDigests
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.stages.registry import STAGES

    with pytest.raises(ModelError, match=message):
        StageDigests.of(load_settings(None, [line]), STAGES, ("measure",))
