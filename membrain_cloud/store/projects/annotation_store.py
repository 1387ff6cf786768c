"""Listing, reading and writing the annotations of a project: segmentations, feature maps, meshes and picks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.errors import BadNameError, ProjectError
from membrain_cloud.store.formats import copick_files
from membrain_cloud.store.objects.object_info import listing_digest
from membrain_cloud.store.projects.catalog import RUNS
from membrain_cloud.store.refs import (
    FeaturesRef,
    ObjectRef,
    SegmentationRef,
    TomogramRef,
    VolumeRef,
    check_name,
    parse_object_file,
    parse_segmentation_file,
    parse_uri,
)
from membrain_cloud.store.volumes import ome_zarr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from membrain_cloud.geometry import Mesh, Picks
    from membrain_cloud.store.objects.object_info import ObjectInfo
    from membrain_cloud.store.projects.layers import Layers


class AnnotationStore:
    """The annotations in the folders of a copick project. Files with foreign names are skipped.

    Parameters
    ----------
    layers : Layers
        The folders of the project.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def features(self, tomogram: TomogramRef) -> list[FeaturesRef]:
        """Return every map stored beside a tomogram, sorted."""
        folder, _, name = tomogram.path.rpartition("/")
        before, after = name.removesuffix(".zarr") + "_", "_features.zarr"
        refs = set()
        for file in self._layers.folders(folder):
            if file.startswith(before) and file.endswith(after) and len(file) > len(before) + len(after):
                kind = file.removeprefix(before).removesuffix(after)
                try:
                    ref = FeaturesRef(tomogram.run, tomogram.tomogram_type, tomogram.voxel_spacing_angstrom, kind)
                except BadNameError:
                    continue
                refs.add(ref)
        return sorted(refs)

    def segmentations(self, run: str) -> list[SegmentationRef]:
        """Return every segmentation of a run, masks and instances, sorted."""
        refs = set()
        for folder, instance in (("Segmentations", False), ("InstanceSegmentations", True)):
            for name in self._layers.folders(f"{RUNS}/{check_name(run, 'run')}/{folder}"):
                ref = parse_segmentation_file(run, name, instance=instance)
                if ref is not None:
                    refs.add(ref)
        return sorted(refs)

    def multilabel_segmentations(self, run: str) -> list[SegmentationRef]:
        """Return the segmentations of a run with several labels in one volume, sorted."""
        refs = set()
        for name in self._layers.folders(f"{RUNS}/{check_name(run, 'run')}/Segmentations"):
            ref = parse_segmentation_file(run, name, instance=False, multilabel=True)
            if ref is not None:
                refs.add(ref)
        return sorted(refs)

    def meshes(self, run: str) -> list[ObjectRef]:
        """Return every mesh file of a run, sorted."""
        return self._objects(run, "Meshes", ".glb")

    def picks(self, run: str) -> list[ObjectRef]:
        """Return every picks file of a run, sorted."""
        return self._objects(run, "Picks", ".json")

    def find_segmentation(self, run: str, uri: str) -> SegmentationRef:
        """Return the segmentation that a URI names; errors as `Project.segmentation`.

        Parameters
        ----------
        run : str
            Name of the run.
        uri : str
            `name:user/session[@spacing][?instance=true]`.
        """
        parsed = parse_uri(uri)
        segmentations = self.segmentations(run)
        matching = [
            ref
            for ref in segmentations
            if (ref.name, ref.user, ref.session, ref.instance)
            == (parsed.name, parsed.user, parsed.session, parsed.instance)
            and parsed.voxel_spacing_angstrom in (None, ref.voxel_spacing_angstrom)
        ]
        if len(matching) != 1:
            raise _absent(f"{run}: {uri!r} names {len(matching)} segmentations", segmentations)
        return matching[0]

    def find_object(self, run: str, uri: str) -> ObjectRef:
        """Return the meshes or picks that a URI names; errors as `Project.object`.

        Parameters
        ----------
        run : str
            Name of the run.
        uri : str
            `name:user/session`.
        """
        parsed = parse_uri(uri)
        ref = ObjectRef(run, parsed.name, parsed.user, parsed.session)
        if not self.has(ref):
            existing = {*self.meshes(run), *self.picks(run)}
            raise _absent(f"{run}: there is no mesh and there are no picks {uri!r}", existing)
        return ref

    def has(self, ref: ObjectRef) -> bool:
        """Return whether the mesh file or the picks file of an object exists."""
        return any(self._layers.find(path) is not None for path in (ref.mesh_path, ref.picks_path))

    def identity(self, ref: ObjectRef) -> str:
        """Return a hash over path, size and tag of the mesh file and of the picks file."""
        listing = {}
        for path in (ref.mesh_path, ref.picks_path):
            place = self._layers.find(path)
            info = None if place is None else place[0].info(place[1])
            if place is not None and info is not None:
                listing[place[1]] = info
        if not listing:
            raise ProjectError(f"{ref.key}: there is nothing to identify", "check the name, or write it first")
        return listing_digest(listing)

    def listed_identity(self, ref: VolumeRef | ObjectRef, listing: Mapping[str, ObjectInfo]) -> str:
        """Return the identity of an annotation in the overlay from a listing.

        Parameters
        ----------
        ref : FeaturesRef, SegmentationRef or ObjectRef
            The annotation.
        listing : mapping of str to ObjectInfo
            Its objects by their paths in the overlay.
        """
        if isinstance(ref, ObjectRef):
            return listing_digest({path: listing[path] for path in (ref.mesh_path, ref.picks_path) if path in listing})
        array, attributes = ome_zarr.open_volume(self._layers.overlay, ref.path, sparse=True)
        grid = ome_zarr.grid_of(array, attributes, ref.voxel_spacing_angstrom, ref.key)
        below = f"{array.path}/"
        chunks = {path.removeprefix(below): info for path, info in listing.items() if path.startswith(below)}
        return listing_digest(chunks, repr(grid))

    def read_meshes(self, ref: ObjectRef) -> dict[int, Mesh]:
        """Return meshes by membrane number; raise ProjectError if the file is absent or torn."""
        return copick_files.meshes_from_glb(self._read(ref.mesh_path, f"mesh {ref.key}"), f"mesh {ref.key}")

    def write_meshes(self, ref: ObjectRef, meshes: Mapping[int, Mesh]) -> None:
        """Write meshes as one GLB file.

        Parameters
        ----------
        ref : ObjectRef
            The object.
        meshes : mapping of int to Mesh
            Meshes by membrane number, vertices in Å.
        """
        self._layers.overlay.write(ref.mesh_path, copick_files.meshes_to_glb(meshes))

    def read_picks(self, ref: ObjectRef) -> Picks:
        """Return picks; raise ProjectError if the file is absent or torn."""
        return copick_files.picks_from_json(self._read(ref.picks_path, f"picks {ref.key}"), f"picks {ref.key}")

    def write_picks(self, ref: ObjectRef, picks: Picks) -> None:
        """Write picks as copick's JSON.

        Parameters
        ----------
        ref : ObjectRef
            The object.
        picks : Picks
            Positions in Å, and orientations, scores and membrane numbers where there are any.
        """
        self._layers.overlay.write(ref.picks_path, copick_files.picks_to_json(picks, ref))

    def remove(self, ref: ObjectRef) -> None:
        """Remove the mesh file and the picks file of an object from the overlay, if they are there."""
        for path in (ref.mesh_path, ref.picks_path):
            self._layers.overlay.remove(path)

    def _objects(self, run: str, folder: str, suffix: str) -> list[ObjectRef]:
        names = self._layers.files(f"{RUNS}/{check_name(run, 'run')}/{folder}")
        return sorted(ref for name in names if (ref := parse_object_file(run, name, suffix)) is not None)

    def _read(self, path: str, what: str) -> bytes:
        try:
            return self._layers.read(path)
        except FileNotFoundError:
            raise ProjectError(f"there is no {what}", "check the name, or make it first") from None


def _absent(message: str, existing: Iterable[SegmentationRef | ObjectRef]) -> ProjectError:
    """Return the error for an absent annotation, with the URIs of those that exist."""
    uris = [ref.uri for ref in sorted(existing, key=lambda ref: ref.uri)]
    return ProjectError(message, f"there are: {', '.join(uris)}" if uris else "the run has none")
