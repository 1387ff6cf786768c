"""The 3D U-Net of MemBrain-seg's family: MONAI's DynUNet with a choice of channels.

MemBrain-seg's published network has channels (32, 64, 128, 256, 512, 1024) and residual blocks; the built-in one is
smaller. Input (B, 1, w, w, w) float32 of mean 0 and variance 1, with w a multiple of 2^(levels - 1); output logits of
that shape.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class UNetArchitecture:
    """The architecture of a U-Net.

    Attributes
    ----------
    channels : tuple of int
        Channels of each level, finest first.
    residual : bool
        Whether the blocks of two convolutions have a skip connection, as in MemBrain-seg.
    """

    channels: tuple[int, ...]
    residual: bool = False

    @property
    def multiple(self) -> int:
        """The edge of a window must be a multiple of this."""
        return int(2 ** (len(self.channels) - 1))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UNetArchitecture:
        """Return the architecture that `as_dict` described.

        Parameters
        ----------
        values : dict
            What `as_dict` returned, also after a round trip through JSON.
        """
        return cls(tuple(int(c) for c in values["channels"]), bool(values["residual"]))


def build_unet(architecture: UNetArchitecture, *, heads: int = 0) -> nn.Module:
    """Build a U-Net with random weights.

    Parameters
    ----------
    architecture : UNetArchitecture
        The architecture.
    heads : int
        Outputs at half, quarter ... resolution, used by the training; a forward pass leaves them in `heads`. Default:
        0.

    Returns
    -------
    nn.Module
        The network.

    Raises
    ------
    ModelError
        If there are fewer than three levels, which DynUNet does not support.
    """
    from monai.networks.nets import DynUNet

    levels = len(architecture.channels)
    if levels < 3:
        raise ModelError(f"a U-Net of channels {architecture.channels}: too few levels", "give three or more channels")
    result: nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(architecture.channels),
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        res_block=architecture.residual,
        deep_supervision=heads > 0,
        deep_supr_num=max(heads, 1),
    )
    return result


def own_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state without `skip_layers.*`, under which DynUNet repeats its layers.

    Parameters
    ----------
    network : nn.Module
        A U-Net.

    Returns
    -------
    dict of str to Tensor
        Weights by name.
    """
    return {k: v for k, v in network.state_dict().items() if not k.startswith("skip_layers.")}


def load_own_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a state of `own_state` strictly.

    Parameters
    ----------
    network : nn.Module
        A U-Net.
    state : dict of str to Tensor
        Weights by name.

    Raises
    ------
    KeyError
        If a weight is missing or unknown.
    """
    wanted = set(own_state(network))
    if wanted != set(state):
        difference = sorted(wanted ^ set(state))
        raise KeyError(f"{len(difference)} weights differ between file and network, first: {difference[0]}")
    # Assigned, not copied: a network built on the meta device has no memory to copy to.
    network.load_state_dict(state, strict=False, assign=True)


def window_flops(architecture: UNetArchitecture, window: int) -> float:
    """Return the floating point operations of the convolutions of one forward pass.

    Parameters
    ----------
    architecture : UNetArchitecture
        The architecture.
    window : int
        Edge of the window in voxels.

    Returns
    -------
    float
        A multiplication and an addition count as two; normalisation and activation, a few in a thousand, are left out.
    """
    channels, total = architecture.channels, 0.0
    for level, width in enumerate(channels):
        voxels = (window / 2**level) ** 3
        before = channels[level - 1] if level else 1
        total += voxels * 27 * (before * width + width * width)
        if architecture.residual:  # the skip's own convolution, where channels or size change
            total += voxels * before * width
        if level + 1 < len(channels):  # the way back up: a transposed convolution, then two on the joined maps
            total += voxels * (channels[level + 1] * width + 27 * (2 * width * width + width * width))
    return 2.0 * (total + window**3 * channels[0])
