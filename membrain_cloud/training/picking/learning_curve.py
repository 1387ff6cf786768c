"""Scores of a picker by the number of annotated membranes: the protocol of the MemBrain v2 paper.

Pickers are trained on the first 1, 2, 5 ... membranes of a fixed order, each from its own start, and all are scored on
the same other membranes. Each set contains the smaller ones, so that rows differ by the annotations alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import UsageError
from membrain_cloud.networks.picking.picker import AnyPicker, save_picker
from membrain_cloud.training.curve import CurveFile
from membrain_cloud.training.picking.examples import Example, content_digest
from membrain_cloud.training.picking.validation import Validation, clustering_settings, evaluate_picker

TrainOne = Callable[[Sequence[Example], Path], AnyPicker]


@dataclass(frozen=True, eq=False)
class Protocol:
    """Membranes and rounds of a learning curve.

    Attributes
    ----------
    counts : tuple of int
        Number of annotated membranes in each round.
    seed : int
        Seed of their order.
    train : sequence of PickingExample or SubvolumeExample
        The membranes that can be annotated.
    validation : Validation
        Membranes that choose the best epoch and the clustering, the same in all rounds.
    test : sequence of PickingExample or SubvolumeExample
        Membranes that the rounds are scored on.
    about : Any
        Everything else that affects a training, as JSON-serialisable values.
    """

    counts: tuple[int, ...]
    seed: int
    train: Sequence[Example]
    validation: Validation
    test: Sequence[Example]
    about: Any


def annotation_order(examples: Sequence[Example], seed: int) -> list[int]:
    """Draw an order of membranes in which those with particles come first, as annotators would choose.

    Parameters
    ----------
    examples : sequence of PickingExample or SubvolumeExample
        The membranes.
    seed : int
        Seed of the order.

    Returns
    -------
    order : list of int
        Indices of the membranes.
    """
    drawn = np.random.default_rng((seed, 5)).permutation(len(examples)).tolist()
    return sorted(drawn, key=lambda index: examples[index].count == 0)


def run_rounds(
    protocol: Protocol, train_one: TrainOne, work: Path, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train and score a picker for each number of annotated membranes.

    Parameters
    ----------
    protocol : Protocol
        Membranes and rounds.
    train_one : callable
        Takes the annotated membranes and a folder for the state of the training, and returns the picker. It continues
        from the state, if there is one.
    work : Path
        Folder of pickers, states and scores, and of the table `rounds.csv`. Each round has a subfolder named after a
        digest of all it depends on: finished rounds are not repeated, and an edited annotation makes another round.
    progress : callable
        Called with lines of text.

    Returns
    -------
    rows : list of dict
        Scores of each round, by increasing number of membranes.

    Raises
    ------
    UsageError
        If there are no rounds, or more membranes are asked for than there are. Nothing is trained then.
    """
    counts = tuple(sorted(set(protocol.counts)))
    if not counts or counts[0] < 1 or counts[-1] > len(protocol.train):
        raise UsageError(
            f"rounds of {', '.join(map(str, protocol.counts)) or 'no'} membranes: there are {len(protocol.train)}",
            "give counts from 1 to the number of membranes, e.g. 1,2,5",
        )
    order = annotation_order(protocol.train, protocol.seed)
    rows = []
    for count in counts:
        annotated = [protocol.train[index] for index in order[:count]]
        rows.append(_run_round(protocol, annotated, train_one, work, progress))
        CurveFile(work / "rounds.csv").write(rows)
    return rows


def _run_round(
    protocol: Protocol, annotated: Sequence[Example], train_one: TrainOne, work: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    folder = work / f"round-{len(annotated):03d}-{_digest(protocol, annotated)[:12]}"
    scores_file, model = folder / "scores.json", folder / "picker.safetensors"
    if scores_file.exists() and model.exists():
        progress(f"{len(annotated)} membranes: done before")
        finished: dict[str, Any] = json.loads(scores_file.read_text())
        return finished | {"model": str(model)}
    progress(f"{len(annotated)} membranes, {sum(example.count for example in annotated)} particles: training")
    picker = train_one(annotated, folder)
    clustering = protocol.validation.best_clustering(picker)
    scores = evaluate_picker(picker, protocol.test, clustering=clustering)
    row = {
        "annotated_membranes": len(annotated),
        "annotated_particles": sum(example.count for example in annotated),
        **{name: scores[name] for name in ("f1", "precision", "recall", "f1_one_to_one", "chamfer_angstrom")},
        "particles": scores["particles"],
        "picks": scores["picks"],
        "bandwidth_angstrom": clustering.bandwidth_angstrom,
        "threshold": clustering.score_threshold,
        "model": str(model),
    }
    save_picker(replace(picker, notes={**picker.notes, "settings": clustering_settings(clustering)}), model)
    replace_atomically(scores_file, lambda path: path.write_text(json.dumps(row)))
    progress(
        f"{len(annotated)} membranes: F1 {row['f1']:.3f} on {row['particles']} particles of {len(protocol.test)} others"
    )
    return row


def _digest(protocol: Protocol, annotated: Sequence[Example]) -> str:
    digest = hashlib.sha256(json.dumps([protocol.about, asdict(protocol.validation.clustering)]).encode())
    for part in (annotated, protocol.validation.examples, protocol.test):
        digest.update(content_digest(part).encode())
    return digest.hexdigest()
