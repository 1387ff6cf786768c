"""The metadata of a volume's group: OME-Zarr 0.4 and 0.5, and both in one folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from membrain_cloud.errors import ChunkError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.multiscales import (
    from_level,
    has_every_chunk,
    is_finished,
    is_ours,
    level_paths,
    read_attributes,
    read_group,
    scales,
    translation,
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
    datasets = group.attributes["multiscales"][0]["datasets"]
    assert [scales(dataset) for dataset in datasets] == [[[7.5] * 3], [[15.0] * 3], [[30.0] * 3]]
    np.testing.assert_allclose([translation(dataset)[0] for dataset in datasets], [0, 3.75, 11.25])
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
