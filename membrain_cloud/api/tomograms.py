"""Open a tomogram of a project with its segmentations, as arrays of xarray on one grid."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from membrain_cloud.errors import InputError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import xarray as xr

    from membrain_cloud.geometry import Grid
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.refs import FeaturesRef, ObjectRef, SegmentationRef, TomogramRef, VolumeRef

MEMBRANE = "membrane"
"""Name of the object whose segmentations are opened by default."""

Choice = str | Literal[False] | None
_SCORES = "membrane-score-"
_Ref = TypeVar("_Ref")


def open_tomogram(
    project: Project | str | Path,
    run: str,
    *,
    tomogram_type: str | None = None,
    voxel_spacing_angstrom: float | None = None,
    mask: Choice = None,
    instances: Choice = None,
    scores: Choice = None,
    chunks: Mapping[str, int] | None = None,
) -> xr.DataTree:
    """Open a tomogram with its mask, instances and scores on one grid. Voxels are read when they are used.

    Parameters
    ----------
    project : Project or str or Path
        An open project, or its config or manifest.
    run : str
        Name of the run.
    tomogram_type : str, optional
        Copick's type of the tomogram. Default: as a run of the pipeline chooses.
    voxel_spacing_angstrom : float, optional
        Voxel spacing of the tomogram in Å. Default: as a run of the pipeline chooses.
    mask, instances : str or False, optional
        Copick's URI of a segmentation. Default: the only one of the object `membrane` at the tomogram's voxel spacing,
        if there is one. False: none.
    scores : str or False, optional
        Name of the features that hold scores. Default: the only scores that `segment` stored, if there are some.
        False: none.
    chunks : mapping of str to int, optional
        Edges of the chunks of Dask arrays along z, y and x, in voxels. An axis that is left out, as in ``{}``, has the
        chunks of the store. Default: no Dask.

    Returns
    -------
    DataTree
        The root holds the variables `tomogram`, `mask`, `instances` and `scores` with the dimensions z, y and x, and
        their coordinates in Å. The nodes `segmentations`, `picks` and `meshes` list all annotations of the run by URI,
        for `project.segmentation` and `project.object`.

    Raises
    ------
    ProjectError
        If there is no such run, tomogram or annotation, or several annotations match; the message lists them.
    InputError
        If an annotation has another grid than the tomogram.
    ChunkError
        While voxels are read: if a chunk is absent, truncated or cannot be decoded.

    Notes
    -----
    With ``chunks={}`` variables are Dask arrays. They compute on a Dask cluster whose workers reach the store: what is
    sent to them is the place of the volume.

    Examples
    --------
    >>> import tempfile
    >>> import membrain_cloud as mc
    >>> from membrain_cloud.store.projects.create import create_project
    >>> from membrain_cloud.store.refs import SegmentationRef, TomogramRef
    >>> project = create_project(tempfile.mkdtemp(), objects=[("membrane", False, None)])
    >>> phantom = mc.simulate(seed=1, shape=(64, 96, 96), membranes=1)
    >>> project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), phantom.density)
    >>> labels = (phantom.labels > 0).astype("uint8")
    >>> project.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 10.0), labels)
    >>> tree = mc.open_tomogram(project, "TS_1")
    >>> dict(tree.sizes), list(tree.data_vars)
    ({'z': 64, 'y': 96, 'x': 96}, ['tomogram', 'mask'])
    >>> plane = tree.tomogram.sel(z=155, method="nearest")
    >>> plane.shape, float(plane.z)
    ((96, 96), 160.0)
    >>> bool(tree.tomogram.where(tree.mask > 0).mean() < tree.tomogram.mean())
    True
    """
    import xarray as xr

    from membrain_cloud.store.projects.open import open_project

    opened = open_project(os.fspath(project)) if isinstance(project, str | os.PathLike) else project
    tomogram = _tomogram(opened, run, tomogram_type, voxel_spacing_angstrom)
    segmentations, features = opened.segmentations(run), opened.features(tomogram)
    volumes: dict[str, VolumeRef | None] = {
        "tomogram": tomogram,
        "mask": _segmentation(opened, tomogram, mask, segmentations, instance=False),
        "instances": _segmentation(opened, tomogram, instances, segmentations, instance=True),
        "scores": _scores(tomogram, scores, features),
    }
    grid = opened.grid(tomogram)
    root = xr.Dataset()
    for name, ref in volumes.items():
        if ref is not None:
            root = root.assign(_variables(opened, name, ref, grid, tomogram, chunks))
    root.attrs = {
        "project": opened.config,
        "run": run,
        "tomogram": tomogram.key,
        "voxel_spacing_angstrom": grid.voxel_spacing_angstrom,
    }
    listed = {
        "segmentations": _listing([*segmentations, *opened.multilabel_segmentations(run)]),
        "picks": _listing(opened.picks(run)),
        "meshes": _listing(opened.meshes(run)),
    }
    return xr.DataTree.from_dict({"/": root, **listed}, name=run)


def _tomogram(
    project: Project, run: str, tomogram_type: str | None, voxel_spacing_angstrom: float | None
) -> TomogramRef:
    chosen = project.tomograms([run], tomogram_type, voxel_spacing_angstrom)
    if not chosen:
        raise ProjectError(
            f"{run}: there is no tomogram", "import one, or open a segmentation with the engine ome-zarr"
        )
    return chosen[0]


def _segmentation(
    project: Project, tomogram: TomogramRef, choice: Choice, present: Sequence[SegmentationRef], *, instance: bool
) -> SegmentationRef | None:
    """Return the segmentation that was chosen, or the only one of membranes on the tomogram's grid."""
    what = "instances" if instance else "mask"
    if choice is False:
        return None
    if choice is not None:
        return project.segmentation(tomogram.run, choice)
    fitting = [
        ref
        for ref in present
        if ref.instance == instance
        and ref.name == MEMBRANE
        and ref.voxel_spacing_angstrom == tomogram.voxel_spacing_angstrom
    ]
    return _only(fitting, tomogram, what, [ref.uri for ref in fitting])


def _scores(tomogram: TomogramRef, choice: Choice, present: Sequence[FeaturesRef]) -> FeaturesRef | None:
    if choice is False:
        return None
    if choice is None:
        fitting = [ref for ref in present if ref.feature_type.startswith(_SCORES)]
        return _only(fitting, tomogram, "scores", [ref.feature_type for ref in fitting])
    named = [ref for ref in present if ref.feature_type == choice]
    if not named:
        names = ", ".join(ref.feature_type for ref in present) or "none"
        raise ProjectError(f"{tomogram.key}: no features {choice!r}", f"there are: {names}")
    return named[0]


def _only(fitting: Sequence[_Ref], tomogram: TomogramRef, what: str, names: Sequence[str]) -> _Ref | None:
    if len(fitting) > 1:
        raise ProjectError(
            f"{tomogram.key}: there are {len(fitting)} {what}: {', '.join(names)}",
            f'choose one, e.g. {what}="{names[0]}", or {what}=False for none',
        )
    return fitting[0] if fitting else None


def _variables(
    project: Project,
    name: str,
    ref: VolumeRef,
    grid: Grid,
    tomogram: TomogramRef,
    chunks: Mapping[str, int] | None,
) -> Mapping[Any, xr.DataArray]:
    """Return a volume as a variable on the grid of the tomogram; raise InputError if it has another grid."""
    from membrain_cloud.store.refs import SegmentationRef, TomogramRef
    from membrain_cloud.store.volumes.lazy_volume import AXES, positions, volume_dataset
    from membrain_cloud.store.volumes.ome_zarr import check_density_type, open_volume
    from membrain_cloud.store.volumes.zarr_array import ChunkedArray

    own = project.grid(ref)
    if own.shape != grid.shape or abs(own.voxel_spacing_angstrom - grid.voxel_spacing_angstrom) > 1e-3:
        raise InputError(
            f"{ref.key} has {own.shape} voxels of {own.voxel_spacing_angstrom:g} Å, "
            f"{tomogram.key} has {grid.shape} of {grid.voxel_spacing_angstrom:g} Å",
            f"choose {name} on the tomogram's grid, or the tomogram by its voxel spacing",
        )
    if isinstance(ref, TomogramRef):
        array = ChunkedArray.open(*project.stored_level(ref))
    else:
        array, _ = open_volume(*project.stored(ref), sparse=isinstance(ref, SegmentationRef))
    if not isinstance(ref, SegmentationRef):
        check_density_type(array, ref.key)
    along = {
        axis: positions(length, grid.voxel_spacing_angstrom) for axis, length in zip(AXES, grid.shape, strict=True)
    }
    source = f"{array.files.url}/{array.path}".rstrip("/")
    volume = volume_dataset(array, name, along, {"reference": ref.key, "source": source})[name]
    return {name: volume if chunks is None else volume.chunk(volume.encoding["preferred_chunks"] | dict(chunks))}


def _listing(refs: Sequence[SegmentationRef | ObjectRef]) -> xr.Dataset:
    """Return annotations as a table with the dimension `uri`."""
    import numpy as np
    import xarray as xr

    parts = ("name", "user", "session")
    columns = {part: ("uri", np.array([getattr(ref, part) for ref in refs], str)) for part in parts}
    return xr.Dataset(columns, coords={"uri": np.array([ref.uri for ref in refs], str)})
