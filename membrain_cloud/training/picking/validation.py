"""How good a picker is: scores on membranes with known particles, and the clustering that suits it best."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.mesh.spectral.operators import Operators
from membrain_cloud.metrics.overlap import Score, chamfer_angstrom, pick_f1, pick_f1_one_to_one
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker
from membrain_cloud.picking.clustering_options import ClusteringOptions
from membrain_cloud.picking.particles import cluster_picks, slab_thickness
from membrain_cloud.picking.vertex_scores import PatchOptions, scale_of_boxes, vertex_scores
from membrain_cloud.training.picking.examples import Example, PickingExample, SubvolumeExample, content_digest
from membrain_cloud.training.picking.targets import ParticleShape, targets_of_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh, Picks
    from membrain_cloud.networks.picking.picker import AnyPicker, Picker

F1_RADIUS_ANGSTROM = 63.36
"""A pick is right within this distance: MemBrain-pick's."""

BANDWIDTHS_ANGSTROM = (50.0, 60.0, 70.0, 80.0)
THRESHOLDS = (5.0, 6.0, 7.0, 8.0)

Cache = MutableMapping[str, Operators]


def predicted_scores(picker: AnyPicker, example: Example, cache: Cache | None = None) -> NDArray[np.float32]:
    """(V, K) scores of an example's vertices for the picker's K classes.

    cache : the operators of the mesh's patches by content, kept from one call to the next.
    """
    if isinstance(picker, SubvolumePicker):
        assert isinstance(example, SubvolumeExample)
        mean, deviation = scale_of_boxes(example.boxes)
        scores = picker.predict_boxes(example.boxes, mean=mean, deviation=deviation)
    else:
        assert isinstance(example, PickingExample)
        scores = _profile_scores(picker, example, cache)
    return scores if scores.ndim == 2 else scores[:, None]


def _profile_scores(picker: Picker, example: PickingExample, cache: Cache | None) -> NDArray[np.float32]:
    patches = PatchOptions.of_picker(picker)
    return vertex_scores(example.mesh, example.profiles, picker.predict, patches, cache=cache)


def predict_picks(picker: AnyPicker, example: Example, *, clustering: ClusteringOptions) -> list[Picks]:
    """What the picker finds on one membrane, for each of its classes."""
    return _clustered(example, predicted_scores(picker, example), clustering, None)


def _clustered(
    example: Example, scores: NDArray[np.float32], clustering: ClusteringOptions, thickness: NDArray[np.float64] | None
) -> list[Picks]:
    mesh = _mesh(example)
    return [cluster_picks(mesh, of_class, clustering, membrane_id=0, thickness=thickness) for of_class in scores.T]


def _mesh(example: Example) -> Mesh:
    if example.mesh is None:
        raise ValueError("an example without its mesh cannot be picked on")
    return example.mesh


def _truths(example: Example, outputs: int) -> tuple[Picks, ...]:
    return example.of_classes(outputs) if isinstance(example, PickingExample) else example.particles


def pooled_positions(
    picks: Sequence[Picks], truths: Sequence[Picks]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of many membranes together, moved far apart, so that picks of one never meet particles of another."""
    shift = [np.array([1e6 * index, 0.0, 0.0]) for index in range(len(truths))]
    found = np.concatenate([p.positions + s for p, s in zip(picks, shift, strict=True)])
    return found, np.concatenate([p.positions + s for p, s in zip(truths, shift, strict=True)])


def pooled_f1(picks: Sequence[Picks], truths: Sequence[Picks]) -> tuple[Score, Score]:
    """MemBrain-pick's F1 and the one-to-one F1 at 63.36 Å over many membranes together."""
    found, true = pooled_positions(picks, truths)
    return pick_f1(found, true, F1_RADIUS_ANGSTROM), pick_f1_one_to_one(found, true, F1_RADIUS_ANGSTROM)


def pooled_chamfer(picks: Sequence[Picks], truths: Sequence[Picks]) -> float | None:
    """The Chamfer distance in Å, each membrane by itself and weighted by its particles; None where none has both."""
    each = [(chamfer_angstrom(p.positions, t.positions), len(t)) for p, t in zip(picks, truths, strict=True)]
    known = [(value, count) for value, count in each if value is not None]
    if not known:
        return None
    return float(np.average([value for value, _ in known], weights=[count for _, count in known]))


def evaluate_picker(picker: AnyPicker, examples: Sequence[Example], *, clustering: ClusteringOptions) -> dict[str, Any]:
    """Scores of a picker on examples it was not trained on: F1, precision, recall, and counts, classes apart."""
    return evaluate_clusterings(picker, examples, [clustering])[0]


def evaluate_clusterings(
    picker: AnyPicker, examples: Sequence[Example], clusterings: Sequence[ClusteringOptions], cache: Cache | None = None
) -> list[dict[str, Any]]:
    """As `evaluate_picker`, of several clusterings of one prediction.  cache : as of `predicted_scores`."""
    scores = [predicted_scores(picker, example, cache) for example in examples]
    return [_evaluated(examples, scores, clustering) for clustering in clusterings]


def _evaluated(
    examples: Sequence[Example],
    scores: Sequence[NDArray[np.float32]],
    clustering: ClusteringOptions,
    thicknesses: Sequence[NDArray[np.float64] | None] | None = None,
) -> dict[str, Any]:
    slabs = [None] * len(examples) if thicknesses is None else thicknesses
    parts = zip(examples, scores, slabs, strict=True)
    picks = [one for e, s, thickness in parts for one in _clustered(e, s, clustering, thickness)]
    truths = [one for e, s in zip(examples, scores, strict=True) for one in _truths(e, s.shape[1])]
    score, strict = pooled_f1(picks, truths)
    chamfer = pooled_chamfer(picks, truths)
    return {
        "f1": round(score.score, 4),
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
        "f1_one_to_one": round(strict.score, 4),
        "chamfer_angstrom": None if chamfer is None else round(chamfer, 2),
        "particles": sum(len(truth) for truth in truths),
        "picks": sum(len(p) for p in picks),
        "membranes": len(examples),
    }


@dataclass(frozen=True, eq=False)
class Validation:
    """Membranes that a training is watched on, and never trained on.

    cache : operators of their patches, filled at the first look.  slabs : how thick they are, likewise.
    """

    examples: Sequence[Example]
    clustering: ClusteringOptions
    cache: dict[str, Operators] = field(default_factory=dict)
    slabs: list[NDArray[np.float64]] = field(default_factory=list)

    def thicknesses(self) -> Sequence[NDArray[np.float64]] | None:
        """Of each membrane's slab, worked out once for all looks; None where picks are not moved by it."""
        if self.clustering.center_offset_angstrom is not None:
            return None
        if not self.slabs:
            self.slabs.extend(slab_thickness(_mesh(example)) for example in self.examples)
        return self.slabs

    def scores(self, picker: AnyPicker, shapes: Sequence[ParticleShape]) -> dict[str, float | None]:
        """A row of the log: mean squared error of the distances, F1, precision, recall and Chamfer distance."""
        found = [predicted_scores(picker, example, self.cache) for example in self.examples]
        errors = [
            ((scores - _targets(picker, example, scores.shape[1], shapes)) ** 2).ravel()
            for example, scores in zip(self.examples, found, strict=True)
        ]
        told = _evaluated(self.examples, found, self.clustering, self.thicknesses())
        names = ("f1", "precision", "recall", "chamfer_angstrom")
        return {"validation_loss": float(np.concatenate(errors).mean())} | {name: told[name] for name in names}

    def digest(self) -> str:
        """Of meshes, densities, annotations and clustering: another validation chooses another epoch."""
        clustering = json.dumps(asdict(self.clustering), sort_keys=True)
        return hashlib.sha256((clustering + content_digest(self.examples)).encode()).hexdigest()

    def best_clustering(self, picker: AnyPicker) -> ClusteringOptions:
        """Of a grid of bandwidths and thresholds the one with the best sum of both F1; of equals the given one."""
        found = [predicted_scores(picker, example, self.cache) for example in self.examples]
        candidates = [self.clustering, *_grid(self.clustering)]
        ranked = [(_evaluated(self.examples, found, one, self.thicknesses()), one) for one in candidates]
        return max(ranked, key=lambda pair: pair[0]["f1"] + pair[0]["f1_one_to_one"])[1]


def suiting_settings(clustering: ClusteringOptions) -> dict[str, float]:
    """What a picker's file says of the clustering that suits it, by the names of the settings (notes' `settings`)."""
    return {"pick.bandwidth_angstrom": clustering.bandwidth_angstrom, "pick.threshold": clustering.score_threshold}


def _grid(clustering: ClusteringOptions) -> Iterable[ClusteringOptions]:
    for bandwidth, threshold in product(BANDWIDTHS_ANGSTROM, THRESHOLDS):
        yield replace(clustering, bandwidth_angstrom=bandwidth, score_threshold=threshold)


def _targets(picker: AnyPicker, example: Example, outputs: int, shapes: Sequence[ParticleShape]) -> NDArray[np.float32]:
    mesh = _mesh(example)
    return targets_of_classes(
        mesh.vertices,
        mesh.vertex_normals(),
        _truths(example, outputs),
        score_unit_angstrom=picker.score_unit_angstrom,
        shapes=shapes,
    )
