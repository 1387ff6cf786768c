"""Run by test_forward.py with TRITON_INTERPRET=1: the kernels on a CPU. Prints {check: relative error} as JSON."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import tie_mirrors
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.gpu import forward as fused
from membrain_cloud.networks.segmentation.gpu import instance_norm as normalisation
from membrain_cloud.networks.segmentation.gpu import instance_norm_backward as fused_training
from membrain_cloud.networks.segmentation.gpu import layers as fused_layers
from membrain_cloud.networks.segmentation.gpu.instance_norm import Moments

FOUND: dict[str, float] = {}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def channels_first(rows: Tensor) -> Tensor:
    return rows.permute(0, 4, 1, 2, 3)


def normalised(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    made = F.instance_norm(channels_first(rows.double()), weight=weight.double(), bias=bias.double(), eps=1e-5)
    return made.permute(0, 2, 3, 4, 1)


def kernels() -> None:
    # Several blocks a span and several spans a step of the merge, the last of each incomplete.
    normalisation._VALUES, normalisation._PROGRAMS, normalisation._MERGED_SPANS = 512, 8, 2
    weight, bias = torch.rand(5) + 0.5, torch.randn(5)
    rows = torch.randn(2, 9, 7, 11, 5)
    far = rows * 0.01 + torch.linspace(-1000, 1000, 5)
    moments = Moments.of(far)
    assert moments.partial.shape[1] == 4
    assert moments.span_rows == 3 * 512 // 8
    affine = moments.affine(weight, bias)
    exact = far.double() * affine[:, None, None, None, 0] + affine[:, None, None, None, 1]
    FOUND["variance beside a mean of 1e5 deviations"] = relative(affine[:, 0] ** -2, _variance(far) / weight**2)
    FOUND["mean of 1e5 deviations"] = float((exact.mean((1, 2, 3)) - bias).abs().max())
    affine = Moments.of(rows).affine(weight, bias)
    other = torch.randn(rows.shape)
    other_affine = Moments.of(other).affine(bias, weight)
    joined = torch.zeros(2, 9, 7, 11, 10)
    plain, beside = normalised(rows, weight, bias), normalised(other, bias, weight)
    single, times = torch.randn(2, 9, 7, 11, 1) + 3, torch.randn(5)
    single_affine = Moments.of(single).affine(weight, bias, times)
    for name, residual, residual_affine, expected in (
        ("nothing", None, None, plain),
        ("a map", other, None, plain + other),
        ("a normalised map", other, other_affine, plain + beside),
        ("a projected channel", single, single_affine, plain + normalised(single * times, weight, bias)),
    ):
        made = normalisation.normalise_(
            rows.clone(), affine, residual=residual, residual_affine=residual_affine, joined=joined
        )
        FOUND[f"normalised, {name} added"] = relative(made, F.leaky_relu(expected, 0.01))
        assert torch.equal(joined[..., 5:], made)
        assert not joined[..., :5].any()
    factor, offset = torch.randn(5), torch.randn(1)
    logits = fused_layers.logits(rows, affine, factor, offset)
    FOUND["logits"] = relative(logits, F.leaky_relu(plain, 0.01) @ factor.double() + offset)
    up = torch.randn(5, 3, 2, 2, 2)
    matrix = up.permute(0, 2, 3, 4, 1).reshape(5, 8, 3).contiguous()
    for name, given, expected in (("", None, rows), (" of a map to be normalised", affine, F.leaky_relu(plain, 0.01))):
        joined = torch.zeros(2, 18, 14, 22, 6)
        fused_layers.upsample_into(joined, rows, matrix, given)
        wanted = F.conv_transpose3d(channels_first(expected.float()), up, stride=2)
        FOUND["upsampling" + name] = relative(channels_first(joined[..., :3]), wanted)
        assert not joined[..., 3:].any()
    kernel = torch.randn(5, 1, 3, 3, 3)
    made, moments = fused_layers.first_convolution(single[..., 0].contiguous(), fused_layers.padded_taps(kernel))
    found = made * moments.affine(weight, bias)[:, None, None, None, 0]
    FOUND["scale from the first convolution"] = relative(
        found - found.mean((1, 2, 3), keepdim=True) + bias, normalised(made, weight, bias)
    )
    FOUND["first convolution"] = relative(channels_first(made), F.conv3d(channels_first(single), kernel, padding=1))


def _variance(rows: Tensor) -> Tensor:
    return rows.double().var((1, 2, 3), correction=0) + 1e-5


def networks() -> None:
    full, half = torch.float32, torch.float16
    for channels, residual, batch, dtypes, own_to in (
        ((4, 8, 8), False, 1, ((full, True), (half, True), (full, False)), 0),
        ((5, 12, 20), True, 3, ((full, True),), 0),
        ((16, 32, 16), True, 1, ((full, True), (half, False)), 64),
    ):
        edge, fused.OWN_CONVOLUTIONS_TO = 8, own_to
        network = build_unet(UNetArchitecture(channels, residual)).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.InstanceNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
        windows = torch.randn(batch, 1, edge, edge, edge)
        expected = network(windows)
        for dtype, own in dtypes:
            fused.OWN_FIRST_CONVOLUTION = own
            found = fused.FusedUNet(network, dtype)(windows)
            assert found.shape == windows.shape
            assert found.dtype == torch.float32
            FOUND[f"{dtype}, {channels}, own first {own}, own to {own_to}"] = relative(found, expected)


def training() -> None:
    """Values and gradients of the normalisation that is trained with."""
    fused_training._PROGRAMS = 8
    for channels, mean in ((16, 3.0), (5, 0.0)):
        plain = nn.InstanceNorm3d(channels, affine=True)
        plain.weight.data.uniform_(0.5, 1.5)
        network = nn.Sequential(nn.Sequential(plain))
        maps = torch.randn(2, channels, 7, 9, 10) * 2 + mean
        results = []
        for norm in (plain, network):
            seen = maps.to(memory_format=torch.channels_last_3d).requires_grad_()
            plain.zero_grad()
            made = norm(seen)
            (made * torch.sin(maps)).sum().backward()
            results.append([made.detach(), seen.grad, plain.weight.grad, plain.bias.grad])
            fused_training.fuse_normalisation(network)
        assert [type(module).__name__ for module in network.modules()][-1] == "FusedInstanceNorm"
        for name, expected, found in zip(("values", "of maps", "of weights", "of biases"), *results, strict=True):
            FOUND[f"normalisation of {channels}, {name}"] = relative(found, expected)


def tied_training() -> None:
    """Compare the normalisation with weights that are tied in eights."""
    plain = nn.InstanceNorm3d(16, affine=True)
    plain.weight.data = torch.tensor([0.5, 1.5]).repeat_interleave(8)
    network = nn.Sequential(nn.Sequential(plain))
    maps = torch.randn(2, 16, 7, 9, 10)
    expected = plain(maps)
    expected.mul(torch.sin(maps)).sum().backward()
    assert plain.weight.grad is not None
    gradient = plain.weight.grad.view(2, 8).sum(1)
    plain.zero_grad()
    fused_training.fuse_normalisation(network)
    tie_mirrors(network)
    found = network(maps.to(memory_format=torch.channels_last_3d))
    found.mul(torch.sin(maps)).sum().backward()
    weight = network.get_parameter("0.0.parametrizations.weight.original")
    assert weight.shape == (2,)
    assert weight.grad is not None
    FOUND["tied normalisation, values"] = relative(found.detach(), expected.detach())
    FOUND["tied normalisation, of weights"] = relative(weight.grad, gradient)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    training()
    tied_training()
    with torch.inference_mode():
        networks()
        kernels()
    print(json.dumps(FOUND))
