"""How a picker gets better with the number of annotated membranes: the protocol of the MemBrain v2 paper.

Pickers are trained on the first 1, 2, 5 ... of a fixed order of membranes, each from its own start, and all are scored
on the same others. So each set holds the smaller ones, and what differs between rows is the annotations alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from membrain_cloud.errors import UsageError
from membrain_cloud.networks.picking.picker import AnyPicker, save_picker
from membrain_cloud.training.curve import CurveFile
from membrain_cloud.training.picking.examples import Example, content_digest
from membrain_cloud.training.picking.validation import Validation, evaluate_picker, suiting_settings

TrainOne = Callable[[Sequence[Example], Path], AnyPicker]


@dataclass(frozen=True, eq=False)
class Protocol:
    """counts : of annotated membranes, one a round.  seed : of their order.
    train : the membranes there are to annotate.  validation : for the best epoch and the clustering, alike for all
    rounds.  test : what the table's scores are of.  about : all else that decides a training, JSON-able.
    """

    counts: tuple[int, ...]
    seed: int
    train: Sequence[Example]
    validation: Validation
    test: Sequence[Example]
    about: Any


def annotation_order(examples: Sequence[Example], seed: int) -> list[int]:
    """A drawn order of membranes in which those with particles come first: nobody annotates an empty one first."""
    drawn = np.random.default_rng((seed, 5)).permutation(len(examples)).tolist()
    return sorted(drawn, key=lambda index: examples[index].count == 0)


def run_rounds(
    protocol: Protocol, train_one: TrainOne, work: Path, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train and score a picker for each count; a row of scores each, also in `work`/rounds.csv.

    train_one : (annotated membranes, a folder for the state of the training) -> the picker. It goes on from the state.
    work : keeps pickers, states and scores, each round in a folder named by a digest of all it hangs on: rounds that
        are done there are not done again, and an edited annotation gives another round.

    Raises UsageError, before any training, for counts that are none or more than there are membranes.
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
        rows.append(_round(protocol, annotated, train_one, work, progress))
        CurveFile(work / "rounds.csv").write(rows)
    return rows


def _round(
    protocol: Protocol, annotated: Sequence[Example], train_one: TrainOne, work: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    folder = work / f"round-{len(annotated):03d}-{_digest(protocol, annotated)[:12]}"
    kept, model = folder / "scores.json", folder / "picker.safetensors"
    if kept.exists() and model.exists():
        progress(f"{len(annotated)} membranes: done before")
        return json.loads(kept.read_text()) | {"model": str(model)}
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
    save_picker(replace(picker, notes={**picker.notes, "settings": suiting_settings(clustering)}), model)
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(row))
    os.replace(temporary, kept)
    progress(
        f"{len(annotated)} membranes: F1 {row['f1']:.3f} on {row['particles']} particles of {len(protocol.test)} others"
    )
    return row


def _digest(protocol: Protocol, annotated: Sequence[Example]) -> str:
    found = hashlib.sha256(json.dumps([protocol.about, asdict(protocol.validation.clustering)]).encode())
    for part in (annotated, protocol.validation.examples, protocol.test):
        found.update(content_digest(part).encode())
    return found.hexdigest()
