"""A URI names annotations of several kinds; the resolver returns each under its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import BadNameError, ProjectError
from membrain_cloud.geometry import Mesh, Picks
from membrain_cloud.store.projects.resolve import (
    names_instances,
    parse_target_uri,
    parse_tomogram_uri,
    require_one,
    resolve,
    resolve_one,
)
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

MASK = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0)
INSTANCES = SegmentationRef("TS_1", "membrane", "alice", "1", 10.0, instance=True)
OBJECT = ObjectRef("TS_1", "membrane", "alice", "1")
LABELS = np.ones((8, 8, 8), np.uint8)


@pytest.fixture
def annotated(project: Project) -> Project:
    """Write a mask, instances, picks and a mesh under one name, and only a mask under another."""
    project.write_segmentation(MASK, LABELS)
    project.write_segmentation(INSTANCES, LABELS)
    project.write_segmentation(SegmentationRef("TS_1", "cell", "alice", "1", 10.0), LABELS)
    project.write_picks(OBJECT, Picks(np.zeros((1, 3))))
    project.write_meshes(OBJECT, {1: Mesh(np.eye(3) * 100, np.array([[0, 1, 2]], np.int32))})
    return project


def test_a_plain_uri_names_every_kind(annotated: Project) -> None:
    named = resolve(annotated, "TS_1", "membrane:alice/1")
    assert named == {"segmentation": MASK, "picks": OBJECT, "mesh": OBJECT}
    assert list(named) == ["segmentation", "picks", "mesh"]
    assert list(resolve(annotated, "TS_1", "cell:alice/1")) == ["segmentation"]


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("membrane:alice/1@10.0", {"segmentation": MASK}),
        ("membrane:alice/1@10.0?instance=true", {"instances": INSTANCES}),
        ("membrane:alice/1?instance=true", {"instances": INSTANCES}),
        ("membrane:alice/1@20.0", {}),
        ("cell:alice/1?instance=true", {}),
        ("membrane:bob/1", {}),
    ],
)
def test_a_spacing_or_a_query_names_volumes_only(annotated: Project, uri: str, named: dict[str, object]) -> None:
    assert resolve(annotated, "TS_1", uri) == named


def test_only_kinds_that_exist_are_named(annotated: Project) -> None:
    annotated.remove(OBJECT)
    annotated.write_picks(OBJECT, Picks(np.zeros((1, 3))))
    annotated.remove(MASK)
    assert resolve(annotated, "TS_1", "membrane:alice/1") == {"picks": OBJECT}


def test_volumes_of_several_labels_are_named_by_their_suffix(annotated: Project) -> None:
    ref = SegmentationRef("TS_1", "organelles-multilabel", "alice", "1", 10.0)
    annotated.write_segmentation(ref, LABELS)
    assert resolve(annotated, "TS_1", "organelles-multilabel:alice/1") == {"multilabel": ref}
    assert resolve(annotated, "TS_1", "organelles-multilabel:alice/1@10.0") == {"multilabel": ref}
    assert resolve(annotated, "TS_1", "organelles-multilabel:alice/1@20.0") == {}
    assert resolve(annotated, "TS_1", "organelles-multilabel:alice/1?instance=true") == {}
    assert resolve(annotated, "TS_1", "organelles:alice/1") == {}


def test_an_ambiguous_spacing_names_no_segmentation(annotated: Project) -> None:
    annotated.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 20.0), LABELS)
    assert "segmentation" not in resolve(annotated, "TS_1", "membrane:alice/1")
    assert resolve(annotated, "TS_1", "membrane:alice/1@10.0") == {"segmentation": MASK}


def test_an_absent_run_has_no_annotations(annotated: Project) -> None:
    assert resolve(annotated, "TS_2", "membrane:alice/1") == {}
    with pytest.raises(BadNameError):
        resolve(annotated, "../TS_1", "membrane:alice/1")
    with pytest.raises(ProjectError, match="does not name one annotation"):
        resolve(annotated, "TS_1", "membrane")


def test_only_the_wanted_kinds_are_searched(annotated: Project) -> None:
    assert resolve(annotated, "TS_1", "membrane:alice/1", ("mesh",)) == {"mesh": OBJECT}
    assert resolve_one(annotated, "TS_1", "membrane:alice/1", ("picks", "segmentation")) == OBJECT
    assert resolve_one(annotated, "TS_1", "membrane:alice/1", ("segmentation", "picks")) == MASK
    assert resolve_one(annotated, "TS_1", "membrane:alice/1", ("instances",)) is None
    assert resolve_one(annotated, "TS_1", "membrane:alice/1?instance=true", ("segmentation", "instances")) == INSTANCES
    assert resolve_one(annotated, "TS_1", "membrane:bob/1", ("mesh",)) is None


def test_an_ambiguous_uri_is_refused_with_the_spacings(annotated: Project) -> None:
    annotated.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 20.0), LABELS)
    with pytest.raises(ProjectError, match=r"2 segmentations -> add the @spacing: .*@10\.000, .*@20\.000"):
        resolve_one(annotated, "TS_1", "membrane:alice/1", ("segmentation",))
    assert resolve_one(annotated, "TS_1", "membrane:alice/1@20", ("segmentation",)) is not None
    assert resolve_one(annotated, "TS_1", "membrane:alice/1", ("mesh",)) == OBJECT


def test_an_absent_annotation_is_refused_with_what_there_is(annotated: Project) -> None:
    with pytest.raises(ProjectError, match=r"names no mask and no meshes -> there are: .*cell:alice"):
        require_one(annotated, "TS_1", "membrane:bob/1", ("segmentation", "mesh"))
    with pytest.raises(ProjectError, match="the run has none"):
        require_one(annotated, "TS_9", "membrane:bob/1", ("mesh",))


@pytest.mark.parametrize(
    ("uri", "parts"),
    [("wbp@10.0", ("wbp", "10.0")), ("wbp", ("wbp", None)), ("*@7.84", (None, "7.84")), ("@7.84", (None, "7.84"))],
)
def test_parts_of_a_tomogram_may_be_left_open(uri: str, parts: tuple[str | None, str | None]) -> None:
    assert parse_tomogram_uri(uri) == parts


@pytest.mark.parametrize("uri", ["wbp*@10", "re:wb.@10", "wbp@1*"])
def test_patterns_of_tomograms_are_refused(uri: str) -> None:
    with pytest.raises(ProjectError, match="is a pattern"):
        parse_tomogram_uri(uri)


@pytest.mark.parametrize("uri", ["membrane:alice/3", "membrane:alice/3@10.0", "membrane:alice/3@10.0?instance=true"])
def test_a_target_has_name_user_and_session(uri: str) -> None:
    assert parse_target_uri(uri) == ("membrane", "alice", "3")
    assert names_instances(uri) == ("instance" in uri)


@pytest.mark.parametrize("uri", ["membrane", "membrane:alice", "membrane:a*/3", ":a/b", "a:b:c/d", "re:a:b/c"])
def test_targets_that_are_open_are_refused(uri: str) -> None:
    with pytest.raises(ProjectError):
        parse_target_uri(uri)


def test_one_type_at_most() -> None:
    with pytest.raises(ProjectError, match="one type"):
        names_instances("a:b/c?instance=true&multilabel=true")
