"""Readers of other programs: each opens the volumes of a run and says what it found.

A program by itself, so that a reader can have an environment of its own: `python readers.py READER REQUEST`, where the
request is JSON with `config`, `run` and `volumes` (name -> `path` and `session`). It prints JSON: for each volume the
sha256 of the voxels of level 0 in C order, their dtype and shape, the shapes of all levels, and the voxel spacing in Å,
as far as the reader states them. It imports nothing of this project.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Found = dict[str, Any]
Request = dict[str, Any]


def found(level_0: Any, shapes: Iterable[Iterable[int]] | None = None, spacing_angstrom: float | None = None) -> Found:
    """Return what a reader found, as JSON values."""
    voxels = np.ascontiguousarray(np.asarray(level_0))
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    values = {"sha256": hashlib.sha256(native.tobytes()).hexdigest(), "dtype": native.dtype.name}
    values["shape"] = list(native.shape)
    if shapes is not None:
        values["shapes"] = [[int(n) for n in shape] for shape in shapes]
    if spacing_angstrom is not None:
        values["spacing_angstrom"] = float(spacing_angstrom)
    return values


def with_copick(request: Request) -> dict[str, Found]:
    """Read as copick does, in either version: by object, user and session."""
    import copick

    run = copick.from_file(request["config"]).get_run(request["run"])
    answers = {}
    for name, volume in request["volumes"].items():
        if name == "scores":
            (tomogram,) = run.get_voxel_spacing(10.0).get_tomograms("wbp")
            (features,) = [each for each in tomogram.features if each.feature_type == volume["feature"]]
            answers[name] = found(features.numpy(), spacing_angstrom=tomogram.voxel_spacing.voxel_size)
        else:
            (labels,) = run.get_segmentations(
                name="membrane", session_id=volume["session"], voxel_size=10.0, is_instance=name == "instances"
            )
            answers[name] = found(labels.numpy(), spacing_angstrom=labels.voxel_size)
    return answers


def with_copick_utils(request: Request) -> dict[str, Found]:
    """Read segmentations as the commands of copick-utils do; it has no reader of features."""
    import copick
    from copick_utils.io import readers

    run = copick.from_file(request["config"]).get_run(request["run"])
    answers = {}
    for name, volume in request["volumes"].items():
        if name != "scores":
            labels = readers.segmentation(
                run,
                10.0,
                "membrane",
                session_id=volume["session"],
                user_id="membrain",
                raise_error=True,
                is_instance=name == "instances",
            )
            answers[name] = found(labels)
    return answers


def with_ome_zarr(request: Request) -> dict[str, Found]:
    """Read as ome-zarr's reader does, which napari and others build on."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    answers = {}
    for name, volume in request["volumes"].items():
        (node,) = list(Reader(parse_url(volume["path"]))())
        scale = node.metadata["coordinateTransformations"][0][0]["scale"]
        assert {axis["unit"] for axis in node.metadata["axes"]} == {"angstrom"}
        answers[name] = found(node.data[0], (level.shape for level in node.data), scale[0])
    return answers


def with_ome_zarr_models(request: Request) -> dict[str, Found]:
    """Validate metadata and arrays against the specification."""
    import zarr
    from ome_zarr_models import open_ome_zarr

    answers = {}
    for name, volume in request["volumes"].items():
        group = zarr.open_group(volume["path"], mode="r")
        image = open_ome_zarr(group, version=request["format"])
        attributes = image.attributes if request["format"] == "0.4" else image.ome_attributes
        (multiscale,) = attributes.multiscales
        paths = [dataset.path for dataset in multiscale.datasets]
        scale = multiscale.datasets[0].coordinateTransformations[0].scale
        answers[name] = found(group[paths[0]][...], (group[path].shape for path in paths), scale[0])
    return answers


def with_xarray(request: Request) -> dict[str, Found]:
    """Read with xarray's own reader of Zarr, without our engine."""
    import xarray as xr

    answers = {}
    for name, volume in request["volumes"].items():
        levels = ["0", "1", "2"]
        each = [
            xr.open_zarr(
                volume["path"], consolidated=False, drop_variables=[other for other in levels if other != level]
            )[level]
            for level in levels
        ]
        assert all(level.dims == ("z", "y", "x") for level in each)
        answers[name] = found(each[0].values, (level.shape for level in each))
    return answers


def with_engine(request: Request) -> dict[str, Found]:
    """Read with xarray through the engine of this project, by its name."""
    import xarray as xr

    engine = request.get("engine") or "ome-zarr"
    answers = {}
    for name, volume in request["volumes"].items():
        tree = xr.open_datatree(volume["path"], engine=engine)
        level_0 = tree["0/image"]
        spacing = float(level_0.z[1] - level_0.z[0])
        answers[name] = found(level_0.values, (node.image.shape for node in tree.children.values()), spacing)
    return answers


def with_napari(request: Request) -> dict[str, Found]:
    """Read with the plugin that napari opens OME-Zarr with."""
    from napari_ome_zarr._reader import napari_get_reader

    answers = {}
    for name, volume in request["volumes"].items():
        read = napari_get_reader(volume["path"])
        assert read is not None
        ((data, keywords, *_),) = read(volume["path"])
        answers[name] = found(data[0], (level.shape for level in data), keywords["scale"][-1])
    return answers


def with_tensorstore(request: Request) -> dict[str, Found]:
    """Read the arrays with tensorstore."""
    import tensorstore

    driver = {"0.4": "zarr", "0.5": "zarr3"}[request["format"]]
    answers = {}
    for name, volume in request["volumes"].items():
        levels = [
            tensorstore.open(
                {"driver": driver, "kvstore": {"driver": "file", "path": f"{volume['path']}/{level}/"}}, read=True
            ).result()
            for level in range(3)
        ]
        answers[name] = found(levels[0].read().result(), (level.shape for level in levels))
    return answers


READERS: dict[str, Callable[[Request], dict[str, Found]]] = {
    "copick": with_copick,
    "copick-utils": with_copick_utils,
    "ome_zarr": with_ome_zarr,
    "ome-zarr-models": with_ome_zarr_models,
    "xarray": with_xarray,
    "engine": with_engine,
    "napari-ome-zarr": with_napari,
    "tensorstore": with_tensorstore,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(READERS[sys.argv[1]](json.loads(sys.argv[2]))))
