"""`Project`: what the rest of the package knows of a project, whatever it is stored on.

`stored_project` has the two implementations, `open` opens either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from membrain_cloud.store.volumes.ome_zarr import DEFAULT_CHUNK, OmeVersion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.geometry import Box, Grid, Mesh, Picks, Zyx
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.objects.object_info import ObjectInfo
    from membrain_cloud.store.objects.object_store import Files
    from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef, VolumeRef
    from membrain_cloud.store.run_state.receipts import Receipts
    from membrain_cloud.store.volumes.pyramid import Level

USER = "membrain"
"""The default user of annotations that the pipeline makes."""


class Project(Protocol):
    """Tomograms and their annotations, addressed by references.

    A project pickles as the path of its config, so tasks carry it to workers at no cost. All methods that take the
    name of a run raise BadNameError if the name is not safe as part of a path.

    Attributes
    ----------
    config : str
        Path or URL of the copick config or manifest.
    root_url : str
        Path or URL of the overlay, the folder that results are written to.
    storage_options : Mapping
        Arguments of fsspec for the overlay.
    is_frozen : bool
        Whether tomograms, grids and identities are known without a request to the store, as with a manifest.
    """

    config: str
    root_url: str
    storage_options: Mapping[str, Any]
    is_frozen: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """The copick config, or a stand-in for it; its `pickable_objects` lists the objects."""

    @property
    def files(self) -> Files:
        """The overlay as a store."""

    @property
    def receipts(self) -> Receipts:
        """The receipts of finished tasks."""

    def check_writable(self) -> None:
        """Raise StorageError if results cannot be written; asked once, before a run begins."""

    def metered(self, meter: Meter) -> Project:
        """Return the same project for one task, with `meter` counting what is read and written through it.

        It keeps the metadata of volumes that it has opened: no other process changes what a task reads or writes.
        """

    def ensure_object(self, name: str, *, is_particle: bool, identifier: str | None) -> None:
        """Add a pickable object to the copick config, unless it exists.

        Parameters
        ----------
        name : str
            Name of the object.
        is_particle : bool
            Whether the object is a particle, which has picks, or a segmented object.
        identifier : str or None
            Identifier in the Gene Ontology or UniProt, e.g. `GO:0016020`.

        Raises
        ------
        ProjectError
            If the object exists as the other kind.
        """

    # --- what exists -----------------------------------------------------------------------------------------------

    def runs(self) -> list[str]:
        """Return the names of all runs, sorted, without those of `bad_runs`."""

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        """Return the runs that cannot be processed, such as those with unsafe names, each with its error."""

    def tomograms(
        self, runs: Sequence[str] | None, tomogram_type: str | None, voxel_spacing_angstrom: float | None
    ) -> list[TomogramRef]:
        """Choose one tomogram per run; see `catalog.choose_tomograms` for parameters and errors."""

    def all_tomograms(self, run: str) -> list[TomogramRef]:
        """Return every tomogram of a run, sorted."""

    def dataset_of(self, run: str) -> str | None:
        """Return the partition of the tables for the rows of a run, or None if the setting `output.dataset` decides."""

    def tomogram_id(self, run: str) -> str | None:
        """Return the identifier of a run's tomogram at its source (the portal's id), or None if it is unknown."""

    def features(self, tomogram: TomogramRef) -> list[FeaturesRef]:
        """Return every map stored beside a tomogram, sorted."""

    def segmentations(self, run: str) -> list[SegmentationRef]:
        """Return every segmentation of a run, masks and instances, sorted."""

    def multilabel_segmentations(self, run: str) -> list[SegmentationRef]:
        """Return the segmentations of a run with several labels in one volume, sorted."""

    def meshes(self, run: str) -> list[ObjectRef]:
        """Return the meshes of a run, sorted."""

    def picks(self, run: str) -> list[ObjectRef]:
        """Return the picks of a run, sorted."""

    def segmentation(self, run: str, uri: str) -> SegmentationRef:
        """Return the segmentation that a URI names.

        Parameters
        ----------
        run : str
            Name of the run.
        uri : str
            `name:user/session[@spacing][?instance=true]`. The spacing may be left out if one segmentation matches.

        Raises
        ------
        ProjectError
            If the run is absent, or no segmentation or several match; the message lists those that exist.
        """

    def object(self, run: str, uri: str) -> ObjectRef:
        """Return the meshes or picks that a URI names.

        Parameters
        ----------
        run, uri : str
            Name of the run, and `name:user/session`; errors as `segmentation`.
        """

    # --- what is stored --------------------------------------------------------------------------------------------

    def has(self, ref: VolumeRef | ObjectRef) -> bool:
        """Return whether a volume exists, or the mesh file or the picks file of an object."""

    def stored(self, ref: VolumeRef | ObjectRef, *, mesh: bool = True) -> tuple[Files, str]:
        """Return the store of a volume or file, and the path there.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef, SegmentationRef or ObjectRef
            The volume or object.
        mesh : bool
            Whether an object's mesh file or its picks file is meant. Default: True.

        Raises
        ------
        ProjectError
            If it is absent.
        """

    def stored_level(self, ref: TomogramRef) -> tuple[Files, str]:
        """Return the store of a tomogram's finest level, and the path of the array there."""

    def stored_bytes(self, ref: VolumeRef) -> int | None:
        """Return the stored size of a volume in bytes, or None if it is unknown without a request."""

    def stored_chunk(self, ref: VolumeRef, *, level: int = 0) -> Zyx:
        """Return the chunk shape of a stored volume; reads of whole chunks fetch each once.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef or SegmentationRef
            The volume.
        level : int
            Index into `levels`. Default: 0, the finest.
        """

    def stored_shard(self, ref: VolumeRef) -> Zyx:
        """Return the shape of the objects of a volume (shards, or chunks); writes consist of whole ones."""

    def identity(self, ref: VolumeRef | ObjectRef) -> str:
        """Return a hash that changes when the stored data are replaced.

        It covers names, sizes, and ETags or modification times; no voxel is read. Of a volume only level 0 and the
        spacing count, so rewriting the pyramid changes nothing.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef, SegmentationRef or ObjectRef
            The volume or object.

        Returns
        -------
        str
            16 hexadecimal digits; of a manifest's tomogram what the manifest says.

        Raises
        ------
        ProjectError
            If it is absent.
        """

    def listed_identity(self, ref: VolumeRef | ObjectRef, listing: Mapping[str, ObjectInfo]) -> str:
        """Return the `identity` of an annotation in the overlay from a listing; a volume's metadata are read as well.

        Parameters
        ----------
        ref : FeaturesRef, SegmentationRef or ObjectRef
            The annotation.
        listing : mapping of str to ObjectInfo
            Its objects by their paths in the overlay.
        """

    def remove(self, ref: VolumeRef | ObjectRef) -> None:
        """Remove a volume, or the mesh file and the picks file of an object, from the overlay, if they are there."""

    # --- volumes: create, then write every chunk, then finish ------------------------------------------------------

    def grid(self, ref: VolumeRef) -> Grid:
        """Return shape and voxel spacing of a volume, from metadata only.

        Parameters
        ----------
        ref : TomogramRef, FeaturesRef or SegmentationRef
            The volume.

        Raises
        ------
        ProjectError
            If it is absent.
        VoxelSpacingError
            If the spacing is out of range, or metadata and name contradict each other.
        TomogramError
            If the volume is empty.
        ChunkError
            If the metadata are torn.
        """

    def levels(self, ref: TomogramRef) -> list[Level]:
        """Return the levels of a tomogram's pyramid, the finest first, from metadata only."""

    def read_density(self, ref: TomogramRef, box: Box | None = None, *, level: int = 0) -> NDArray[Any]:
        """Return the densities of a tomogram.

        Parameters
        ----------
        ref : TomogramRef
            The tomogram.
        box : Box, optional
            The voxels to read. Default: all.
        level : int
            Index into `levels`. Default: 0, the finest.

        Returns
        -------
        ndarray, shape of `box`, dtype as stored
            Densities, zyx, in the machine's byte order.

        Raises
        ------
        ChunkError
            If a chunk is absent, truncated or cannot be decoded. An absent chunk is never a block of zeros: real
            tomograms are noise everywhere.
        TomogramError
            If the data type is not one of a tomogram.
        """

    def write_tomogram(
        self, ref: TomogramRef, array: Any, chunk: int = DEFAULT_CHUNK, version: OmeVersion = "0.4"
    ) -> None:
        """Write a tomogram chunk by chunk, with a pyramid of local means.

        Parameters
        ----------
        ref : TomogramRef
            The tomogram.
        array : array-like, shape (Z, Y, X), dtype one of a tomogram
            Anything with shape, dtype and slicing: a memory-mapped file is never loaded whole.
        chunk, version : int, str
            As for `create_labels`.

        Raises
        ------
        TomogramError
            If the data type is not one of a tomogram, or the array is not a volume.
        """

    def read_labels(self, ref: SegmentationRef, box: Box | None = None) -> NDArray[Any]:
        """Return the labels of a segmentation.

        Parameters
        ----------
        ref : SegmentationRef
            The segmentation.
        box : Box, optional
            The voxels to read. Default: all.

        Returns
        -------
        ndarray, shape of `box`, an unsigned integer dtype
            Labels, zyx.

        Raises
        ------
        ChunkError
            If a chunk of a volume that this package wrote is absent. In volumes of other programs an absent chunk is
            the fill value: masks are mostly background.
        TomogramError
            If the values are not labels.
        """

    def label_chunk(self, grid: Grid, chunk: int = DEFAULT_CHUNK) -> Zyx:
        """Return the chunk shape that `create_labels` uses; the cores of blocks must be multiples of it."""

    def create_labels(
        self, ref: SegmentationRef, grid: Grid, dtype: str, chunk: int = DEFAULT_CHUNK, version: OmeVersion = "0.4"
    ) -> None:
        """Make an empty label volume in place of any earlier one; called once, before workers write chunks.

        Parameters
        ----------
        ref : SegmentationRef
            The segmentation.
        grid : Grid
            Its shape and voxel spacing.
        dtype : str
            NumPy's name of an unsigned integer type.
        chunk : int
            Edge of the chunks of 0.4, or of the shards of 0.5, in voxels. Default: 256.
        version : {"0.4", "0.5"}
            Version of OME-Zarr. Default: 0.4.
        """

    def write_labels(self, ref: SegmentationRef, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks; other processes may write other chunks at the same time.

        Parameters
        ----------
        ref : SegmentationRef
            The segmentation.
        box : Box
            The voxels to write; its faces are faces of chunks or of the volume.
        array : ndarray, shape of `box`, dtype of the volume
            Labels, zyx.

        Raises
        ------
        ValueError
            If `box` cuts a chunk, or the dtype is not the volume's.
        UnfinishedError
            If the volume was not created.
        StorageError
            If a chunk cannot be written.
        """

    def finish_labels(self, ref: SegmentationRef) -> None:
        """Write levels 1 and 2 of the pyramid, of every second voxel so that labels stay labels, and announce them.

        Raises UnfinishedError if the volume or a chunk of it is absent.
        """

    def write_segmentation(
        self, ref: SegmentationRef, array: NDArray[Any], chunk: int = DEFAULT_CHUNK, version: OmeVersion = "0.4"
    ) -> None:
        """Write a whole label volume with its pyramid.

        Parameters
        ----------
        ref : SegmentationRef
            The segmentation.
        array : ndarray, shape (Z, Y, X), an unsigned integer dtype
            Labels.
        chunk, version : int, str
            As for `create_labels`.
        """

    def read_features(self, ref: FeaturesRef, box: Box | None = None) -> NDArray[Any]:
        """Return the values of a map beside a tomogram, such as membrane scores.

        Parameters
        ----------
        ref : FeaturesRef
            The map.
        box : Box, optional
            The voxels to read. Default: all.

        Returns
        -------
        ndarray, shape of `box`, dtype as stored
            Values, zyx. An absent chunk raises ChunkError.
        """

    def create_features(
        self, ref: FeaturesRef, grid: Grid, dtype: str, chunk: int = DEFAULT_CHUNK, version: OmeVersion = "0.4"
    ) -> None:
        """Make an empty map beside its tomogram; parameters as `create_labels`, with the data type of a tomogram."""

    def write_features(self, ref: FeaturesRef, box: Box, array: NDArray[Any]) -> None:
        """Write whole chunks; parameters and errors as `write_labels`."""

    def finish_features(self, ref: FeaturesRef) -> None:
        """Write levels 1 and 2 of the pyramid, of local means, and announce them; errors as `finish_labels`."""

    def is_complete(self, ref: VolumeRef) -> bool:
        """Return whether a volume exists with all its levels announced, which is done last."""

    # --- meshes and picks ------------------------------------------------------------------------------------------

    def read_meshes(self, ref: ObjectRef) -> dict[int, Mesh]:
        """Return the meshes of an object by membrane number; raise ProjectError if the file is absent or torn."""

    def write_meshes(self, ref: ObjectRef, meshes: Mapping[int, Mesh]) -> None:
        """Write meshes as one GLB file with a geometry `membrane_{number}` each.

        Parameters
        ----------
        ref : ObjectRef
            The object.
        meshes : mapping of int to Mesh
            Meshes by membrane number; vertices in Å are stored as float32. Equal meshes give equal bytes.
        """

    def read_picks(self, ref: ObjectRef) -> Picks:
        """Return the picks of an object; raise ProjectError if the file is absent or torn."""

    def write_picks(self, ref: ObjectRef, picks: Picks) -> None:
        """Write picks as copick's JSON.

        Parameters
        ----------
        ref : ObjectRef
            The object.
        picks : Picks
            Positions in Å, and orientations, scores and membrane numbers where there are any.
        """
