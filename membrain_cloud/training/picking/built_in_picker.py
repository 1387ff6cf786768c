"""Training of the picker that ships with the package: simulated examples, training, and scores on unseen tomograms."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.networks.picking.picker import AnyPicker, save_picker
from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom
from membrain_cloud.training.picking.examples import PickingExample
from membrain_cloud.training.picking.profile_picker import PickerTraining, require_compatible, train_picker
from membrain_cloud.training.picking.simulated_examples import (
    PhantomExamples,
    Segment,
    phantom_examples,
    random_phantom,
)
from membrain_cloud.training.picking.validation import clustering_settings, evaluate_picker
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.picking.clustering_options import ClusteringOptions

# Distance between the seeds of training and of validation.
_VALIDATION_SEEDS = 1_000_000

Report = Callable[[str], None]


@dataclass(frozen=True)
class PhantomPlan:
    """What a picker is trained and scored on, and how.

    Attributes
    ----------
    seed : int
        Seed of the first phantom.
    phantoms, validation_phantoms : int
        Number of simulated tomograms to train on, and to score on.
    examples : PhantomExamples
        How examples are made of them.
    training : PickerTraining
        Settings of the training.
    clustering : ClusteringOptions
        How scores become picks.
    """

    seed: int
    phantoms: int
    validation_phantoms: int
    examples: PhantomExamples
    training: PickerTraining
    clustering: ClusteringOptions


def train_picker_on_phantoms(
    output: Path,
    plan: PhantomPlan,
    *,
    workdir: Path | None,
    progress: Report,
    segment: Segment | None = None,
    base: AnyPicker | None = None,
) -> dict[str, Any]:
    """Train a picker on simulated tomograms, score it on others, and write it.

    Parameters
    ----------
    output : Path
        The safetensors file to write.
    plan : PhantomPlan
        Numbers of tomograms, and all settings.
    workdir : Path or None
        Folder that keeps the examples and the state of the training, from which a second call continues. None: nothing
        is kept.
    progress : callable
        Called with lines of text.
    segment : callable or None
        As in `phantom_examples`.
    base : Picker or None
        As in `train_picker`, but without a share of its weights in the result. Default: random weights.

    Returns
    -------
    scores : dict
        Scores (`evaluate_picker`) on unseen phantoms with `true_masks`, with `imperfect_masks` and, if the training has
        segmented surfaces, with `segmented_masks`. The model's header holds them as well.

    Raises
    ------
    UsageError
        If the base is incompatible, or `workdir` holds the state of other settings.
    """
    training, seed = plan.training, plan.seed
    start = require_compatible(base, training)
    train = make_examples(
        range(seed, seed + plan.phantoms), plan.examples, training, workdir, progress, segment=segment
    )
    picker = train_picker(
        train,
        settings=training,
        checkpoint=None if workdir is None else workdir / "picker-training.pt",
        progress=lambda epoch, loss: progress(f"epoch {epoch} of {training.epochs}: loss {loss:.3f}"),
        base=start,
        base_share=0.0,  # many phantoms have no common noise to learn
    )
    unseen = range(seed + _VALIDATION_SEEDS, seed + _VALIDATION_SEEDS + plan.validation_phantoms)
    scores = {}
    for name, kind in _scored_kinds(plan.examples).items():
        held_out = make_examples(unseen, kind, training, workdir, progress, segment=segment)
        scores[name] = evaluate_picker(picker, held_out, clustering=plan.clustering)
        progress(f"{name}: F1 {scores[name]['f1']:.3f} on {scores[name]['particles']} particles")
    notes = {
        "trained_on": f"{plan.phantoms} simulated tomograms, seeds {seed} to {seed + plan.phantoms - 1}",
        "examples": asdict(plan.examples),
        "training": asdict(training),
        "clustering": asdict(plan.clustering),
        "settings": clustering_settings(plan.clustering),
        "scores": scores,
        **({} if start is None else {"base": {"name": start.name, "sha256": start.sha256}}),
        "membrain_cloud": __version__,
    }
    save_picker(replace(picker, notes=notes), output)
    return scores


def _scored_kinds(examples: PhantomExamples) -> dict[str, PhantomExamples]:
    """Return the kinds of surfaces that a picker is scored on, by name."""
    membranes = replace(examples, decoys=0)
    kinds = {
        "true_masks": replace(membranes, imperfect=0.0, surfaces="masks"),
        "imperfect_masks": replace(membranes, imperfect=1.0, surfaces="masks"),
    }
    if examples.surfaces != "masks":
        kinds["segmented_masks"] = replace(membranes, surfaces="segmented")
    return kinds


def make_examples(
    seeds: Sequence[int],
    settings: PhantomExamples,
    training: PickerTraining,
    workdir: Path | None,
    progress: Report,
    *,
    phantom: PhantomSettings | None = None,
    segment: Segment | None = None,
) -> list[PickingExample]:
    """Make examples of the membranes of simulated tomograms, or read those that `workdir` keeps.

    Parameters
    ----------
    seeds : sequence of int
        One phantom for each.
    settings : PhantomExamples
        How examples are made of them.
    training : PickerTraining
        Sampling of the profiles, and classes.
    workdir : Path or None
        Folder that keeps the examples. None: they are not kept.
    progress : callable
        Called with a line of text for each phantom.
    phantom : PhantomSettings or None
        Settings of all phantoms. Default None: drawn for each by `random_phantom`.
    segment : callable or None
        As in `phantom_examples`.

    Returns
    -------
    examples : list of PickingExample
        The membranes of all phantoms, in order.
    """
    examples: list[PickingExample] = []
    key = json.dumps([asdict(settings), training.offsets_angstrom, training.spline_order, training.classes])
    if phantom is not None:
        key += json.dumps(asdict(phantom))
    for count, seed in enumerate(seeds, start=1):
        file = None if workdir is None else workdir / f"examples-{settings.surfaces}-{settings.imperfect:g}-{seed}.npz"
        membranes = None if file is None else _load_examples(file, key)
        if membranes is None:
            membranes = phantom_examples(
                random_phantom(seed, settings) if phantom is None else make_phantom(seed, phantom),
                settings,
                offsets_angstrom=training.offsets_angstrom,
                spline_order=training.spline_order,
                seed=seed,
                classes=training.classes,
                segment=segment,
            )
            if file is not None:
                _save_examples(file, key, membranes)
        examples += membranes
        progress(f"phantom {count} of {len(seeds)}: {len(membranes)} membranes")
    return examples


def _save_examples(path: Path, key: str, examples: Sequence[PickingExample]) -> None:
    arrays: dict[str, NDArray[Any]] = {"key": np.array(key), "count": np.array(len(examples))}
    for index, example in enumerate(examples):
        arrays[f"vertices{index}"], arrays[f"faces{index}"] = example.mesh.vertices, example.mesh.faces
        arrays[f"profiles{index}"], arrays[f"positions{index}"] = example.profiles, example.particles.positions
        arrays[f"orientations{index}"] = _orientations(example.particles)
        if example.kinds is not None:
            arrays[f"kinds{index}"] = example.kinds

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, write)


def _load_examples(path: Path, key: str) -> list[PickingExample] | None:
    """Return the examples kept at `path`, or None if there are none or they were made in another way."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return [
                PickingExample(
                    Mesh(stored[f"vertices{index}"], stored[f"faces{index}"]),
                    stored[f"profiles{index}"],
                    Picks(stored[f"positions{index}"], stored[f"orientations{index}"]),
                    stored.get(f"kinds{index}"),
                )
                for index in range(int(stored["count"]))
            ]
    except (FileNotFoundError, zipfile.BadZipFile, KeyError):
        return None


def _orientations(particles: Picks) -> NDArray[np.float64]:
    if particles.orientations is None:
        raise ValueError("examples from phantoms have orientations")
    return particles.orientations
