"""The forward pass in slabs equals MONAI's, in any slabs, and leaves no trace of the window before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.cpu import slab_forward as streaming
from membrain_cloud.networks.segmentation.cpu.slab_forward import StreamedUNet


def network(architecture: UNetArchitecture) -> nn.Module:
    """With normalisations that do something: fresh ones scale by 1 and shift by 0."""
    torch.manual_seed(3)
    unet = build_unet(architecture).eval()
    for module in unet.modules():
        if isinstance(module, nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return unet


def window(edge: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((edge, edge, edge), generator=torch.Generator().manual_seed(seed)) + 5.0


@pytest.mark.parametrize(
    ("architecture", "edge"),
    [
        (UNetArchitecture((4, 8, 16)), 16),
        (UNetArchitecture((4, 8, 16), residual=True), 24),
        (UNetArchitecture((8, 8, 8, 8), residual=True), 32),
        (UNetArchitecture((4, 6, 8, 10, 12)), 48),
        (UNetArchitecture((2, 4, 8, 16, 32, 64), residual=True), 64),
    ],
)
@pytest.mark.parametrize("slab_bytes", [1, 50_000, 2**30])
def test_equals_the_plain_forward_pass(
    architecture: UNetArchitecture, edge: int, slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_SLAB_BYTES", slab_bytes)
    unet = network(architecture)
    with torch.inference_mode():
        expected = unet(window(edge)[None, None])[0, 0]
        found = StreamedUNet(unet, torch.float32)(window(edge))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_second_window_is_not_touched_by_the_first() -> None:
    streamed = StreamedUNet(network(UNetArchitecture((4, 8, 16), residual=True)), torch.float32)
    with torch.inference_mode():
        expected = streamed(window(16, seed=1)).clone()
        streamed(window(24, seed=2))
        streamed(window(16, seed=3))
        assert torch.equal(streamed(window(16, seed=1)), expected)


def test_lower_precision_is_near() -> None:
    unet = network(UNetArchitecture((8, 16, 16)))
    with torch.inference_mode():
        exact = StreamedUNet(unet, torch.float32)(window(32))
        lower = StreamedUNet(unet, torch.bfloat16)(window(32))
    assert 0 < float((lower - exact).std()) < 0.05 * float(exact.std())


def test_statistics_keep_their_digits_beside_a_large_mean() -> None:
    moments = streaming._Moments(2)
    rows = torch.randn((40, 30, 30, 2), generator=torch.Generator().manual_seed(5)) * 0.1 + torch.tensor([1000.0, -3.0])
    for slab in rows.split(7):
        moments.add(slab.clone())
    exact = rows.double().reshape(-1, 2)
    torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(moments.squares / moments.count, exact.var(0, correction=0), rtol=1e-4, atol=0)
