"""The metadata of an OME-Zarr volume's group: axes, levels, scales and translations, for 0.4 and 0.5 alike."""

from __future__ import annotations

import functools
import json
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from membrain_cloud.errors import ChunkError, VoxelSpacingError
from membrain_cloud.store.volumes.array_format import DIMENSIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.store.objects.object_store import Files

LEVELS = 3
"""Number of levels of the volumes that are written."""

_IMPORTING = threading.Lock()
# A key of the attributes of volumes that this package wrote: every chunk is written, so an absent one is a fault.
_OURS = "membrain_cloud"
# A key of groups whose images are in folders below, `0` the first.
_FIRST_IMAGE = "bioformats2raw.layout"


class Group(NamedTuple):
    """The metadata of a volume's group.

    Attributes
    ----------
    zarr_format : int or None
        Version of Zarr, or None if neither version describes a volume.
    attributes : dict
        Its attributes, `multiscales` among them for 0.4 and 0.5 alike; empty if there are none.
    """

    zarr_format: int | None
    attributes: dict[str, Any]


def read_group(files: Files, path: str) -> Group:
    """Return the metadata of a volume's group.

    A folder may hold metadata of both versions: a program for one of them has read or written where a volume of the
    other one is. The version that describes the multiscales counts; version 3 if both do, as zarr decides it.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the group.

    Raises
    ------
    ChunkError
        If they are torn.
    """
    old = _read_json(files, path, ".zattrs")
    if is_ours(old):  # creating a volume removes what was there
        return Group(2, old)
    attributes = _read_json(files, path, "zarr.json").get("attributes") or {}
    new = attributes | attributes.get("ome", {})
    for zarr_format, found in ((3, new), (2, old)):
        if "multiscales" in found:
            return Group(zarr_format, found)
        if _FIRST_IMAGE in found:
            return _first_image(read_group(files, f"{path}/0"))
    return Group(None, old)


def _first_image(group: Group) -> Group:
    """Return the metadata of the image in the folder `0` as those of the folder above it."""
    multiscales = [
        multiscale | {"datasets": [dataset | {"path": f"0/{dataset['path']}"} for dataset in multiscale["datasets"]]}
        for multiscale in group.attributes.get("multiscales", ())
    ]
    return Group(group.zarr_format, group.attributes | {"multiscales": multiscales})


def _read_json(files: Files, path: str, name: str) -> dict[str, Any]:
    try:
        text = files.read(f"{path}/{name}".lstrip("/"))
    except FileNotFoundError:
        return {}
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ChunkError(f"{files.url}/{path}: {name} is torn ({error})", "copy the volume again") from error


def read_attributes(files: Files, path: str) -> dict[str, Any]:
    """Return the attributes of a group; see `read_group`.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the group.

    Returns
    -------
    dict
        Empty if there are none.

    Raises
    ------
    ChunkError
        If they are torn.
    """
    return read_group(files, path).attributes


def write_attributes(
    files: Files, path: str, spacing_angstrom: float, *, levels: int, centred: bool, zarr_format: int = 2
) -> None:
    """Write the attributes of a volume.

    Parameters
    ----------
    files : Files
        The store of the volume.
    path : str
        Path of the volume.
    spacing_angstrom : float
        Voxel spacing of level 0 in Å.
    levels : int
        Number of levels to announce.
    centred : bool
        Whether coarser voxels are means, whose centres are between those of the finer ones.
    zarr_format : {2, 3}
        Version of Zarr. Default: 2.
    """
    models = _models()
    datasets = []
    for level in range(levels):
        # The mean of voxels 2i and 2i + 1 is centred between them.
        shift = [spacing_angstrom * (2**level - 1) / 2] * 3 if centred and level else None
        datasets.append(
            models.Dataset.build(path=str(level), scale=[spacing_angstrom * 2**level] * 3, translation=shift)
        )
    axes = [models.Axis(name=name, type="space", unit="angstrom") for name in DIMENSIONS]
    described = models.Multiscale04(axes=axes, datasets=tuple(datasets), name="/")
    described_as = described if zarr_format == 2 else described.to_version("0.5")
    multiscale = described_as.model_dump(mode="json", exclude_none=True)
    ours = {_OURS: {"every_chunk_written": True}}
    content: dict[str, Any]
    if zarr_format == 2:
        name, content = ".zattrs", {"multiscales": [{"version": "0.4"} | multiscale]} | ours
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}} | ours
        name, content = "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    files.write(f"{path}/{name}", json.dumps(content, indent=4).encode())


def is_ours(attributes: dict[str, Any]) -> bool:
    """Return whether this package wrote a volume with these attributes.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    return _OURS in attributes


def has_every_chunk(attributes: dict[str, Any]) -> bool:
    """Return whether the writer of a volume wrote every chunk, so that an absent one is a fault.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    return bool(attributes.get(_OURS, {}).get("every_chunk_written", False))


def is_finished(attributes: dict[str, Any]) -> bool:
    """Return whether the attributes announce all levels.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    return len(level_paths(attributes)) == LEVELS


def level_paths(attributes: dict[str, Any]) -> list[str]:
    """Return the paths of the levels that the attributes announce, the finest first.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    """
    try:
        return [str(dataset["path"]).strip("/") for dataset in attributes["multiscales"][0]["datasets"]]
    except (KeyError, IndexError, TypeError):
        return []


def from_level(attributes: dict[str, Any], level: str) -> dict[str, Any] | None:
    """Return the attributes of a volume as if a coarser level were its finest.

    Parameters
    ----------
    attributes : dict
        Attributes of the group.
    level : str
        Path of the level.

    Returns
    -------
    dict or None
        None if the attributes do not announce the level.
    """
    names = level_paths(attributes)
    if level not in names:
        return None
    multiscale = dict(attributes["multiscales"][0])
    multiscale["datasets"] = multiscale["datasets"][names.index(level) :]
    return attributes | {"multiscales": [multiscale]}


class DescribedLevel(NamedTuple):
    """What the metadata say of one level, in the unit of the axes.

    Attributes
    ----------
    path : str
        Its path in the volume.
    scale, translation : tuple of 3 floats
        Size of a voxel, and position of the centre of the first voxel, zyx.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


class Description(NamedTuple):
    """The axes and levels that the metadata of a volume describe.

    Attributes
    ----------
    units : tuple of str or None
        Units of the axes zyx.
    levels : tuple of DescribedLevel
        The levels, the finest first; transformations of the whole volume are included.
    """

    units: tuple[str | None, ...]
    levels: tuple[DescribedLevel, ...]


def describe(attributes: dict[str, Any], what: str) -> Description | None:
    """Return the axes, scales and translations of a volume, checked by the models of OME-Zarr.

    Parameters
    ----------
    attributes : dict
        Attributes of the volume's group.
    what : str
        The volume, for error messages.

    Returns
    -------
    Description or None
        None if the metadata give no scale.

    Raises
    ------
    VoxelSpacingError
        If they give scales, but are not valid OME-Zarr, or the volume has no three axes of space.
    """
    multiscales = attributes.get("multiscales")
    text = json.dumps(multiscales[0] if isinstance(multiscales, list) and multiscales else {}, sort_keys=True)
    if '"coordinateTransformations"' not in text:
        return None
    try:
        return _describe(text, str(attributes.get("version")) != "None")
    except ValueError as error:
        cause = "; ".join(_causes(error))
        raise VoxelSpacingError(
            f"{what}: its OME-Zarr metadata are not valid ({cause})",
            "correct the multiscales in .zattrs (0.4) or zarr.json (0.5), or convert the volume again",
        ) from error


class _Models(NamedTuple):
    """The classes of ome-zarr-models that are used here."""

    Axis: Any
    Dataset: Any
    Multiscale04: Any
    Multiscale05: Any


def _models() -> _Models:
    """Import ome-zarr-models when it is first needed, in one thread: its modules import each other in a circle.

    Several threads that import it at once see modules that are not complete.
    """
    with _IMPORTING:
        from ome_zarr_models.v04.axes import Axis
        from ome_zarr_models.v04.multiscales import Dataset, Multiscale
        from ome_zarr_models.v05.multiscales import Multiscale as Multiscale05

    return _Models(Axis, Dataset, Multiscale, Multiscale05)


# Checking takes a millisecond, and most tomograms of a project have the same metadata.
@functools.lru_cache(maxsize=1024)
def _describe(text: str, is_new: bool) -> Description:
    models = _models()
    content = {key: value for key, value in json.loads(text).items() if key != "version"}
    model = (models.Multiscale05 if is_new else models.Multiscale04).model_validate(content)
    if len(model.axes) < 3 or any(axis.type != "space" for axis in model.axes[-3:]):
        raise ValueError("there are no three axes of space")
    whole_scale, whole_shift = _vectors(model.coordinateTransformations or ())
    levels = []
    for dataset in model.datasets:
        scale, shift = _vectors(dataset.coordinateTransformations)
        together = whole_scale * scale, whole_scale * shift + whole_shift
        levels.append(DescribedLevel(dataset.path.strip("/"), *(tuple(map(float, vector)) for vector in together)))
    units = tuple(None if axis.unit is None else str(axis.unit) for axis in model.axes[-3:])
    return Description(units, tuple(levels))


def _vectors(transformations: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and translation zyx of a chain of transformations."""
    scale, shift = np.ones(3), np.zeros(3)
    for transformation in transformations:
        if isinstance(getattr(transformation, transformation.type, None), list | tuple):
            vector = np.array(getattr(transformation, transformation.type)[-3:], float)
            scale, shift = (vector, shift) if transformation.type == "scale" else (scale, vector)
        elif transformation.type != "identity":
            raise ValueError(f"the {transformation.type} is given by a path, not by values")
    return scale, shift


def _causes(error: ValueError) -> list[str]:
    errors = getattr(error, "errors", None)
    if errors is None:
        return [str(error)]
    return [f"{'.'.join(map(str, cause['loc']))}: {cause['msg']}" for cause in errors()[:2]]
