"""DiffusionNet in the architecture of MemBrain-pick: from densities along the normals to distances from particles.

    profiles (V, C)
      -> ProfileBlock: one small diffusion block shared by the channels, then two convolutions along the normal
      -> linear C -> width
      -> DiffusionBlock x n: diffuse each channel over the surface for a learned time, take the inner products of its
         gradients, mix (x, diffused, gradients) in an MLP, add to x
      -> linear width -> outputs

Sharp et al., DiffusionNet, ACM TOG 2022; Lamm et al., MemBrain v2. Parameter names are those of MemBrain-pick's
Lightning checkpoints (under `model.`), so that these load strictly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORTEST_TIME = 1e-12
"""Diffusion times are held at or above this: by the forward pass, and in training after each step, since a time
below it would have no gradient any more."""


class SurfaceTensors(NamedTuple):
    """Operators of a patch: mass (V,), eigenvalues (k,), eigenvectors (V, k) and their gradients' components (V, k).

    The gradient is only ever taken of what a diffusion returns, a sum of eigenvectors: so the gradients of the
    eigenvectors are all that is needed, and the network has no sparse matrices.
    """

    mass: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    slopes_x: Tensor
    slopes_y: Tensor


@dataclass(frozen=True)
class Architecture:
    """Sizes of a DiffusionNet: input channels, channels within, outputs, blocks and the profile MLP's hidden size.

    `profile_blocks` counts the stored profile blocks; only the first is used (MemBrain-pick stores two).
    """

    channels: int
    width: int
    outputs: int
    blocks: int
    hidden: int
    profile_blocks: int

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> Architecture:
        """The architecture whose parameters have these names and shapes; KeyError where a telling one is missing."""
        width, channels = parameters["first_lin.weight"].shape
        return cls(
            channels=channels,
            width=width,
            outputs=parameters["last_lin.weight"].shape[0],
            blocks=len({name.split(".")[0] for name in parameters if name.startswith("block_")}),
            hidden=parameters["conv_block.diffusion_layer.mlp.miniMLP_mlp_layer_000.weight"].shape[0],
            profile_blocks=len({name.split(".")[0] for name in parameters if name.startswith("conv_block")}),
        )


class Diffusion(nn.Module):
    """Heat diffusion of each channel for its own learned time; returns the eigenvectors' coefficients (k, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.diffusion_time = nn.Parameter(torch.full((channels,), SHORTEST_TIME))

    def forward(self, x: Tensor, surface: SurfaceTensors) -> Tensor:
        spectrum = surface.eigenvectors.T @ (x * surface.mass[:, None])
        times = self.diffusion_time.clamp(min=SHORTEST_TIME)
        return torch.exp(-surface.eigenvalues[:, None] * times) * spectrum


class GradientFeatures(nn.Module):
    """tanh of the inner products between each channel's gradient and a learned complex mixture of all gradients."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.A_re = nn.Linear(channels, channels, bias=False)
        self.A_im = nn.Linear(channels, channels, bias=False)

    def forward(self, along_x: Tensor, along_y: Tensor) -> Tensor:
        mixed_x = self.A_re(along_x) - self.A_im(along_y)
        mixed_y = self.A_re(along_y) + self.A_im(along_x)
        return torch.tanh(along_x * mixed_x + along_y * mixed_y)


class MiniMLP(nn.Sequential):
    """Linear layers with ReLU between them."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            if index:
                self.add_module(f"miniMLP_act_{index:03d}", nn.ReLU())
            self.add_module(f"miniMLP_mlp_layer_{index:03d}", nn.Linear(inputs, outputs))


class DiffusionBlock(nn.Module):
    """Diffuse, take gradients, mix, add.

    With `shared`, the MLP maps three values to one and slides over the channels with the same weights. As in the
    released MemBrain-pick it takes consecutive triples of [x | diffused | gradients] laid in one row of 3 C values,
    and not the three values of one channel: checkpoints depend on it.
    """

    def __init__(self, channels: int, hidden: int, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.diffusion = Diffusion(channels)
        self.gradient_features = GradientFeatures(channels)
        self.mlp = MiniMLP((3, hidden, hidden, 1) if shared else (3 * channels, hidden, hidden, channels))

    def forward(self, x: Tensor, surface: SurfaceTensors) -> Tensor:
        coefficients = self.diffusion(x, surface)
        diffused = surface.eigenvectors @ coefficients
        gradients = self.gradient_features(surface.slopes_x @ coefficients, surface.slopes_y @ coefficients)
        combined = torch.cat([x, diffused, gradients], dim=1)
        if self.shared:
            return x + self.mlp(combined.reshape(*x.shape, 3))[..., 0]
        return x + self.mlp(combined)


class ProfileBlock(nn.Module):
    """A shared diffusion block, then convolution, ReLU and maximum along the normal, twice, added to the input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.diffusion_layer = DiffusionBlock(channels, hidden, shared=True)
        self.conv_layer1 = nn.Conv1d(1, hidden, kernel_size=3, padding=1)
        self.conv_layer2 = nn.Conv1d(hidden, 1, kernel_size=3, padding=1)

    def forward(self, x: Tensor, surface: SurfaceTensors) -> Tensor:
        along = self.diffusion_layer(x, surface)[:, None]
        for layer in (self.conv_layer1, self.conv_layer2):
            along = _largest_of_three(F.relu(layer(along)))
        return x + along[:, 0]


def _largest_of_three(x: Tensor) -> Tensor:
    """max_pool1d(x, kernel_size=3, stride=1, padding=1) for x >= 0; that is slow on a CPU."""
    padded = F.pad(x, (1, 1))
    pairs = torch.maximum(padded[..., :-1], padded[..., 1:])
    return torch.maximum(pairs[..., :-1], pairs[..., 1:])


class DiffusionNet(nn.Module):
    """(V, channels) profiles and the operators of their patch -> (V, outputs)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.conv_block = ProfileBlock(a.channels, a.hidden)
        for index in range(2, a.profile_blocks + 1):
            self.add_module(f"conv_block{index}", ProfileBlock(a.channels, a.hidden))
        self.first_lin = nn.Linear(a.channels, a.width)
        for index in range(a.blocks):
            self.add_module(f"block_{index}", DiffusionBlock(a.width, a.width, shared=False))
        self.last_lin = nn.Linear(a.width, a.outputs)

    def forward(self, profiles: Tensor, surface: SurfaceTensors) -> Tensor:
        x = self.first_lin(self.conv_block(profiles, surface))
        for index in range(self.architecture.blocks):
            x = self.get_submodule(f"block_{index}")(x, surface)
        return self.last_lin(x)
