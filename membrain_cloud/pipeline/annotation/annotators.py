"""What people have made of patches: in the patches' project, in the tomograms' own, and in folders of corrections."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Box
from membrain_cloud.pipeline.annotation.extract import (
    MULTILABEL,
    extracted_border,
    open_patch_project,
    patch_refs,
    prefill,
)
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.projects.project import Project
from membrain_cloud.store.refs import SegmentationRef
from membrain_cloud.training.corrections import Marks, apply_corrections, fill_unmarked, marks_from_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.annotation.patch_set import Patch, PatchSet

_OBJECTS = ("membrane", "background", "ignore")
_KINDS = ("remove", "add", "ignore")


@dataclass(frozen=True)
class Word:
    """What one annotator says of one patch: 1, 2 or 3 in every voxel.

    source : who, `alice/1`, or the folder.  digest : sha256 of the voxels as they were read.
    """

    source: str
    digest: str
    marks: Marks = field(repr=False)


@dataclass(frozen=True)
class Sources:
    """Whose words count, in this order.

    annotators : (user, session) each; a session of None: all of that user's, in order. Empty: everybody who has
    saved something in the patches' project. Those named are also looked for in the tomograms' own project.
    folders : of MemBrain-seg's corrections, `DIR/NAME_patch-0001/Add1.mrc`.
    unmarked : what an annotator's 0 says within a patch, background (3) or ignore (2).
    border : around patches, in voxels; None: that which each was extracted with.
    """

    annotators: Sequence[tuple[str, str | None]]
    folders: Sequence[str]
    unmarked: int
    border: int | None

    def border_voxels(self, kept: PatchSet, patch: Patch) -> int:
        return extracted_border(kept, patch) if self.border is None else self.border

    def require_annotators(self, kept: PatchSet, patches_project: Project | None, patches: Sequence[Patch]) -> None:
        """UsageError for one who is named, and has saved nothing about any of the patches; for a folder likewise."""
        people = {who for patch in patches for who, _ in self._annotations(kept, patches_project, patch)}
        for user, session in self.annotators:
            if not any(who[0] == user and session in (None, who[1]) for who in people):
                known = ", ".join(sorted("/".join(who) for who in people)) or "nobody"
                raise UsageError(
                    f"{user}{'' if session is None else f'/{session}'} has saved nothing about these patches",
                    f"of those who are named, {known} has" if people else "see who has: membrain-cloud patches list",
                )
        for folder in self.folders:
            if not any(any(_correction_files(kept, patch, folder).values()) for patch in patches):
                raise UsageError(
                    f"{folder} holds no correction of any of these patches",
                    f"give the folder that holds {kept.name}_{patches[0].patch}/Add1.mrc or the like",
                )

    def words(self, kept: PatchSet, patches_project: Project | None, patch: Patch) -> list[Word]:
        """Everybody's, of one patch; empty where nobody has looked at it. InputError for a shape or values that do not
        fit.
        """
        found = []
        for ref_sets in self._annotations(kept, patches_project, patch):
            (user, session), (project, run, box, refs) = ref_sets
            what = f"{user}/{session} on {patch.patch} ({run})"
            found.append(self._word(f"{user}/{session}", _painted(project, refs, box, patch, what), what))
        for folder in self.folders:
            marks = _corrected(kept, patch, folder, self.border_voxels(kept, patch))
            if marks is not None:
                found.append(self._word(folder, marks, f"{folder} on {patch.patch}"))
        return found

    def _word(self, source: str, marks: Marks, what: str) -> Word:
        digest = hashlib.sha256(repr(marks.shape).encode() + np.ascontiguousarray(marks).tobytes()).hexdigest()
        return Word(source, digest, fill_unmarked(marks, what, unmarked=self.unmarked))

    def _annotations(self, kept: PatchSet, patches_project: Project | None, patch: Patch) -> list[_Annotation]:
        in_patch = {} if patches_project is None else _by_person(patches_project, patch.patch)
        predicted = patch_refs(patch)[1]
        in_patch.pop((predicted.user, predicted.session), None)
        small = Box((0, 0, 0), patch.box.shape)
        found: list[_Annotation] = []
        if not self.annotators:
            if patches_project is None:
                return []
            return [(who, (patches_project, patch.patch, small, refs)) for who, refs in sorted(in_patch.items())]
        in_whole = {who: refs for who, refs in _by_person(kept.project, patch.run).items() if _fits(refs, patch)}
        for user, session in self.annotators:
            for who in sorted(who for who in {*in_patch, *in_whole} if who[0] == user and session in (None, who[1])):
                if who in in_patch:
                    assert patches_project is not None
                    found.append((who, (patches_project, patch.patch, small, in_patch[who])))
                else:
                    found.append((who, (kept.project, patch.run, patch.box, in_whole[who])))
        return found


_Refs = dict[str, SegmentationRef]
_Annotation = tuple[tuple[str, str], tuple[Project, str, Box, _Refs]]


def parse_annotator(text: str) -> tuple[str, str | None]:
    """`alice` or `alice/1`; UsageError for anything else."""
    user, slash, session = text.partition("/")
    if not user or (slash and not session) or "/" in session or ":" in text:
        raise UsageError(f"{text!r} names no annotator", "write user/session, e.g. alice/1, or a user alone")
    return user, session or None


def _by_person(project: Project, run: str) -> dict[tuple[str, str], _Refs]:
    """(user, session) -> name -> segmentation; those of several labels under their name with `-multilabel`."""
    found: dict[tuple[str, str], _Refs] = {}
    for ref in [*project.segmentations(run), *project.multilabel_segmentations(run)]:
        if not ref.instance:
            found.setdefault((ref.user, ref.session), {})[ref.name] = ref
    return found


def _fits(refs: _Refs, patch: Patch) -> bool:
    """Whether somebody's segmentations of a whole tomogram say anything about membranes."""
    spacing = patch.voxel_spacing_angstrom
    return any(name in (MULTILABEL, *_OBJECTS) and ref.voxel_spacing_angstrom == spacing for name, ref in refs.items())


def _painted(project: Project, refs: _Refs, box: Box, patch: Patch, what: str) -> Marks:
    """One annotator's marks: a segmentation of several labels, or up to three yes/no masks, by their objects' names."""
    fitting = {name: ref for name, ref in refs.items() if ref.voxel_spacing_angstrom == patch.voxel_spacing_angstrom}
    several = {name: ref for name, ref in fitting.items() if name.endswith("-multilabel")}
    chosen = several.get(MULTILABEL) or (next(iter(several.values())) if len(several) == 1 else None)
    if several and chosen is None:
        raise InputError(f"{what} has {len(several)} segmentations ({', '.join(sorted(several))})", "name one membrane")
    if chosen is not None:
        return _read(project, chosen, box, patch, what).astype(np.uint8)
    masks = {name: _read(project, fitting[name], box, patch, what) for name in _OBJECTS if name in fitting}
    if not masks:
        raise InputError(
            f"{what} has no segmentation {MULTILABEL.partition('-')[0]!r} at {patch.voxel_spacing_angstrom:g} Å",
            "save the painted labels under that name, at the patch's own voxel spacing",
        )
    return marks_from_masks(masks.get("membrane"), masks.get("background"), masks.get("ignore"), patch.box.shape)


def _read(project: Project, ref: SegmentationRef, box: Box, patch: Patch, what: str) -> NDArray[np.integer]:
    shape = project.grid(ref).shape
    whole = box.shape == patch.box.shape and box.start == (0, 0, 0) and ref.run == patch.patch
    if (whole and shape != box.shape) or Box((0, 0, 0), shape).intersection(box) != box:
        raise InputError(
            f"{what}: {ref.uri} has {shape} voxels, the patch is {patch.box.shape} at {patch.box.start}",
            "save it at the resolution of the patch's tomogram (level 0)",
        )
    marks = project.read_labels(ref, box)
    if marks.size and int(marks.max()) > 255:
        raise InputError(f"{what}: {ref.uri} holds the value {marks.max()}", "marks are 0 to 3")
    return marks


def _corrected(kept: PatchSet, patch: Patch, folder: str, border: int) -> Marks | None:
    """MemBrain-seg's corrections of a patch; None where the folder has none."""
    files = _correction_files(kept, patch, folder)
    if not any(files.values()):
        return None
    marked = {kind: _union(paths, patch) for kind, paths in files.items()}
    base = prefill(kept, patch, border)
    return apply_corrections(base, marked["remove"], marked["add"], marked["ignore"])


def _correction_files(kept: PatchSet, patch: Patch, folder: str) -> dict[str, list[str]]:
    """Files of each kind, in the folder or in the `corrections` that `extract --folder` has made in it."""
    if not os.path.isdir(folder):
        raise ProjectError(f"{folder}: there is no such folder", "give the folder that holds a folder for each patch")
    names = [f"{kept.name}_{patch.patch}", patch.patch]
    places = [os.path.join(root, name) for root in (folder, os.path.join(folder, "corrections")) for name in names]
    place = next((place for place in places if os.path.isdir(place)), None)
    files: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for name in sorted(os.listdir(place)) if place is not None else ():
        kind = next((kind for kind in _KINDS if name.lower().startswith(kind)), None)
        if kind is not None:
            files[kind].append(os.path.join(str(place), name))
    return files


def _union(paths: Sequence[str], patch: Patch) -> NDArray[np.bool_]:
    union = np.zeros(patch.box.shape, np.bool_)
    for path in paths:
        array, _ = read_volume(path)
        if array.shape != union.shape:
            raise InputError(f"{path} has {array.shape} voxels, not {union.shape}", f"correct {patch.patch} itself")
        union |= array > 0
    return union


def standing(kept: PatchSet) -> list[dict[str, Any]]:
    """Each patch of a set, with whether it is extracted and who has saved something of it in the patches' project."""
    try:
        project: Project | None = open_patch_project(kept)
    except ProjectError:
        project = None
    rows = []
    for patch in kept.require_patches():
        tomogram, predicted = patch_refs(patch)
        there = project is not None and project.has(tomogram)
        people = set() if project is None or not there else set(_by_person(project, patch.patch))
        names = [f"{user}/{session}" for user, session in sorted(people - {(predicted.user, predicted.session)})]
        rows.append({**patch.as_dict(), "extracted": there, "annotators": names})
    return rows
