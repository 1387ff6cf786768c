"""Convolutions in eight-bit integers are near to those in float32, wherever the values lie."""

from __future__ import annotations

import pytest
import torch

from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.cpu.int8 import QuantizedWeights, has_integer_kernels
from membrain_cloud.networks.segmentation.cpu.slab_forward import StreamedUNet

pytestmark = pytest.mark.skipif(not has_integer_kernels(), reason="needs a CPU with AVX-512 VNNI")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0], ids=["negative", "both", "positive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_exact_convolution_within_a_step_borders_included(
    stride: int, offset: float, dtype: torch.dtype
) -> None:
    made = torch.Generator().manual_seed(0)
    rows = (torch.rand((6, 8, 10, 16), generator=made) * 2 - 1 + offset).to(dtype)
    weight = torch.randn((32, 16, 3, 3, 3), generator=made)
    for padding in ((1, 1, 1), (0, 1, 1)):
        found = QuantizedWeights(weight, stride).convolve(rows, padding, stride)
        exact = torch.conv3d(rows.float().permute(3, 0, 1, 2)[None], weight, None, stride, padding)[0].permute(
            1, 2, 3, 0
        )
        assert found.dtype == dtype
        assert found.shape == exact.shape
        assert 0 < float((found.float() - exact).std()) < 0.02 * float(exact.std())


def test_maps_of_zeros_stay_zeros() -> None:
    found = QuantizedWeights(torch.ones((16, 16, 3, 3, 3)), 1).convolve(torch.zeros((3, 4, 4, 16)), (1, 1, 1), 1)
    assert not found.any()


def test_few_great_values_do_not_make_the_steps_of_the_many_coarse() -> None:
    made = torch.Generator().manual_seed(0)
    rows = torch.rand((16, 64, 64, 16), generator=made)
    weight = torch.randn((16, 16, 3, 3, 3), generator=made)
    quantized, mostly = QuantizedWeights(weight, 1), rows.clone()
    mostly[4, 5:10, 6, 2] = 20.0

    def error(values: torch.Tensor) -> torch.Tensor:
        exact = torch.conv3d(values.permute(3, 0, 1, 2)[None], weight, None, 1, 1)[0].permute(1, 2, 3, 0)
        return (quantized.convolve(values, (1, 1, 1), 1) - exact)[8:].std()

    assert error(mostly) < 1.1 * error(rows)
    # Many of them are no outliers.
    mostly[4] = 20.0
    assert error(mostly) > 5 * error(rows)
    found = quantized.convolve(mostly, (1, 1, 1), 1)[4]
    exact = torch.conv3d(mostly.permute(3, 0, 1, 2)[None], weight, None, 1, 1)[0].permute(1, 2, 3, 0)[4]
    assert float((found - exact).std()) < 0.02 * float(exact.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_network_is_near(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    unet = build_unet(UNetArchitecture((16, 16, 32))).eval()
    window = torch.randn((32, 32, 32), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        exact = StreamedUNet(unet, torch.float32)(window)
        found = StreamedUNet(unet, dtype, integers=True)(window)
    assert 0 < float((found - exact).std()) < 0.15 * float(exact.std())
