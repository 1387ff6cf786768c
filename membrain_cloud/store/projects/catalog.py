"""What a copick project holds: runs, tomograms, segmentations, meshes and picks, found by listing folders.

Foreign files and folders are passed over, and one bad name never hides the rest.
"""

from __future__ import annotations

import difflib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import BadNameError, MembrainCloudError, ProjectError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.croissant import CroissantTree, open_croissant
from membrain_cloud.store.refs import (
    FeaturesRef,
    ObjectRef,
    SegmentationRef,
    TomogramRef,
    VolumeRef,
    check_name,
    is_safe_name,
    parse_object_file,
    parse_segmentation_file,
    parse_uri,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_RUNS = "ExperimentRuns"
# Where a run has several tomograms: membranes show best in a denoised one, then in a plain back-projection.
_PREFERRED_TYPES = ("denoised", "wbp")
_PREFERRED_SPACING_ANGSTROM = 10.0


class Catalog:
    """The listings of a project: its overlay on top of its static root, where it has one.

    is_frozen : whether its tomograms, grids and identities are known without asking the store (a manifest's are).
    """

    is_frozen = False

    def __init__(self, config: str, settings: Mapping[str, Any]) -> None:
        self.config = config
        self.settings = dict(settings)
        self._overlay = Files(settings["overlay_root"], settings.get("overlay_fs_args"))
        static = settings.get("static_root")
        self._static: Files | CroissantTree | None = Files(static, settings.get("static_fs_args")) if static else None
        if settings.get("config_type") == "mlcroissant":
            self._static, self.settings["pickable_objects"] = open_croissant(config, settings)
        self.root_url = self._overlay.url
        self.storage_options: dict[str, Any] = dict(settings.get("overlay_fs_args") or {})

    def runs(self) -> list[str]:
        """The names of all runs, sorted; those that must not become paths are left to `bad_runs`."""
        return [name for name in self._run_names() if is_safe_name(name)]

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        """Runs of the store or the config whose names are refused, each with its error."""
        refused: dict[str, MembrainCloudError] = {}
        for name in {*self._run_names(), *map(str, self.settings.get("runs") or ())}:
            try:
                check_name(name, "run")
            except BadNameError as error:
                refused[name] = error
        return dict(sorted(refused.items()))

    def tomograms(
        self, runs: Sequence[str] | None, tomogram_type: str | None, voxel_spacing_angstrom: float | None
    ) -> list[TomogramRef]:
        """One tomogram a run, sorted.

        Where a run has several that fit: the type given, else one with "denoised" in its type, then "wbp", then the
        first by name; of its spacings the one nearest to 10 Å. Runs without a tomogram that fits are left out (they
        may hold a segmentation). ProjectError for a run that is not there, and when no run has the type or spacing
        asked for; BadNameError for a run named here that must not become a path.
        """
        names = self.runs() if runs is None else self._checked_runs(runs)
        with ThreadPoolExecutor(1 if self.is_frozen else 16) as threads:
            everything = dict(zip(names, threads.map(self.all_tomograms, names), strict=True))
        chosen = []
        for found in everything.values():
            fitting = [ref for ref in found if _fits(ref, tomogram_type, voxel_spacing_angstrom)]
            if fitting:
                chosen.append(min(fitting, key=_preference))
        asked = tomogram_type is not None or voxel_spacing_angstrom is not None
        if not chosen and asked and any(everything.values()):
            kinds = {
                f"{ref.tomogram_type}@{ref.voxel_spacing_angstrom:g}" for refs in everything.values() for ref in refs
            }
            raise ProjectError(
                f"no tomogram of type {tomogram_type or 'any'} at {voxel_spacing_angstrom or 'any'} Å",
                f"there are: {', '.join(sorted(kinds))}",
            )
        return sorted(chosen)

    def dataset_of(self, run: str) -> str | None:
        """The `dataset=` partition of a run's table rows, where the project says one; else `output.dataset` is."""
        return None

    def tomogram_id(self, run: str) -> str | None:
        """What a run's tomogram is called where it comes from (the portal's id), where the project says it."""
        return None

    def all_tomograms(self, run: str) -> list[TomogramRef]:
        """Every tomogram of a run, sorted; folders with foreign names are passed over."""
        found = set()
        for folder in self._folders(f"{_RUNS}/{check_name(run, 'run')}"):
            for name in self._folders(f"{_RUNS}/{run}/{folder}") if folder.startswith("VoxelSpacing") else ():
                if name.endswith(".zarr") and not name.endswith("_features.zarr"):
                    try:
                        ref = TomogramRef(run, name.removesuffix(".zarr"), float(folder.removeprefix("VoxelSpacing")))
                    except (ValueError, BadNameError):
                        continue
                    if ref.path.split("/")[2] == folder:
                        found.add(ref)
        return sorted(found)

    def features(self, tomogram: TomogramRef) -> list[FeaturesRef]:
        """Every map stored beside a tomogram, sorted; those with foreign names are passed over."""
        folder, _, name = tomogram.path.rpartition("/")
        before, after = name.removesuffix(".zarr") + "_", "_features.zarr"
        found = set()
        for file in self._folders(folder):
            if file.startswith(before) and file.endswith(after) and len(file) > len(before) + len(after):
                kind = file.removeprefix(before).removesuffix(after)
                try:
                    ref = FeaturesRef(tomogram.run, tomogram.tomogram_type, tomogram.voxel_spacing_angstrom, kind)
                except BadNameError:
                    continue
                found.add(ref)
        return sorted(found)

    def segmentations(self, run: str) -> list[SegmentationRef]:
        """Every binary and instance segmentation of a run, sorted."""
        found: set[SegmentationRef] = set()
        for folder, instance in (("Segmentations", False), ("InstanceSegmentations", True)):
            for name in self._folders(f"{_RUNS}/{check_name(run, 'run')}/{folder}"):
                ref = parse_segmentation_file(run, name, instance=instance)
                if ref is not None:
                    found.add(ref)
        return sorted(found)

    def multilabel_segmentations(self, run: str) -> list[SegmentationRef]:
        """Segmentations of several labels in one volume, sorted; their names end in `-multilabel`."""
        found = set()
        for file in self._folders(f"{_RUNS}/{check_name(run, 'run')}/Segmentations"):
            ref = parse_segmentation_file(run, file, instance=False, multilabel=True)
            if ref is not None:
                found.add(ref)
        return sorted(found)

    def meshes(self, run: str) -> list[ObjectRef]:
        """Every mesh file of a run, sorted; files with foreign names are passed over."""
        return self._objects(run, "Meshes", ".glb")

    def picks(self, run: str) -> list[ObjectRef]:
        """Every picks file of a run, sorted; files with foreign names are passed over."""
        return self._objects(run, "Picks", ".json")

    def segmentation(self, run: str, uri: str) -> SegmentationRef:
        """The segmentation that `name:user/session@spacing[?instance=true]` names; the spacing may be left out where
        only one fits. ProjectError, saying what exists, when there is none.
        """
        parsed = parse_uri(uri)
        (run,) = self._checked_runs([run])
        there = self.segmentations(run)
        found = [
            ref
            for ref in there
            if (ref.name, ref.user, ref.session, ref.instance)
            == (parsed.name, parsed.user, parsed.session, parsed.instance)
            and parsed.voxel_spacing_angstrom in (None, ref.voxel_spacing_angstrom)
        ]
        if len(found) != 1:
            raise _not_there(f"{run}: {uri!r} names {len(found)} segmentations", there)
        return found[0]

    def object(self, run: str, uri: str) -> ObjectRef:
        """The meshes or picks that `name:user/session` names. ProjectError, saying what exists, when there are none."""
        parsed = parse_uri(uri)
        (run,) = self._checked_runs([run])
        ref = ObjectRef(run, parsed.name, parsed.user, parsed.session)
        if not self.has(ref):
            raise _not_there(
                f"{run}: there is no mesh and there are no picks {uri!r}", {*self.meshes(run), *self.picks(run)}
            )
        return ref

    def has(self, ref: VolumeRef | ObjectRef) -> bool:
        """Whether a volume is there, or at least one of the mesh file and the picks file of an object."""
        if isinstance(ref, ObjectRef):
            return self._find(ref.mesh_path) is not None or self._find(ref.picks_path) is not None
        return self._find(ref.path) is not None

    def stored(self, ref: VolumeRef | ObjectRef, *, mesh: bool = True) -> tuple[Files, str]:
        """The store and the path there of a volume, or of an object's mesh file (else its picks file).

        ProjectError when it is not there.
        """
        path = ref.path if not isinstance(ref, ObjectRef) else ref.mesh_path if mesh else ref.picks_path
        place = self._find(path)
        if place is None:
            raise ProjectError(f"{ref.key}: there is no such annotation", "check the name, or make it first")
        return place

    def _layers(self) -> list[Files | CroissantTree]:
        """The overlay hides what the static root has under the same name."""
        return [self._overlay] + ([self._static] if self._static else [])

    def _places(self, paths: Iterable[str]) -> list[tuple[Files, str]]:
        return [place for path in paths if (place := self._find(path)) is not None]

    def _find(self, path: str) -> tuple[Files, str] | None:
        return next((place for layer in self._layers() if (place := layer.find(path)) is not None), None)

    def _located(self, ref: VolumeRef) -> tuple[Files, str]:
        place = self._find(ref.path)
        if place is None:
            raise ProjectError(f"{ref.key}: there is no such volume", "check run, type and voxel spacing")
        return place

    def _run_names(self) -> list[str]:
        return self._folders(_RUNS)

    def _folders(self, path: str) -> list[str]:
        return sorted(
            {name for files in self._layers() for name, is_folder in files.children(path).items() if is_folder}
        )

    def _objects(self, run: str, folder: str, suffix: str) -> list[ObjectRef]:
        path = f"{_RUNS}/{check_name(run, 'run')}/{folder}"
        names = {name for files in self._layers() for name, is_folder in files.children(path).items() if not is_folder}
        return sorted(ref for name in names if (ref := parse_object_file(run, name, suffix)) is not None)

    def _checked_runs(self, runs: Sequence[str]) -> list[str]:
        for run in runs:
            if not any(files.exists(f"{_RUNS}/{check_name(run, 'run')}") for files in self._layers()):
                there = self._run_names()
                near = difflib.get_close_matches(run, there, 5, 0.5) or there[:5]
                hint = f"near it: {', '.join(near)}" if near else "the project has no runs"
                raise ProjectError(f"{self.config} has no run {run!r}", hint)
        return sorted(set(runs))


def _fits(ref: TomogramRef, tomogram_type: str | None, spacing: float | None) -> bool:
    return (tomogram_type is None or ref.tomogram_type == tomogram_type) and (
        spacing is None or abs(ref.voxel_spacing_angstrom - spacing) < 0.001
    )


def _preference(ref: TomogramRef) -> tuple[int, float, str]:
    rank = next((i for i, word in enumerate(_PREFERRED_TYPES) if word in ref.tomogram_type), len(_PREFERRED_TYPES))
    return rank, abs(ref.voxel_spacing_angstrom - _PREFERRED_SPACING_ANGSTROM), ref.tomogram_type


def _not_there(message: str, there: Iterable[SegmentationRef | ObjectRef]) -> ProjectError:
    names = [ref.uri for ref in sorted(there, key=lambda ref: ref.uri)]
    return ProjectError(message, f"there are: {', '.join(names)}" if names else "the run has none")
