"""The metadata of an OME-Zarr volume's group: axes, levels, scales and translations, for 0.4 and 0.5 alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from membrain_cloud.errors import ChunkError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.store.objects.object_store import Files

LEVELS = 3
"""Number of levels of the volumes that are written."""

# A key of the attributes of volumes that this package wrote: every chunk is written, so an absent one is a fault.
_OURS = "membrain_cloud"


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
    return Group(None, old)


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
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    datasets = []
    for level in range(levels):
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [spacing_angstrom * 2**level] * 3}]
        if centred and level:  # the mean of voxels 2i and 2i + 1 is centred between them
            transforms.append({"type": "translation", "translation": [spacing_angstrom * (2**level - 1) / 2] * 3})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {"name": "/", "axes": axes, "datasets": datasets}
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


def scales(entry: dict[str, Any]) -> list[list[float]]:
    """Return the scales among the coordinate transformations of a dataset or of a multiscale.

    Parameters
    ----------
    entry : dict
        The dataset or multiscale, as OME-Zarr's metadata have it.
    """
    return _transforms(entry, "scale")


def translation(entry: dict[str, Any]) -> NDArray[np.float64]:
    """Return the translation of a dataset, shape (3,), zyx; zeros if it has none.

    Parameters
    ----------
    entry : dict
        The dataset, as OME-Zarr's metadata have it.
    """
    return np.array((_transforms(entry, "translation") or [[0.0] * 3])[0][-3:])


def _transforms(entry: dict[str, Any], kind: str) -> list[list[float]]:
    return [
        [float(s) for s in transform[kind]]
        for transform in entry.get("coordinateTransformations", ())
        if transform.get("type") == kind
    ]
