"""Read what annotators have made of patches: in the patches' project, in whole tomograms, and in correction folders."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
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
from membrain_cloud.store.formats.label_volume import check_labels
from membrain_cloud.store.formats.volume_reader import open_volume_file
from membrain_cloud.store.refs import SegmentationRef
from membrain_cloud.training.corrections import Marks, apply_corrections, fill_unmarked, marks_from_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.annotation.patch_set import AnnotationPatch, PatchSet
    from membrain_cloud.store.projects.project import Project

_OBJECTS = ("membrane", "background", "ignore")
_CORRECTIONS = ("remove", "add", "ignore")
_LARGEST_MARK = 255

# An annotator: user and session.
_Annotator = tuple[str, str]
# Segmentations of one annotator in one run, by name.
_Refs = dict[str, SegmentationRef]


@dataclass(frozen=True)
class PatchAnnotation:
    """One annotator's marks of one patch.

    Attributes
    ----------
    source : str
        The annotator, e.g. `alice/1`, or the folder of corrections.
    digest : str
        SHA-256 of the voxels as they were read.
    marks : (Z, Y, X) array of uint8
        1 membrane, 2 ignore or 3 background in every voxel.
    """

    source: str
    digest: str
    marks: Marks = field(repr=False)


@dataclass(frozen=True)
class _StoredMarks:
    """Where one annotator's marks of a patch are stored: in `box` of segmentations of a run."""

    annotator: _Annotator
    project: Project
    run: str
    box: Box
    refs: _Refs


@dataclass(frozen=True)
class Sources:
    """The annotators and folders whose marks are read, in this order.

    Attributes
    ----------
    annotators : sequence of (str, str or None)
        User and session; a session of None stands for all sessions of the user, in their order. Empty: all annotators
        in the patches' project. Named annotators are also looked for in the tomograms' own project.
    folders : sequence of str
        Folders of MemBrain-seg's corrections, `DIR/NAME_patch-0001/Add1.mrc`.
    unmarked : int
        The mark of an annotator's 0 within a patch: background (3) or ignore (2).
    border : int or None
        Width of the margin to ignore around patches, in voxels; None for the one that each was extracted with.
    """

    annotators: Sequence[tuple[str, str | None]]
    folders: Sequence[str]
    unmarked: int
    border: int | None

    def border_voxels(self, patch_set: PatchSet, patch: AnnotationPatch) -> int:
        """Return the width of the margin around a patch.

        Parameters
        ----------
        patch_set : PatchSet
            The set of the patch.
        patch : AnnotationPatch
            The patch.

        Returns
        -------
        int
            Voxels.
        """
        return extracted_border(patch_set, patch) if self.border is None else self.border

    def require_annotators(
        self, patch_set: PatchSet, patches_project: Project | None, patches: Sequence[AnnotationPatch]
    ) -> None:
        """Check that every named annotator and folder has marks of some patch.

        Parameters
        ----------
        patch_set : PatchSet
            The set.
        patches_project : Project or None
            The patches' project; None where it is missing.
        patches : sequence of AnnotationPatch
            The patches.

        Raises
        ------
        UsageError
            If an annotator or a folder has none.
        """
        existing = {
            stored.annotator for patch in patches for stored in self._stored_marks(patch_set, patches_project, patch)
        }
        for user, session in self.annotators:
            if not any(_is_named(annotator, user, session) for annotator in existing):
                listed = ", ".join(sorted("/".join(annotator) for annotator in existing))
                raise UsageError(
                    f"{user}{'' if session is None else f'/{session}'} has saved nothing about these patches",
                    f"of the annotators that were named, {listed} has"
                    if existing
                    else "see who has: membrain-cloud patches list",
                )
        for folder in self.folders:
            if not any(any(_correction_files(patch_set, patch, folder).values()) for patch in patches):
                raise UsageError(
                    f"{folder} holds no correction of any of these patches",
                    f"give the folder that holds {patch_set.name}_{patches[0].patch}/Add1.mrc or the like",
                )

    def annotations(
        self, patch_set: PatchSet, patches_project: Project | None, patch: AnnotationPatch
    ) -> list[PatchAnnotation]:
        """Return all annotators' marks of one patch, or an empty list.

        Parameters
        ----------
        patch_set : PatchSet
            The set.
        patches_project : Project or None
            The patches' project; None where it is missing.
        patch : AnnotationPatch
            The patch.

        Returns
        -------
        list of PatchAnnotation
            Annotators in their order, then folders.

        Raises
        ------
        InputError
            If an annotation has another shape than the patch, or values that are no marks.
        """
        annotations = []
        for stored in self._stored_marks(patch_set, patches_project, patch):
            source = "/".join(stored.annotator)
            name = f"{source} on {patch.patch} ({stored.run})"
            annotations.append(self._annotation(source, _read_marks(stored, patch, name), name))
        for folder in self.folders:
            marks = _corrected_marks(patch_set, patch, folder, self.border_voxels(patch_set, patch))
            if marks is not None:
                annotations.append(self._annotation(folder, marks, f"{folder} on {patch.patch}"))
        return annotations

    def _annotation(self, source: str, marks: Marks, name: str) -> PatchAnnotation:
        digest = hashlib.sha256(repr(marks.shape).encode() + np.ascontiguousarray(marks).tobytes()).hexdigest()
        return PatchAnnotation(source, digest, fill_unmarked(marks, name, unmarked=self.unmarked))

    def _stored_marks(
        self, patch_set: PatchSet, patches_project: Project | None, patch: AnnotationPatch
    ) -> list[_StoredMarks]:
        in_patch = {} if patches_project is None else _by_annotator(patches_project, patch.patch)
        predicted = patch_refs(patch)[1]
        in_patch.pop((predicted.user, predicted.session), None)
        whole_patch = Box((0, 0, 0), patch.box.shape)
        own = {
            annotator: _StoredMarks(annotator, patches_project, patch.patch, whole_patch, refs)
            for annotator, refs in in_patch.items()
            if patches_project is not None
        }
        if not self.annotators:
            return [own[annotator] for annotator in sorted(own)]
        in_tomogram = {
            annotator: _StoredMarks(annotator, patch_set.project, patch.run, patch.box, refs)
            for annotator, refs in _by_annotator(patch_set.project, patch.run).items()
            if _has_marks(refs, patch)
        }
        stored = in_tomogram | own
        return [
            stored[annotator]
            for user, session in self.annotators
            for annotator in sorted(stored)
            if _is_named(annotator, user, session)
        ]


def parse_annotator(text: str) -> tuple[str, str | None]:
    """Parse the name of an annotator.

    Parameters
    ----------
    text : str
        `alice` or `alice/1`.

    Returns
    -------
    tuple of (str, str or None)
        User and session; None where no session is named.

    Raises
    ------
    UsageError
        If the text is not of this form.
    """
    user, slash, session = text.partition("/")
    if not user or (slash and not session) or "/" in session or ":" in text:
        raise UsageError(f"{text!r} names no annotator", "write user/session, e.g. alice/1, or a user alone")
    return user, session or None


def _is_named(annotator: _Annotator, user: str, session: str | None) -> bool:
    return annotator[0] == user and session in (None, annotator[1])


def _by_annotator(project: Project, run: str) -> dict[_Annotator, _Refs]:
    """Return the segmentations of a run by annotator and name; those of several labels end in `-multilabel`."""
    by_annotator: dict[_Annotator, _Refs] = {}
    for ref in [*project.segmentations(run), *project.multilabel_segmentations(run)]:
        if not ref.instance:
            by_annotator.setdefault((ref.user, ref.session), {})[ref.name] = ref
    return by_annotator


def _has_marks(refs: _Refs, patch: AnnotationPatch) -> bool:
    """Return whether segmentations of a whole tomogram have marks on the patch's grid."""
    spacing = patch.voxel_spacing_angstrom
    return any(name in (MULTILABEL, *_OBJECTS) and ref.voxel_spacing_angstrom == spacing for name, ref in refs.items())


def _read_marks(stored: _StoredMarks, patch: AnnotationPatch, name: str) -> Marks:
    """Read one annotator's marks: a segmentation of several labels, or up to three masks named as their objects."""
    spacing = patch.voxel_spacing_angstrom
    refs = {key: ref for key, ref in stored.refs.items() if ref.voxel_spacing_angstrom == spacing}
    several = {key: ref for key, ref in refs.items() if key.endswith("-multilabel")}
    multilabel = several.get(MULTILABEL) or (next(iter(several.values())) if len(several) == 1 else None)
    if several and multilabel is None:
        raise InputError(f"{name} has {len(several)} segmentations ({', '.join(sorted(several))})", "name one membrane")
    if multilabel is not None:
        return _read_labels(stored, multilabel, patch, name).astype(np.uint8)
    masks = {key: _read_labels(stored, refs[key], patch, name) for key in _OBJECTS if key in refs}
    if not masks:
        raise InputError(
            f"{name} has no segmentation {MULTILABEL.partition('-')[0]!r} at {spacing:g} Å",
            "save the painted labels under that name, at the patch's own voxel spacing",
        )
    return marks_from_masks(masks.get("membrane"), masks.get("background"), masks.get("ignore"), patch.box.shape)


def _read_labels(stored: _StoredMarks, ref: SegmentationRef, patch: AnnotationPatch, name: str) -> NDArray[np.integer]:
    shape, box = stored.project.grid(ref).shape, stored.box
    of_patch = box.shape == patch.box.shape and box.start == (0, 0, 0) and ref.run == patch.patch
    if (of_patch and shape != box.shape) or Box((0, 0, 0), shape).intersection(box) != box:
        raise InputError(
            f"{name}: {ref.uri} has {shape} voxels, the patch is {patch.box.shape} at {patch.box.start}",
            "save it at the resolution of the patch's tomogram (level 0)",
        )
    marks = stored.project.read_labels(ref, box)
    if marks.size and int(marks.max()) > _LARGEST_MARK:
        raise InputError(f"{name}: {ref.uri} holds the value {marks.max()}", "marks are 0 to 3")
    return marks


def _corrected_marks(patch_set: PatchSet, patch: AnnotationPatch, folder: str, border: int) -> Marks | None:
    """Return the marks of MemBrain-seg's corrections of a patch, or None where the folder has none."""
    files = _correction_files(patch_set, patch, folder)
    if not any(files.values()):
        return None
    masks = {kind: _union_of_files(paths, patch) for kind, paths in files.items()}
    base = prefill(patch_set, patch, border)
    return apply_corrections(base, masks["remove"], masks["add"], masks["ignore"])


def _correction_files(patch_set: PatchSet, patch: AnnotationPatch, folder: str) -> dict[str, list[Path]]:
    """Return the files of each kind, in the folder or in the `corrections` that `extract_files` made in it."""
    if not Path(folder).is_dir():
        raise ProjectError(f"{folder}: there is no such folder", "give the folder that holds a folder for each patch")
    names = [f"{patch_set.name}_{patch.patch}", patch.patch]
    places = [Path(root, name) for root in (folder, Path(folder, "corrections")) for name in names]
    place = next((place for place in places if place.is_dir()), None)
    files: dict[str, list[Path]] = {kind: [] for kind in _CORRECTIONS}
    for file in sorted(place.iterdir()) if place is not None else ():
        kind = next((kind for kind in _CORRECTIONS if file.name.lower().startswith(kind)), None)
        if kind is not None:
            files[kind].append(file)
    return files


def _union_of_files(paths: Sequence[Path], patch: AnnotationPatch) -> NDArray[np.bool_]:
    union = np.zeros(patch.box.shape, np.bool_)
    for path in paths:
        with open_volume_file(str(path)) as volume:
            if volume.shape != union.shape:
                raise InputError(
                    f"{path} has {volume.shape} voxels, not {union.shape}", f"correct {patch.patch} itself"
                )
            union |= check_labels(volume).read(Box((0, 0, 0), volume.shape)) > 0
    return union


def patch_states(patch_set: PatchSet) -> list[dict[str, Any]]:
    """List the patches of a set with their state.

    Parameters
    ----------
    patch_set : PatchSet
        The set.

    Returns
    -------
    list of dict
        The row of each patch, with `extracted` and `annotators`, who have saved something in the patches' project.

    Raises
    ------
    ProjectError
        If the set has no patches.
    """
    try:
        project: Project | None = open_patch_project(patch_set)
    except ProjectError:
        project = None
    rows = []
    for patch in patch_set.require_patches():
        tomogram, predicted = patch_refs(patch)
        extracted = project is not None and project.has(tomogram)
        annotators = set(_by_annotator(project, patch.patch)) if project is not None and extracted else set()
        names = [f"{user}/{session}" for user, session in sorted(annotators - {(predicted.user, predicted.session)})]
        rows.append({**patch.as_dict(), "extracted": extracted, "annotators": names})
    return rows
