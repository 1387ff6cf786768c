"""Corrected patches as one segmentation a tomogram: marks inside of them, nothing outside.

The marks of a voxel are those of training/labels.py: 1 membrane, 2 ignore, 3 background; 0 outside of patches that
anybody has looked at. What lies there is known by digests of the voxels that annotators have painted: an edit redoes
the chunks that its patch touches, and nothing else. Nothing of theirs is ever written.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
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

    from membrain_cloud.pipeline.annotation.annotators import Sources, Word
    from membrain_cloud.pipeline.annotation.patch_set import Patch, PatchSet
    from membrain_cloud.store.projects.project import Project

# Raised when the same words give other marks.
DATA_VERSION = 1


@dataclass(frozen=True)
class Output:
    """Where the merged segmentations go: `membrane:{user}/{session}`."""

    user: str
    session: str
    chunk: int = DEFAULT_CHUNK

    def of(self, tomogram: TomogramRef) -> SegmentationRef:
        return SegmentationRef(tomogram.run, MEMBRANE, self.user, self.session, tomogram.voxel_spacing_angstrom)


@dataclass(frozen=True)
class Merged:
    """What became of one tomogram's patches.

    state : `done`, `skipped` (as it was), `removed` (nobody speaks of its patches any more).
    patches : corrected ones; changed : of these, those that differ from what lay there. sources : whose words.
    """

    run: str
    segmentation: str
    state: str
    patches: int
    changed: Sequence[str]
    sources: Sequence[str]


@dataclass(frozen=True)
class _Corrected:
    patch: Patch
    words: Sequence[Word]
    marks: Marks
    border: int

    def digest(self, rule: Rule, sources: Sources) -> str:
        told = [[word.source, word.digest] for word in self.words]
        place = [self.patch.box.start, self.patch.box.stop]
        return digest_of(DATA_VERSION, place, told, rule, sources.unmarked, self.border)


def merge(
    kept: PatchSet,
    patches: Sequence[Patch],
    patches_project: Project | None,
    sources: Sources,
    rule: Rule,
    output: Output,
    *,
    training_folder: str | None = None,
    progress: Callable[[Merged], None] = lambda _: None,
) -> list[Merged]:
    """Merge everybody's words, tomogram by tomogram, and write what has changed.

    training_folder : also write each corrected patch as `imagesTr/..._0000.mrc` and `labelsTr/....mrc` (0, 1, and 2 to
    be ignored).

    Raises UsageError where the output is an annotator's own, somebody who is named has saved nothing, or the training
    folder has other images under these names; StorageError where something lies there that no merge has made, or that
    was changed since; InputError for annotations that do not fit their patch; each before anything of that tomogram is
    written.
    """
    named = {(user, session) for user, session in sources.annotators}
    if (output.user, output.session) in named or (output.user, None) in named:
        raise UsageError(
            f"{output.user}/{output.session} is one of the annotators", "merge into another --user and --session"
        )
    sources.require_annotators(kept, patches_project, patches)
    declare_membrane(kept.project)
    done = []
    for ref in dict.fromkeys(output.of(patch.tomogram) for patch in patches):
        own = [patch for patch in patches if output.of(patch.tomogram) == ref]
        found = [_joined(kept, patches_project, patch, sources, rule) for patch in own]
        corrected = [one for one in found if one is not None]
        if training_folder is not None:
            for one in corrected:
                require_own_image(_pair(kept, one.patch, training_folder)[0], kept, one.patch)
        outcome = _Merge(kept, ref, corrected, sources, rule).execute_plan(
            kept.project.grid(own[0].tomogram), output.chunk
        )
        if outcome is None:
            continue
        if training_folder is not None:
            for one in corrected:
                _write_pair(kept, one, training_folder)
        done.append(outcome)
        progress(outcome)
    return done


def _joined(
    kept: PatchSet, patches_project: Project | None, patch: Patch, sources: Sources, rule: Rule
) -> _Corrected | None:
    words = sources.words(kept, patches_project, patch)
    if not words:
        return None
    return _Corrected(
        patch, words, combine_annotators([word.marks for word in words], rule), sources.border_voxels(kept, patch)
    )


class _Merge:
    """The patches of one tomogram: what was merged before, what has changed since, and writing that."""

    def __init__(
        self, kept: PatchSet, ref: SegmentationRef, corrected: Sequence[_Corrected], sources: Sources, rule: Rule
    ) -> None:
        self.kept, self.project, self.ref = kept, kept.project, ref
        self.corrected, self.sources, self.rule = corrected, sources, rule
        self.name = f"merged/{ref.user}_{ref.session}/{ref.run}-{ref.voxel_spacing_angstrom:.3f}"
        self.told = kept.receipts.read(self.name)
        self.before: Mapping[str, Any] = (self.told or {}).get("patches", {})
        self.digests = {one.patch.patch: one.digest(rule, sources) for one in corrected}
        names = {*self.before, *self.digests}
        was = {name: told["digest"] for name, told in self.before.items()}
        self.changed = sorted(name for name in names if was.get(name) != self.digests.get(name))

    def execute_plan(self, grid: Grid, chunk: int) -> Merged | None:
        """None where nobody has ever said anything. StorageError for what lies there and is not a merge's."""
        there = self.project.has(self.ref)
        whole = self.told is not None and there and _is_as_merged(self.project, self.ref, self.told)
        if there and not whole and not self.kept.receipts.read(f"{self.name}-begun"):
            done = "no merge has made it" if self.told is None else "it was changed since it was merged"
            raise StorageError(f"{self.ref.key} is there, and {done}", "merge into another --session, or remove it")
        if not self.corrected and self.told is None:
            return None
        if whole and not self.changed:
            return self._merged("skipped")
        # A receipt vouches for what lies there: it goes first. The mark that we were at it lets a killed merge go on.
        self.kept.receipts.write(f"{self.name}-begun", {"output": self.ref.key})
        self.kept.receipts.remove(self.name)
        if self.corrected:
            objects = self._write(grid, chunk, anew=not whole)
            self.kept.receipts.write(self.name, self._receipt() | {"objects": objects})
        else:
            self.project.remove(self.ref)
        self.kept.receipts.remove(f"{self.name}-begun")
        return self._merged("done" if self.corrected else "removed")

    def _merged(self, state: str) -> Merged:
        who = sorted({word.source for one in self.corrected for word in one.words})
        changed = () if state == "skipped" else self.changed
        return Merged(self.ref.run, self.ref.uri, state, len(self.corrected), changed, who)

    def _write(self, grid: Grid, chunk: int, *, anew: bool) -> dict[str, list[Any]]:
        """Write all chunks, or those that a changed patch touches; returns size and checksum of each."""
        meter = Meter()
        project = self.project.metered(meter)
        places = [
            (one.patch.box, one.marks, patch_border(one.patch.box, grid.shape, one.border)) for one in self.corrected
        ]
        touched = [_box(self.before[name]) for name in self.changed if name in self.before]
        touched += [one.patch.box for one in self.corrected if one.patch.patch in self.changed]
        if anew:
            project.create_labels(self.ref, grid, "uint8", chunk)
        for box in iterate_chunks(grid.shape, project.stored_chunk(self.ref)):
            if anew or any(box.intersection(other) for other in touched):
                project.write_labels(self.ref, box, compose_patches(box, places))
        project.finish_labels(self.ref)
        level = f"{self.ref.path}/0/"
        written = {name: list(entry) for name, entry in meter.objects.items() if name.startswith(level)}
        return written if anew or self.told is None else {**self.told["objects"], **written}

    def _receipt(self) -> dict[str, Any]:
        return {
            "output": self.ref.key,
            "output_identity": self.project.identity(self.ref),
            "rule": self.rule,
            "unmarked": self.sources.unmarked,
            "data_version": DATA_VERSION,
            "patches": {one.patch.patch: self._of_patch(one) for one in self.corrected},
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def _of_patch(self, one: _Corrected) -> dict[str, Any]:
        return {
            "digest": self.digests[one.patch.patch],
            "box": [one.patch.box.start, one.patch.box.stop],
            "border_voxels": one.border,
            "prediction": one.patch.prediction,
            "model_sha256": one.patch.model_sha256,
            "sources": [{"source": word.source, "sha256": word.digest} for word in one.words],
            "voxels": {str(v): int(np.count_nonzero(one.marks == v)) for v in (1, 2, 3)},
            "disagreed_voxels": _disagreed(one.words),
        }


def _is_as_merged(project: Project, ref: SegmentationRef, told: Mapping[str, Any]) -> bool:
    """Whether nobody has changed it since: by times and sizes, and where these differ (a copy) by checksums."""
    if not project.is_complete(ref):
        return False
    if project.identity(ref) == told["output_identity"]:
        return True
    try:
        return all(checksum(project.files.read(name)) == known for name, (_, known) in told["objects"].items())
    except FileNotFoundError:
        return False


def _box(told: Mapping[str, Any]) -> Box:
    start, stop = ((int(z), int(y), int(x)) for z, y, x in told["box"])
    return Box(start, stop)


def _disagreed(words: Sequence[Word]) -> int:
    differs = np.zeros(words[0].marks.shape, np.bool_)
    for word in words[1:]:
        differs |= word.marks != words[0].marks
    return int(np.count_nonzero(differs))


def _pair(kept: PatchSet, patch: Patch, folder: str) -> tuple[str, str]:
    """Names of the image and of the labels."""
    stem = f"{kept.name}_{patch.patch}"
    return os.path.join(folder, "imagesTr", f"{stem}_0000.mrc"), os.path.join(folder, "labelsTr", f"{stem}.mrc")


def _write_pair(kept: PatchSet, one: _Corrected, folder: str) -> None:
    """Image and labels of a patch; what is there and the same is left."""
    patch, (image, label) = one.patch, _pair(kept, one.patch, folder)
    marks = one.marks.copy()
    marks[patch_border(patch.box, kept.project.grid(patch.tomogram).shape, one.border)] = IGNORE
    labels = merge_labels([marks], partial=True)
    if not os.path.exists(image):
        write_volume(image, kept.project.read_density(patch.tomogram, patch.box), patch, labels=False)
    if not os.path.exists(label) or not np.array_equal(read_volume(label)[0], labels):
        write_volume(label, labels, patch, labels=True, overwrite=True)
