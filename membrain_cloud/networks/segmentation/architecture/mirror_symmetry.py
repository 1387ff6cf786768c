"""Tie the weights of a U-Net so that a mirrored window has the mirrored logits.

MemBrain-seg averages the logits over the eight mirrors of a window. A network whose logits do not change by more than
rounding needs one mirror instead of eight. Here the channels of every map come in eights, an orbit: channel 8 o + g is
what channel 8 o would be if the window were mirrored by g, one of the eight (bit 0: along z, 1: y, 2: x). So a
convolution has

    W[8 o + g, 8 i + h] = mirrored by g (w[o, i, g xor h]),

an eighth of the weights of a free one, and takes no longer.

A convolution of stride 2 and three taps samples every other voxel, and would sample the others in a mirrored window. So
its first taps are zero, which leaves two, neither of which is the middle one.

References
----------
Cohen & Welling, Group equivariant convolutional networks, ICML 2016, section 6, for the group of the three mirrors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Iterator

ORBIT = 8
_AXES = tuple(tuple(axis for axis in range(3) if mirror >> axis & 1) for mirror in range(ORBIT))


class _Tied(nn.Module):
    """Expands the weights of the first channel of each orbit to all weights of a kind, and back."""

    def forward(self, first: Tensor) -> Tensor:
        raise NotImplementedError

    def right_inverse(self, weights: Tensor) -> Tensor:
        raise NotImplementedError


class _Between(_Tied):
    """A convolution from orbits to orbits: (O, I, 8, k, k, k) -> (8 O, 8 I, k, k, k).

    Parameters
    ----------
    strided : bool
        Whether it has stride 2.
    upwards : bool
        Whether it is transposed; its weights are then (8 I, 8 O, k, k, k).
    """

    def __init__(self, *, strided: bool, upwards: bool) -> None:
        super().__init__()
        self.strided, self.upwards = strided, upwards

    def forward(self, first: Tensor) -> Tensor:
        mirrors = torch.arange(ORBIT, device=first.device)
        rows = [_mirrored(first[:, :, mirrors ^ mirror], mirror, 3) for mirror in range(ORBIT)]
        outputs, inputs = first.shape[:2]
        weights = torch.stack(rows, 1).reshape(ORBIT * outputs, ORBIT * inputs, *first.shape[3:])
        if self.strided:
            weights = nn.functional.pad(weights, (1, 0) * 3)
        return weights.transpose(0, 1) if self.upwards else weights

    def right_inverse(self, weights: Tensor) -> Tensor:
        weights = weights.transpose(0, 1) if self.upwards else weights
        first = weights[::ORBIT].unflatten(1, (-1, ORBIT))
        result: Tensor = first[..., 1:, 1:, 1:] if self.strided else first
        return result


class _FromDensity(_Tied):
    """The first convolution: (O, 1, k, k, k) -> (8 O, 1, k, k, k)."""

    def forward(self, first: Tensor) -> Tensor:
        return torch.stack([_mirrored(first, mirror, 2) for mirror in range(ORBIT)], 1).flatten(0, 1)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return weights[::ORBIT]


class _ToLogits(_Tied):
    """The last convolution: (1, I, 1, 1, 1) -> (1, 8 I, 1, 1, 1), where all channels of an orbit have one weight."""

    def forward(self, first: Tensor) -> Tensor:
        return first.repeat_interleave(ORBIT, 1)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return weights[:, ::ORBIT]


class _OfChannels(_Tied):
    """Weights of a normalisation: (C,) -> (8 C,)."""

    def forward(self, first: Tensor) -> Tensor:
        return first.repeat_interleave(ORBIT)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return weights[::ORBIT]


def tie_mirrors(network: nn.Module) -> None:
    """Tie the weights of a U-Net in place; those of the first channel of each orbit are kept.

    The parameters are then those of the first channels; the attributes of the layers give all weights, as before.

    Parameters
    ----------
    network : nn.Module
        Of `unet.build_unet`, without residual blocks.

    Raises
    ------
    ValueError
        If numbers of channels are no multiples of eight, or there are residual blocks.
    """
    for module, name, rule in list(_rules(network)):
        parametrize.register_parametrization(module, name, rule)


def mirrors_are_tied(network: nn.Module) -> bool:
    """Return whether all weights equal to the last bit what `tie_mirrors` makes of them.

    Parameters
    ----------
    network : nn.Module
        A U-Net.

    Returns
    -------
    bool
        Whether its logits are symmetric.
    """
    try:
        rules = list(_rules(network))
    except ValueError:
        return False
    with torch.no_grad():
        weights = ((getattr(module, name), rule) for module, name, rule in rules)
        return all(torch.equal(rule(rule.right_inverse(given)), given) for given, rule in weights)


def _rules(network: nn.Module) -> Iterator[tuple[nn.Module, str, _Tied]]:
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            yield module, "weight", _rule(module, path)
        elif isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 1:
            _require_orbits(path, len(weight))
            yield module, "weight", _OfChannels()
            yield module, "bias", _OfChannels()


def _rule(module: nn.Conv3d | nn.ConvTranspose3d, path: str) -> _Tied:
    inputs, outputs, upwards = module.in_channels, module.out_channels, isinstance(module, nn.ConvTranspose3d)
    if outputs == 1:
        _require_orbits(path, inputs)
        return _ToLogits()
    if inputs == 1 and module.stride == (1, 1, 1):
        _require_orbits(path, outputs)
        return _FromDensity()
    _require_orbits(path, inputs, outputs)
    strided = not upwards and module.stride != (1, 1, 1)
    if strided and module.kernel_size != (3, 3, 3):
        raise ValueError(f"{path}: a convolution of stride 2 with {module.kernel_size} taps sits on every other voxel")
    return _Between(strided=strided, upwards=upwards)


def _require_orbits(path: str, *counts: int) -> None:
    if any(count % ORBIT for count in counts):
        raise ValueError(f"{path}: {counts} channels do not come in eights")


def _mirrored(kernel: Tensor, mirror: int, first_axis: int) -> Tensor:
    return kernel.flip([first_axis + axis for axis in _AXES[mirror]])
