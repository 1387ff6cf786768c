"""Selection from a stub of the portal that follows its published schema."""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.cli.commands import portal as verbs
from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.store.portal import selection as portal
from membrain_cloud.store.portal.client import PortalClient
from membrain_cloud.store.portal.selection import PortalQuery, Selection, select, tomogram_type

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def stub(portal_stub: Any) -> Iterator[Any]:
    """Serve three datasets; run 3 has several tomograms, run 4 a membrane annotation, run 6 no OME-Zarr."""
    make = portal_stub
    records = {
        "Dataset": [
            make.dataset(10001, organismName="Chlamydomonas reinhardtii"),
            make.dataset(10002, organismName="Homo sapiens", depositionId=7),
            make.dataset(10003, organismName=None),
        ],
        "Run": [make.run(key, 10001 + (key - 1) // 3) for key in range(1, 8)],
        "Tomogram": [
            make.tomogram(101, 1),
            make.tomogram(102, 2, voxelSpacing=5.0, depositionId=7),
            make.tomogram(301, 3, isVisualizationDefault=False, isPortalStandard=True),
            make.tomogram(302, 3, processing="denoised", processingSoftware="cryoCARE", ctfCorrected=True),
            make.tomogram(303, 3, isVisualizationDefault=False, processing="denoised"),
            make.tomogram(401, 4, reconstructionMethod="Fourier_Space"),
            make.tomogram(501, 5, voxelSpacing=13.48, scale1Dimensions=None, scale2Dimensions=None),
            make.tomogram(601, 6, s3OmezarrDir=None),
            make.tomogram(701, 7, voxelSpacing=2.62, sizeX=960, sizeY=928, sizeZ=300, processing="filtered")
            | {"scale1Dimensions": "480,464,150", "scale2Dimensions": "240,232,75", "fileSizeOmezarr": 1e9},
        ],
        "Annotation": [
            make.annotation(1, 4),
            make.annotation(2, 5, objectId="GO:0005840", objectName="ribosome"),
        ],
    }
    served = make.PortalStub(records).start()
    yield served
    served.stop()


def chosen(stub: Any, near: float = 10.0, **query: Any) -> Selection:
    options = {key: query.pop(key) for key in ("limit", "seed", "bucket", "over_https") if key in query}
    return select(PortalClient(stub.url, page=4), PortalQuery(**query), spacing_near_angstrom=near, **options)


def ids(selection: Selection) -> list[str]:
    return [tomogram.tomogram_id for tomogram in selection.tomograms]


def test_one_tomogram_per_run_is_selected_and_the_rest_counted(stub: Any) -> None:
    found = chosen(stub)
    assert ids(found) == ["101", "102", "302", "401", "501", "701"]
    assert found.left_out == {
        "another tomogram of their run was taken": 2,
        "no OME-Zarr, no run or no voxel spacing": 1,
    }
    assert found.requests == 3, "nine tomograms in pages of four"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"datasets": (10001,)}, ["101", "102", "302"]),
        ({"datasets": (10001, 10003)}, ["101", "102", "302", "701"]),
        ({"depositions": (7,)}, ["102"]),
        ({"organisms": ("chlamydomonas",)}, ["101", "102", "302"]),
        ({"organisms": ("chlamydomonas", "HOMO")}, ["101", "102", "302", "401", "501"]),
        ({"organisms": ("sapiens",), "datasets": (10001,), "runs": ("TS_4",)}, None),
        ({"runs": ("TS_1", "TS_5")}, ["101", "501"]),
        ({"runs": ("3", "TS_5")}, ["302", "501"]),
        ({"voxel_spacing_min_angstrom": 11.0}, ["501"]),
        ({"voxel_spacing_min_angstrom": 4.0, "voxel_spacing_max_angstrom": 9.0}, ["102"]),
        ({"processings": ("denoised", "filtered")}, ["302", "701"]),
        ({"reconstructions": ("Fourier_Space",)}, ["401"]),
        ({"visualization_default": True, "runs": ("3",)}, ["302"]),
        ({"unannotated": True}, ["101", "102", "302", "501", "701"]),
        ({"unannotated": True, "datasets": (10002,)}, ["501"]),
        ({"limit": 2}, ["101", "102"]),
    ],
)
def test_filters(stub: Any, query: dict[str, Any], expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(InputError, match="no tomogram is left"):
            chosen(stub, **query)
    else:
        assert ids(chosen(stub, **query)) == expected


def test_a_sample_is_the_same_for_the_same_seed(stub: Any) -> None:
    samples = {seed: ids(chosen(stub, limit=3, seed=seed)) for seed in range(8)}
    assert samples[1] == ids(chosen(stub, limit=3, seed=1))
    assert len({tuple(sample) for sample in samples.values()}) > 2
    assert chosen(stub, limit=3, seed=1).left_out["above the limit"] == 3


def test_the_level_nearest_to_the_spacing_is_selected(stub: Any) -> None:
    found = {tomogram.tomogram_id: tomogram for tomogram in chosen(stub).tomograms}
    assert (found["101"].level, found["101"].shape) == ("0", (8, 10, 12))
    assert (found["102"].level, found["102"].shape, found["102"].voxel_spacing_angstrom) == ("1", (4, 5, 6), 10.0)
    assert (found["501"].level, found["501"].voxel_spacing_angstrom) == ("0", 13.48)
    coarse = found["701"]
    assert (coarse.level, coarse.shape, coarse.voxel_spacing_angstrom) == ("2", (75, 232, 240), 10.48)
    assert 0.01e9 < coarse.bytes < 0.02e9, "an eighth of an eighth of what level 0 takes"
    assert {tomogram.level for tomogram in chosen(stub, near=2.0).tomograms} == {"0"}


def test_tomogram_types_are_those_of_copick(stub: Any) -> None:
    found = {tomogram.tomogram_id: tomogram.tomogram_type for tomogram in chosen(stub).tomograms}
    assert found["302"] == "wbp-denoised-cryocare-ctfdeconv"
    assert found["401"] == "fourierSpace-raw"
    from copick.impl.cryoet_data_portal import CopickTomogramMetaCDP, _PortalTomogram

    for record in stub.records["Tomogram"]:
        snake = {re.sub("([A-Z])", lambda match: "_" + match[1].lower(), key): value for key, value in record.items()}
        source = _PortalTomogram(**{key: snake[key] for key in _PortalTomogram.model_fields if key in snake})
        assert tomogram_type(record) == _copick_type(CopickTomogramMetaCDP, source)


def _copick_type(meta: Any, source: Any) -> str:
    class Source:
        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def to_dict(self) -> dict[str, Any]:
            return {}

    return str(meta.from_portal(Source(), author_names=[]).tomo_type)


def test_urls_of_a_mirror_and_of_the_web_server(stub: Any) -> None:
    assert chosen(stub, runs=("1",)).tomograms[0].url == "s3://cryoet-data-portal-public/1/101.zarr"
    assert chosen(stub, runs=("1",), bucket="s3://mirror/x/").tomograms[0].url == "s3://mirror/x/1/101.zarr"
    assert chosen(stub, runs=("1",), over_https=True).tomograms[0].url == "https://files.example.org/1/101.zarr"


def test_the_identity_changes_with_the_record(portal_stub: Any) -> None:
    record = portal_stub.tomogram(1, 1) | {"run": portal_stub.run(1, 1) | {"dataset": None}}
    before = portal._tomogram(record, 10.0, "s3://cryoet-data-portal-public", False)
    later = portal._tomogram(record | {"lastModifiedDate": "2025"}, 10.0, "s3://cryoet-data-portal-public", False)
    assert before is not None
    assert later is not None
    assert before.identity != later.identity
    assert dataclasses.replace(later, identity=before.identity) == before


@pytest.mark.parametrize("query", [{"processings": ("smooth",)}, {"reconstructions": ("wbp",)}])
def test_unknown_terms_are_refused_without_a_request(query: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the portal has no"):
        PortalQuery(**query)
    with pytest.raises(UsageError, match="from 9 to 3"):
        PortalQuery(voxel_spacing_min_angstrom=9, voxel_spacing_max_angstrom=3)


def test_terms_are_those_of_the_schema() -> None:
    text = (importlib.resources.files("cryoet_data_portal") / "data" / "schema.graphql").read_text()

    def values(enum: str) -> set[str]:
        match = re.search(rf"enum {enum} {{(.*?)}}", re.sub(r'"""[^"]*"""', "", text), re.DOTALL)
        assert match is not None
        return set(match[1].split())

    assert set(portal.PROCESSINGS) == values("tomogram_processing_enum") == set(verbs.PROCESSINGS)
    assert set(portal.RECONSTRUCTIONS) == values("tomogram_reconstruction_method_enum") == set(verbs.RECONSTRUCTIONS)
