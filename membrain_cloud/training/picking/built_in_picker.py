"""The picker that ships with the package: examples from simulated tomograms, training, and an honest score."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import membrain_cloud
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.networks.picking.picker import AnyPicker, save_picker
from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom
from membrain_cloud.training.picking.examples import PickingExample
from membrain_cloud.training.picking.profile_picker import PickerTraining, fitting, train_picker
from membrain_cloud.training.picking.simulated_examples import (
    PhantomExamples,
    Segment,
    phantom_examples,
    random_phantom,
)
from membrain_cloud.training.picking.validation import evaluate_picker, suiting_settings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from membrain_cloud.picking.clustering_options import ClusteringOptions

Report = Callable[[str], None]


def train_picker_on_phantoms(
    output: Path,
    *,
    seed: int,
    n_phantoms: int,
    n_validation: int,
    examples: PhantomExamples,
    training: PickerTraining,
    clustering: ClusteringOptions,
    workdir: Path | None,
    progress: Report,
    segment: Segment | None = None,
    base: AnyPicker | None = None,
) -> dict[str, Any]:
    """Train a picker on simulated tomograms, score it on others, and write it to `output` (.safetensors).

    workdir : a folder that keeps the examples and the state of the training, to go on from; None: nothing is kept.
    progress : is told a line of what is going on.
    segment : see `phantom_examples`.
    base : see `train_picker`; none of its own weights are kept.

    Returns the scores that are also in the model's header: on unseen phantoms with true masks, with imperfect ones, and
    where the training has such, with segmented ones.
    """
    start = fitting(base, training)
    train = make_examples(range(seed, seed + n_phantoms), examples, training, workdir, progress, segment=segment)
    picker = train_picker(
        train,
        settings=training,
        checkpoint=None if workdir is None else workdir / "picker-training.pt",
        progress=lambda epoch, loss: progress(f"epoch {epoch} of {training.epochs}: loss {loss:.3f}"),
        base=start,
        base_share=0.0,  # many phantoms teach no noise
    )
    unseen = range(seed + 1_000_000, seed + 1_000_000 + n_validation)
    scores = {}
    membranes = replace(examples, decoys=0)
    scored = {
        "true_masks": replace(membranes, imperfect=0.0, surfaces="masks"),
        "imperfect_masks": replace(membranes, imperfect=1.0, surfaces="masks"),
    }
    if examples.surfaces != "masks":
        scored["segmented_masks"] = replace(membranes, surfaces="segmented")
    for name, kind in scored.items():
        held_out = make_examples(unseen, kind, training, workdir, progress, segment=segment)
        scores[name] = evaluate_picker(picker, held_out, clustering=clustering)
        progress(f"{name}: F1 {scores[name]['f1']:.3f} on {scores[name]['particles']} particles")
    notes = {
        "trained_on": f"{n_phantoms} simulated tomograms, seeds {seed} to {seed + n_phantoms - 1}",
        "examples": asdict(examples),
        "training": asdict(training),
        "clustering": asdict(clustering),
        "settings": suiting_settings(clustering),
        "scores": scores,
        **({} if start is None else {"base": {"name": start.name, "sha256": start.sha256}}),
        "membrain_cloud": membrain_cloud.__version__,
    }
    save_picker(replace(picker, notes=notes), output)
    return scores


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
    """The membranes of phantoms as examples; those kept in `workdir` are not made again.

    phantom : how they are simulated; None: in many ways, as `random_phantom` does.  segment : see `phantom_examples`.
    """
    made: list[PickingExample] = []
    key = json.dumps([asdict(settings), training.offsets_angstrom, training.spline_order, training.classes])
    if phantom is not None:
        key += json.dumps(asdict(phantom))
    for count, seed in enumerate(seeds, start=1):
        kept = None if workdir is None else workdir / f"examples-{settings.surfaces}-{settings.imperfect:g}-{seed}.npz"
        found = None if kept is None else _load_examples(kept, key)
        if found is None:
            found = phantom_examples(
                random_phantom(seed, settings) if phantom is None else make_phantom(seed, phantom),
                settings,
                offsets_angstrom=training.offsets_angstrom,
                spline_order=training.spline_order,
                seed=seed,
                classes=training.classes,
                segment=segment,
            )
            if kept is not None:
                _save_examples(kept, key, found)
        made += found
        progress(f"phantom {count} of {len(seeds)}: {len(found)} membranes")
    return made


def _save_examples(path: Path, key: str, examples: Sequence[PickingExample]) -> None:
    arrays: dict[str, NDArray[Any]] = {"key": np.array(key), "count": np.array(len(examples))}
    for index, example in enumerate(examples):
        arrays[f"vertices{index}"], arrays[f"faces{index}"] = example.mesh.vertices, example.mesh.faces
        arrays[f"profiles{index}"], arrays[f"positions{index}"] = example.profiles, example.particles.positions
        arrays[f"orientations{index}"] = _orientations(example.particles)
        if example.kinds is not None:
            arrays[f"kinds{index}"] = example.kinds
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def _load_examples(path: Path, key: str) -> list[PickingExample] | None:
    """The examples kept at `path`; None where there are none, or others."""
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
