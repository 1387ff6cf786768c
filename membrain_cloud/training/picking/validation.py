"""Scores of a picker on membranes with known particles, and the clustering that suits it best."""

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
from membrain_cloud.picking.particles import cluster_picks, slab_thickness
from membrain_cloud.picking.vertex_scores import PatchOptions, scale_of_boxes, vertex_scores
from membrain_cloud.training.picking.examples import Example, PickingExample, SubvolumeExample, content_digest
from membrain_cloud.training.picking.targets import ParticleShape, class_targets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh, Picks
    from membrain_cloud.networks.picking.picker import AnyPicker, Picker
    from membrain_cloud.picking.clustering_options import ClusteringOptions

F1_RADIUS_ANGSTROM = 63.36
"""A pick within this distance of a particle is correct, as in MemBrain-pick."""

BANDWIDTHS_ANGSTROM = (50.0, 60.0, 70.0, 80.0)
THRESHOLDS = (5.0, 6.0, 7.0, 8.0)

Cache = MutableMapping[str, Operators]
"""Operators of mesh patches, by content."""


def predict_vertex_scores(picker: AnyPicker, example: Example, cache: Cache | None = None) -> NDArray[np.float32]:
    """Predict the scores of an example's vertices.

    Parameters
    ----------
    picker : Picker or SubvolumePicker
        The picker, of K classes.
    example : PickingExample or SubvolumeExample
        A membrane with V vertices, of the kind that the picker takes.
    cache : mutable mapping or None
        Operators of the mesh's patches; it is filled, so that the next call is quicker. Default: none.

    Returns
    -------
    scores : ndarray of shape (V, K), float32
        About 0 at particles, 10 far from all.
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


def _cluster_classes(
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
    """Return positions of several membranes, shifted far apart so that they cannot be matched with each other.

    Parameters
    ----------
    picks, truths : sequence of Picks
        Picks and particles, one entry for each membrane and class; at least one.

    Returns
    -------
    positions, true_positions : ndarray of shape (N, 3) and (M, 3), float64
        In Å.
    """
    shift = [np.array([1e6 * index, 0.0, 0.0]) for index in range(len(truths))]
    positions = np.concatenate([p.positions + s for p, s in zip(picks, shift, strict=True)])
    return positions, np.concatenate([p.positions + s for p, s in zip(truths, shift, strict=True)])


def pooled_f1(picks: Sequence[Picks], truths: Sequence[Picks]) -> tuple[Score, Score]:
    """Compute F1 scores at 63.36 Å, pooled over membranes.

    Parameters
    ----------
    picks, truths : sequence of Picks
        Picks and particles, one entry for each membrane and class.

    Returns
    -------
    score, strict : Score
        MemBrain-pick's F1, and F1 with one-to-one assignment.
    """
    positions, true_positions = pooled_positions(picks, truths)
    return (
        pick_f1(positions, true_positions, F1_RADIUS_ANGSTROM),
        pick_f1_one_to_one(positions, true_positions, F1_RADIUS_ANGSTROM),
    )


def pooled_chamfer(picks: Sequence[Picks], truths: Sequence[Picks]) -> float | None:
    """Compute the mean Chamfer distance of membranes, weighted by their particles.

    Parameters
    ----------
    picks, truths : sequence of Picks
        Picks and particles, one entry for each membrane and class.

    Returns
    -------
    distance : float or None
        In Å; None if no membrane has both picks and particles.
    """
    each = [(chamfer_angstrom(p.positions, t.positions), len(t)) for p, t in zip(picks, truths, strict=True)]
    defined = [(value, count) for value, count in each if value is not None]
    if not defined:
        return None
    return float(np.average([value for value, _ in defined], weights=[count for _, count in defined]))


def evaluate_picker(picker: AnyPicker, examples: Sequence[Example], *, clustering: ClusteringOptions) -> dict[str, Any]:
    """Score a picker on examples that it was not trained on.

    Parameters
    ----------
    picker : Picker or SubvolumePicker
        The picker.
    examples : sequence of PickingExample or SubvolumeExample
        Membranes with their particles.
    clustering : ClusteringOptions
        How scores become picks.

    Returns
    -------
    scores : dict
        `f1`, `precision`, `recall`, `f1_one_to_one`, `chamfer_angstrom`, and the counts `particles`, `picks` and
        `membranes`. Classes are matched separately.
    """
    return evaluate_clusterings(picker, examples, [clustering])[0]


def evaluate_clusterings(
    picker: AnyPicker, examples: Sequence[Example], clusterings: Sequence[ClusteringOptions], cache: Cache | None = None
) -> list[dict[str, Any]]:
    """Score several clusterings of one prediction.

    Parameters
    ----------
    picker : Picker or SubvolumePicker
        The picker.
    examples : sequence of PickingExample or SubvolumeExample
        Membranes with their particles.
    clusterings : sequence of ClusteringOptions
        How scores become picks.
    cache : mutable mapping or None
        As in `predict_vertex_scores`. Default: none.

    Returns
    -------
    scores : list of dict
        As `evaluate_picker` returns them, one for each clustering.
    """
    scores = [predict_vertex_scores(picker, example, cache) for example in examples]
    return [_evaluate(examples, scores, clustering) for clustering in clusterings]


def _evaluate(
    examples: Sequence[Example],
    scores: Sequence[NDArray[np.float32]],
    clustering: ClusteringOptions,
    thicknesses: Sequence[NDArray[np.float64] | None] | None = None,
) -> dict[str, Any]:
    slabs = [None] * len(examples) if thicknesses is None else thicknesses
    parts = zip(examples, scores, slabs, strict=True)
    picks = [one for e, s, thickness in parts for one in _cluster_classes(e, s, clustering, thickness)]
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
    """Membranes that choose the best epoch and clustering, and are never trained on.

    Attributes
    ----------
    examples : sequence of PickingExample or SubvolumeExample
        Membranes with their meshes and particles.
    clustering : ClusteringOptions
        How scores become picks.
    cache : dict
        Operators of the meshes' patches, filled by the first prediction.
    slabs : list of ndarray of shape (V,), float64
        Thickness of each membrane at its vertices, in Å, filled when first needed.
    """

    examples: Sequence[Example]
    clustering: ClusteringOptions
    cache: dict[str, Operators] = field(default_factory=dict)
    slabs: list[NDArray[np.float64]] = field(default_factory=list)

    def thicknesses(self) -> Sequence[NDArray[np.float64]] | None:
        """Return the thickness of each membrane at its vertices; None if the clustering does not need it."""
        if self.clustering.center_offset_angstrom is not None:
            return None
        if not self.slabs:
            self.slabs.extend(slab_thickness(_mesh(example)) for example in self.examples)
        return self.slabs

    def scores(self, picker: AnyPicker, shapes: Sequence[ParticleShape]) -> dict[str, float | None]:
        """Score a picker.

        Parameters
        ----------
        picker : Picker or SubvolumePicker
            The picker.
        shapes : sequence of tuple of float
            Half axes of each class, in Å, as in its training; may be empty.

        Returns
        -------
        row : dict
            `validation_loss` (mean squared error of the distances), `f1`, `precision`, `recall`, `chamfer_angstrom`.
        """
        predicted = [predict_vertex_scores(picker, example, self.cache) for example in self.examples]
        errors = [
            ((scores - _targets(picker, example, scores.shape[1], shapes)) ** 2).ravel()
            for example, scores in zip(self.examples, predicted, strict=True)
        ]
        evaluated = _evaluate(self.examples, predicted, self.clustering, self.thicknesses())
        names = ("f1", "precision", "recall", "chamfer_angstrom")
        return {"validation_loss": float(np.concatenate(errors).mean())} | {name: evaluated[name] for name in names}

    def digest(self) -> str:
        """Return a digest of meshes, densities, annotations and clustering, all of which affect the chosen epoch."""
        clustering = json.dumps(asdict(self.clustering), sort_keys=True)
        return hashlib.sha256((clustering + content_digest(self.examples)).encode()).hexdigest()

    def best_clustering(self, picker: AnyPicker) -> ClusteringOptions:
        """Return the clustering with the largest sum of both F1 scores, of a grid of bandwidths and thresholds.

        Parameters
        ----------
        picker : Picker or SubvolumePicker
            The picker.

        Returns
        -------
        clustering : ClusteringOptions
            `self.clustering` unless another one is better.
        """
        predicted = [predict_vertex_scores(picker, example, self.cache) for example in self.examples]
        candidates = [self.clustering, *_grid(self.clustering)]
        ranked = [(_evaluate(self.examples, predicted, one, self.thicknesses()), one) for one in candidates]
        return max(ranked, key=lambda pair: pair[0]["f1"] + pair[0]["f1_one_to_one"])[1]


def clustering_settings(clustering: ClusteringOptions) -> dict[str, float]:
    """Return the settings by which the stage `pick` uses a clustering.

    Parameters
    ----------
    clustering : ClusteringOptions
        How scores become picks.

    Returns
    -------
    settings : dict
        Values by the names of settings, as `settings` in a picker's file.
    """
    return {"pick.bandwidth_angstrom": clustering.bandwidth_angstrom, "pick.threshold": clustering.score_threshold}


def _grid(clustering: ClusteringOptions) -> Iterable[ClusteringOptions]:
    for bandwidth, threshold in product(BANDWIDTHS_ANGSTROM, THRESHOLDS):
        yield replace(clustering, bandwidth_angstrom=bandwidth, score_threshold=threshold)


def _targets(picker: AnyPicker, example: Example, outputs: int, shapes: Sequence[ParticleShape]) -> NDArray[np.float32]:
    mesh = _mesh(example)
    return class_targets(
        mesh.vertices,
        mesh.vertex_normals(),
        _truths(example, outputs),
        score_unit_angstrom=picker.score_unit_angstrom,
        shapes=shapes,
    )
