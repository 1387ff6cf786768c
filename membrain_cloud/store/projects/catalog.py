"""Listings of the runs and tomograms of a project, and the choice of one tomogram per run."""

from __future__ import annotations

import difflib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from membrain_cloud.errors import BadNameError, MembrainCloudError, ProjectError
from membrain_cloud.store.refs import TomogramRef, check_name, is_safe_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from membrain_cloud.store.projects.layers import Layers

RUNS = "ExperimentRuns"
# Of several tomograms of a run: membranes are clearest in a denoised one, then in a plain back-projection.
_PREFERRED_TYPES = ("denoised", "wbp")
_PREFERRED_SPACING_ANGSTROM = 10.0


class Catalog(Protocol):
    """The runs of a project and the tomograms of each.

    Attributes
    ----------
    is_frozen : bool
        Whether runs, tomograms, grids and identities are known without a request to the store, as with a manifest.
    """

    is_frozen: bool

    def runs(self) -> list[str]:
        """Return the names of all runs, sorted, without those of `bad_runs`."""

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        """Return the runs that cannot be processed, each with its error."""

    def check_runs(self, runs: Sequence[str]) -> list[str]:
        """Return the names sorted and without duplicates.

        Raises
        ------
        ProjectError
            If a run is absent.
        BadNameError
            If a name is not safe as part of a path.
        """

    def tomograms(self, run: str) -> list[TomogramRef]:
        """Return every tomogram of a run, sorted."""

    def dataset_of(self, run: str) -> str | None:
        """Return the partition of the tables for the rows of a run, or None if the project names none."""

    def tomogram_id(self, run: str) -> str | None:
        """Return the identifier of a run's tomogram at its source, or None if the project names none."""


class CopickCatalog:
    """The runs and tomograms in the folders of a copick project. Foreign files and folders are skipped.

    Parameters
    ----------
    config : str
        Path or URL of the config, for error messages.
    layers : Layers
        The folders of the project.
    configured_runs : iterable of str
        Names of runs in the config. They are only checked; the folders decide which runs exist.
    """

    is_frozen = False

    def __init__(self, config: str, layers: Layers, configured_runs: Iterable[str] = ()) -> None:
        self._config = config
        self._layers = layers
        self._configured_runs = tuple(configured_runs)

    def runs(self) -> list[str]:
        """Return the names of all runs, sorted, without those of `bad_runs`."""
        return [name for name in self._layers.folders(RUNS) if is_safe_name(name)]

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        """Return the runs of the store or of the config whose names are refused, each with its error."""
        refused: dict[str, MembrainCloudError] = {}
        for name in {*self._layers.folders(RUNS), *self._configured_runs}:
            try:
                check_name(name, "run")
            except BadNameError as error:
                refused[name] = error
        return dict(sorted(refused.items()))

    def check_runs(self, runs: Sequence[str]) -> list[str]:
        """Return the names sorted and without duplicates; raise ProjectError if a run is absent."""
        for run in runs:
            if not self._layers.exists(f"{RUNS}/{check_name(run, 'run')}"):
                raise no_such_run(self._config, run, self._layers.folders(RUNS), "the project has no runs")
        return sorted(set(runs))

    def tomograms(self, run: str) -> list[TomogramRef]:
        """Return every tomogram of a run, sorted."""
        refs = set()
        for folder in self._layers.folders(f"{RUNS}/{check_name(run, 'run')}"):
            for name in self._layers.folders(f"{RUNS}/{run}/{folder}") if folder.startswith("VoxelSpacing") else ():
                if name.endswith(".zarr") and not name.endswith("_features.zarr"):
                    try:
                        ref = TomogramRef(run, name.removesuffix(".zarr"), float(folder.removeprefix("VoxelSpacing")))
                    except (ValueError, BadNameError):
                        continue
                    if ref.path.split("/")[2] == folder:
                        refs.add(ref)
        return sorted(refs)

    def dataset_of(self, run: str) -> None:
        """Return None: copick projects name no dataset."""

    def tomogram_id(self, run: str) -> None:
        """Return None: copick projects have no identifiers of tomograms."""


def choose_tomograms(
    catalog: Catalog, runs: Sequence[str] | None, tomogram_type: str | None, voxel_spacing_angstrom: float | None
) -> list[TomogramRef]:
    """Choose one tomogram per run.

    Of several that match, a type with "denoised" in its name is preferred, then one with "wbp", then the voxel
    spacing nearest to 10 Å, then the first type by name.

    Parameters
    ----------
    catalog : Catalog
        The runs and tomograms to choose from.
    runs : sequence of str or None
        Names of runs; None: all.
    tomogram_type : str or None
        The type to choose; None: any.
    voxel_spacing_angstrom : float or None
        The voxel spacing to choose, in Å, to 0.001 Å; None: any.

    Returns
    -------
    list of TomogramRef
        Sorted. Runs without a matching tomogram are left out: they may hold a segmentation.

    Raises
    ------
    ProjectError
        If a run is absent, or no run has a tomogram of the type or spacing.
    BadNameError
        If a name in `runs` is not safe as part of a path.
    """
    names = catalog.runs() if runs is None else catalog.check_runs(runs)
    if catalog.is_frozen or len(names) == 1:  # without requests, or one: threads would cost more than they save
        tomograms = [catalog.tomograms(name) for name in names]
    else:
        with ThreadPoolExecutor(16) as threads:
            tomograms = list(threads.map(catalog.tomograms, names))
    matching = [[ref for ref in refs if _matches(ref, tomogram_type, voxel_spacing_angstrom)] for refs in tomograms]
    preferred = [min(refs, key=_preference) for refs in matching if refs]
    restricted = tomogram_type is not None or voxel_spacing_angstrom is not None
    if not preferred and restricted and any(tomograms):
        kinds = {f"{ref.tomogram_type}@{ref.voxel_spacing_angstrom:g}" for refs in tomograms for ref in refs}
        raise ProjectError(
            f"no tomogram of type {tomogram_type or 'any'} at {voxel_spacing_angstrom or 'any'} Å",
            f"there are: {', '.join(sorted(kinds))}",
        )
    return sorted(preferred)


def no_such_run(config: str, run: str, existing: Iterable[str], if_none: str) -> ProjectError:
    """Return the error for an absent run, with the names that come closest.

    Parameters
    ----------
    config : str
        Path or URL of the project.
    run : str
        The name of the absent run.
    existing : iterable of str
        Names of the runs that exist.
    if_none : str
        The next step if no run exists.
    """
    names = list(existing)
    near = difflib.get_close_matches(run, names, 5, 0.5) or names[:5]
    return ProjectError(f"{config} has no run {run!r}", f"near it: {', '.join(near)}" if near else if_none)


def _matches(ref: TomogramRef, tomogram_type: str | None, spacing: float | None) -> bool:
    return (tomogram_type is None or ref.tomogram_type == tomogram_type) and (
        spacing is None or abs(ref.voxel_spacing_angstrom - spacing) < 0.001
    )


def _preference(ref: TomogramRef) -> tuple[int, float, str]:
    """Return a sort key: the preferred tomogram has the smallest."""
    rank = next((i for i, word in enumerate(_PREFERRED_TYPES) if word in ref.tomogram_type), len(_PREFERRED_TYPES))
    return rank, abs(ref.voxel_spacing_angstrom - _PREFERRED_SPACING_ANGSTROM), ref.tomogram_type
