"""Volumes within one task: metadata are read once, and writes need a volume that was created."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import ProjectError, TomogramError, UnfinishedError
from membrain_cloud.geometry import Box, Grid
from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.layers import Layers
from membrain_cloud.store.projects.volume_store import CopickVolumes, VolumeLookup, VolumeWriter, grid_of_array
from membrain_cloud.store.refs import SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

REF = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
GRID = Grid((4, 4, 4), 10.0)
ONES = np.ones((4, 4, 4), np.uint8)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(Files(str(tmp_path)))


def write_volume(lookup: VolumeLookup) -> VolumeWriter:
    writer = VolumeWriter(lookup)
    writer.create(REF, GRID, "uint8", 2)
    writer.write(REF, GRID.box, ONES)
    writer.finish(REF, mean=False)
    return writer


@pytest.mark.parametrize(("keep", "reads"), [(True, 2), (False, 6)])
def test_a_kept_volume_is_opened_once(layers: Layers, keep: bool, reads: int) -> None:
    write_volume(VolumeLookup(layers))
    meter = Meter()
    lookup = VolumeLookup(layers.metered(meter), keep=keep)
    reader = CopickVolumes(lookup)
    counted: list[int] = []
    meter.note_read = counted.append  # type: ignore[method-assign]
    for _ in range(3):
        assert reader.grid(REF) == GRID
    assert len(counted) == reads, "the attributes and the array's metadata"


def test_a_volume_that_is_created_anew_is_opened_anew(layers: Layers) -> None:
    lookup = VolumeLookup(layers, keep=True)
    writer = write_volume(lookup)
    assert lookup.grid(REF) == GRID
    writer.create(REF, Grid((6, 4, 4), 10.0), "uint8", 2)
    assert lookup.grid(REF).shape == (6, 4, 4)
    assert not writer.is_complete(REF)
    writer.remove(REF)
    with pytest.raises(ProjectError, match="there is no such volume"):
        lookup.grid(REF)


def test_only_created_volumes_are_written_and_finished(layers: Layers) -> None:
    writer = VolumeWriter(VolumeLookup(layers))
    with pytest.raises(UnfinishedError, match="was not created"):
        writer.write(REF, Box((0, 0, 0), (2, 4, 4)), ONES[:2])
    with pytest.raises(UnfinishedError, match="cannot be finished"):
        writer.finish(REF, mean=False)
    writer.create(REF, GRID, "uint8", 2)
    writer.write(REF, Box((0, 0, 0), (2, 4, 4)), ONES[:2])
    with pytest.raises(UnfinishedError, match="is missing"):
        writer.finish(REF, mean=False)
    writer.write(REF, Box((2, 0, 0), (4, 4, 4)), ONES[2:])
    writer.finish(REF, mean=False)
    assert writer.is_complete(REF)


@pytest.mark.parametrize("shape", [(4, 4), (4, 0, 4), (1, 4, 4, 4)])
def test_arrays_that_are_not_volumes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TomogramError, match="is not a volume"):
        grid_of_array(np.zeros(shape), REF)
