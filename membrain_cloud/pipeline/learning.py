"""Training from the command line, and the defaults of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from membrain_cloud.pipeline.settings import MeshSettings, PickSettings
from membrain_cloud.training.loop import SegmentationTraining, train_segmenter
from membrain_cloud.training.picker_loop import PickerTraining
from membrain_cloud.training.picking import Clustering, PhantomExamples, train_picker_on_phantoms

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
PICKER_EXAMPLES = PhantomExamples(
    shape=(96, 160, 160),
    voxel_spacing_angstrom=10.0,
    snr=(0.2, 2.0),
    particles_per_um2=(300.0, 2500.0),
    smoothing_angstrom=MeshSettings().smoothing_angstrom,
    vertex_area_angstrom2=MeshSettings().vertex_area_angstrom2,
    imperfect=0.5,
)
PICKER_PHANTOMS = 24
PICKER_VALIDATION_PHANTOMS = 4


def train_segmentation(
    output: str, work: str, values: Mapping[str, Any], *, device: str | None, progress: Callable[[int, str], None]
) -> str:
    """Train a segmentation network with the built-in model's settings, but for `values`; returns the file."""
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = replace(SegmentationTraining(), **values)
    return str(train_segmenter(Path(output), Path(work), settings, device=where, progress=progress))


def train_picking(
    output: str, work: str, values: Mapping[str, int], *, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Train a picker on phantoms; returns its scores on phantoms it has not seen."""
    chosen = PickSettings()
    training = replace(
        PICKER_TRAINING,
        epochs=values.get("epochs", PICKER_TRAINING.epochs),
        seed=values.get("seed", PICKER_TRAINING.seed),
    )
    return train_picker_on_phantoms(
        Path(output),
        seed=training.seed,
        n_phantoms=values.get("phantoms", PICKER_PHANTOMS),
        n_validation=PICKER_VALIDATION_PHANTOMS,
        examples=PICKER_EXAMPLES,
        training=training,
        clustering=Clustering(
            bandwidth_angstrom=chosen.bandwidth_angstrom,
            score_threshold=chosen.threshold,
            max_iterations=chosen.max_iterations,
            min_samples=chosen.min_samples,
            center_offset_angstrom=chosen.center_offset_angstrom,
            largest_nm2=chosen.largest_nm2,
            min_distance_angstrom=chosen.min_distance_angstrom,
            least_elongation=chosen.least_elongation,
        ),
        workdir=Path(work),
        progress=progress,
    )
