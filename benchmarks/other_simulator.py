"""Segmentation networks on tomograms of another simulator (PolNet), at their own voxel spacing and at a coarser one.

    python -m benchmarks.other_simulator MODEL [MODEL ...]      names or files; fast mode, one line a tomogram

Scored on the planes that hold the specimen; `../shared/reference/simulated-mixed` has the tomograms. No network of ours
was ever trained on them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import mrcfile
import numpy as np
from scipy import ndimage

from benchmarks.segmentation import say, segmented
from membrain_cloud.metrics.overlap import dice, surface_dice

DATA = Path(__file__).parents[2] / "shared" / "reference" / "simulated-mixed"
SPACING_ANGSTROM, COARSER_ANGSTROM = 10.0, 13.0
PLANES = (6, 114)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    models = parser.parse_args().models
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there")
    truth = mrcfile.read(DATA / "membrane_label.mrc.gz") > 0
    say("| model | SNR | voxels (Å) | Dice | Surface-Dice | precision | recall |\n|---|---|---|---|---|---|---|")
    for model in models:
        for snr in ("hi", "lo"):
            density = mrcfile.read(DATA / f"tomogram_snr_{snr}.mrc.gz").astype(np.float32)
            for spacing in (SPACING_ANGSTROM, COARSER_ANGSTROM):
                zoom = SPACING_ANGSTROM / spacing
                seen = density if zoom == 1 else ndimage.zoom(density, zoom, order=1)
                wanted = truth if zoom == 1 else ndimage.zoom(truth.astype(np.float32), zoom, order=1) > 0.5
                found, _ = segmented(seen, spacing, "fast", model)
                held = slice(*(round(plane * zoom) for plane in PLANES))
                score = surface_dice(found[held], wanted[held])
                say(
                    f"| {Path(model).stem} | {snr} | {spacing:g} | {dice(found[held], wanted[held]):.3f} "
                    f"| {score.score:.3f} | {score.precision:.3f} | {score.recall:.3f} |"
                )


if __name__ == "__main__":
    main()
