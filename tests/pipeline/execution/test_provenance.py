"""Parts of a receipt: paths and checksums of outputs, versions."""

from __future__ import annotations

import membrain_cloud
from membrain_cloud.pipeline.execution.provenance import class_pick_paths, content_checksum, output_paths, versions
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

PICKS = ObjectRef("TS_1", "membrane-protein", "membrain", "1a2b3c4d")
MASK = SegmentationRef("TS_1", "membrane", "membrain", "1a2b3c4d", 10.0)


def test_an_object_may_be_meshes_or_picks() -> None:
    assert output_paths(PICKS) == [PICKS.mesh_path, PICKS.picks_path]
    assert output_paths(MASK) == [MASK.path]


def test_picks_of_single_classes_lie_beside_all_picks() -> None:
    paths = class_pick_paths(PICKS, {"picks": 3, "classes": {"psii": 2, "b6f": 1}})
    assert [path.rpartition("_")[2] for path in paths] == ["b6f.json", "psii.json"]
    assert class_pick_paths(PICKS, {"picks": 3}) == class_pick_paths(MASK, {"classes": {"psii": 2}}) == []


def test_the_checksum_depends_on_names_sizes_and_contents_not_on_order() -> None:
    objects = {"a": (1, "x"), "b": (2, "y")}
    same = content_checksum(dict(reversed(objects.items())))
    assert content_checksum(objects) == same
    others = [{"a": (1, "x")}, {"a": (1, "x"), "c": (2, "y")}, {"a": (1, "x"), "b": (3, "y")}]
    assert same not in map(content_checksum, others)
    assert len({content_checksum(other) for other in others}) == 3


def test_versions_are_those_that_affect_results() -> None:
    assert versions()["membrain_cloud"] == membrain_cloud.__version__
    assert {"python", "numpy", "torch", "copick"} <= versions().keys()
