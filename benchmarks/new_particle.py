"""A picker of a particle that no picker of ours has seen, from ever more annotated membranes, with and without a base.

    python -m benchmarks.new_particle                       1, 5 and 25 membranes from random weights (half an hour)
    python -m benchmarks.new_particle --base membrain-cloud-picker --counts 1,5

The particle is an arch: two feet 124 Å apart, a roof on them, nothing beneath. Phantoms, membranes to validate with and
scores are those of `membrain-cloud train picking --incremental`; what is done is kept in --work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.pipeline.training.picker import train_in_rounds
from membrain_cloud.pipeline.training.picker_data import phantom_data
from membrain_cloud.pipeline.training.picker_defaults import NO_BASE
from membrain_cloud.simulation import proteins as phantom_particles

if TYPE_CHECKING:
    from membrain_cloud.simulation.proteins import Blobs, Points

COLUMNS = ("annotated_membranes", "annotated_particles", "f1", "precision", "recall", "f1_one_to_one")


def arch(rng: np.random.Generator) -> Blobs:
    def inside(p: Points) -> np.ndarray:
        foot = (np.abs(np.abs(p[:, 0]) - 62) ** 2 + p[:, 1] ** 2 <= 20**2) & (p[:, 2] >= -22) & (p[:, 2] <= 70)
        roof = (np.abs(p[:, 0]) <= 80) & (np.abs(p[:, 1]) <= 22) & (p[:, 2] >= 70) & (p[:, 2] <= 100)
        found: np.ndarray = foot | roof
        return found

    return phantom_particles.fill(inside, 120, 15, rng)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=NO_BASE, help="a picker to begin with")
    parser.add_argument("--counts", default="1,5,25", help="of annotated membranes")
    parser.add_argument("--work", type=Path, default=Path("new-particle"))
    options = parser.parse_args()
    phantom_particles.MEMBRANE_PARTICLES["arch"] = arch
    material = phantom_data(options.work, classes=("arch",), progress=say)
    rows = train_in_rounds(
        material,
        [int(count) for count in options.counts.split(",")],
        str(options.work / "arch.safetensors"),
        str(options.work),
        {},
        base=options.base,
        progress=say,
    )
    sys.stdout.write("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(str(row[name]) for name in COLUMNS) + " |\n")


if __name__ == "__main__":
    main()
