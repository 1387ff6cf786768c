"""Default settings of the pickers, and training of a picker on phantoms."""

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
from membrain_cloud.training.picking.built_in_picker import PhantomPlan, train_picker_on_phantoms
from membrain_cloud.training.picking.profile_picker import PickerTraining
from membrain_cloud.training.picking.simulated_examples import PhantomExamples
from membrain_cloud.training.picking.subvolume_picker import SubvolumeTraining

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from membrain_cloud.networks.picking.picker import AnyPicker

Report = Callable[[str], None]

# Samples reach from 30 Å inside to 85 Å outside of a membrane's surface, farther than MemBrain-pick's, because heads on
# stalks are farther out. Patches are smaller than its 2000 vertices: their operators cost less than in proportion.
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
# MemBrain v1 uses boxes of 12 voxels of 14.08 Å.
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
# The best bandwidth of 50 to 60 Å on 20 phantoms like those of the first training. A threshold of 8 has a higher recall
# on clear phantoms than 7, which has a higher precision on crowded ones: the figures are in the model's card.
PICKER_BANDWIDTH_ANGSTROM, PICKER_THRESHOLD = 55.0, 8.0
PICKER_PHANTOMS, PICKER_VALIDATION_PHANTOMS = 120, 8
# A wider network for a hundred phantoms than for a few membranes.
PICKER_RECIPE = replace(PICKER_TRAINING, width=40, epochs=9, learning_rate=4e-3, accumulate=8, seed=3000)
# Decoys of a phantom, if some phantoms are cluttered.
PICKER_DECOYS = 3
# Learning rate of a fine-tuning.
BASE_LEARNING_RATE = 1e-3
NO_BASE = "none"
"""In place of the name of a base: random weights."""


def train_picking(
    output: str,
    work: str,
    values: Mapping[str, int],
    *,
    classes: Sequence[str] = (),
    cluttered: float = 0.0,
    base: str | None = None,
    progress: Report,
) -> dict[str, Any]:
    """Train a picker on phantoms and write it.

    Parameters
    ----------
    output : str
        The safetensors file to write.
    work : str
        Folder that keeps the examples and the state of the training. A second call continues from there.
    values : mapping of str to int
        `epochs`, `seed` and `phantoms`, if they differ from the built-in picker's.
    classes : sequence of str
        Kinds of the phantoms' particles to distinguish. Default: all kinds are one class.
    cluttered : float
        Fraction of the phantoms with microtubules, filaments, gold and void beside the membranes. If above 0, dark
        regions outside of the membranes are trained on as surfaces without particles. Default: 0.
    base : str or None
        Picker whose weights training starts from. Default None, or `NO_BASE`: random weights.
    progress : callable
        Called with lines of text.

    Returns
    -------
    scores : dict
        Scores on unseen phantoms, by the kind of surface.

    Raises
    ------
    UsageError
        If phantoms do not have such a class, or the base is incompatible or the file to write.
    """
    require_phantom_classes(classes)
    start = load_base(None if base == NO_BASE else base, output)
    training = replace(
        PICKER_RECIPE,
        epochs=values.get("epochs", PICKER_RECIPE.epochs),
        seed=values.get("seed", PICKER_RECIPE.seed),
        learning_rate=PICKER_RECIPE.learning_rate if start is None else BASE_LEARNING_RATE,
        classes=tuple(classes),
    )
    clustering = make_clustering(PickSettings(bandwidth_angstrom=PICKER_BANDWIDTH_ANGSTROM, threshold=PICKER_THRESHOLD))
    return train_picker_on_phantoms(
        Path(output),
        PhantomPlan(
            seed=training.seed,
            phantoms=values.get("phantoms", PICKER_PHANTOMS),
            validation_phantoms=PICKER_VALIDATION_PHANTOMS,
            examples=replace(PICKER_EXAMPLES, cluttered=cluttered, decoys=PICKER_DECOYS if cluttered else 0),
            training=training,
            clustering=clustering,
        ),
        workdir=Path(work),
        progress=progress,
        segment=segment_membranes,
        base=start,
    )


def segment_membranes(density: NDArray[np.float32], spacing_angstrom: float) -> NDArray[np.unsignedinteger[Any]]:
    """Segment a density and separate its membranes, with the default settings.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X), float32
        The tomogram.
    spacing_angstrom : float
        Its voxel spacing, in Å.

    Returns
    -------
    instances : ndarray of shape (Z, Y, X), unsigned integer
        Membranes numbered from 1.
    """
    defaults = Settings()
    mask, settings = segment_in_memory(defaults.segment, density, spacing_angstrom), defaults.separate
    return separate(mask, min_voxels=settings.min_voxels, split=settings.split, drop_border=settings.drop_border)


def load_base(base: str | None, output: str) -> AnyPicker | None:
    """Load the picker that training starts from.

    Parameters
    ----------
    base : str or None
        Name or file of the picker; None for none.
    output : str
        The file to write.

    Returns
    -------
    picker : Picker, SubvolumePicker or None
        The picker.

    Raises
    ------
    UsageError
        If it is the file to write.
    """
    if base is None:
        return None
    if Path(output).exists() and Path(base).exists() and Path(base).samefile(output):
        raise UsageError(f"{output} is the picker to begin with", "write the new one to another file")
    return load_picker(base)


def require_phantom_classes(classes: Sequence[str]) -> None:
    """Check that phantoms have these kinds of particles.

    Parameters
    ----------
    classes : sequence of str
        Names of kinds.

    Raises
    ------
    UsageError
        If they do not have one of them.
    """
    unknown = sorted(set(classes) - set(MEMBRANE_PARTICLES))
    if unknown:
        raise UsageError(f"phantoms have no particles {unknown[0]!r}", f"known are {', '.join(MEMBRANE_PARTICLES)}")
