"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference files made by other tools; skips where it is absent."""
    if not REFERENCE.is_dir():
        pytest.skip(f"reference files are absent: {REFERENCE}")
    return REFERENCE


@pytest.fixture(scope="session")
def lightning_checkpoint() -> Callable[..., Path]:
    """Writes what MemBrain-seg's Lightning module saves of a small random network: path, channels, seed -> path."""

    def write(path: Path, *, channels: Sequence[int] = (4, 8, 8, 8), seed: int = 0, residual: bool = True) -> Path:
        import torch
        from monai.networks.nets import DynUNet

        torch.manual_seed(seed)
        levels = len(channels)
        network = DynUNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(channels),
            res_block=residual,
            deep_supervision=True,
            deep_supr_num=2,
        )
        state = {f"_model.{name}": value for name, value in network.state_dict().items()}
        state["loss_function.loss_fn.dice_loss.loss.class_weight"] = torch.ones(1)
        content = {
            "epoch": 3,
            "global_step": 12,
            "pytorch-lightning_version": "2.0.4",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.3)}},
            "optimizer_states": [],
            "lr_schedulers": [],
            "MixedPrecision": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        }
        torch.save(content, path)
        return path

    return write
