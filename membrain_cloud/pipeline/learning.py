"""Training from the command line, and the defaults of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from membrain_cloud.errors import UsageError
from membrain_cloud.membranes.phantom_particles import MEMBRANE_PARTICLES
from membrain_cloud.pipeline.picking import clustering_of
from membrain_cloud.pipeline.settings import MeshSettings, PickSettings
from membrain_cloud.training.picker_loop import PickerTraining
from membrain_cloud.training.picking import PhantomExamples, train_picker_on_phantoms
from membrain_cloud.training.subvolume_loop import SubvolumeTraining

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
    voxel_spacing_angstrom=10.0,
    snr=(0.2, 2.0),
    particles_per_um2=(300.0, 2500.0),
    smoothing_angstrom=MeshSettings().smoothing_angstrom,
    vertex_area_angstrom2=MeshSettings().vertex_area_angstrom2,
    imperfect=0.5,
)
# Of 45 to 70 Å the best, with 50, on 45 membranes of phantoms as the demo's and as the training's, and on 41 others.
PICKER_BANDWIDTH_ANGSTROM = 55.0
PICKER_PHANTOMS = 24
PICKER_VALIDATION_PHANTOMS = 4


def train_picking(
    output: str,
    work: str,
    values: Mapping[str, int],
    *,
    classes: Sequence[str] = (),
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Train a picker on phantoms; returns its scores on phantoms it has not seen.

    classes : kinds of the phantoms' particles to tell apart, one output each; empty: all are one kind.
    """
    check_phantom_classes(classes)
    training = replace(
        PICKER_TRAINING,
        epochs=values.get("epochs", PICKER_TRAINING.epochs),
        seed=values.get("seed", PICKER_TRAINING.seed),
        classes=tuple(classes),
    )
    return train_picker_on_phantoms(
        Path(output),
        seed=training.seed,
        n_phantoms=values.get("phantoms", PICKER_PHANTOMS),
        n_validation=PICKER_VALIDATION_PHANTOMS,
        examples=PICKER_EXAMPLES,
        training=training,
        clustering=clustering_of(PickSettings(bandwidth_angstrom=PICKER_BANDWIDTH_ANGSTROM)),
        workdir=Path(work),
        progress=progress,
    )


def check_phantom_classes(classes: Sequence[str]) -> None:
    """UsageError for a kind of particles that phantoms do not have."""
    unknown = sorted(set(classes) - set(MEMBRANE_PARTICLES))
    if unknown:
        raise UsageError(f"phantoms have no particles {unknown[0]!r}", f"known are {', '.join(MEMBRANE_PARTICLES)}")
