"""How many looks a window of fast mode should get: `python -m benchmarks.looks --seeds 4001,4002,3001`.

Each phantom is segmented once in exact mode and once in all mirrors of every window of fast mode. The script then
computes, without the network, which mirrors other margins, parts and powers would have taken
(`networks/segmentation/window_averaging.py`), and how near their mean comes to exact mode. Passes are those of fast
mode over those of exact mode.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.segmentation import say, segmented
from membrain_cloud.geometry import Block, Box
from membrain_cloud.metrics.overlap import dice, surface_dice
from membrain_cloud.networks.segmentation.window_averaging import WindowAverager
from membrain_cloud.pipeline.models import model_sha256
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.inference import segmenter, sliding_window
from membrain_cloud.segmentation.sliding_window import density_statistics, segment_slabs
from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom
from membrain_cloud.tiling import ALL_FLIPS, Window, looks

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGINS, PARTS, POWERS, MOST = (0.5, 1.0, 2.0), (4e-3, 2e-3, 1e-3, 5e-4, 2.5e-4), (1.0, 1.5), (4, 8)


@dataclass(frozen=True)
class Seen:
    """A window's part of the volume, its share of each voxel there, and the logits of all looks, (8, ...) float16."""

    where: tuple[slice, ...]
    share: NDArray[np.float16]
    logits: NDArray[np.float16]
    edge: int


class AllLooks(WindowAverager):
    """Notes what every look at every window shows."""

    seen: list[Seen]

    def _paint(self, windows: list[Window]) -> None:  # type: ignore[override]
        for window in windows:
            cut = [self._cut(window.box)]
            inside = window.box.intersection(self.halo)
            if inside is None or not self._with_signal(cut):
                continue
            part = inside.within(window.box)
            first = looks(window.flips)
            order = [*first, *(flips for flips in ALL_FLIPS if flips not in first)]
            made = [self._look(cut, [0], [flips])[0][part].half().numpy() for flips in order]
            share = self._share(window)[part].half().numpy()
            self.seen.append(Seen(inside.slices, share, np.stack(made), self.reach))


def all_looks(density: NDArray[np.float32], spacing_angstrom: float) -> list[Seen]:
    chosen = load_settings(None, ["segment.mode=fast"]).segment
    network = segmenter(chosen.model, model_sha256(chosen.model), chosen.effective_precision)
    look, statistics = sliding_window(chosen, spacing_angstrom), density_statistics([density])
    everything = Box((0, 0, 0), density.shape)
    averager = AllLooks(
        lambda windows: network.network(windows, None if look.window == look.tiling.reach else look.window),
        network.device, reach=look.tiling.reach, halo=everything, core=everything, mean=statistics.mean,
        std=statistics.std, apart=False, skip_void=True, batch=1,
    )  # fmt: skip
    averager.seen = []
    slabs = segment_slabs(
        averager, lambda box: density[box.slices], density.shape, Block(0, everything, everything),
        tiling=look.tiling, planes_per_read=64, progress=lambda _: None,
    )  # fmt: skip
    for _ in slabs:
        pass
    return averager.seen


def reckoned(
    seen: list[Seen], shape: tuple[int, ...], margin: float, part: float, power: float, most: int
) -> tuple[NDArray[np.float32], float]:
    """Return the logits of a rule, and its mirrors a window; as `WindowAverager._undecided`."""
    total, count = np.zeros(shape, np.float32), 0
    for window in seen:
        share = window.share.astype(np.float32)
        mean, taken = window.logits[0].astype(np.float32), 1
        while taken < most and share[np.abs(mean) < margin].sum() > part * window.edge**3 * taken**power:
            mean += (window.logits[taken].astype(np.float32) - mean) / (taken + 1)
            taken += 1
        count += taken
        total[window.where] += share * mean
    return total, count / max(len(seen), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[4001, 4002, 3001])
    chosen = parser.parse_args()
    torch.set_grad_enabled(False)
    for seed in chosen.seeds:
        phantom = make_phantom(seed, PhantomSettings())
        density = phantom.density.astype(np.float32)
        exact, (_, seconds) = segmented(density, phantom.voxel_spacing_angstrom, "exact")
        seen = all_looks(density, phantom.voxel_spacing_angstrom)
        say(f"phantom {seed}: {len(seen)} windows, exact mode {seconds:.1f} s of CPU")
        for margin, part, power, most in itertools.product(MARGINS, PARTS, POWERS, MOST):
            logits, count = reckoned(seen, density.shape, margin, part, power, most)
            say(
                f"  margin {margin:<4g} part {part:<8g} power {power:<4g} most {most}: {count:.2f} looks a window "
                f"(1/{8 / count:.1f}), Dice {dice(logits > 0, exact):.4f}, "
                f"Surface-Dice {surface_dice(logits > 0, exact).score:.4f}"
            )


if __name__ == "__main__":
    main()
