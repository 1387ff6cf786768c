"""Networks at work: rescaled windows, GPUs without memory, what each device can compute in."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.gpu.cuda_graphs import CompiledModule, RecordedForward
from membrain_cloud.networks.segmentation.window_network import WindowNetwork, faithful_precision, fastest_precision
from membrain_cloud.networks.segmentation.window_rescaling import fourier_resize, rescaled_edge, trilinear_resize

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def wave(edge: int, cycles: int) -> np.ndarray:
    """Return a cosine along z with a whole number of periods in the window."""
    z = np.cos(2 * np.pi * cycles * np.arange(edge) / edge)
    return np.broadcast_to(z[:, None, None], (edge,) * 3).astype(np.float32)


@pytest.mark.parametrize(("edge", "to"), [(48, 32), (32, 48), (32, 32), (20, 64)])
def test_fourier_resizing_keeps_waves_and_scales_them_by_the_voxels(edge: int, to: int) -> None:
    found = fourier_resize(torch.from_numpy(wave(edge, 3).copy())[None, None], to)[0, 0]
    np.testing.assert_allclose(found.numpy(), wave(to, 3) * (edge / to) ** 3, atol=2e-5 * (edge / to) ** 3)


def test_fourier_cropping_drops_what_the_coarser_grid_cannot_hold() -> None:
    found = fourier_resize(torch.from_numpy(wave(48, 20).copy())[None, None], 32)
    assert float(found.abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("window", "spacing", "edge"), [(160, 13.68, 118), (160, 7.84, 204), (160, 10.01, 160), (64, 13.68, 48)]
)
def test_edges_of_rescaled_windows_are_membrain_segs(window: int, spacing: float, edge: int) -> None:
    assert rescaled_edge(window, from_angstrom=10.0, to_angstrom=spacing) == edge


def test_logits_come_back_at_the_windows_own_size() -> None:
    network = WindowNetwork(build_unet(UNetArchitecture((4, 8, 8))).eval(), CPU, "float32")
    windows = torch.randn((2, 1, 22, 22, 22), generator=torch.Generator().manual_seed(0))
    found = network(windows, 16)
    assert found.shape == windows.shape
    expected = trilinear_resize(network(fourier_resize(windows, 16)), 22)
    assert torch.equal(found, expected)


class Hungry(nn.Module):
    """Runs out of memory for more than `fits` windows at once, as a GPU does."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits, self.seen = fits, []

    def forward(self, windows: Tensor) -> Tensor:
        self.seen.append(len(windows))
        if len(windows) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return windows * 2


def hungry(fits: int) -> tuple[WindowNetwork, Hungry]:
    """Return a network as on a GPU; a CPU has autocast for bfloat16 only."""
    module = Hungry(fits)
    network = WindowNetwork.__new__(WindowNetwork)
    network.device, network.dtype, network._module = CPU, torch.float32, module
    network._forward, network._unchecked = network._with_autocast, None
    return network, module


def test_a_gpu_without_memory_gets_smaller_batches_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network, module = hungry(2)
    windows = torch.arange(7.0)[:, None, None, None, None].expand(7, 1, 4, 4, 4)
    with caplog.at_level(logging.WARNING):
        found = network(windows)
    assert torch.equal(found, windows * 2)
    assert module.seen == [7, 4, 2, 2, 3, 2, 1]
    assert "no memory for 7 windows" in caplog.text


def test_not_even_one_window_is_an_error_with_the_cure() -> None:
    network, _ = hungry(0)
    with pytest.raises(ModelError, match="no memory for one window of 4 voxels") as caught:
        network(torch.zeros((3, 1, 4, 4, 4)))
    assert "segment.window" in caught.value.next_step


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ModelError, match="float16 on a CPU"):
        WindowNetwork(build_unet(UNetArchitecture((4, 8, 8))), CPU, "float16")


def test_int8_is_refused_where_there_are_no_kernels_for_it() -> None:
    with pytest.raises(ModelError, match="int8 needs a CPU with AVX-512 VNNI"):
        WindowNetwork(build_unet(UNetArchitecture((4, 8, 8))), torch.device("meta"), "int8")


@pytest.mark.parametrize(
    ("amx", "vnni", "bf16", "plain", "residual"),
    [
        (True, True, True, "bfloat16", "bfloat16"),
        (False, True, True, "int8", "bfloat16"),
        (False, True, False, "int8", "float32"),
        (False, False, False, "float32", "float32"),
    ],
)
def test_the_fastest_arithmetic_depends_on_the_cpu_and_the_network(
    amx: bool, vnni: bool, bf16: bool, plain: str, residual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert fastest_precision(CPU, UNetArchitecture((4, 8, 8))) == plain
    assert fastest_precision(CPU, UNetArchitecture((4, 8, 8), residual=True)) == residual
    assert fastest_precision(CPU, UNetArchitecture((8, 8, 8)), symmetric=True) == ("bfloat16" if bf16 else plain)
    assert fastest_precision(torch.device("cuda"), UNetArchitecture((4, 8, 8))) == "bfloat16"


def test_faithful_is_membrain_segs_arithmetic() -> None:
    assert (faithful_precision(CPU), faithful_precision(torch.device("cuda"))) == ("float32", "float16")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_gives_the_same_logits() -> None:
    network = build_unet(UNetArchitecture((4, 8, 8))).eval().requires_grad_(False)
    windows = torch.randn((2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    compiled = CompiledModule(network)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(windows), network(windows), atol=1e-5, rtol=1e-5)
        assert compiled._forward is not network


def test_a_network_that_cannot_be_compiled_works_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(module: nn.Module, **_: object) -> Callable[[Tensor], Tensor]:
        def forward(_: Tensor) -> Tensor:
            raise RuntimeError("no compiler\nand much more")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    network = build_unet(UNetArchitecture((4, 8, 8))).eval().requires_grad_(False)
    windows = torch.zeros((1, 1, 16, 16, 16))
    compiled = CompiledModule(network)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compiled(windows), network(windows))
        assert torch.equal(compiled(windows), network(windows))
    assert [record.getMessage() for record in caplog.records] == [
        "the network is not compiled, which costs time only: no compiler"
    ]


def test_a_compiled_network_without_memory_asks_for_fewer_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    compiled = CompiledModule(Hungry(fits=1))
    with pytest.raises(torch.OutOfMemoryError):
        compiled(torch.zeros((2, 1, 4, 4, 4)))
    assert compiled(torch.zeros((1, 1, 4, 4, 4))).shape == (1, 1, 4, 4, 4)


def test_where_nothing_can_be_recorded_windows_are_computed_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def forward(windows: Tensor) -> Tensor:
        calls.append(tuple(windows.shape))
        return windows + 1

    recorded = RecordedForward(forward)
    if torch.cuda.is_available():
        pytest.skip("a GPU records it")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(recorded(torch.zeros(2, 3)), torch.ones(2, 3))
    assert calls == [(2, 3)] * 2
    assert len(caplog.records) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_recorded_network_gives_the_same_logits() -> None:
    network = build_unet(UNetArchitecture((4, 8, 8))).eval().requires_grad_(False).cuda()
    windows = torch.randn((4, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)).cuda()
    recorded = RecordedForward(network)
    with torch.inference_mode():
        for part in (windows[:2], windows[2:], windows[:1]):
            torch.testing.assert_close(recorded(part), network(part), atol=1e-5, rtol=1e-5)
        first, second = recorded(windows[:2]), recorded(windows[2:])
        assert not torch.equal(first, second)
