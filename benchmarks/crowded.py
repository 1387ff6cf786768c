"""Pickers on crowded phantoms and on clear ones, side by side, over the thresholds of the clustering.

    python -m benchmarks.crowded FOLDER MODEL [MODEL ...]      names or files; FOLDER keeps the phantoms

Crowded: 12 phantoms with few particles, microtubules, filaments, gold and void, as the built-in network segments them.
Clear: 8 phantoms as the built-in picker's training has them, and 8 of the lowest signal, segmented and from their own
masks. No picker of ours was trained on any of them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.segmentation import say
from membrain_cloud.pipeline.models import load_picker
from membrain_cloud.pipeline.settings import PickSettings
from membrain_cloud.pipeline.stages.pick import make_clustering
from membrain_cloud.pipeline.training.picker_defaults import (
    PICKER_BANDWIDTH_ANGSTROM,
    PICKER_EXAMPLES,
    PICKER_RECIPE,
    segment_membranes,
)
from membrain_cloud.training.picking.built_in_picker import make_examples
from membrain_cloud.training.picking.validation import Cache, evaluate_clusterings

CROWDED = replace(PICKER_EXAMPLES, cluttered=1.0, particles_per_um2=(60.0, 600.0), snr=(0.2, 1.0), surfaces="segmented")
CLEAR = replace(PICKER_EXAMPLES, surfaces="segmented")
FAINT = replace(CLEAR, snr=(0.07, 0.2))
SETS = {
    "crowded": (range(5012, 5024), CROWDED),
    "clear": (range(9000, 9008), CLEAR),
    "clear, own masks": (range(9000, 9008), replace(CLEAR, surfaces="masks")),
    "faint": (range(9100, 9108), FAINT),
    "faint, own masks": (range(9100, 9108), replace(FAINT, surfaces="masks")),
}
THRESHOLDS = (7.0, 7.5, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    chosen = parser.parse_args()
    say("| phantoms | picker | threshold | F1 | precision | recall |\n|---|---|---|---|---|---|")
    clusterings = [
        make_clustering(PickSettings(bandwidth_angstrom=PICKER_BANDWIDTH_ANGSTROM, threshold=threshold))
        for threshold in THRESHOLDS
    ]
    for name, (seeds, settings) in SETS.items():
        folder = chosen.folder / name.partition(",")[0]
        examples = make_examples(seeds, settings, PICKER_RECIPE, folder, lambda _: None, segment=segment_membranes)
        operators: Cache = {}
        for model in chosen.models:
            scores = evaluate_clusterings(load_picker(model), examples, clusterings, operators)
            for threshold, score in zip(THRESHOLDS, scores, strict=True):
                f1, precision, recall = (f"{score[key]:.3f}" for key in ("f1", "precision", "recall"))
                said = f"{name} ({score['particles']})"
                say(f"| {said} | {Path(model).stem} | {threshold:g} | {f1} | {precision} | {recall} |")


if __name__ == "__main__":
    main()
