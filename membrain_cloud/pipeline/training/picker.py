"""Training of a picker on annotated membranes: once, or in rounds of more and more membranes."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.networks.picking.picker import AnyPicker, Picker, save_picker
from membrain_cloud.pipeline.models import load_picker
from membrain_cloud.pipeline.settings import PickSettings
from membrain_cloud.pipeline.stages.pick import make_clustering
from membrain_cloud.pipeline.training.picker_defaults import BASE_LEARNING_RATE, NO_BASE, Report, load_base
from membrain_cloud.training.picking.examples import Example, PickingExample, SubvolumeExample
from membrain_cloud.training.picking.learning_curve import Protocol, run_rounds
from membrain_cloud.training.picking.profile_picker import (
    BASE_SHARE,
    PickerTraining,
    is_compatible,
    require_compatible,
    train_picker,
)
from membrain_cloud.training.picking.subvolume_picker import train_subvolume_picker
from membrain_cloud.training.picking.validation import Validation, clustering_settings, evaluate_picker
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.picking.clustering_options import ClusteringOptions
    from membrain_cloud.pipeline.training.picker_data import PickerData, Training

ENOUGH_MEMBRANES = 3
"""From this number on, a picker learns new particles better from random weights than from the built-in picker's."""

# The number of epochs is such that training sees this number of vertices in all, within limits; vertices of overlaps
# count once. Fine-tuning needs far fewer, and smaller steps.
ROUND_VERTICES, ROUND_EPOCHS = 5_000_000, (12, 300)
BASE_VERTICES, BASE_EPOCHS = 400_000, (4, 60)
# Validations in a training from random weights, and in a fine-tuning.
_VALIDATIONS, _BASE_VALIDATIONS = 10, 5


def train_on_membranes(
    data: PickerData, output: str, work: str, values: Mapping[str, Any], *, base: str | None, progress: Report
) -> dict[str, Any]:
    """Train a picker on annotated membranes and write it.

    Parameters
    ----------
    data : PickerData
        The membranes.
    output : str
        The safetensors file to write.
    work : str
        Folder of the state of the training. A second call continues from there.
    values : mapping
        `epochs` and `seed`, if they differ from the defaults. By default there are as many epochs as see
        `ROUND_VERTICES` vertices, or `BASE_VERTICES` with a base.
    base : str or None
        Picker whose weights training starts from; `NO_BASE`: random weights. None: the built-in picker if there are
        fewer membranes than `ENOUGH_MEMBRANES` and it is compatible, else random weights.
    progress : callable
        Called with lines of text.

    Returns
    -------
    summary : dict
        `membranes`, `particles`, `network` and `model`; with a validation also `best_epoch`, the scores `validation`
        and the `settings` of the best clustering.

    Raises
    ------
    InputError
        If no particle lies on the membranes to train or to validate on.
    UsageError
        If the base is incompatible, or `work` holds the state of other settings.
    """
    base = _choose_base(base, data.training, len(data.train))
    training = _settings(data.training, values, data.train, base)
    counts = data.counts()
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    progress(f"{len(data.train)} membranes, particles: {kinds}; {len(data.validation)} to validate with")
    validation = _validation(data)
    picker = train_one(
        data.train, training, Path(work), validation=validation, base=load_base(base, output), progress=progress
    )
    summary: dict[str, Any] = {"membranes": len(data.train), "particles": counts, "network": network_name(training)}
    about = summary | dict(data.about) | ({} if base is None else {"base": base})
    notes = {**picker.notes, "trained_on": about, "training": asdict(training)}
    if validation is not None:
        clustering = validation.best_clustering(picker)
        summary |= {
            "best_epoch": picker.notes["best_epoch"],
            "validation": evaluate_picker(picker, data.validation, clustering=clustering),
            "settings": clustering_settings(clustering),
        }
        notes |= {"validation": summary["validation"], "settings": summary["settings"]}
    save_picker(replace(picker, notes=notes | {"membrain_cloud": __version__}), output)
    return summary | {"model": output}


def train_in_rounds(
    data: PickerData,
    counts: Sequence[int],
    output: str,
    work: str,
    values: Mapping[str, Any],
    *,
    base: str | None,
    progress: Report,
) -> list[dict[str, Any]]:
    """Train a picker for each number of annotated membranes, and write that of the most.

    Parameters
    ----------
    data : PickerData
        The membranes.
    counts : sequence of int
        Number of annotated membranes in each round.
    output : str
        The safetensors file to write.
    work : str
        Folder of all rounds. A second call continues from there.
    values, base, progress
        As in `train_on_membranes`.

    Returns
    -------
    rows : list of dict
        Scores of each round.

    Raises
    ------
    UsageError
        If there are no membranes to validate with, or fewer membranes than a round needs.
    """
    validation = _validation(data)
    if validation is None:
        raise UsageError(
            "rounds are scored on membranes that none of them is trained on", "name validation runs (and test runs)"
        )
    training = replace(data.training, **values)
    possible_base = load_base(_choose_base(base, training, 1), output)

    def train(annotated: Sequence[Example], folder: Path) -> AnyPicker:
        own_base = _choose_base(base, training, len(annotated))
        settings = _settings(data.training, values, annotated, own_base)
        start = load_base(own_base, output)
        return train_one(annotated, settings, folder, validation=validation, base=start, progress=progress)

    about = [
        asdict(training),
        sorted(values),
        [base, None if possible_base is None else possible_base.sha256, BASE_SHARE, ENOUGH_MEMBRANES],
        ROUND_VERTICES,
        ROUND_EPOCHS,
        BASE_VERTICES,
        BASE_EPOCHS,
    ]
    protocol = Protocol(tuple(counts), training.seed, data.train, validation, data.test, [*about, __version__])
    rows = run_rounds(protocol, train, Path(work), progress)
    last = load_picker(rows[-1]["model"])
    notes = {**last.notes, "trained_on": dict(data.about), "rounds": rows}
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
    """Train one picker of either kind.

    Parameters
    ----------
    examples : sequence of PickingExample or SubvolumeExample
        Membranes to train on, of the kind that the network takes.
    training : PickerTraining or SubvolumeTraining
        Settings, which decide the kind of network.
    work : Path
        Folder of the state of the training.
    validation : Validation or None
        Membranes that choose the best epoch.
    base : Picker, SubvolumePicker or None
        Picker whose weights training starts from.
    progress : callable
        Called with lines of text.

    Returns
    -------
    picker : Picker or SubvolumePicker
        The trained picker.

    Raises
    ------
    UsageError
        If the base is incompatible.
    """
    report = functools.partial(_report, progress, training.epochs)
    if base is not None:
        progress(f"begins with the weights of {base.name}; the base `{NO_BASE}` begins with random ones")
    if isinstance(training, PickerTraining):
        profiled = [example for example in examples if isinstance(example, PickingExample)]
        return train_picker(
            profiled,
            settings=training,
            checkpoint=work / "picker-training.pt",
            progress=report,
            validation=validation,
            base=require_compatible(base, training),
        )
    if base is not None:
        raise UsageError("a network of subvolumes cannot start from a base", "train without a base")
    boxed = [example for example in examples if isinstance(example, SubvolumeExample)]
    return train_subvolume_picker(
        boxed, settings=training, checkpoint=work / "subvolume-training.pt", progress=report, validation=validation
    )


def network_name(training: Training) -> str:
    """Return the kind of network that these settings train: "profiles" or "subvolumes".

    Parameters
    ----------
    training : Training
        The settings.
    """
    return "profiles" if isinstance(training, PickerTraining) else "subvolumes"


def _report(progress: Report, epochs: int, epoch: int, loss: float) -> None:
    progress(f"epoch {epoch} of {epochs}: loss {loss:.3f}")


def _with_epochs(training: Training, annotated: Sequence[Example], base: str | None) -> Training:
    """Return the settings with a number of epochs in inverse proportion to the vertices."""
    if not isinstance(training, PickerTraining):
        return training
    vertices = sum(len(example.mesh.vertices) for example in annotated if isinstance(example, PickingExample))
    (least, most), seen = (ROUND_EPOCHS, ROUND_VERTICES) if base is None else (BASE_EPOCHS, BASE_VERTICES)
    epochs = min(most, max(least, seen // max(1, vertices)))
    validations = _VALIDATIONS if base is None else _BASE_VALIDATIONS
    return replace(training, epochs=epochs, validate_every=max(1, epochs // validations))


def _validation(data: PickerData) -> Validation | None:
    if not data.validation:
        return None
    if not sum(example.count for example in data.validation):
        raise InputError("there is not one particle to validate with", "validate with membranes that have particles")
    return Validation(data.validation, _default_clustering())


def _default_clustering() -> ClusteringOptions:
    return make_clustering(PickSettings())


def _settings(
    training: Training, values: Mapping[str, Any], annotated: Sequence[Example], base: str | None
) -> Training:
    """Return the settings of one training: a smaller learning rate with a base, explicit values, and epochs."""
    initial = training if base is None else replace(training, learning_rate=BASE_LEARNING_RATE)
    settings = replace(initial, **values)
    return settings if "epochs" in values else _with_epochs(settings, annotated, base)


def _choose_base(base: str | None, training: Training, membranes: int) -> str | None:
    """Return the base that was named; else the built-in picker for few membranes if it is compatible; else None."""
    if base is not None:
        return None if base == NO_BASE else base
    if membranes >= ENOUGH_MEMBRANES or not isinstance(training, PickerTraining):
        return None
    if training.shapes:  # distances have another meaning then
        return None
    built_in = PickSettings().model
    picker = load_picker(built_in)
    if not isinstance(picker, Picker) or not is_compatible(picker, training):
        return None
    return built_in
