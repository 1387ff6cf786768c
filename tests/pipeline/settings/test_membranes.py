"""The sections `separate` and `mesh`: regions, given segmentations and seed points."""

from __future__ import annotations

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.settings.membranes import MeshSettings, SeparateSettings


@pytest.mark.parametrize(
    ("region", "box"),
    [
        (None, None),
        ("cell:alice/1@10.0", None),
        ("0,0,5,330,1000,1e3", ((0.0, 0.0, 5.0), (330.0, 1000.0, 1000.0))),
    ],
)
def test_a_region_is_an_annotation_or_a_box(region: str | None, box: object) -> None:
    assert SeparateSettings(region=region).region_box == box


@pytest.mark.parametrize("region", ["1,2,3", "a,b,c,d,e,f", "9,0,0,1,1,1"])
def test_a_region_that_is_neither_is_refused(region: str) -> None:
    with pytest.raises(UsageError, match=r"separate\.region"):
        load_settings(None, [f"separate.region={region}"])


def test_instances_are_told_by_the_query_of_their_uri() -> None:
    assert SeparateSettings(segmentation="membrane:alice/1@10.0?instance=True").starts_from_instances
    assert not SeparateSettings(segmentation="membrane:alice/1@10.0").starts_from_instances
    assert not SeparateSettings().starts_from_instances


def test_a_seed_is_a_point_and_needs_a_surface_with_sides() -> None:
    assert MeshSettings(surface="side", seed="1,2,3.5").seed_point == (1.0, 2.0, 3.5)
    with pytest.raises(UsageError, match="mesh"):
        load_settings(None, ["mesh.seed=1,2,3"])
    with pytest.raises(UsageError, match=r"mesh\.seed"):
        load_settings(None, ["mesh.surface=side", "mesh.seed=1,2"])
