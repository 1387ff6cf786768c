"""Networks whose weights are tied so that a mirrored window has the mirrored answer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied, tie_mirrors
from membrain_cloud.networks.segmentation.architecture.unet import (
    UNetArchitecture,
    build_unet,
    load_own_state,
    own_state,
)
from membrain_cloud.networks.segmentation.segmenter import load_segmenter, save_segmenter

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURE = UNetArchitecture((8, 16, 16, 24))
MIRRORS = [[2 + axis for axis in range(3) if mirror[axis]] for mirror in itertools.product((False, True), repeat=3)]


def free(seed: int = 0) -> nn.Module:
    """Random weights, those of the normalisations too."""
    torch.manual_seed(seed)
    network = build_unet(ARCHITECTURE)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-1, 1)
    return network


def symmetric(seed: int = 0) -> nn.Module:
    """Return a plain network with weights that are tied."""
    tied = free(seed)
    tie_mirrors(tied)
    network = build_unet(ARCHITECTURE)
    names = own_state(network)
    load_own_state(network, {name: weight(tied, name) for name in names})
    return network


def weight(network: nn.Module, name: str) -> torch.Tensor:
    for part in name.split("."):
        network = getattr(network, part)
    assert isinstance(network, torch.Tensor)
    return network.detach().clone()


def apart(network: nn.Module, image: torch.Tensor) -> list[float]:
    """How far answers to the mirrors are from the answer, at most, in its standard deviations."""
    with torch.inference_mode():
        plain = network(image)
        return [float((network(image.flip(axes)).flip(axes) - plain).abs().max() / plain.std()) for axes in MIRRORS[1:]]


def test_answers_to_all_eight_mirrors_are_one() -> None:
    image = torch.randn(1, 1, 32, 48, 16, generator=torch.Generator().manual_seed(1))
    assert max(apart(symmetric(), image)) < 1e-4
    assert min(apart(free(), image)) > 0.1


def test_the_first_of_each_orbit_decide_and_nothing_else() -> None:
    network = free()
    first = weight(network, "downsamples.1.conv2.conv.weight")[::8].unflatten(1, (-1, 8))
    tie_mirrors(network)
    parameter = network.get_parameter("downsamples.1.conv2.conv.parametrizations.weight.original")
    torch.testing.assert_close(parameter.detach(), first)
    count = sum(p.numel() for p in network.parameters())
    assert count < sum(p.numel() for p in free().parameters()) / 7.9


def test_tied_weights_are_recognised_and_one_changed_weight_too(tmp_path: Path) -> None:
    facts = {"window": 16, "voxel_spacing_angstrom": 10.0}
    network = symmetric()
    save_segmenter(tmp_path / "a.safetensors", network, ARCHITECTURE, facts)  # in float16
    assert load_segmenter(str(tmp_path / "a.safetensors"), precision="float32").symmetric
    with torch.no_grad():
        weight_of_one = network.get_parameter("upsamples.0.conv_block.conv1.conv.weight")
        weight_of_one[3, 2, 1, 0, 1] += 1e-3
    save_segmenter(tmp_path / "b.safetensors", network, ARCHITECTURE, facts)
    assert not load_segmenter(str(tmp_path / "b.safetensors"), precision="float32").symmetric
    assert not mirrors_are_tied(free())


def test_gradients_are_those_of_the_weights_they_stand_for() -> None:
    """Checked by differences, in double precision."""
    network = free().double()
    tie_mirrors(network)
    image = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def loss() -> torch.Tensor:
        made: torch.Tensor = network(image)
        return made.square().mean()

    loss().backward()
    for name in (
        "input_block.conv1.conv",
        "bottleneck.conv1.conv",
        "upsamples.0.transp_conv.conv",
        "input_block.norm1",
    ):
        parameter = network.get_parameter(f"{name}.parametrizations.weight.original")
        assert parameter.grad is not None
        at = (0,) * parameter.ndim
        told, by = float(parameter.grad[at]), 1e-6
        values = []
        for step in (by, -2 * by):
            with torch.no_grad():
                parameter[at] += step
                values.append(float(loss()))
        assert (values[0] - values[1]) / (2 * by) == pytest.approx(told, rel=1e-2, abs=1e-9)


@pytest.mark.parametrize("architecture", [UNetArchitecture((8, 12, 16)), UNetArchitecture((8, 16, 16), residual=True)])
def test_what_cannot_be_tied_is_refused_and_is_not_taken_for_tied(architecture: UNetArchitecture) -> None:
    network = build_unet(architecture)
    with pytest.raises(ValueError, match=r"eights|every other voxel"):
        tie_mirrors(network)
    assert not mirrors_are_tied(network)
