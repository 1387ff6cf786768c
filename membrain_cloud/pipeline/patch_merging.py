"""Corrected patches as one segmentation a tomogram: marks inside of them, nothing outside.

The marks of a voxel are those of training/labels.py: 1 membrane, 2 ignore, 3 background; 0 outside of patches that
anybody has looked at. What lies there is known by digests of the voxels that annotators have painted: an edit redoes
the chunks that its patch touches, and nothing else. Nothing of theirs is ever written.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from membrain_cloud.errors import StorageError, UsageError
from membrain_cloud.geometry import Box, Grid, iterate_chunks
from membrain_cloud.pipeline.chain import digest_of
from membrain_cloud.pipeline.patch_extraction import write_volume
from membrain_cloud.pipeline.patch_sets import Patch, PatchSet
from membrain_cloud.pipeline.patch_sources import Sources, Word
from membrain_cloud.pipeline.provenance import versions
from membrain_cloud.pipeline.stage import MEMBRANE, declare_membrane
from membrain_cloud.store.exchange import read_volume
from membrain_cloud.store.files import Meter, checksum
from membrain_cloud.store.project import Project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.volumes import DEFAULT_CHUNK
from membrain_cloud.training.corrections import Marks, Rule, border_of, compose, joined
from membrain_cloud.training.labels import IGNORE, merge_labels

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

    def digest(self, rule: Rule, sources: Sources) -> str:
        told = [[word.source, word.digest] for word in self.words]
        place = [self.patch.box.start, self.patch.box.stop]
        return digest_of(DATA_VERSION, place, told, rule, sources.unmarked, sources.border)


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

    Raises UsageError where the output is an annotator's own, or somebody who is named has saved nothing; StorageError
    where something lies there that no merge has made, or that was changed since; InputError for annotations that do not
    fit their patch, before anything of that tomogram is written.
    """
    named = {(user, session) for user, session in sources.annotators}
    if (output.user, output.session) in named or (output.user, None) in named:
        raise UsageError(
            f"{output.user}/{output.session} is one of the annotators", "merge into another --user and --session"
        )
    sources.require_annotators(kept, patches_project, patches)
    tomograms = dict.fromkeys(patch.tomogram for patch in patches)
    declare_membrane(kept.project)
    done = []
    for tomogram in tomograms:
        own = [patch for patch in patches if patch.tomogram == tomogram]
        found = [_joined(kept, patches_project, patch, sources, rule) for patch in own]
        corrected = [one for one in found if one is not None]
        outcome = _write(kept, tomogram, corrected, sources, rule, output)
        if outcome is None:
            continue
        if training_folder is not None:
            for one in corrected:
                _write_pair(kept, one, training_folder, sources.border)
        done.append(outcome)
        progress(outcome)
    return done


def _joined(
    kept: PatchSet, patches_project: Project | None, patch: Patch, sources: Sources, rule: Rule
) -> _Corrected | None:
    words = sources.words(kept, patches_project, patch)
    return _Corrected(patch, words, joined([word.marks for word in words], rule)) if words else None


def _write(
    kept: PatchSet,
    tomogram: TomogramRef,
    corrected: Sequence[_Corrected],
    sources: Sources,
    rule: Rule,
    output: Output,
) -> Merged | None:
    project, ref = kept.project, output.of(tomogram)
    name = f"merged/{output.user}_{output.session}/{tomogram.run}-{tomogram.voxel_spacing_angstrom:.3f}"
    told = kept.receipts.read(name)
    there = project.has(ref)
    whole = told is not None and there and _is_as_merged(project, ref, told)
    if there and not whole and not kept.receipts.read(f"{name}-begun"):
        done = "no merge has made it" if told is None else "it was changed since it was merged"
        raise StorageError(f"{ref.key} is there, and {done}", "merge into another --session, or remove it")
    before: Mapping[str, Any] = (told or {}).get("patches", {})
    digests = {one.patch.patch: one.digest(rule, sources) for one in corrected}
    changed = sorted(
        patch for patch in {*before, *digests} if (before.get(patch) or {}).get("digest") != digests.get(patch)
    )
    who = sorted({word.source for one in corrected for word in one.words})
    if not corrected and told is None:
        return None
    if whole and not changed:
        return Merged(tomogram.run, ref.uri, "skipped", len(corrected), (), who)
    # A receipt vouches for what lies there: it goes first. The mark that we were at it lets a killed merge go on.
    kept.receipts.write(f"{name}-begun", {"output": ref.key})
    kept.receipts.remove(name)
    if not corrected:
        project.remove(ref)
        kept.receipts.remove(f"{name}-begun")
        return Merged(tomogram.run, ref.uri, "removed", 0, changed, ())
    boxes = [_box(before[p]) for p in changed if p in before] if whole else []
    boxes += [one.patch.box for one in corrected if one.patch.patch in changed]
    grid, touched = project.grid(tomogram), boxes if whole else None
    meter = Meter()
    _write_marks(project.metered(meter), ref, grid, corrected, touched, sources.border, output.chunk)
    objects = {key: list(value) for key, value in meter.objects.items() if key.startswith(f"{ref.path}/0/")}
    objects = {**(told or {}).get("objects", {}), **objects} if whole else objects
    kept.receipts.write(name, _receipt(project, ref, corrected, digests, rule, sources) | {"objects": objects})
    kept.receipts.remove(f"{name}-begun")
    return Merged(tomogram.run, ref.uri, "done", len(corrected), changed, who)


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


def _write_marks(
    project: Project,
    ref: SegmentationRef,
    grid: Grid,
    corrected: Sequence[_Corrected],
    touched: Sequence[Box] | None,
    border: int,
    chunk: int,
) -> None:
    """touched : where anything has changed; None: make it anew."""
    places = [(one.patch.box, one.marks, border_of(one.patch.box, grid.shape, border)) for one in corrected]
    if touched is None:
        project.create_labels(ref, grid, "uint8", chunk)
    for box in iterate_chunks(grid.shape, project.stored_chunk(ref)):
        if touched is None or any(box.intersection(other) for other in touched):
            project.write_labels(ref, box, compose(box, places))
    project.finish_labels(ref)


def _receipt(
    project: Project,
    ref: SegmentationRef,
    corrected: Sequence[_Corrected],
    digests: Mapping[str, str],
    rule: Rule,
    sources: Sources,
) -> dict[str, Any]:
    return {
        "output": ref.key,
        "output_identity": project.identity(ref),
        "rule": rule,
        "unmarked": sources.unmarked,
        "border_voxels": sources.border,
        "data_version": DATA_VERSION,
        "patches": {
            one.patch.patch: {
                "digest": digests[one.patch.patch],
                "box": [one.patch.box.start, one.patch.box.stop],
                "prediction": one.patch.prediction,
                "model_sha256": one.patch.model_sha256,
                "sources": [{"source": word.source, "sha256": word.digest} for word in one.words],
                "voxels": {str(v): int(np.count_nonzero(one.marks == v)) for v in (1, 2, 3)},
                "disagreed_voxels": _disagreed(one.words),
            }
            for one in corrected
        },
        "versions": versions(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _disagreed(words: Sequence[Word]) -> int:
    differs = np.zeros(words[0].marks.shape, np.bool_)
    for word in words[1:]:
        differs |= word.marks != words[0].marks
    return int(np.count_nonzero(differs))


def _write_pair(kept: PatchSet, one: _Corrected, folder: str, border: int) -> None:
    """Image and labels of a patch; what is there and the same is left."""
    patch, stem = one.patch, f"{kept.name}_{one.patch.patch}"
    image, label = os.path.join(folder, "imagesTr", f"{stem}_0000.mrc"), os.path.join(folder, "labelsTr", f"{stem}.mrc")
    marks = one.marks.copy()
    marks[border_of(patch.box, kept.project.grid(patch.tomogram).shape, border)] = IGNORE
    labels = merge_labels([marks], partial=True)
    if not os.path.exists(image):
        write_volume(image, kept.project.read_density(patch.tomogram, patch.box), patch, labels=False)
    if not os.path.exists(label) or not np.array_equal(read_volume(label)[0], labels):
        write_volume(label, labels, patch, labels=True, overwrite=True)
