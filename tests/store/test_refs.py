"""Names are checked before they become paths, and URIs are copick's."""

from __future__ import annotations

import pytest

from membrain_cloud.errors import BadNameError, ProjectError, VoxelSpacingError
from membrain_cloud.store.refs import (
    FeaturesRef,
    ObjectRef,
    SegmentationRef,
    TomogramRef,
    check_name,
    clean_name,
    parse_object_file,
    parse_segmentation_file,
    parse_uri,
)

BAD = ["", ".", "..", "../x", "a/b", "a\\b", "a b", "a\tb", "a\nb", ".hidden", "a..b", "x\x00", "a:b", "a*", "a?"]


@pytest.mark.parametrize("name", BAD)
def test_names_that_leave_their_folder_are_refused(name: str) -> None:
    for make in (
        lambda: TomogramRef(name, "wbp", 10.0),
        lambda: TomogramRef("run", name, 10.0),
        lambda: FeaturesRef("run", name, 10.0, "scores"),
        lambda: FeaturesRef("run", "wbp", 10.0, name),
        lambda: SegmentationRef("run", name, "u", "s", 10.0),
        lambda: SegmentationRef("run", "n", "u", name, 10.0),
        lambda: ObjectRef("run", "n", name, "s"),
        lambda: TomogramRef.from_dict({"run": name, "tomogram_type": "wbp", "voxel_spacing_angstrom": 10.0}),
    ):
        with pytest.raises(BadNameError) as caught:
            make()
        assert caught.value.next_step


def test_underscore_separates_names_in_copick_but_is_fine_in_runs() -> None:
    assert check_name("TS_026.a", "run") == "TS_026.a"
    with pytest.raises(BadNameError, match="use 'my-user'"):
        ObjectRef("TS_026", "membrane", "my_user", "1")
    with pytest.raises(BadNameError, match="use 'membrane-scores'"):
        FeaturesRef("TS_026", "wbp_a", 10.0, "membrane_scores")


@pytest.mark.parametrize(
    ("outside", "run"),
    [
        ("TS_1", "TS_1"),
        ("my tomo", "my-tomo"),
        ("a/../b", "a---b"),
        ("..", None),
        ("..x", "x"),
        ("a:b*", "a-b"),
        (" ", None),
    ],
)
def test_clean_name(outside: str, run: str | None) -> None:
    if run is None:
        with pytest.raises(BadNameError):
            clean_name(outside)
    else:
        assert clean_name(outside) == run
        check_name(run, "run")


def test_keys_paths_and_uris() -> None:
    tomogram = TomogramRef("TS_1", "wbp", 10)
    assert tomogram.key == "TS_1/wbp@10.000"
    assert tomogram.path == "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr"
    assert TomogramRef.from_dict(tomogram.as_dict()) == tomogram
    features = FeaturesRef("TS_1", "wbp", 10, "membrane-scores")
    assert features.key == "TS_1/wbp@10.000:membrane-scores"
    assert features.path == "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp_membrane-scores_features.zarr"
    assert features.tomogram == tomogram
    assert FeaturesRef.from_dict(features.as_dict()) == features
    instances = SegmentationRef("TS_1", "membrane", "membrain", "ab12", 7.84, instance=True)
    assert instances.uri == "membrane:membrain/ab12@7.840?instance=true"
    assert instances.path == "ExperimentRuns/TS_1/InstanceSegmentations/7.840_membrain_ab12_membrane.zarr"
    assert SegmentationRef.from_dict(instances.as_dict()) == instances
    assert ObjectRef("TS_1", "membrane", "membrain", "ab12").uri == "membrane:membrain/ab12"


def test_copick_parses_our_uris() -> None:
    from copick.util.uri import parse_copick_uri

    uri = SegmentationRef("TS_1", "membrane", "alice", "3", 10.0, instance=True).uri
    theirs = parse_copick_uri(uri, "segmentation")
    ours = parse_uri(uri)
    assert (theirs["name"], theirs["user_id"], theirs["session_id"]) == (ours.name, ours.user, ours.session)
    assert float(theirs["voxel_spacing"]) == ours.voxel_spacing_angstrom == 10.0
    assert ours.instance


@pytest.mark.parametrize("uri", ["membrane", "membrane:a", "m:a/b@x", "m:a/b@10?multilabel=true", "m:*/b@10 x:y/z", ""])
def test_malformed_uris_are_refused(uri: str) -> None:
    with pytest.raises(ProjectError):
        parse_uri(uri)


def test_spacings_are_positive_numbers() -> None:
    for spacing in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(VoxelSpacingError):
            TomogramRef("run", "wbp", spacing)


def test_foreign_file_names_are_skipped() -> None:
    assert parse_object_file("run", "alice_1_membrane.json", ".json") == ObjectRef("run", "membrane", "alice", "1")
    for name in ("manifest.json", "alice_1.json", "a_b_c.txt", "a__b.json"):
        assert parse_object_file("run", name, ".json") is None
    ref = SegmentationRef("run", "membrane", "alice", "1", 10.0)
    assert parse_segmentation_file("run", "10.000_alice_1_membrane.zarr", instance=False) == ref
    for name in ("10.0_alice_1_membrane.zarr", "x_a_1_m.zarr", "10.000_a_1_m-multilabel.zarr", "readme.zarr"):
        assert parse_segmentation_file("run", name, instance=False) is None
