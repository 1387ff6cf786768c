"""Training from the command line, and the defaults of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.models import load_picker
from membrain_cloud.pipeline.settings import MeshSettings, PickSettings, Settings
from membrain_cloud.pipeline.stages.inference import segment_in_memory
from membrain_cloud.pipeline.stages.pick import make_clustering
from membrain_cloud.segmentation.instances import separate
from membrain_cloud.simulation.proteins import MEMBRANE_PARTICLES
from membrain_cloud.training.picking.built_in_picker import train_picker_on_phantoms
from membrain_cloud.training.picking.profile_picker import PickerTraining
from membrain_cloud.training.picking.simulated_examples import PhantomExamples
from membrain_cloud.training.picking.subvolume_picker import SubvolumeTraining

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from membrain_cloud.networks.picking.picker import AnyPicker

Report = Callable[[str], None]

# Samples reach from 30 Å inside to 85 Å outside of a membrane's surface: farther than MemBrain-pick's, since heads on
# stalks stand farther out. Smaller patches than its 2000 vertices: their operators cost less than in proportion.
PICKER_TRAINING = PickerTraining(
    offsets_angstrom=tuple(-30.0 + 5.0 * k for k in range(24)),
    window=20,
    eigenpairs=128,
    partition_vertices=1000,
    length_unit_angstrom=500.0,
    score_unit_angstrom=15.0,
    spline_order=1,
    width=24,
    hidden=16,
    blocks=4,
    epochs=28,
    learning_rate=5e-3,
    accumulate=4,
    seed=100,
)
# MemBrain v1 saw boxes of 12 voxels of 14.08 Å.
SUBVOLUME_TRAINING = SubvolumeTraining(
    spacing_angstrom=14.0,
    score_unit_angstrom=15.0,
    epochs=12,
    steps=100,
    samples=48,
    learning_rate=1e-3,
    seed=100,
)
PICKER_EXAMPLES = PhantomExamples(
    shape=(96, 160, 160),
    voxel_spacing_angstrom=(8.0, 13.0),
    snr=(0.07, 2.0),
    particles_per_um2=(60.0, 2500.0),
    smoothing_angstrom=MeshSettings().smoothing_angstrom,
    vertex_area_angstrom2=MeshSettings().vertex_area_angstrom2,
    imperfect=0.6,
    surfaces="both",
)
# Of 50 to 60 Å the best on 20 phantoms as the first training has them. A threshold of 8 finds more on clear phantoms
# than 7, which is right more often on crowded ones: the figures are in the model's card.
PICKER_BANDWIDTH_ANGSTROM, PICKER_THRESHOLD = 55.0, 8.0
PICKER_PHANTOMS, PICKER_VALIDATION_PHANTOMS = 120, 8
# Of a hundred phantoms more is learnt by a wider network than of a few membranes.
PICKER_RECIPE = replace(PICKER_TRAINING, width=40, epochs=9, learning_rate=4e-3, accumulate=8, seed=3000)
# Of a phantom, where some are cluttered.
PICKER_DECOYS = 3
# From weights that are good already, in smaller steps.
BASE_LEARNING_RATE = 1e-3
NO_BASE = "none"
"""In place of a base's name: random weights."""


def train_picking(
    output: str,
    work: str,
    values: Mapping[str, int],
    *,
    classes: Sequence[str] = (),
    cluttered: float = 0.0,
    base: str | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Train a picker on phantoms; returns its scores on phantoms it has not seen.

    classes : kinds of the phantoms' particles to tell apart, one output each; empty: all are one kind.
    cluttered : share of the phantoms with microtubules, filaments, gold and void beside the membranes; with any, what
        is dark and no membrane is also trained on, as a surface without particles.
    base : a picker to begin with, which stays as it is; None or `NO_BASE`: random weights.
    """
    check_phantom_classes(classes)
    start = picker_base(None if base == NO_BASE else base, output)
    training = replace(
        PICKER_RECIPE,
        epochs=values.get("epochs", PICKER_RECIPE.epochs),
        seed=values.get("seed", PICKER_RECIPE.seed),
        learning_rate=PICKER_RECIPE.learning_rate if start is None else BASE_LEARNING_RATE,
        classes=tuple(classes),
    )
    return train_picker_on_phantoms(
        Path(output),
        seed=training.seed,
        n_phantoms=values.get("phantoms", PICKER_PHANTOMS),
        n_validation=PICKER_VALIDATION_PHANTOMS,
        examples=replace(PICKER_EXAMPLES, cluttered=cluttered, decoys=PICKER_DECOYS if cluttered else 0),
        training=training,
        clustering=make_clustering(
            PickSettings(bandwidth_angstrom=PICKER_BANDWIDTH_ANGSTROM, threshold=PICKER_THRESHOLD)
        ),
        workdir=Path(work),
        progress=progress,
        segment=segmented_membranes,
        base=start,
    )


def segmented_membranes(density: NDArray[np.float32], spacing_angstrom: float) -> NDArray[np.unsignedinteger]:
    """Membranes one by one, as `run` finds them at its defaults."""
    defaults = Settings()
    found, how = segment_in_memory(defaults.segment, density, spacing_angstrom), defaults.separate
    return separate(found, min_voxels=how.min_voxels, split=how.split, drop_border=how.drop_border)


def picker_base(base: str | None, output: str) -> AnyPicker | None:
    """The picker to begin with. UsageError where it is the file to write."""
    if base is None:
        return None
    if Path(output).exists() and Path(base).exists() and Path(base).samefile(output):
        raise UsageError(f"{output} is the picker to begin with", "write the new one to another file")
    return load_picker(base)


def check_phantom_classes(classes: Sequence[str]) -> None:
    """UsageError for a kind of particles that phantoms do not have."""
    unknown = sorted(set(classes) - set(MEMBRANE_PARTICLES))
    if unknown:
        raise UsageError(f"phantoms have no particles {unknown[0]!r}", f"known are {', '.join(MEMBRANE_PARTICLES)}")
