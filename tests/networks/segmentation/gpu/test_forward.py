"""The fused forward pass: its kernels in Triton's interpreter, the whole on a GPU, and what happens without either."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from membrain_cloud.networks.segmentation import window_network as inference
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.gpu import forward as fused
from membrain_cloud.networks.segmentation.gpu.cuda_graphs import RecordedForward
from membrain_cloud.networks.segmentation.gpu.forward import FusedForward, FusedUNet, fused_is_available
from membrain_cloud.networks.segmentation.window_network import WindowNetwork

on_a_gpu = pytest.mark.skipif(not fused_is_available(), reason="needs an NVIDIA GPU and Triton")


def network_of(channels: tuple[int, ...], residual: bool) -> nn.Module:
    torch.manual_seed(0)
    network = build_unet(UNetArchitecture(channels, residual)).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
    return network


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed: nothing to interpret")
def test_kernels_and_networks_in_tritons_interpreter_agree_with_torch() -> None:
    # Not bfloat16: the interpreter's matrix product takes its bits for integers.
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[3] / "standins" / "triton_interpreter.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 27
    # float32 holds a mean of 1e5 deviations to 1/160 of a deviation only.
    limits = {name: 4e-3 if "float16" in name else 2e-2 if "1e5" in name else 1e-5 for name in found}
    assert {name: error for name, error in found.items() if not error < limits[name]} == {}


def test_without_an_nvidia_gpu_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fused_is_available(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not fused_is_available()


@pytest.mark.parametrize(
    ("capability", "triton", "available"), [((7, 5), True, False), ((8, 0), True, True), ((9, 0), False, False)]
)
def test_fusing_needs_matrix_units_for_bfloat16_and_triton(
    capability: tuple[int, int], triton: bool, available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if triton else None)
    assert fused_is_available(torch.device("cuda")) == available


@pytest.mark.parametrize(
    ("precision", "compilation", "is_fused"),
    [
        ("bfloat16", "no", True),
        ("float16", "no", True),
        ("float32", "no", False),
        ("bfloat16", "compile", False),
        ("bfloat16", "both", False),
        ("bfloat16", "graphs", True),
    ],
)
def test_half_precision_is_fused_where_it_is_not_compiled(
    precision: str, compilation: str, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "fused_is_available", lambda _: True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    network = WindowNetwork(network_of((4, 8, 8), False), torch.device("cuda"), precision, compilation)
    forward = network._forward
    assert isinstance(forward, RecordedForward) == (compilation in ("graphs", "both"))
    if isinstance(forward, RecordedForward):
        forward = forward._forward
    assert isinstance(forward, FusedForward) == is_fused


class Broken:
    """In place of FusedUNet: fails at its call."""

    made = 0

    def __init__(self, *_: object) -> None:
        type(self).made += 1

    def __call__(self, _: Tensor) -> Tensor:
        raise RuntimeError("Failed to find C compiler\nand much more")


class Hungry(Broken):
    def __call__(self, windows: Tensor) -> Tensor:
        if len(windows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return windows * 3


def test_where_triton_cannot_compile_the_plain_network_runs_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "FusedUNet", Broken)
    forward = FusedForward(nn.Identity(), torch.bfloat16, lambda windows: windows + 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(forward(torch.zeros(2, 3)), torch.ones(2, 3))
    assert [record.getMessage() for record in caplog.records] == [
        "the network runs without its fused kernels, which costs time only: Failed to find C compiler"
    ]


def test_too_little_memory_asks_for_fewer_windows_and_stays_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FusedUNet", Hungry)
    forward = FusedForward(nn.Identity(), torch.bfloat16, lambda windows: windows + 1)
    with pytest.raises(torch.OutOfMemoryError):
        forward(torch.ones(2, 3))
    assert torch.equal(forward(torch.ones(1, 3)), torch.full((1, 3), 3.0))


def error_of(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@on_a_gpu
@pytest.mark.parametrize(("own_first", "own_to"), [(True, 0), (False, 0), (True, 64)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(
    ("channels", "residual", "edge", "batch"),
    [((16, 32, 64), False, 32, 3), ((32, 64, 128, 256), True, 32, 1), ((5, 12, 20), True, 20, 3)],
)
def test_a_fused_network_gives_the_plain_ones_logits(
    channels: tuple[int, ...],
    residual: bool,
    edge: int,
    batch: int,
    dtype: torch.dtype,
    limit: float,
    own_first: bool,
    own_to: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "OWN_FIRST_CONVOLUTION", own_first)
    monkeypatch.setattr(fused, "OWN_CONVOLUTIONS_TO", own_to)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = network_of(channels, residual).cuda()
    windows = torch.randn((batch, 1, edge, edge, edge), generator=torch.Generator().manual_seed(1)).cuda()
    with torch.inference_mode():
        found = FusedUNet(network, dtype)(windows)
        assert found.dtype == torch.float32
        assert error_of(found, network(windows)) < limit


@on_a_gpu
def test_a_recorded_fused_network_gives_the_same_logits() -> None:
    forward = FusedUNet(network_of((16, 32, 64), True).cuda(), torch.bfloat16)
    recorded = RecordedForward(forward)
    windows = torch.randn((4, 1, 32, 32, 32), generator=torch.Generator().manual_seed(1)).cuda()
    with torch.inference_mode():
        for part in (windows[:2], windows[2:], windows[:1]):
            assert torch.equal(recorded(part), forward(part))
    assert len(recorded._recordings) == 2


@on_a_gpu
def test_windows_run_fused_on_a_gpu(caplog: pytest.LogCaptureFixture) -> None:
    network = network_of((16, 32, 64), False).cuda()
    windows = torch.randn((2, 1, 32, 32, 32), generator=torch.Generator().manual_seed(1)).cuda()
    with caplog.at_level(logging.WARNING):
        found = WindowNetwork(network, torch.device("cuda"), "bfloat16")(windows)
    assert not caplog.records
    with torch.inference_mode():
        assert error_of(found, network(windows)) < 2e-2


@on_a_gpu
def test_fused_normalisation_trains_as_the_plain_one() -> None:
    from membrain_cloud.networks.segmentation.gpu.instance_norm_backward import fuse_normalisation

    windows = torch.randn((2, 1, 32, 32, 32), generator=torch.Generator().manual_seed(1)).cuda()
    gradients = []
    for is_fused in (False, True):
        network = network_of((16, 32, 64), True).cuda().requires_grad_(True)
        names = list(network.state_dict())
        if is_fused:
            fuse_normalisation(network)
        assert list(network.state_dict()) == names
        network(windows.to(memory_format=torch.channels_last_3d)).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert error_of(gradients[1], gradients[0]) < 1e-2
