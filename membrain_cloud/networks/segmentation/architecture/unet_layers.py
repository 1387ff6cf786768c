"""The layers of MONAI's DynUNet in the order of execution, for forward passes of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

Convolution = TypeVar("Convolution")


@dataclass(frozen=True)
class Block(Generic[Convolution]):
    """conv1, norm, ReLU, conv2, norm, (+ residual), ReLU.

    Attributes
    ----------
    first, second : Convolution
        The convolutions with their normalisations.
    projection : Convolution or None
        The residual's 1 x 1 x 1 convolution.
    """

    first: Convolution
    second: Convolution
    is_residual: bool = False
    projection: Convolution | None = None


@dataclass(frozen=True)
class UNetParts(Generic[Convolution]):
    """The layers of a U-Net.

    Attributes
    ----------
    encoder : tuple of Block
        Finest level first, the bottleneck last.
    decoder : tuple of Block
        Coarsest level first.
    upsampling : tuple of Tensor, shapes (Cin, Cout, 2, 2, 2)
        Weights, in the order of the decoder.
    head : tuple of Tensor
        Weight and bias of the output's convolution.
    """

    encoder: list[Block[Convolution]]
    decoder: list[Block[Convolution]]
    upsampling: list[Tensor]
    head: tuple[Tensor, Tensor]


def unet_parts(network: nn.Module, convolution: Callable[[Any, Any], Convolution]) -> UNetParts[Convolution]:
    """List the layers of a DynUNet.

    Parameters
    ----------
    network : nn.Module
        A DynUNet.
    convolution : callable
        Takes a convolution's module and its normalisation's, and returns what stands for both.

    Returns
    -------
    UNetParts
        The layers.
    """
    unet: Any = network

    def block(module: Any) -> Block[Convolution]:
        first, second = convolution(module.conv1, module.norm1), convolution(module.conv2, module.norm2)
        if not hasattr(module, "downsample"):
            return Block(first, second)
        return Block(first, second, True, convolution(module.conv3, module.norm3) if module.downsample else None)

    head = unet.output_block.conv.conv
    return UNetParts(
        [block(module) for module in (unet.input_block, *unet.downsamples, unet.bottleneck)],
        [block(up.conv_block) for up in unet.upsamples],
        [up.transp_conv.conv.weight.detach() for up in unet.upsamples],
        (head.weight.detach().float(), head.bias.detach().float()),
    )
