"""The parts of a project that a manifest describes: its catalog, its tomograms, and its pickable objects."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import MembrainCloudError, ProjectError, TomogramError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.catalog import no_such_run
from membrain_cloud.store.projects.copick_config import ensure_object, new_config
from membrain_cloud.store.refs import TomogramRef, VolumeRef, check_name
from membrain_cloud.store.volumes import multiscales
from membrain_cloud.store.volumes.pyramid import Level, pyramid
from membrain_cloud.store.volumes.zarr_array import ChunkedArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.projects.manifest import Manifest, ManifestRow
    from membrain_cloud.store.projects.volume_store import CopickVolumes, VolumeLookup

# A copick config of the overlay, so that copick opens the results; written only if the manifest names no config.
_COPICK_CONFIG = "membrain-cloud/copick.json"
# Arrays whose metadata are kept, so that a read costs the chunks alone.
_OPEN_ARRAYS = 8


class ManifestCatalog:
    """The runs and tomograms that a manifest lists, one tomogram per run.

    Parameters
    ----------
    config : str
        Path or URL of the manifest, for error messages.
    manifest : Manifest
        Its content.
    """

    is_frozen = True

    def __init__(self, config: str, manifest: Manifest) -> None:
        self._config = config
        self._manifest = manifest

    def runs(self) -> list[str]:
        """Return the names of all runs, sorted, without those of `bad_runs`."""
        return list(self._manifest.rows)

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        """Return the runs whose rows are refused, each with its error."""
        return dict(self._manifest.refused)

    def check_runs(self, runs: Sequence[str]) -> list[str]:
        """Return the names sorted and without duplicates; raise ProjectError if a run is absent."""
        for run in runs:
            if check_name(run, "run") not in self._manifest.rows:
                raise no_such_run(self._config, run, self._manifest.rows, "the manifest has no rows")
        return sorted(set(runs))

    def tomograms(self, run: str) -> list[TomogramRef]:
        """Return the tomogram of a run; empty for a run that is absent."""
        row = self._manifest.rows.get(check_name(run, "run"))
        return [] if row is None else [row.ref]

    def dataset_of(self, run: str) -> str | None:
        """Return the dataset of a run, which is the partition of the tables for its rows."""
        row = self._manifest.rows.get(run)
        return None if row is None else row.dataset_id

    def tomogram_id(self, run: str) -> str | None:
        """Return the identifier of a run's tomogram at its source."""
        row = self._manifest.rows.get(run)
        return None if row is None else row.tomogram_id


class SourceArrays:
    """The arrays of the tomograms of a manifest, opened where they are; the last few are kept open. Thread-safe.

    Parameters
    ----------
    root_url : str
        URL of the overlay; tomograms below it are read with the overlay's options.
    overlay_options, source_options : Mapping
        Arguments of fsspec for the overlay, and for tomograms elsewhere.
    """

    def __init__(self, root_url: str, overlay_options: Mapping[str, Any], source_options: Mapping[str, Any]) -> None:
        self._root_url = root_url
        self._overlay_options = overlay_options
        self._source_options = source_options
        self._arrays: dict[TomogramRef, ChunkedArray] = {}
        self._lock = threading.Lock()

    def files(self, row: ManifestRow) -> Files:
        """Return the group of a tomogram as a store."""
        is_inside = row.url.startswith(f"{self._root_url}/")
        return Files(row.url, self._overlay_options if is_inside else self._source_options)

    def array(self, row: ManifestRow) -> ChunkedArray:
        """Return the array of a tomogram, checked against the manifest.

        No chunk may be absent: tomograms are noise everywhere.

        Parameters
        ----------
        row : ManifestRow
            The row of the tomogram.

        Raises
        ------
        ProjectError
            If there is no array any more.
        TomogramError
            If its shape is not that of the manifest.
        """
        with self._lock:
            array = self._arrays.get(row.ref)
        if array is None:
            array = self._open(row)
            with self._lock:
                while len(self._arrays) >= _OPEN_ARRAYS:
                    self._arrays.pop(next(iter(self._arrays)))
                self._arrays[row.ref] = array
        return array

    def _open(self, row: ManifestRow) -> ChunkedArray:
        try:
            array = ChunkedArray.open(self.files(row), row.level)
        except FileNotFoundError as error:
            raise ProjectError(
                f"{row.ref.key}: there is no volume at {row.url}/{row.level}",
                "it was moved or removed since the manifest was made: make the manifest again",
            ) from error
        if array.format.shape != row.shape:
            raise TomogramError(
                f"{row.ref.key}: {row.url}/{row.level} is {array.format.shape} voxels, the manifest says {row.shape}",
                "make the manifest again",
            )
        return array


class ManifestVolumes:
    """Reads the tomograms that a manifest lists from where they are, and all other volumes from the overlay.

    Grids and identities come from the manifest, so planning opens nothing. The first read of a tomogram checks that
    what is stored is what the manifest says.

    Parameters
    ----------
    manifest : Manifest
        The manifest.
    sources : SourceArrays
        Opens its tomograms.
    overlay : CopickVolumes
        Reads all other volumes.
    meter : Meter, optional
        Counts what is read.
    """

    def __init__(
        self, manifest: Manifest, sources: SourceArrays, overlay: CopickVolumes, meter: Meter | None = None
    ) -> None:
        self._manifest = manifest
        self._sources = sources
        self._overlay = overlay
        self._meter = meter

    def metered(self, lookup: VolumeLookup, meter: Meter) -> ManifestVolumes:
        """Return a reader for one task; see `VolumeReader.metered`."""
        return ManifestVolumes(self._manifest, self._sources, self._overlay.metered(lookup, meter), meter)

    def location(self, ref: VolumeRef) -> tuple[Files, str] | None:
        """Return the store and the path there of a volume, or None if it is absent; rows are trusted."""
        row = self._row(ref)
        return self._overlay.location(ref) if row is None else (self._sources.files(row), "")

    def grid(self, ref: VolumeRef) -> Grid:
        """Return shape and voxel spacing of a volume; errors as `Project.grid`."""
        row = self._row(ref)
        return self._overlay.grid(ref) if row is None else row.grid

    def levels(self, ref: TomogramRef) -> list[Level]:
        """Return the level that the manifest names, and the coarser ones of the same pyramid."""
        row = self._row(ref)
        if row is None:
            return self._overlay.levels(ref)
        files = self._sources.files(row)
        attributes = multiscales.from_level(multiscales.read_attributes(files, ""), row.level)
        if attributes is None:
            return [Level(row.level, row.grid, 0.0)]
        return pyramid(files, "", attributes, row.grid)

    def array(self, ref: VolumeRef, level: int = 0) -> ChunkedArray:
        """Return the stored array of a level; see `VolumeReader.array`."""
        row = self._row(ref)
        if row is None:
            return self._overlay.array(ref, level)
        if level == 0:
            array = self._sources.array(row)
        else:
            array = ChunkedArray.open(self._sources.files(row), self.levels(row.ref)[level].path)
        if self._meter is None:
            return array
        return ChunkedArray(array.files.metered(self._meter), array.path, array.format, sparse=array.sparse)

    def identity(self, ref: VolumeRef) -> str:
        """Return the identity that the manifest gives a tomogram, or that of another volume from its chunks."""
        row = self._row(ref)
        if row is None:
            return self._overlay.identity(ref)
        return row.identity if row.level == "0" else f"{row.identity}/{row.level}"

    def stored_bytes(self, ref: VolumeRef) -> int | None:
        """Return the stored size of a tomogram in bytes, or None if the manifest does not give it."""
        row = self._row(ref)
        return (row.bytes or None) if row is not None else None

    def _row(self, ref: VolumeRef) -> ManifestRow | None:
        """Return the row of a tomogram that the manifest lists."""
        if not isinstance(ref, TomogramRef):
            return None
        row = self._manifest.rows.get(ref.run)
        return row if row is not None and row.ref == ref else None


class ManifestObjects:
    """The pickable objects of the copick config that a manifest names, or else of one kept in the overlay.

    Parameters
    ----------
    config : str
        Path or URL of the manifest.
    manifest : Manifest
        Its content.
    settings : Mapping
        A stand-in for a copick config: name, overlay and objects.
    overlay : Files
        The store that results are written to.
    """

    def __init__(self, config: str, manifest: Manifest, settings: Mapping[str, Any], overlay: Files) -> None:
        self._config = config
        self._metadata = manifest.metadata
        self._overlay = overlay
        self.settings = settings

    def ensure(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        """Add an object to the copick config, unless it exists.

        Parameters
        ----------
        name : str
            Name of the object.
        is_particle : bool
            Whether it is a particle or a segmented object.
        identifier : str or None
            Identifier in the Gene Ontology or UniProt.

        Raises
        ------
        ProjectError
            If it exists as the other kind.
        """
        config = self._metadata.get("copick_config")
        if config is not None:
            ensure_object(config, name, is_particle=is_particle, identifier=identifier)
            return
        if not self._overlay.exists(_COPICK_CONFIG):
            content = new_config(
                self.settings["name"],
                f"results of {self._config}",
                self._overlay,
                objects=self.settings["pickable_objects"],
                overlay_fs_args=self._metadata.get("overlay_fs_args"),
            )
            self._overlay.write(_COPICK_CONFIG, content)
        config = f"{self._overlay.url}/{_COPICK_CONFIG}"
        options = self.settings["overlay_fs_args"]
        ensure_object(config, name, is_particle=is_particle, identifier=identifier, options=options)
