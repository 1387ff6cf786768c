"""Exact mode gives what `membrain segment` gave: files of its own making, compared voxel for voxel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest

from membrain_cloud.networks.segmentation.segmenter import load_segmenter
from membrain_cloud.networks.segmentation.window_rescaling import rescaled_edge
from membrain_cloud.segmentation.sliding_window import density_statistics, segment_slabs
from membrain_cloud.tiling import Mirrors, Tiling, window_stride

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = 64


def read(path: Path) -> np.ndarray:
    with mrcfile.open(path, permissive=True) as opened:
        return opened.data.copy()


@pytest.mark.parametrize(
    ("tomogram", "folder", "mirrors", "spacing"),
    [
        ("tomo", "A_no_mirrors", "no", None),
        ("tomo_int8", "B_int8_mirrors_uncertainty_components", "yes", None),
        ("tomo", "C_rescaled_13.68", "no", 13.68),
        ("tomo", "D_rescaled_7.84", "no", 7.84),
        ("tomo", "E_mirrors", "yes", None),
        ("tomo_thin", "F_thinner_than_window", "yes", None),
    ],
)
def test_scores_are_those_of_membrain_segment(
    reference: Path, tomogram: str, folder: str, mirrors: Mirrors, spacing: float | None
) -> None:
    files = reference / "membrain-seg"
    network = load_segmenter(str(files / "random_small.ckpt"), precision="float32")
    volume = read(files / f"{tomogram}.mrc")
    expected = read(files / folder / f"{tomogram}_scores.mrc")
    reach = WINDOW if spacing is None else rescaled_edge(WINDOW, from_angstrom=10.0, to_angstrom=spacing)
    tiling = Tiling(reach, window_stride(reach, 0.5), mirrors)
    statistics = density_statistics([volume])
    (block,) = tiling.blocks(volume.shape, volume.shape)
    averager = network.averager(
        tiling,
        block,
        window=WINDOW,
        mean=statistics.mean,
        std=statistics.std,
        variance=False,
        skip_void=False,
        batch=1,
    )
    slabs = segment_slabs(
        averager, lambda box: volume[box.slices], volume.shape, block, tiling=tiling, planes_per_read=32,
        progress=lambda n: None,
    )  # fmt: skip
    found = np.concatenate([slab.logits for slab in slabs])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # A voxel whose logit is zero to the last digits may fall to either side.
    differing = (found > 0) != (expected > 0)
    assert np.abs(expected[differing]).max(initial=0) < 1e-5
    assert differing.sum() <= 1
