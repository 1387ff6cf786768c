"""Training a picker on annotated membranes: once, or in rounds of ever more of them."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import membrain_cloud
from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.networks.picking.picker import AnyPicker, Picker, save_picker
from membrain_cloud.pipeline.models import load_picker
from membrain_cloud.pipeline.settings import PickSettings
from membrain_cloud.pipeline.stages.pick import make_clustering
from membrain_cloud.pipeline.training.picker_defaults import BASE_LEARNING_RATE, NO_BASE, Report, picker_base
from membrain_cloud.training.picking.examples import Example, PickingExample, SubvolumeExample
from membrain_cloud.training.picking.learning_curve import Protocol, run_rounds
from membrain_cloud.training.picking.profile_picker import BASE_SHARE, PickerTraining, fits, fitting, train_picker
from membrain_cloud.training.picking.subvolume_picker import train_subvolume_picker
from membrain_cloud.training.picking.validation import Validation, evaluate_picker, suiting_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.picking.pick_membrane import Clustering
    from membrain_cloud.pipeline.training.picker_data import Material, Training

ENOUGH_MEMBRANES = 3
"""From so many on a picker learns new particles better from random weights than from the built-in picker's."""

# Few membranes have many epochs, many have few: so many vertices are seen in all, those of overlaps
# counted once; from a base on far fewer, in smaller steps.
ROUND_VERTICES, ROUND_EPOCHS = 5_000_000, (12, 300)
BASE_VERTICES, BASE_EPOCHS = 400_000, (4, 60)


def train_on(
    material: Material, output: str, work: str, values: Mapping[str, Any], *, base: str | None, progress: Report
) -> dict[str, Any]:
    """Train a picker and write it; returns what it was trained on, and its scores where there is a validation.

    values : `epochs` and `seed`; without epochs there are as many as let it see `ROUND_VERTICES` (`BASE_VERTICES`).
    base : a picker to begin with, which stays as it is; `NO_BASE`: none; None: the built-in one where it fits and
        there are fewer membranes than `ENOUGH_MEMBRANES`, else none.
    """
    base = _chosen(base, material.training, len(material.train))
    training = _settings(material.training, values, material.train, base)
    counts = material.counts()
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    progress(f"{len(material.train)} membranes, particles: {kinds}; {len(material.validation)} to validate with")
    validation = _validation(material)
    picker = train_one(
        material.train, training, Path(work), validation=validation, base=picker_base(base, output), progress=progress
    )
    told: dict[str, Any] = {"membranes": len(material.train), "particles": counts, "network": network_name(training)}
    about = told | dict(material.about) | ({} if base is None else {"base": base})
    notes = {**picker.notes, "trained_on": about, "training": asdict(training)}
    if validation is not None:
        suits = validation.best_clustering(picker)
        told |= {
            "best_epoch": picker.notes["best_epoch"],
            "validation": evaluate_picker(picker, material.validation, clustering=suits),
            "settings": suiting_settings(suits),
        }
        notes |= {"validation": told["validation"], "settings": told["settings"]}
    save_picker(replace(picker, notes=notes | {"membrain_cloud": membrain_cloud.__version__}), output)
    return told | {"model": output}


def train_in_rounds(
    material: Material,
    counts: Sequence[int],
    output: str,
    work: str,
    values: Mapping[str, Any],
    *,
    base: str | None,
    progress: Report,
) -> list[dict[str, Any]]:
    """The incremental protocol; `output` is the picker of the most membranes. Returns a row for each round.

    values, base : as of `train_on`.
    UsageError where there are no membranes to validate with, or a count is not to be had.
    """
    validation = _validation(material)
    if validation is None:
        raise UsageError(
            "rounds are scored on membranes that none of them is trained on", "add --validation-run (and --test-run)"
        )
    training = replace(material.training, **values)
    possible = picker_base(_chosen(base, training, 1), output)

    def train(annotated: Sequence[Example], folder: Path) -> AnyPicker:
        chosen = _chosen(base, training, len(annotated))
        settings = _settings(material.training, values, annotated, chosen)
        start = picker_base(chosen, output)
        return train_one(annotated, settings, folder, validation=validation, base=start, progress=progress)

    about = [
        asdict(training),
        sorted(values),
        [base, None if possible is None else possible.sha256, BASE_SHARE, ENOUGH_MEMBRANES],
        ROUND_VERTICES,
        ROUND_EPOCHS,
        BASE_VERTICES,
        BASE_EPOCHS,
    ]
    protocol = Protocol(
        tuple(counts), training.seed, material.train, validation, material.test, [*about, membrain_cloud.__version__]
    )
    rows = run_rounds(protocol, train, Path(work), progress)
    last = load_picker(rows[-1]["model"])
    notes = {**last.notes, "trained_on": dict(material.about), "rounds": rows}
    save_picker(replace(last, notes=notes), output)
    return rows


def train_one(
    examples: Sequence[Example],
    training: Training,
    work: Path,
    *,
    validation: Validation | None,
    base: AnyPicker | None,
    progress: Report,
) -> AnyPicker:
    """One training of either network, whose state is kept in `work`."""
    report = functools.partial(_report, progress, training.epochs)
    if base is not None:
        progress(f"begins with the weights of {base.name}; --base {NO_BASE} begins with random ones")
    if isinstance(training, PickerTraining):
        profiled = [example for example in examples if isinstance(example, PickingExample)]
        return train_picker(
            profiled,
            settings=training,
            checkpoint=work / "picker-training.pt",
            progress=report,
            validation=validation,
            base=fitting(base, training),
        )
    if base is not None:
        raise UsageError("a network of subvolumes begins anew", "leave --base out")
    boxed = [example for example in examples if isinstance(example, SubvolumeExample)]
    return train_subvolume_picker(
        boxed, settings=training, checkpoint=work / "subvolume-training.pt", progress=report, validation=validation
    )


def network_name(training: Training) -> str:
    return "profiles" if isinstance(training, PickerTraining) else "subvolumes"


def _report(progress: Report, epochs: int, epoch: int, loss: float) -> None:
    progress(f"epoch {epoch} of {epochs}: loss {loss:.3f}")


def _beginning(training: Training, base: str | None) -> Training:
    """The settings, with a smaller learning rate where the weights are good already."""
    return training if base is None else replace(training, learning_rate=BASE_LEARNING_RATE)


def _in_proportion(training: Training, annotated: Sequence[Example], base: str | None) -> Training:
    if not isinstance(training, PickerTraining):
        return training
    vertices = sum(len(example.mesh.vertices) for example in annotated if isinstance(example, PickingExample))
    (least, most), seen = (ROUND_EPOCHS, ROUND_VERTICES) if base is None else (BASE_EPOCHS, BASE_VERTICES)
    epochs = min(most, max(least, seen // max(1, vertices)))
    return replace(training, epochs=epochs, validate_every=max(1, epochs // (10 if base is None else 5)))


def _validation(material: Material) -> Validation | None:
    if not material.validation:
        return None
    if not sum(example.count for example in material.validation):
        raise InputError("there is not one particle to validate with", "validate with membranes that have particles")
    return Validation(material.validation, _clustering())


def _clustering() -> Clustering:
    return make_clustering(PickSettings())


def _settings(
    training: Training, values: Mapping[str, Any], annotated: Sequence[Example], base: str | None
) -> Training:
    settings = replace(_beginning(training, base), **values)
    return settings if "epochs" in values else _in_proportion(settings, annotated, base)


def _chosen(base: str | None, training: Training, membranes: int) -> str | None:
    """The base that was asked for; else the built-in picker, for few membranes where it is of the same make."""
    if base is not None:
        return None if base == NO_BASE else base
    if membranes >= ENOUGH_MEMBRANES or not isinstance(training, PickerTraining):
        return None
    if training.shapes:  # they give distances another meaning
        return None
    usual = PickSettings().model
    picker = load_picker(usual)
    if not isinstance(picker, Picker) or not fits(picker, training):
        return None
    return usual
