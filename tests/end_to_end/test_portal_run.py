"""From the portal to results: select from a stand-in of the portal, run from S3, open the results with copick."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.store.volumes.pyramid import local_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.projects.project import Project

pytest.importorskip("cryoet_data_portal")
pytest.importorskip("moto.server")

BUCKET = "cryoet-data-portal-public"
SMALL = ("--in-process", "--stages", "segment,separate", "--set", "segment.window=32", "--set", "separate.min_voxels=5")
SMALL += ("--set", "segment.mirrors=no", "--set", "segment.overlap=0")


@dataclass(frozen=True)
class Portal:
    graphql: str
    s3: str
    density: dict[str, np.ndarray]
    """Level 0 of tomograms 11 (10 Å) and 21 (5 Å)."""

    def select(self, folder: Path, *words: str) -> dict[str, Any]:
        settings = (f"portal.endpoint={self.graphql}", f"portal.s3_endpoint={self.s3}")
        options = [word for setting in settings for word in ("--set", setting)]
        return invoke("portal", "select", str(folder), *options, "--json", *words)


def invoke(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return parsed(result.stdout)


def parsed(output: str) -> dict[str, Any]:
    """Return the JSON of a command's output; copick, once imported, sends the logs of all libraries there as well."""
    return dict(json.loads(output[output.index("\n{\n") + 1 if not output.startswith("{") else 0 :]))


@pytest.fixture(scope="module")
def portal(portal_stub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # copick's import sends logs to standard output
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3 = f"http://{host}:{port}"
    options = {"key": "x", "secret": "x", "endpoint_url": s3, "s3_additional_kwargs": {"ACL": "public-read"}}
    Files(f"s3://{BUCKET}", options)._fs.mkdir(BUCKET)
    rng = np.random.default_rng(3)
    density = {"11": sheet(rng, (32, 36, 40)), "21": sheet(rng, (64, 72, 80))}
    scratch = create_project(str(tmp_path_factory.mktemp("scratch")), objects=[("membrane", False, None)])
    for key, spacing in (("11", 10.0), ("21", 5.0)):
        ref = TomogramRef(f"run{key}", "wbp", spacing)
        scratch.write_tomogram(ref, density[key], chunk=24)
        source, path = scratch.stored(ref)
        target = Files(f"s3://{BUCKET}/1/{key}.zarr", options)
        for name in source.listing(path):
            target.write(name, source.read(f"{path}/{name}"))

    def places(key: str) -> dict[str, str]:
        return {"s3OmezarrDir": f"s3://{BUCKET}/1/{key}.zarr", "httpsOmezarrDir": f"{s3}/{BUCKET}/1/{key}.zarr"}

    make = portal_stub
    sizes = {"sizeX": 80, "sizeY": 72, "sizeZ": 64, "voxelSpacing": 5.0, "scale1Dimensions": "40,36,32"}
    records = {
        "Dataset": [make.dataset(10001)],
        "Run": [make.run(1, 10001), make.run(2, 10001)],
        "TomogramVoxelSpacing": [make.spacing(1, 1, 10.0), make.spacing(2, 2, 5.0)],
        "Tomogram": [
            make.tomogram(11, 1, sizeX=40, sizeY=36, sizeZ=32, **places("11")),
            make.tomogram(21, 2, **places("21"), **sizes),
        ],
        "Annotation": [],
    }
    stub = make.PortalStub(records).start()
    yield Portal(stub.url, s3, density)
    stub.stop()
    server.stop()


def sheet(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return noise with one dark bilayer across it."""
    density = rng.normal(size=shape).astype(np.float32)
    middle = shape[2] // 2
    density[:, :, middle - 2 : middle] -= 6
    density[:, :, middle + 2 : middle + 4] -= 6
    return density


@pytest.fixture
def frozen(portal: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Select both tomograms; return manifest and copick config."""
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))
    selection = portal.select(tmp_path / "chosen")
    assert selection["tomograms"] == 2
    return selection["manifest"], selection["config"]


def labels(project: Project, run: str) -> dict[str, np.ndarray]:
    return {
        f"{ref.instance} {ref.voxel_spacing_angstrom:g}": project.read_labels(ref) for ref in project.segmentations(run)
    }


def test_results_equal_those_of_the_same_voxels_in_a_project(
    portal: Portal, frozen: tuple[str, str], tmp_path: Path
) -> None:
    manifest, _ = frozen
    assert invoke("run", manifest, *SMALL, "--json")["summary"]["done"] == 4
    assert invoke("run", manifest, *SMALL, "--json")["summary"] == {"done": 0, "skipped": 4, "failed": 0, "blocked": 0}
    plain = create_project(str(tmp_path / "plain"), objects=[("membrane", False, "GO:0016020")])
    plain.write_tomogram(TomogramRef("1", "wbp-raw", 10.0), portal.density["11"])
    plain.write_tomogram(TomogramRef("2", "wbp-raw", 10.0), local_mean(portal.density["21"]))
    invoke("run", plain.config, *SMALL, "--json")
    for run in ("1", "2"):
        ours, theirs = labels(open_project(manifest), run), labels(plain, run)
        assert set(ours) == set(theirs) == {"False 10", "True 10"}
        for key, array in ours.items():
            np.testing.assert_array_equal(array, theirs[key])
    assert labels(open_project(manifest), "1")["False 10"].any(), "the network sees the sheet"


def test_tomograms_over_https_are_the_same_and_as_strict(
    portal: Portal, frozen: tuple[str, str], tmp_path: Path
) -> None:
    from membrain_cloud.errors import ChunkError

    web = open_project(portal.select(tmp_path / "web", "--set", "portal.https=true")["manifest"])
    store = open_project(frozen[0])
    for run in ("1", "2"):
        (ref,) = web.all_tomograms(run)
        np.testing.assert_array_equal(web.read_density(ref), store.read_density(ref))
    options = {"key": "x", "secret": "x", "endpoint_url": portal.s3}
    bucket = Files(f"s3://{BUCKET}/1/11.zarr", options)
    kept = bucket.read("0/0/1/1")
    bucket.remove("0/0/1/1")
    try:
        with pytest.raises(ChunkError, match=r"chunk 0/1/1 of http.* is missing"):
            web.read_density(web.all_tomograms("1")[0])
    finally:
        Files(bucket.url, options | {"s3_additional_kwargs": {"ACL": "public-read"}}).write("0/0/1/1", kept)


def test_copick_opens_tomograms_and_results(
    portal: Portal, frozen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, config = frozen
    project = open_project(manifest)
    made = np.zeros((32, 36, 40), np.uint8)
    made[:, 5] = 1
    project.write_segmentation(SegmentationRef("2", "membrane", "membrain", "1a2b", 10.0), made)

    import copick
    import cryoet_data_portal._client
    import zarr

    monkeypatch.setattr(cryoet_data_portal._client, "DEFAULT_URL", portal.graphql)
    monkeypatch.setenv("AWS_ENDPOINT_URL", portal.s3)
    root = copick.from_file(config)
    assert sorted(run.name for run in root.runs) == ["1", "2"]
    run = root.get_run("2")
    (tomogram,) = run.get_voxel_spacing(5.0).tomograms
    row = project.all_tomograms("2")[0]
    assert tomogram.tomo_type == row.tomogram_type == "wbp-raw"
    np.testing.assert_array_equal(zarr.open(tomogram.zarr(), mode="r")["0"][:], portal.density["21"])
    (segmentation,) = run.get_segmentations(name="membrane", user_id="membrain")
    assert segmentation.voxel_size == 10.0
    np.testing.assert_array_equal(segmentation.numpy(), made)


def test_a_tomogram_with_an_absent_chunk_fails_alone(
    portal: Portal, frozen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = frozen
    options = {"key": "x", "secret": "x", "endpoint_url": portal.s3}
    bucket = Files(f"s3://{BUCKET}/1/11.zarr", options)
    kept = bucket.read("0/1/0/0")
    bucket.remove("0/1/0/0")
    try:
        result = CliRunner().invoke(main, ["run", manifest, *SMALL, "--json"])
    finally:
        Files(bucket.url, options | {"s3_additional_kwargs": {"ACL": "public-read"}}).write("0/1/0/0", kept)
    assert result.exit_code == 1, result.output
    summary = parsed(result.stdout)
    assert summary["summary"]["done"] == 2
    (failed,) = [outcome for outcome in summary["outcomes"] if outcome["state"] == "failed"]
    assert "chunk 1/0/0" in failed["message"]
    assert f"s3://{BUCKET}/1/11.zarr" in failed["message"], "the URL is named"
    assert invoke("run", manifest, *SMALL, "--json")["summary"]["done"] == 2


def test_a_deposition_has_the_portals_names(portal: Portal, frozen: tuple[str, str], tmp_path: Path) -> None:
    import yaml

    manifest, _ = frozen
    project = open_project(manifest)
    for run in ("1", "2"):
        mask = np.ones(project.grid(project.all_tomograms(run)[0]).shape, np.uint8)
        project.write_segmentation(SegmentationRef(run, "membrane", "membrain", "1a2b", 10.0), mask)
    words = ["--deposition-id", "10303", "--author", "Alice", "--segmentation", "membrane:membrain/1a2b"]
    report = invoke("export", "deposition", manifest, str(tmp_path / "deposit"), *words, "--json")
    content = yaml.safe_load(Path(report["configs"][0]).read_text())
    assert Path(report["configs"][0]).name == "10001.yaml"
    assert content["runs"][0]["sources"][0]["literal"]["value"] == ["TS_1", "TS_2"]
    masks = {
        source["parent_filters"]["include"]["voxel_spacing"][0]: source["SemanticSegmentationMask"].get("rescale")
        for source in content["annotations"][0]["sources"]
    }
    assert masks == {"10.000": None, "5.000": True}
    assert (tmp_path / "deposit/copick/ExperimentRuns/TS_2/Segmentations").is_dir()
