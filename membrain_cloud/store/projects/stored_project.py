"""The two kinds of projects: one that a copick config describes, and one whose tomograms a manifest lists.

Both are composed of the same parts and differ in which catalog, volume reader and objects they are given. On disk they
have copick's layout, which copick 1.31 and copick 2 share. Copick's models check and make configs and objects, where a
run is planned. Folders are listed and files are read without copick: its listings stop at the first foreign file and
take 6 to 10 times the requests, and workers, which get names and URLs, need not import it. The tests open everything
that is written with both versions of copick, and everything that they write here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.annotation_store import AnnotationStore
from membrain_cloud.store.projects.catalog import Catalog, CopickCatalog, choose_tomograms
from membrain_cloud.store.projects.copick_config import ConfigObjects, PickableObjects, read_config, read_config_if_any
from membrain_cloud.store.projects.croissant import open_croissant
from membrain_cloud.store.projects.layers import Layer, Layers
from membrain_cloud.store.projects.manifest import Manifest, read_manifest
from membrain_cloud.store.projects.manifest_parts import (
    ManifestCatalog,
    ManifestObjects,
    ManifestVolumes,
    SourceArrays,
)
from membrain_cloud.store.projects.project import Project
from membrain_cloud.store.projects.volume_store import (
    CopickVolumes,
    VolumeLookup,
    VolumeReader,
    VolumeWriter,
    grid_of_array,
)
from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef, VolumeRef
from membrain_cloud.store.run_state.receipts import Receipts
from membrain_cloud.store.volumes import ome_zarr
from membrain_cloud.store.volumes.labels import as_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.geometry import Box, Grid, Mesh, Picks, Zyx
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.objects.object_info import ObjectInfo
    from membrain_cloud.store.volumes.pyramid import Level

_RECEIPTS = "membrain-cloud/receipts"


@dataclass(frozen=True)
class _Parts:
    """What a project is composed of. Catalog and reader can be replaced separately."""

    layers: Layers
    catalog: Catalog
    annotations: AnnotationStore
    reader: VolumeReader
    writer: VolumeWriter
    objects: PickableObjects

    @classmethod
    def over(cls, layers: Layers, catalog: Catalog, reader: VolumeReader, objects: PickableObjects) -> _Parts:
        writer = VolumeWriter(VolumeLookup(layers))
        return cls(layers, catalog, AnnotationStore(layers), reader, writer, objects)

    def metered(self, meter: Meter) -> _Parts:
        layers = self.layers.metered(meter)
        lookup = VolumeLookup(layers, keep=True)
        return replace(
            self,
            layers=layers,
            annotations=AnnotationStore(layers),
            reader=self.reader.metered(lookup, meter),
            writer=VolumeWriter(lookup),
        )


class _StoredProject(Project):
    """Implements `Project` by its parts, for both kinds. Its methods are documented there."""

    def __init__(self, config: str, parts: _Parts, storage_options: Mapping[str, Any] | None) -> None:
        self.config = config
        self.root_url = parts.layers.overlay.url
        self.storage_options = dict(storage_options or {})
        self.is_frozen = parts.catalog.is_frozen
        self._parts = parts

    # --- the project itself ----------------------------------------------------------------------------------------

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._parts.objects.settings

    @property
    def files(self) -> Files:
        return self._parts.layers.overlay

    @property
    def receipts(self) -> Receipts:
        return Receipts(f"{self.root_url}/{_RECEIPTS}", self.storage_options)

    def check_writable(self) -> None:
        self.files.below("membrain-cloud").check_writable()

    def ensure_object(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        self._parts.objects.ensure(name, is_particle=is_particle, identifier=identifier)

    # --- what exists -----------------------------------------------------------------------------------------------

    def runs(self) -> list[str]:
        return self._parts.catalog.runs()

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        return self._parts.catalog.bad_runs()

    def tomograms(
        self, runs: Sequence[str] | None, tomogram_type: str | None, voxel_spacing_angstrom: float | None
    ) -> list[TomogramRef]:
        return choose_tomograms(self._parts.catalog, runs, tomogram_type, voxel_spacing_angstrom)

    def all_tomograms(self, run: str) -> list[TomogramRef]:
        return self._parts.catalog.tomograms(run)

    def dataset_of(self, run: str) -> str | None:
        return self._parts.catalog.dataset_of(run)

    def tomogram_id(self, run: str) -> str | None:
        return self._parts.catalog.tomogram_id(run)

    def features(self, tomogram: TomogramRef) -> list[FeaturesRef]:
        return self._parts.annotations.features(tomogram)

    def segmentations(self, run: str) -> list[SegmentationRef]:
        return self._parts.annotations.segmentations(run)

    def multilabel_segmentations(self, run: str) -> list[SegmentationRef]:
        return self._parts.annotations.multilabel_segmentations(run)

    def meshes(self, run: str) -> list[ObjectRef]:
        return self._parts.annotations.meshes(run)

    def picks(self, run: str) -> list[ObjectRef]:
        return self._parts.annotations.picks(run)

    def segmentation(self, run: str, uri: str) -> SegmentationRef:
        self._parts.catalog.check_runs([run])
        return self._parts.annotations.find_segmentation(run, uri)

    def object(self, run: str, uri: str) -> ObjectRef:
        self._parts.catalog.check_runs([run])
        return self._parts.annotations.find_object(run, uri)

    # --- what is stored --------------------------------------------------------------------------------------------

    def has(self, ref: VolumeRef | ObjectRef) -> bool:
        if isinstance(ref, ObjectRef):
            return self._parts.annotations.has(ref)
        return self._parts.reader.location(ref) is not None

    def stored(self, ref: VolumeRef | ObjectRef, *, mesh: bool = True) -> tuple[Files, str]:
        if isinstance(ref, ObjectRef):
            place = self._parts.layers.find(ref.mesh_path if mesh else ref.picks_path)
        else:
            place = self._parts.reader.location(ref)
        if place is None:
            raise ProjectError(f"{ref.key}: there is no such annotation", "check the name, or make it first")
        return place

    def stored_level(self, ref: TomogramRef) -> tuple[Files, str]:
        array = self._parts.reader.array(ref)
        return array.files, array.path

    def stored_bytes(self, ref: VolumeRef) -> int | None:
        return self._parts.reader.stored_bytes(ref)

    def stored_chunk(self, ref: VolumeRef, *, level: int = 0) -> Zyx:
        return self._parts.reader.array(ref, level).format.chunk

    def stored_shard(self, ref: VolumeRef) -> Zyx:
        return self._parts.reader.array(ref).format.shard

    def identity(self, ref: VolumeRef | ObjectRef) -> str:
        return self._parts.annotations.identity(ref) if isinstance(ref, ObjectRef) else self._parts.reader.identity(ref)

    def listed_identity(self, ref: VolumeRef | ObjectRef, listing: Mapping[str, ObjectInfo]) -> str:
        return self._parts.annotations.listed_identity(ref, listing)

    def remove(self, ref: VolumeRef | ObjectRef) -> None:
        if isinstance(ref, ObjectRef):
            self._parts.annotations.remove(ref)
        else:
            self._parts.writer.remove(ref)

    # --- volumes ---------------------------------------------------------------------------------------------------

    def grid(self, ref: VolumeRef) -> Grid:
        return self._parts.reader.grid(ref)

    def levels(self, ref: TomogramRef) -> list[Level]:
        return self._parts.reader.levels(ref)

    def read_density(self, ref: TomogramRef, box: Box | None = None, *, level: int = 0) -> NDArray[Any]:
        array = self._parts.reader.array(ref, level)
        ome_zarr.check_density_type(array, ref.key)
        return array.read(box or array.box)

    def write_tomogram(
        self,
        ref: TomogramRef,
        array: Any,
        chunk: int = ome_zarr.DEFAULT_CHUNK,
        version: ome_zarr.OmeVersion = "0.4",
    ) -> None:
        self._parts.writer.write_tomogram(ref, array, chunk, version)

    def read_labels(self, ref: SegmentationRef, box: Box | None = None) -> NDArray[Any]:
        array = self._parts.reader.array(ref)
        return as_labels(array.read(box or array.box), ref.key)

    def label_chunk(self, grid: Grid, chunk: int = ome_zarr.DEFAULT_CHUNK) -> Zyx:
        return ome_zarr.chunk_shape(grid.shape, chunk)

    def create_labels(
        self,
        ref: SegmentationRef,
        grid: Grid,
        dtype: str,
        chunk: int = ome_zarr.DEFAULT_CHUNK,
        version: ome_zarr.OmeVersion = "0.4",
    ) -> None:
        self._parts.writer.create(ref, grid, dtype, chunk, version)

    def write_labels(self, ref: SegmentationRef, box: Box, array: NDArray[Any]) -> None:
        self._parts.writer.write(ref, box, array)

    def finish_labels(self, ref: SegmentationRef) -> None:
        self._parts.writer.finish(ref, mean=False)

    def write_segmentation(
        self,
        ref: SegmentationRef,
        array: NDArray[Any],
        chunk: int = ome_zarr.DEFAULT_CHUNK,
        version: ome_zarr.OmeVersion = "0.4",
    ) -> None:
        grid = grid_of_array(array, ref)
        self.create_labels(ref, grid, array.dtype.name, chunk, version)
        self.write_labels(ref, grid.box, array)
        self.finish_labels(ref)

    def read_features(self, ref: FeaturesRef, box: Box | None = None) -> NDArray[Any]:
        array = self._parts.reader.array(ref)
        ome_zarr.check_density_type(array, ref.key)
        return array.read(box or array.box)

    def create_features(
        self,
        ref: FeaturesRef,
        grid: Grid,
        dtype: str,
        chunk: int = ome_zarr.DEFAULT_CHUNK,
        version: ome_zarr.OmeVersion = "0.4",
    ) -> None:
        if np.dtype(dtype).name not in ome_zarr.DENSITY_TYPES:
            raise ValueError(f"{dtype} is not one of {', '.join(ome_zarr.DENSITY_TYPES)}")
        self._parts.writer.create(ref, grid, dtype, chunk, version)

    def write_features(self, ref: FeaturesRef, box: Box, array: NDArray[Any]) -> None:
        self._parts.writer.write(ref, box, array)

    def finish_features(self, ref: FeaturesRef) -> None:
        self._parts.writer.finish(ref, mean=True)

    def is_complete(self, ref: VolumeRef) -> bool:
        return self._parts.writer.is_complete(ref)

    # --- meshes and picks ------------------------------------------------------------------------------------------

    def read_meshes(self, ref: ObjectRef) -> dict[int, Mesh]:
        return self._parts.annotations.read_meshes(ref)

    def write_meshes(self, ref: ObjectRef, meshes: Mapping[int, Mesh]) -> None:
        self._parts.annotations.write_meshes(ref, meshes)

    def read_picks(self, ref: ObjectRef) -> Picks:
        return self._parts.annotations.read_picks(ref)

    def write_picks(self, ref: ObjectRef, picks: Picks) -> None:
        self._parts.annotations.write_picks(ref, picks)


class CopickProject(_StoredProject):
    """A project that a copick config describes: of type filesystem, or mlcroissant with an overlay.

    Made by `open`. It pickles as the path of its config.
    """

    @classmethod
    def open(cls, config: str, checked: bool = False) -> Self:
        """Open a copick config.

        Parameters
        ----------
        config : str
            Path or fsspec URL of the config.
        checked : bool
            Whether the process that planned has checked it before, as for a worker. Default: False.

        Raises
        ------
        ProjectError
            If there is no config that can be opened, or its overlay does not exist.
        """
        config = str(config)
        settings = read_config(config, checked=checked)
        overlay = Files(settings["overlay_root"], settings.get("overlay_fs_args"))
        static: Layer | None = None
        if settings.get("config_type") == "mlcroissant":
            static, settings["pickable_objects"] = open_croissant(config, settings)
        elif settings.get("static_root"):
            static = Files(settings["static_root"], settings.get("static_fs_args"))
        if static is None and overlay.local and not overlay.exists(""):
            raise ProjectError(
                f"{config}: its overlay_root {overlay.url} does not exist",
                "if the project was moved, correct overlay_root in the config",
            )
        layers = Layers(overlay, static)
        parts = _Parts.over(
            layers,
            CopickCatalog(config, layers, map(str, settings.get("runs") or ())),
            CopickVolumes(VolumeLookup(layers)),
            ConfigObjects(config, settings),
        )
        return cls(config, parts, settings.get("overlay_fs_args"))

    def metered(self, meter: Meter) -> CopickProject:
        """Return the same project for one task, with `meter` counting what is read and written through it."""
        return CopickProject(self.config, self._parts.metered(meter), self.storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        return CopickProject.open, (self.config, True)


class ManifestProject(_StoredProject):
    """A project whose tomograms a manifest lists; everything else is in its overlay.

    Made by `open`. It pickles as the path of the manifest.

    Attributes
    ----------
    manifest : Manifest
        The content of the manifest.
    """

    def __init__(
        self, config: str, manifest: Manifest, parts: _Parts, storage_options: Mapping[str, Any] | None
    ) -> None:
        super().__init__(config, parts, storage_options)
        self.manifest = manifest

    @classmethod
    def open(cls, config: str) -> Self:
        """Open a manifest.

        Parameters
        ----------
        config : str
            Path or fsspec URL of the manifest; errors as `read_manifest`.
        """
        config = str(config)
        manifest = read_manifest(config)
        metadata = manifest.metadata
        copick = read_config_if_any(metadata.get("copick_config"))
        options = {**(copick.get("overlay_fs_args") or {}), **(metadata.get("overlay_fs_args") or {})}
        source_options = {**(copick.get("static_fs_args") or {}), **(metadata.get("source_fs_args") or {})}
        settings = {
            "name": config.rpartition("/")[2].removesuffix(".parquet"),
            "overlay_root": metadata["overlay_root"],
            "overlay_fs_args": options,
            "pickable_objects": list(metadata.get("objects") or copick.get("pickable_objects") or ()),
        }
        layers = Layers(Files(metadata["overlay_root"], options))
        overlay = layers.overlay
        sources = SourceArrays(overlay.url, options, source_options)
        parts = _Parts.over(
            layers,
            ManifestCatalog(config, manifest),
            ManifestVolumes(manifest, sources, CopickVolumes(VolumeLookup(layers))),
            ManifestObjects(config, manifest, settings, overlay),
        )
        return cls(config, manifest, parts, options)

    def metered(self, meter: Meter) -> ManifestProject:
        """Return the same project for one task, with `meter` counting what is read and written through it."""
        return ManifestProject(self.config, self.manifest, self._parts.metered(meter), self.storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        return ManifestProject.open, (self.config,)
