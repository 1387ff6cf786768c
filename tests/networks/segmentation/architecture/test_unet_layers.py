"""The layers of a DynUNet in the order of execution."""

from __future__ import annotations

import pytest

from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.architecture.unet_layers import unet_parts


@pytest.mark.parametrize("residual", [False, True])
def test_levels_are_listed_finest_first_down_and_coarsest_first_up(residual: bool) -> None:
    parts = unet_parts(
        build_unet(UNetArchitecture((4, 8, 16, 32), residual)), lambda module, _: module.conv.weight.shape[0]
    )
    assert [block.second for block in parts.encoder] == [4, 8, 16, 32]
    assert [block.second for block in parts.decoder] == [16, 8, 4]
    assert [tuple(weight.shape[:2]) for weight in parts.upsampling] == [(32, 16), (16, 8), (8, 4)]
    assert any(block.projection is not None for block in parts.encoder) == residual
