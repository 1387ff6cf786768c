"""DiffusionNet in the architecture of MemBrain-pick: from densities along the normals to distances from particles.

    profiles (V, C)
      -> ProfileBlock: one small diffusion block shared by the channels, then two convolutions along the normal
      -> linear C -> width
      -> DiffusionBlock x n: diffuse each channel over the surface for a learned time, take the inner products of its
         gradients, mix (x, diffused, gradients) in an MLP, add to x
      -> linear width -> outputs

Parameter names are those of MemBrain-pick's Lightning checkpoints (under `model.`), so that these load strictly.

References
----------
Sharp et al., DiffusionNet, ACM TOG 41 (2022); Lamm et al., MemBrain v2 (2024).
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
    """Operators of a patch of V vertices with k eigenpairs.

    Attributes
    ----------
    mass : Tensor, shape (V,)
        Areas of the vertices.
    eigenvalues : Tensor, shape (k,)
        Of the Laplacian.
    eigenvectors : Tensor, shape (V, k)
        Of the Laplacian.
    along_x, along_y : Tensor, shape (V, k)
        Components of the eigenvectors' gradients. The gradient is only taken of sums of eigenvectors, so the network
        needs no sparse matrices.
    """

    mass: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    slopes_x: Tensor
    slopes_y: Tensor


@dataclass(frozen=True)
class Architecture:
    """Sizes of a DiffusionNet: input channels, inner channels, outputs, blocks, and the hidden size of the profile MLP.

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
        """Derive the architecture from the names and shapes of its parameters.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            Parameters by name.

        Returns
        -------
        Architecture
            The sizes.

        Raises
        ------
        KeyError
            If a parameter that shows a size is missing.
        """
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
    """Diffuses each channel for its own learned time; returns the coefficients of the eigenvectors, (k, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.diffusion_time = nn.Parameter(torch.full((channels,), SHORTEST_TIME))

    def forward(self, x: Tensor, surface: SurfaceTensors) -> Tensor:
        """Return the coefficients of the diffused channels.

        Parameters
        ----------
        x : Tensor, shape (V, C), float32
            Channels at the vertices.
        surface : SurfaceTensors
            Operators of the patch.

        Returns
        -------
        Tensor, shape (k, C), float32
            Coefficients of the eigenvectors.
        """
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
        """Return the features of gradients.

        Parameters
        ----------
        along_x, along_y : Tensor, shape (V, C), float32
            Components of the channels' gradients.

        Returns
        -------
        Tensor, shape (V, C), float32
            tanh of the inner products.
        """
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

    With `shared`, the MLP maps three values to one and is applied to the channels with the same weights. As in the
    released MemBrain-pick it takes consecutive triples of [x | diffused | gradients] in one row of 3 C values, and not
    the three values of one channel: checkpoints depend on it.
    """

    def __init__(self, channels: int, hidden: int, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.diffusion = Diffusion(channels)
        self.gradient_features = GradientFeatures(channels)
        self.mlp = MiniMLP((3, hidden, hidden, 1) if shared else (3 * channels, hidden, hidden, channels))

    def forward(self, x: Tensor, surface: SurfaceTensors) -> Tensor:
        """Return the channels after the block.

        Parameters
        ----------
        x : Tensor, shape (V, C), float32
            Channels at the vertices.
        surface : SurfaceTensors
            Operators of the patch.

        Returns
        -------
        Tensor, shape (V, C), float32
            The channels.
        """
        coefficients = self.diffusion(x, surface)
        diffused = surface.eigenvectors @ coefficients
        gradients = self.gradient_features(surface.slopes_x @ coefficients, surface.slopes_y @ coefficients)
        combined = torch.cat([x, diffused, gradients], dim=1)
        mixed: Tensor = self.mlp(combined.reshape(*x.shape, 3))[..., 0] if self.shared else self.mlp(combined)
        return x + mixed


class ProfileBlock(nn.Module):
    """A shared diffusion block, then twice convolution, ReLU and maximum along the normal, added to the input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.diffusion_layer = DiffusionBlock(channels, hidden, shared=True)
        self.conv_layer1 = nn.Conv1d(1, hidden, kernel_size=3, padding=1)
        self.conv_layer2 = nn.Conv1d(hidden, 1, kernel_size=3, padding=1)

    def forward(self, x: Tensor, surface: SurfaceTensors) -> Tensor:
        """Return the profiles after the block.

        Parameters
        ----------
        x : Tensor, shape (V, C), float32
            Profiles at the vertices.
        surface : SurfaceTensors
            Operators of the patch.

        Returns
        -------
        Tensor, shape (V, C), float32
            The profiles.
        """
        along = self.diffusion_layer(x, surface)[:, None]
        for layer in (self.conv_layer1, self.conv_layer2):
            along = _largest_of_three(F.relu(layer(along)))
        result: Tensor = x + along[:, 0]
        return result


def _largest_of_three(x: Tensor) -> Tensor:
    """Compute max_pool1d(x, kernel_size=3, stride=1, padding=1) for x >= 0, which is slow on a CPU."""
    padded = F.pad(x, (1, 1))
    pairs = torch.maximum(padded[..., :-1], padded[..., 1:])
    return torch.maximum(pairs[..., :-1], pairs[..., 1:])


class DiffusionNet(nn.Module):
    """A surface network: profiles (V, channels) and the operators of their patch -> (V, outputs)."""

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
        """Return the outputs of a patch.

        Parameters
        ----------
        profiles : Tensor, shape (V, channels), float32
            Profiles at the vertices.
        surface : SurfaceTensors
            Operators of the patch.

        Returns
        -------
        Tensor, shape (V, outputs), float32
            The outputs.
        """
        x = self.first_lin(self.conv_block(profiles, surface))
        for index in range(self.architecture.blocks):
            x = self.get_submodule(f"block_{index}")(x, surface)
        result: Tensor = self.last_lin(x)
        return result
