"""Merge annotations of patches into one segmentation for each tomogram: marks inside of patches, 0 outside.

The marks are those of `training.labels`: 1 membrane, 2 ignore, 3 background, and 0 outside of annotated patches. A
receipt holds digests of the voxels that annotators painted: an edit rewrites only the chunks that its patch touches.
Annotators' own files are never written.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import StorageError, UsageError
from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.pipeline.annotation.extract import require_own_image, write_volume
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.execution.provenance import versions
from membrain_cloud.pipeline.stages.base import MEMBRANE, declare_membrane
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.objects.io_meter import Meter, checksum
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.volumes.ome_zarr import DEFAULT_CHUNK
from membrain_cloud.training.corrections import Marks, Rule, combine_annotators, compose_patches, patch_border
from membrain_cloud.training.labels import IGNORE, merge_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.annotation.annotators import PatchAnnotation, Sources
    from membrain_cloud.pipeline.annotation.patch_set import AnnotationPatch, PatchSet
    from membrain_cloud.store.projects.project import Project

# Raised when the same annotations give other marks.
DATA_VERSION = 1


@dataclass(frozen=True)
class MergeOutput:
    """Where merged segmentations are written: `membrane:{user}/{session}`.

    Attributes
    ----------
    user, session : str
        Of the segmentations.
    chunk : int
        Voxels of a chunk along each axis.
    """

    user: str
    session: str
    chunk: int = DEFAULT_CHUNK

    def of(self, tomogram: TomogramRef) -> SegmentationRef:
        """Return the segmentation of a tomogram.

        Parameters
        ----------
        tomogram : TomogramRef
            The tomogram.
        """
        return SegmentationRef(tomogram.run, MEMBRANE, self.user, self.session, tomogram.voxel_spacing_angstrom)


@dataclass(frozen=True)
class MergeOutcome:
    """The result of merging the patches of one tomogram.

    Attributes
    ----------
    run : str
        The tomogram's run.
    segmentation : str
        URI of the merged segmentation.
    state : str
        "done"; "skipped" where nothing has changed; "removed" where no patch is annotated any more.
    patches : int
        Number of annotated patches.
    changed : sequence of str
        Names of the patches whose annotations have changed since the last merge.
    sources : sequence of str
        The annotators and folders.
    """

    run: str
    segmentation: str
    state: str
    patches: int
    changed: Sequence[str]
    sources: Sequence[str]


@dataclass(frozen=True)
class _MergedPatch:
    """A patch with all its annotations, and the marks that they give."""

    patch: AnnotationPatch
    annotations: Sequence[PatchAnnotation]
    marks: Marks
    border: int

    def digest(self, rule: Rule, sources: Sources) -> str:
        painted = [[annotation.source, annotation.digest] for annotation in self.annotations]
        box = [self.patch.box.start, self.patch.box.stop]
        return digest_of(DATA_VERSION, box, painted, rule, sources.unmarked, self.border)


def merge(
    patch_set: PatchSet,
    patches: Sequence[AnnotationPatch],
    patches_project: Project | None,
    sources: Sources,
    *,
    rule: Rule,
    output: MergeOutput,
    training_folder: str | None = None,
    progress: Callable[[MergeOutcome], None] = lambda _: None,
) -> list[MergeOutcome]:
    """Merge the annotations of patches, tomogram by tomogram, and write what has changed.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    patches : sequence of AnnotationPatch
        Its patches.
    patches_project : Project or None
        The patches' project; None where it is missing.
    sources : Sources
        The annotators and folders whose marks are merged.
    rule : {"agree", "majority", "last"}
        How several marks of one voxel are combined; see `training.corrections.combine_annotators`.
    output : MergeOutput
        Where the segmentations are written.
    training_folder : str, optional
        Folder into which each annotated patch is also written, as `imagesTr/..._0000.mrc` and `labelsTr/....mrc` (0, 1,
        and 2 to be ignored). Default: it is not.
    progress : callable
        Called after each tomogram.

    Returns
    -------
    list of MergeOutcome
        By tomogram; those without any annotation are left out.

    Raises
    ------
    UsageError
        If the output is an annotator's own, a named annotator has saved nothing, or the training folder has other
        images of these names.
    StorageError
        If the segmentation exists and no merge made it, or it was changed since.
    InputError
        If an annotation does not fit its patch. All these are raised before anything of the tomogram is written.
    """
    annotators = set(sources.annotators)
    if (output.user, output.session) in annotators or (output.user, None) in annotators:
        raise UsageError(
            f"{output.user}/{output.session} is one of the annotators", "merge into another user and session"
        )
    sources.require_annotators(patch_set, patches_project, patches)
    declare_membrane(patch_set.project)
    outcomes = []
    for ref in dict.fromkeys(output.of(patch.tomogram) for patch in patches):
        of_tomogram = [patch for patch in patches if output.of(patch.tomogram) == ref]
        candidates = [_merge_patch(patch_set, patches_project, patch, sources, rule) for patch in of_tomogram]
        merged = [patch for patch in candidates if patch is not None]
        if training_folder is not None:
            for patch in merged:
                require_own_image(_training_pair(patch_set, patch.patch, training_folder)[0], patch_set, patch.patch)
        grid = patch_set.project.grid(of_tomogram[0].tomogram)
        outcome = _TomogramMerge(patch_set, ref, merged, sources, rule).execute(grid, output.chunk)
        if outcome is None:
            continue
        if training_folder is not None:
            for patch in merged:
                _write_training_pair(patch_set, patch, training_folder)
        outcomes.append(outcome)
        progress(outcome)
    return outcomes


def _merge_patch(
    patch_set: PatchSet, patches_project: Project | None, patch: AnnotationPatch, sources: Sources, rule: Rule
) -> _MergedPatch | None:
    annotations = sources.annotations(patch_set, patches_project, patch)
    if not annotations:
        return None
    marks = combine_annotators([annotation.marks for annotation in annotations], rule)
    return _MergedPatch(patch, annotations, marks, sources.border_voxels(patch_set, patch))


class _TomogramMerge:
    """The annotated patches of one tomogram: what was merged before, what has changed since, and writing that."""

    def __init__(
        self, patch_set: PatchSet, ref: SegmentationRef, merged: Sequence[_MergedPatch], sources: Sources, rule: Rule
    ) -> None:
        self._receipts, self._project, self._ref = patch_set.receipts, patch_set.project, ref
        self._merged, self._sources, self._rule = merged, sources, rule
        self._name = f"merged/{ref.user}_{ref.session}/{ref.run}-{ref.voxel_spacing_angstrom:.3f}"
        self._earlier = self._receipts.read(self._name)
        self._before: Mapping[str, Any] = (self._earlier or {}).get("patches", {})
        self._digests = {patch.patch.patch: patch.digest(rule, sources) for patch in merged}
        names = {*self._before, *self._digests}
        earlier_digests = {name: entry["digest"] for name, entry in self._before.items()}
        self._changed = sorted(name for name in names if earlier_digests.get(name) != self._digests.get(name))

    def execute(self, grid: Grid, chunk: int) -> MergeOutcome | None:
        """Write what has changed. Return None if no annotator has ever labelled any patch."""
        exists = self._project.has(self._ref)
        intact = self._earlier is not None and exists and _is_as_merged(self._project, self._ref, self._earlier)
        if exists and not intact and not self._receipts.read(f"{self._name}-begun"):
            why = "no merge has made it" if self._earlier is None else "it was changed since it was merged"
            raise StorageError(f"{self._ref.key} exists, and {why}", "merge into another session, or remove it")
        if not self._merged and self._earlier is None:
            return None
        if intact and not self._changed:
            return self._outcome("skipped")
        # The receipt must never describe other voxels: it goes first. The mark lets a killed merge be continued.
        self._receipts.write(f"{self._name}-begun", {"output": self._ref.key})
        self._receipts.remove(self._name)
        if self._merged:
            objects = self._write(grid, chunk, anew=not intact)
            self._receipts.write(self._name, self._receipt() | {"objects": objects})
        else:
            self._project.remove(self._ref)
        self._receipts.remove(f"{self._name}-begun")
        return self._outcome("done" if self._merged else "removed")

    def _outcome(self, state: str) -> MergeOutcome:
        sources = sorted({annotation.source for patch in self._merged for annotation in patch.annotations})
        changed = () if state == "skipped" else self._changed
        return MergeOutcome(self._ref.run, self._ref.uri, state, len(self._merged), changed, sources)

    def _write(self, grid: Grid, chunk: int, *, anew: bool) -> dict[str, list[Any]]:
        """Write all chunks, or those that a changed patch touches; return size and checksum of each."""
        meter = Meter()
        project = self._project.metered(meter)
        placed = [
            (patch.patch.box, patch.marks, patch_border(patch.patch.box, grid.shape, patch.border))
            for patch in self._merged
        ]
        touched = [_box(self._before[name]) for name in self._changed if name in self._before]
        touched += [patch.patch.box for patch in self._merged if patch.patch.patch in self._changed]
        if anew:
            project.create_labels(self._ref, grid, "uint8", chunk)
        for box in iterate_chunks(grid.shape, project.stored_shard(self._ref)):
            if anew or any(box.intersection(other) for other in touched):
                project.write_labels(self._ref, box, compose_patches(box, placed))
        project.finish_labels(self._ref)
        level = f"{self._ref.path}/0/"
        written = {name: list(entry) for name, entry in meter.objects.items() if name.startswith(level)}
        return written if anew or self._earlier is None else {**self._earlier["objects"], **written}

    def _receipt(self) -> dict[str, Any]:
        return {
            "output": self._ref.key,
            "output_identity": self._project.identity(self._ref),
            "rule": self._rule,
            "unmarked": self._sources.unmarked,
            "data_version": DATA_VERSION,
            "patches": {patch.patch.patch: self._patch_record(patch) for patch in self._merged},
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _patch_record(self, merged: _MergedPatch) -> dict[str, Any]:
        patch = merged.patch
        return {
            "digest": self._digests[patch.patch],
            "box": [patch.box.start, patch.box.stop],
            "border_voxels": merged.border,
            "prediction": patch.prediction,
            "model_sha256": patch.model_sha256,
            "sources": [{"source": entry.source, "sha256": entry.digest} for entry in merged.annotations],
            "voxels": {str(v): int(np.count_nonzero(merged.marks == v)) for v in (1, 2, 3)},
            "disagreed_voxels": _disagreed_voxels(merged.annotations),
        }


def _is_as_merged(project: Project, ref: SegmentationRef, receipt: Mapping[str, Any]) -> bool:
    """Return whether a segmentation is as a merge left it: by times and sizes, or for a copy by checksums."""
    if not project.is_complete(ref):
        return False
    if project.identity(ref) == receipt["output_identity"]:
        return True
    try:
        return all(checksum(project.files.read(name)) == stored for name, (_, stored) in receipt["objects"].items())
    except FileNotFoundError:
        return False


def _box(record: Mapping[str, Any]) -> Box:
    start, stop = ((int(z), int(y), int(x)) for z, y, x in record["box"])
    return Box(start, stop)


def _disagreed_voxels(annotations: Sequence[PatchAnnotation]) -> int:
    """Return the number of voxels that not all annotators mark alike."""
    differs = np.zeros(annotations[0].marks.shape, np.bool_)
    for annotation in annotations[1:]:
        differs |= annotation.marks != annotations[0].marks
    return int(np.count_nonzero(differs))


def _training_pair(patch_set: PatchSet, patch: AnnotationPatch, folder: str) -> tuple[Path, Path]:
    """Return the names of a patch's image and labels."""
    stem = f"{patch_set.name}_{patch.patch}"
    return Path(folder, "imagesTr", f"{stem}_0000.mrc"), Path(folder, "labelsTr", f"{stem}.mrc")


def _write_training_pair(patch_set: PatchSet, merged: _MergedPatch, folder: str) -> None:
    """Write image and labels of a patch, unless they exist with the same content."""
    patch, (image, label) = merged.patch, _training_pair(patch_set, merged.patch, folder)
    marks = merged.marks.copy()
    marks[patch_border(patch.box, patch_set.project.grid(patch.tomogram).shape, merged.border)] = IGNORE
    labels = merge_labels([marks], partial=True)
    if not image.exists():
        write_volume(image, patch_set.project.read_density(patch.tomogram, patch.box), patch, labels=False)
    if not label.exists() or not np.array_equal(read_volume(str(label))[0], labels):
        write_volume(label, labels, patch, labels=True, overwrite=True)
