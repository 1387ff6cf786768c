"""Annotations are listed, read and identified in any layer, and written to the overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Picks
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.annotation_store import AnnotationStore
from membrain_cloud.store.projects.layers import Layers
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

PICKS = ObjectRef("TS_1", "psii", "alice", "1")


@pytest.fixture
def annotations(tmp_path: Path) -> AnnotationStore:
    static = Files(str(tmp_path / "static"))
    AnnotationStore(Layers(static)).write_picks(PICKS, Picks(np.zeros((2, 3))))
    return AnnotationStore(Layers(Files(str(tmp_path / "overlay")), static))


def test_the_overlay_replaces_picks_of_the_static_root(annotations: AnnotationStore) -> None:
    assert annotations.picks("TS_1") == [PICKS]
    assert len(annotations.read_picks(PICKS)) == 2
    before = annotations.identity(PICKS)
    annotations.write_picks(PICKS, Picks(np.zeros((5, 3))))
    assert annotations.picks("TS_1") == [PICKS]
    assert len(annotations.read_picks(PICKS)) == 5
    assert annotations.identity(PICKS) != before
    annotations.remove(PICKS)
    assert len(annotations.read_picks(PICKS)) == 2
    assert annotations.identity(PICKS) == before


def test_absent_annotations_are_named_with_those_that_exist(annotations: AnnotationStore) -> None:
    assert not annotations.has(ObjectRef("TS_1", "psii", "bob", "1"))
    with pytest.raises(ProjectError, match="there is no mesh") as caught:
        annotations.find_object("TS_1", "psii:bob/1")
    assert caught.value.next_step == "there are: psii:alice/1"
    with pytest.raises(ProjectError, match="names 0 segmentations") as caught:
        annotations.find_segmentation("TS_1", "membrane:bob/1")
    assert caught.value.next_step == "the run has none"
    with pytest.raises(ProjectError, match="there is no mesh TS_1/psii:alice/1"):
        annotations.read_meshes(PICKS)


def test_an_identity_from_a_listing_is_the_same(project: Project) -> None:
    labels = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
    project.write_segmentation(labels, np.ones((8, 8, 8), np.uint8))
    project.write_picks(PICKS, Picks(np.zeros((2, 3))))
    for ref, path in ((labels, labels.path), (PICKS, PICKS.picks_path)):
        listing = {name: info for name, info in project.files.listing().items() if name.startswith(path)}
        assert project.listed_identity(ref, listing) == project.identity(ref)
