"""Which patches of a project are worth a person's time: where the network is least sure, in different places."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, MembrainCloudError, ProjectError, UsageError
from membrain_cloud.geometry import iterate_chunks
from membrain_cloud.pipeline.annotation.patch_set import Patch, PatchSet
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
    from membrain_cloud.store.refs import FeaturesRef, SegmentationRef

# Raised when doubt is counted in another way.
DATA_VERSION = 1


@dataclass(frozen=True)
class Wish:
    """How many patches of what kind.

    count : in all; a set that has as many is left as it is.  more : so many beyond those there are, whatever `count`.
    edge : in voxels, a multiple of CELLS.  per_tomogram : at most, in all.
    """

    count: int
    more: int
    edge: int
    per_tomogram: int

    def check(self) -> None:
        if self.edge < 2 * CELLS or self.edge % CELLS:
            raise UsageError(
                f"an edge of {self.edge} voxels is no multiple of {CELLS}", "take 160 (as MemBrain-seg does), or 96"
            )


@dataclass(frozen=True)
class Ground:
    """What the doubt about one tomogram is taken from."""

    labels: SegmentationRef
    features: FeaturesRef
    identity: str
    evidence: Evidence
    threshold: float
    model_sha256: str | None


@dataclass(frozen=True)
class Proposal:
    """patches : all of the set.  added : of these, by this call.  notes : runs that were passed over, and why."""

    patches: Sequence[Patch]
    added: int
    notes: Sequence[str]


def predicted_uri(settings: Settings) -> str:
    """Where `segment` writes with these settings."""
    session = StageDigests.of(settings, STAGES, ("segment",)).sessions["segment"]
    return f"{MEMBRANE}:{settings.output.user}/{session}"


def propose(
    project: Project,
    runs: Sequence[str],
    name: str,
    wish: Wish,
    *,
    prediction: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Proposal:
    """Propose patches of the runs (none: all), and keep them as the set `name`.

    The same results give the same patches. A second call with the same wish adds nothing; tomograms that were looked
    through already are not read again. No two patches overlap, those proposed before included.

    Parameters
    ----------
    prediction : URI of the segmentation in each run, whose receipt says which scores were kept with it.

    Raises UsageError for an edge that cannot be; InputError where no run has kept scores.
    """
    wish.check()
    kept = PatchSet(project, name)
    known = kept.patches()
    if known and known[0].edge != wish.edge:
        raise UsageError(
            f"the patches {name!r} have an edge of {known[0].edge} voxels, not {wish.edge}",
            f"give --edge {known[0].edge}, or another --name",
        )
    wanted = wish.more or wish.count - len(known)
    if wanted <= 0:
        return Proposal(known, 0, ())
    grounds, notes = _grounds(project, runs, prediction)
    if not grounds:
        raise InputError(
            f"no run holds scores or uncertainties that {prediction} was made of: {'; '.join(notes[:3])}",
            "run with --set segment.scores=uint8 (or segment.uncertainty=yes), and propose with the same settings",
        )
    found: list[Patch] = []
    for done, ground in enumerate(grounds):
        progress(done, len(grounds))
        found += _of_tomogram(kept, ground, wish, known, wanted)
    progress(len(grounds), len(grounds))
    found.sort(key=lambda patch: (-patch.doubt, patch.run, patch.z, patch.y, patch.x))
    first = kept.next_number(known)
    added = [_numbered(patch, first + k) for k, patch in enumerate(found[:wanted])]
    if added:
        kept.add(added, _told(wish, prediction, grounds))
    if len(added) < wanted:
        notes.append(f"{wanted} patches were asked for, {len(added)} found: raise --per-tomogram, or take smaller ones")
    return Proposal([*known, *added], len(added), notes)


def _numbered(patch: Patch, number: int) -> Patch:
    return Patch(**{**patch.as_dict(), "patch": f"patch-{number:04d}"})


def _told(wish: Wish, prediction: str, grounds: Sequence[Ground]) -> dict[str, Any]:
    return {
        "wish": vars(wish),
        "prediction": prediction,
        "data_version": DATA_VERSION,
        "inputs": [{"features": g.features.key, "identity": g.identity, "evidence": g.evidence} for g in grounds],
        "versions": versions(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _grounds(project: Project, runs: Sequence[str], prediction: str) -> tuple[list[Ground], list[str]]:
    found, notes = [], []
    for run in sorted(set(runs)) or project.runs():
        try:
            found.append(ground_of(project, project.segmentation(run, prediction)))
        except MembrainCloudError as error:
            notes.append(f"{run}: {error.message}")
    return found, notes


def segment_receipt(project: Project, labels: SegmentationRef) -> dict[str, Any] | None:
    """The receipt of a mask that `segment` wrote; None for somebody else's."""
    place = f"{labels.name}@{labels.voxel_spacing_angstrom:.3f}"
    parts = project.receipts.parts(f"segment/{labels.user}_{labels.session}/{labels.run}/{place}")
    return parts.get("complete")


def ground_of(project: Project, labels: SegmentationRef) -> Ground:
    """The map that was kept with a mask: uncertainties before scores. ProjectError where none was."""
    receipt = segment_receipt(project, labels)
    if receipt is None:
        raise ProjectError(f"{labels.key} has no receipt", "propose from a finished run of `segment`")
    digits = str(receipt["counts"].get("kept", ""))[-8:]
    tomogram = next((ref for ref in project.all_tomograms(labels.run) if ref.key == _density(receipt)), None)
    kept = [] if tomogram is None else [f for f in project.features(tomogram) if f.feature_type.endswith(f"-{digits}")]
    by_kind = {ref.feature_type.split("-")[1]: ref for ref in kept if digits}
    kinds: tuple[tuple[str, Evidence], ...] = (("uncertainty", "uncertainty"), ("score", "scores"))
    for kind, evidence in kinds:
        ref = by_kind.get(kind)
        if ref is not None and project.is_complete(ref):
            threshold = float(receipt["settings"].get("threshold", 0.0))
            sha256 = (receipt.get("model") or {}).get("sha256")
            return Ground(labels, ref, project.identity(ref), evidence, threshold, sha256)
    raise ProjectError(f"no scores were kept of {labels.key}", "run again with --set segment.scores=uint8")


def _density(receipt: dict[str, Any]) -> str | None:
    return receipt["inputs"].get("density", {}).get("uri")


def _of_tomogram(kept: PatchSet, ground: Ground, wish: Wish, known: Sequence[Patch], wanted: int) -> Iterator[Patch]:
    """Its most doubtful places, as far as the set has room for more of this tomogram."""
    tomogram = ground.features.tomogram
    own = [patch for patch in known if patch.tomogram == tomogram]
    room = min(wanted, wish.per_tomogram - len(own))
    if room <= 0:
        return
    shape = kept.project.grid(ground.features).shape
    sums = _cell_sums(kept, ground, wish.edge // CELLS)
    for found in doubtful_boxes(sums, shape, wish.edge, room, [patch.box for patch in own]):
        depth, height, width = found.box.shape
        z, y, x = found.box.start
        yield Patch(
            patch="",
            run=tomogram.run,
            tomogram_type=tomogram.tomogram_type,
            voxel_spacing_angstrom=tomogram.voxel_spacing_angstrom,
            **{"z": z, "y": y, "x": x, "depth": depth, "height": height, "width": width},
            edge=wish.edge,
            doubt=found.mean,
            evidence=ground.evidence,
            features=ground.features.key,
            features_identity=ground.identity,
            prediction=ground.labels.uri,
            model_sha256=ground.model_sha256,
        )


def _cell_sums(kept: PatchSet, ground: Ground, cell: int) -> NDArray[np.float64]:
    """Read a stored chunk at a time, whose faces are taken for the volume's; kept, since it is a pass over the map."""
    digest = digest_of(ground.features.key, ground.identity, ground.evidence, ground.threshold, cell, DATA_VERSION)
    name = f"cells/{ground.features.run}-{digest[:16]}.npy"
    try:
        return np.load(io.BytesIO(kept.files.read(name)), allow_pickle=False)
    except (FileNotFoundError, ValueError):
        pass
    project, shape = kept.project, kept.project.grid(ground.features).shape
    cells = CellSums(shape, cell)
    for box in iterate_chunks(shape, project.stored_chunk(ground.features)):
        values = project.read_features(ground.features, box)
        cells.add(box, least_around(doubt(values, ground.evidence, ground.threshold)))
    out = io.BytesIO()
    np.save(out, cells.sums, allow_pickle=False)
    kept.files.write(name, out.getvalue())
    return cells.sums
