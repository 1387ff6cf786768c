"""What other programs read of our outputs: each cell of the table in docs/copick-tools.md.

Readers that cannot share this environment have environments of their own (`benchmarks/readers.sh`); where one is
absent, its cells are skipped.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from standins.readers import READERS

from membrain_cloud.geometry import Grid
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import FeaturesRef, SegmentationRef, TomogramRef
from membrain_cloud.store.volumes.ome_zarr import create_volume
from membrain_cloud.store.volumes.pyramid import finish_volume
from membrain_cloud.store.volumes.xarray_backend import OmeZarrBackend

if TYPE_CHECKING:
    from membrain_cloud.store.refs import VolumeRef
    from membrain_cloud.store.volumes.ome_zarr import OmeVersion

ROOT = Path(__file__).parents[3]
ENVIRONMENTS = ROOT / "benchmarks" / ".readers"
# Along x there are two stored objects; in format 0.5 they are shards of two chunks and of one.
GRID = Grid((12, 15, 300), 10.0)
RUN = "TS_1"
VOLUMES: dict[str, VolumeRef] = {
    "mask": SegmentationRef(RUN, "membrane", "membrain", "1a2b", 10.0),
    "instances": SegmentationRef(RUN, "membrane", "membrain", "3c4d", 10.0, instance=True),
    "scores": FeaturesRef(RUN, "wbp", 10.0, "membrane-score-1a2b"),
}
# Row of the table -> the function that reads, and the environment that it needs.
ROWS = {
    "copick 1.31": ("copick", "copick1"),
    "copick 2": ("copick", None),
    "copick-utils": ("copick-utils", None),
    "ome_zarr": ("ome_zarr", None),
    "ome-zarr-models": ("ome-zarr-models", "napari"),
    "xarray": ("xarray", None),
    "xarray, engine ome-zarr": ("engine", None),
    "napari-ome-zarr": ("napari-ome-zarr", "napari"),
    "tensorstore": ("tensorstore", "tensorstore"),
}
FORMATS: tuple[OmeVersion, ...] = ("0.4", "0.5")
# Cells that hold no "yes", and what the reader says.
NOT_READ = {("copick 1.31", "0.5"): "KeyError"}
NO_READER = {("copick-utils", "scores")}


def voxels() -> dict[str, np.ndarray]:
    """Return what is written: a mask, instances with numbers above 255, and scores."""
    density = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    labels = (density > 1).astype(np.uint8)
    instances = np.where(labels, 300, 0).astype(np.uint16)
    instances[:, :, 200:] *= 2
    return {"mask": labels, "instances": instances, "scores": density.astype(np.float16)}


@pytest.fixture(scope="module")
def requests_by_format(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Write the same outputs in both formats; return what a reader is told of each."""
    requests = {}
    for version in FORMATS:
        project = create_project(
            str(tmp_path_factory.mktemp(f"format-{version}")), objects=[("membrane", False, "GO:0016020")]
        )
        project.write_tomogram(TomogramRef(RUN, "wbp", 10.0), voxels()["scores"].astype(np.float32))
        for name, values in voxels().items():
            path = VOLUMES[name].path
            array = create_volume(project.files, path, GRID, values.dtype.name, version=version)
            array.write(GRID.box, values)
            finish_volume(project.files, path, 10.0, mean=name == "scores")
        volumes = {
            name: {
                "path": f"{project.root_url}/{ref.path}",
                "session": getattr(ref, "session", None),
                "feature": getattr(ref, "feature_type", None),
            }
            for name, ref in VOLUMES.items()
        }
        requests[version] = {"config": project.config, "run": RUN, "format": version, "volumes": volumes}
    return requests


def expected(name: str) -> dict[str, Any]:
    values = np.ascontiguousarray(voxels()[name])
    return {
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        "dtype": values.dtype.name,
        "shape": list(values.shape),
        "shapes": [[12, 15, 300], [6, 8, 150], [3, 4, 75]],
        "spacing_angstrom": 10.0,
    }


@functools.cache
def reading(row: str, request: str) -> dict[str, Any]:
    """Return what a reader found, by volume, or `error`; each reader runs once a format."""
    function, environment = ROWS[row]
    if environment is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return READERS[function](json.loads(request))
        except Exception as error:  # whatever the reader raises is the answer
            return {"error": repr(error)}
    command = [str(interpreter(environment)), str(ROOT / "tests" / "standins" / "readers.py"), function, request]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def interpreter(environment: str) -> Path:
    return ENVIRONMENTS / environment / "bin" / "python"


@pytest.mark.parametrize("name", VOLUMES)
@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("row", ROWS)
def test_a_reader_finds_every_voxel(
    row: str, version: str, name: str, requests_by_format: dict[str, dict[str, Any]]
) -> None:
    function, environment = ROWS[row]
    if (function, name) in NO_READER:
        pytest.skip(f"{row} has no reader of {name}")
    if environment is not None and not interpreter(environment).exists():
        pytest.skip(f"{row} is not set up: benchmarks/readers.sh {environment}")
    request = dict(requests_by_format[version])
    if function == "engine":
        found = engine_reading(request)
    else:
        found = reading(row, json.dumps(request))
    if (row, version) in NOT_READ:
        assert NOT_READ[row, version] in found["error"]
        return
    assert "error" not in found, found["error"]
    assert found[name] == {key: value for key, value in expected(name).items() if key in found[name]}
    assert found[name]["shape"] == list(GRID.shape)


def engine_reading(request: dict[str, Any]) -> dict[str, Any]:
    """Read with our engine's class, so that an installation from before the engine is tested too."""
    return READERS["engine"](request | {"engine": OmeZarrBackend})


def test_the_docs_show_these_cells() -> None:
    text = (ROOT / "docs" / "copick-tools.md").read_text(encoding="utf-8").partition("\n## Readers\n")[2]
    text = text.partition("\n## ")[0]
    table = re.findall(r"^\| ([\w .,-]+?) \| (yes|no)[^|]* \| (yes|no)[^|]* \|", text, re.MULTILINE)
    stated = {
        (row, version): answer for row, *answers in table for version, answer in zip(FORMATS, answers, strict=True)
    }
    cells = {(row, version): "no" if (row, version) in NOT_READ else "yes" for row in ROWS for version in FORMATS}
    assert {key: value for key, value in stated.items() if key[0] != "Neuroglancer"} == cells
