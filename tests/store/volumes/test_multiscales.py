"""The metadata of a volume's group: OME-Zarr 0.4 and 0.5, and both in one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import ChunkError, VoxelSpacingError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.multiscales import (
    describe,
    from_level,
    has_every_chunk,
    is_finished,
    is_ours,
    level_paths,
    read_attributes,
    read_group,
    write_attributes,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_written_is_read_back(files: Files, zarr_format: int) -> None:
    write_attributes(files, "a", 7.5, levels=3, centred=True, zarr_format=zarr_format)
    group = read_group(files, "a")
    assert group.zarr_format == zarr_format
    assert group.attributes == read_attributes(files, "a")
    assert level_paths(group.attributes) == ["0", "1", "2"]
    assert is_finished(group.attributes)
    assert is_ours(group.attributes)
    assert has_every_chunk(group.attributes)
    description = describe(group.attributes, "a")
    assert description is not None
    assert description.units == ("angstrom",) * 3
    assert [level.path for level in description.levels] == ["0", "1", "2"]
    assert [level.scale for level in description.levels] == [(7.5,) * 3, (15.0,) * 3, (30.0,) * 3]
    np.testing.assert_allclose([level.translation[0] for level in description.levels], [0, 3.75, 11.25])
    assert level_paths(from_level(group.attributes, "1") or {}) == ["1", "2"]
    assert from_level(group.attributes, "9") is None


def multiscales(name: str) -> dict[str, Any]:
    return {"multiscales": [{"datasets": [{"path": name}]}]}


def write(files: Files, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
    if old is not None:
        files.write("a/.zgroup", b'{"zarr_format": 2}')
        files.write("a/.zattrs", json.dumps(old).encode())
    if new is not None:
        content = {"zarr_format": 3, "node_type": "group", "attributes": new}
        files.write("a/zarr.json", json.dumps(content).encode())


@pytest.mark.parametrize(
    ("old", "new", "zarr_format", "levels"),
    [
        (multiscales("0"), {}, 2, ["0"]),  # copick 2 left an empty group where a volume of version 2 is
        ({}, {"ome": multiscales("s0")}, 3, ["s0"]),  # copick 1 left `.zgroup` where it read version 3
        (multiscales("0"), {"ome": multiscales("s0")}, 3, ["s0"]),
        (multiscales("0"), None, 2, ["0"]),
        (None, {"ome": multiscales("s0")}, 3, ["s0"]),
        ({}, {}, None, []),
        (None, None, None, []),
    ],
)
def test_both_versions_in_one_folder(
    files: Files, old: dict[str, Any] | None, new: dict[str, Any] | None, zarr_format: int | None, levels: list[str]
) -> None:
    write(files, old, new)
    group = read_group(files, "a")
    assert (group.zarr_format, level_paths(group.attributes)) == (zarr_format, levels)


def test_torn_metadata_is_named(files: Files) -> None:
    for name in ("zarr.json", ".zattrs"):
        files.write(f"a/{name}", b"[1]")
        with pytest.raises(ChunkError, match=rf"/a: {name} is torn"):
            read_group(files, "a")


AXES = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
LEADING = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *AXES]


def described(axes: list[Any], transforms: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}]} | more]
    }


def test_transformations_of_the_whole_volume_are_included() -> None:
    transforms = [{"type": "scale", "scale": [1, 1, 2, 3, 4]}, {"type": "translation", "translation": [0, 0, 5, 6, 7]}]
    whole = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 10, 10, 10]}]}
    description = describe(described(LEADING, transforms, **whole), "a")
    assert description is not None
    assert description.units == ("nanometer",) * 3
    assert description.levels[0] == ("0", (20.0, 30.0, 40.0), (50.0, 60.0, 70.0))


@pytest.mark.parametrize(
    "attributes",
    [{}, {"multiscales": []}, {"multiscales": [{"axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]}],
)
def test_metadata_without_scales_describe_nothing(attributes: dict[str, Any]) -> None:
    assert describe(attributes, "a") is None


@pytest.mark.parametrize(
    ("axes", "transforms", "why"),
    [
        (AXES, [{"type": "scale", "scale": [1.0, 1.0]}], "axes"),
        (AXES[:2], [{"type": "scale", "scale": [1.0, 1.0]}], "three axes"),
        (AXES, [{"type": "translation", "translation": [1.0] * 3}], "scale"),
        (AXES, [{"type": "scale", "path": "somewhere"}], "path"),
        ([{"name": "z"}, *AXES[1:]], [{"type": "scale", "scale": [1.0] * 3}], "space|axes"),
    ],
)
@pytest.mark.parametrize("version", [{}, {"version": "0.5"}])
def test_scales_that_are_not_valid_are_refused(axes: Any, transforms: Any, why: str, version: dict[str, str]) -> None:
    with pytest.raises(VoxelSpacingError, match=f"not valid.*({why})"):
        describe(described(axes, transforms) | version, "a")


@pytest.mark.parametrize("new", [False, True])
def test_the_first_image_of_several_is_taken(files: Files, new: bool) -> None:
    layout, image = {"bioformats2raw.layout": 3}, described(AXES, [{"type": "scale", "scale": [1.0] * 3}])
    for path, content in (("a", layout), ("a/0", image)):
        if new:
            group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": content | {"version": "0.5"}}}
            files.write(f"{path}/zarr.json", json.dumps(group).encode())
        else:
            files.write(f"{path}/.zattrs", json.dumps(content).encode())
    found = read_group(files, "a")
    assert (found.zarr_format, level_paths(found.attributes)) == (3 if new else 2, ["0/0"])
    description = describe(found.attributes, "a")
    assert description is not None
    assert description.levels[0].path == "0/0"


def test_several_threads_may_read_the_first_metadata_of_a_process(files: Files) -> None:
    """ome-zarr-models imports itself in a circle: threads that import parts of it at once meet incomplete modules."""
    for zarr_format in (2, 3):
        write_attributes(files, str(zarr_format), 7.5, levels=3, centred=True, zarr_format=zarr_format)
    code = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from threading import Barrier\n"
        "from membrain_cloud.store.objects.object_store import Files\n"
        "from membrain_cloud.store.volumes.multiscales import describe, read_attributes, write_attributes\n"
        "files = Files(sys.argv[1]); assert 'ome_zarr_models' not in sys.modules\n"
        "import pydantic, zarr; sys.setswitchinterval(1e-5); barrier = Barrier(9)\n"
        "def use(number):\n"
        "    barrier.wait()\n"
        "    if number % 3: describe(read_attributes(files, str(1 + number % 3)), 'volume')\n"
        "    else: write_attributes(files, f'new{number}', 7.5, levels=3, centred=True)\n"
        "with ThreadPoolExecutor(9) as threads: list(threads.map(use, range(9)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, files.url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
