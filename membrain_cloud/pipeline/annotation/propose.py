"""Propose patches for annotation: where the network is least certain, in different places."""

from __future__ import annotations

import datetime
import io
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, MembrainCloudError, ProjectError, UsageError
from membrain_cloud.geometry import iterate_chunks
from membrain_cloud.pipeline.annotation.patch_set import AnnotationPatch, PatchSet
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.execution.provenance import versions
from membrain_cloud.pipeline.planning.digests import StageDigests
from membrain_cloud.pipeline.stages.base import MEMBRANE
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.segmentation.uncertain_regions import CELLS, CellSums, Evidence, doubt, doubtful_boxes, least_around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import FeaturesRef, SegmentationRef, TomogramRef

# Raised when the uncertainty is computed differently.
DATA_VERSION = 1
# The suffix of the names of features that belong to one segmentation: this many digits of its digest.
_DIGEST_DIGITS = 8
_NOTES_SHOWN = 3


@dataclass(frozen=True)
class ProposalSettings:
    """How many patches to propose, and of what size.

    Attributes
    ----------
    count : int
        Patches in all; a set that has as many is left as it is.
    more : int
        If above 0, so many patches beyond those of the set, whatever `count`.
    edge : int
        Voxels along each axis, a multiple of CELLS.
    per_tomogram : int
        At most so many patches of one tomogram, in all.
    """

    count: int
    more: int
    edge: int
    per_tomogram: int

    def check(self) -> None:
        """Raise UsageError for an edge that is too short or no multiple of CELLS."""
        if self.edge < 2 * CELLS or self.edge % CELLS:
            raise UsageError(
                f"an edge of {self.edge} voxels is no multiple of {CELLS}", "take 160 (as MemBrain-seg does), or 96"
            )


@dataclass(frozen=True)
class UncertaintySource:
    """The stored map from which the uncertainty of one tomogram is taken.

    Attributes
    ----------
    labels : SegmentationRef
        The predicted mask.
    features : FeaturesRef
        The map that was kept with it.
    identity : str
        Identity of the map's content.
    evidence : str
        What the map holds: uncertainty or scores.
    threshold : float
        Of the mask, on the scores.
    model_sha256 : str or None
        Of the network's weights; None where the receipt does not say it.
    """

    labels: SegmentationRef
    features: FeaturesRef
    identity: str
    evidence: Evidence
    threshold: float
    model_sha256: str | None


@dataclass(frozen=True)
class Proposal:
    """The result of a proposal.

    Attributes
    ----------
    patches : sequence of AnnotationPatch
        All patches of the set.
    added : int
        How many of them were added by this call.
    notes : sequence of str
        Runs that were left out, and why.
    """

    patches: Sequence[AnnotationPatch]
    added: int
    notes: Sequence[str]


def predicted_uri(settings: Settings) -> str:
    """Return the URI that the stage `segment` writes to with these settings.

    Parameters
    ----------
    settings : Settings
        The settings of all stages.
    """
    session = StageDigests.of(settings, STAGES, ("segment",)).sessions["segment"]
    return f"{MEMBRANE}:{settings.output.user}/{session}"


def propose(
    project: Project,
    runs: Sequence[str],
    name: str,
    settings: ProposalSettings,
    *,
    prediction: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Proposal:
    """Propose patches of a project's tomograms, and add them to the set `name`.

    The same results give the same patches. A second call with the same settings adds nothing, and reads no map again.
    No two patches of a set overlap.

    Parameters
    ----------
    project : Project
        The project.
    runs : sequence of str
        Names of the runs; empty for all.
    name : str
        The set's name.
    settings : ProposalSettings
        How many patches, and of what size.
    prediction : str
        URI of the segmentation in each run, whose receipt says which map was kept with it.
    progress : callable
        Called with the tomograms done and the tomograms in all.

    Returns
    -------
    Proposal

    Raises
    ------
    UsageError
        If the edge is not possible, or differs from that of the set.
    InputError
        If no run has a map that was kept.
    StorageError
        If the overlay cannot be written.
    """
    settings.check()
    patch_set = PatchSet(project, name)
    existing = patch_set.patches()
    if existing and existing[0].edge != settings.edge:
        raise UsageError(
            f"the patches {name!r} have an edge of {existing[0].edge} voxels, not {settings.edge}",
            f"take the edge {existing[0].edge}, or another name",
        )
    wanted = settings.more or settings.count - len(existing)
    if wanted <= 0:
        return Proposal(existing, 0, ())
    sources, notes = _uncertainty_sources(project, runs, prediction)
    if not sources:
        raise InputError(
            f"no run holds scores or uncertainties that {prediction} was made of: {'; '.join(notes[:_NOTES_SHOWN])}",
            "run with segment.scores=uint8 (or segment.uncertainty=yes), and propose with the same settings",
        )
    candidates: list[AnnotationPatch] = []
    for done, source in enumerate(sources):
        progress(done, len(sources))
        candidates += _candidates_of_tomogram(patch_set, source, settings, existing, wanted)
    progress(len(sources), len(sources))
    candidates.sort(key=lambda patch: (-patch.doubt, patch.run, patch.z, patch.y, patch.x))
    first = patch_set.next_number(existing)
    added = [replace(patch, patch=f"patch-{first + k:04d}") for k, patch in enumerate(candidates[:wanted])]
    if added:
        patch_set.add(added, _provenance(settings, prediction, sources))
    if len(added) < wanted:
        notes.append(f"{wanted} patches were asked for, {len(added)} found: raise per_tomogram, or take a smaller edge")
    return Proposal([*existing, *added], len(added), notes)


def _provenance(settings: ProposalSettings, prediction: str, sources: Sequence[UncertaintySource]) -> dict[str, Any]:
    return {
        "wish": asdict(settings),
        "prediction": prediction,
        "data_version": DATA_VERSION,
        "inputs": [{"features": s.features.key, "identity": s.identity, "evidence": s.evidence} for s in sources],
        "versions": versions(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _uncertainty_sources(
    project: Project, runs: Sequence[str], prediction: str
) -> tuple[list[UncertaintySource], list[str]]:
    """Return the sources of all runs that have one, and notes on the others."""
    sources, notes = [], []
    for run in sorted(set(runs)) or project.runs():
        try:
            sources.append(uncertainty_source(project, project.segmentation(run, prediction)))
        except MembrainCloudError as error:
            notes.append(f"{run}: {error.message}")
    return sources, notes


def segment_receipt(project: Project, labels: SegmentationRef) -> dict[str, Any] | None:
    """Return the receipt of a mask that the stage `segment` wrote.

    Parameters
    ----------
    project : Project
        The project.
    labels : SegmentationRef
        The mask.

    Returns
    -------
    dict or None
        None for a mask of another origin.
    """
    volume = f"{labels.name}@{labels.voxel_spacing_angstrom:.3f}"
    parts = project.receipts.parts(f"segment/{labels.user}_{labels.session}/{labels.run}/{volume}")
    return parts.get("complete")


def uncertainty_source(project: Project, labels: SegmentationRef) -> UncertaintySource:
    """Return the map that was kept with a mask: uncertainties are preferred to scores.

    Parameters
    ----------
    project : Project
        The project.
    labels : SegmentationRef
        The mask.

    Returns
    -------
    UncertaintySource

    Raises
    ------
    ProjectError
        If the mask has no receipt, or no map was kept.
    """
    receipt = segment_receipt(project, labels)
    if receipt is None:
        raise ProjectError(f"{labels.key} has no receipt", "propose from a finished run of `segment`")
    digits = str(receipt["counts"].get("kept", ""))[-_DIGEST_DIGITS:]
    tomogram = _segmented_tomogram(project, labels, receipt)
    features = [] if tomogram is None else project.features(tomogram)
    own_features = [ref for ref in features if digits and ref.feature_type.endswith(f"-{digits}")]
    by_kind = {ref.feature_type.split("-")[1]: ref for ref in own_features}
    kinds: tuple[tuple[str, Evidence], ...] = (("uncertainty", "uncertainty"), ("score", "scores"))
    for kind, evidence in kinds:
        ref = by_kind.get(kind)
        if ref is not None and project.is_complete(ref):
            threshold = float(receipt["settings"].get("threshold", 0.0))
            sha256 = (receipt.get("model") or {}).get("sha256")
            return UncertaintySource(labels, ref, project.identity(ref), evidence, threshold, sha256)
    raise ProjectError(f"no scores were kept of {labels.key}", "run again with segment.scores=uint8")


def _segmented_tomogram(project: Project, labels: SegmentationRef, receipt: dict[str, Any]) -> TomogramRef | None:
    key = receipt["inputs"].get("density", {}).get("uri")
    return next((ref for ref in project.all_tomograms(labels.run) if ref.key == key), None)


def _candidates_of_tomogram(
    patch_set: PatchSet,
    source: UncertaintySource,
    settings: ProposalSettings,
    existing: Sequence[AnnotationPatch],
    wanted: int,
) -> Iterator[AnnotationPatch]:
    """Iterate over the most uncertain places of a tomogram, as far as the set may have more patches of it."""
    tomogram = source.features.tomogram
    own = [patch for patch in existing if patch.tomogram == tomogram]
    allowed = min(wanted, settings.per_tomogram - len(own))
    if allowed <= 0:
        return
    shape = patch_set.project.grid(source.features).shape
    sums = _cell_sums(patch_set, source, settings.edge // CELLS)
    for region in doubtful_boxes(sums, shape, settings.edge, allowed, [patch.box for patch in own]):
        depth, height, width = region.box.shape
        z, y, x = region.box.start
        yield AnnotationPatch(
            patch="",
            run=tomogram.run,
            tomogram_type=tomogram.tomogram_type,
            voxel_spacing_angstrom=tomogram.voxel_spacing_angstrom,
            **{"z": z, "y": y, "x": x, "depth": depth, "height": height, "width": width},
            edge=settings.edge,
            doubt=region.mean,
            evidence=source.evidence,
            features=source.features.key,
            features_identity=source.identity,
            prediction=source.labels.uri,
            model_sha256=source.model_sha256,
        )


def _cell_sums(patch_set: PatchSet, source: UncertaintySource, cell: int) -> NDArray[np.float64]:
    """Return the sums of the uncertainty over cells, and keep them, since they take a pass over the map.

    The map is read a stored chunk at a time, whose faces are treated as the volume's.
    """
    digest = digest_of(source.features.key, source.identity, source.evidence, source.threshold, cell, DATA_VERSION)
    name = f"cells/{source.features.run}-{digest[:16]}.npy"
    try:
        stored: NDArray[np.float64] = np.load(io.BytesIO(patch_set.files.read(name)), allow_pickle=False)
        return stored
    except (FileNotFoundError, ValueError):
        pass
    project, shape = patch_set.project, patch_set.project.grid(source.features).shape
    cells = CellSums(shape, cell)
    for box in iterate_chunks(shape, project.stored_chunk(source.features)):
        values = project.read_features(source.features, box)
        cells.add(box, least_around(doubt(values, source.evidence, source.threshold)))
    content = io.BytesIO()
    np.save(content, cells.sums, allow_pickle=False)
    patch_set.files.write(name, content.getvalue())
    return cells.sums
