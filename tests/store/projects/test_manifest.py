"""Manifests list tomograms at any place; planning trusts them, reading checks them."""

from __future__ import annotations

import functools
import json
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError, TomogramError, VoxelSpacingError
from membrain_cloud.geometry import Picks
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.manifest import freeze, read_manifest, without_secrets, write_manifest
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.projects.stored_project import ManifestProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.projects.project import Project

SHAPE = (20, 24, 28)
TOMOGRAM = TomogramRef("TS_1", "wbp", 10.0)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Project:
    project = create_project(str(tmp_path / "source"), objects=[("membrane", False, "GO:0016020")])
    for run in ("TS_1", "TS_2"):
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), VALUES, chunk=16)
    return project


def row(url: str, **changes: Any) -> dict[str, Any]:
    z, y, x = SHAPE
    values = {
        "tomogram_id": "4711", "run_name": "TS_1", "dataset_id": "10301", "deposition_id": None,
        "tomogram_type": "wbp", "voxel_spacing_angstrom": 10.0, "size_z": z, "size_y": y, "size_x": x,
        "level": "0", "url": url, "identity": "abc", "bytes": 0,
    }  # fmt: skip
    return values | changes


def manifest(folder: Path, *rows: dict[str, Any], **more: Any) -> ManifestProject:
    path = str(folder / "some.parquet")
    write_manifest(path, rows, overlay_root=str(folder / "overlay"), **more)
    opened = open_project(path)
    assert isinstance(opened, ManifestProject)
    return opened


@pytest.fixture
def server(source: Project) -> Iterator[str]:
    """Serve the folder of the source over HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if (Path(source.root_url) / "forbidden").exists() and self.path.endswith("/0/1/1/1"):
                self.send_error(403)
            else:
                super().do_GET()

    web = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=source.root_url))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_address[1]}"
    web.shutdown()
    web.server_close()


def test_a_frozen_project_reads_the_same(source: Project, tmp_path: Path) -> None:
    chosen = source.tomograms(None, None, None)
    path = str(tmp_path / "frozen.parquet")
    assert freeze(source, path, chosen, dataset="local", selection={}) == {}
    frozen = open_project(path)
    assert frozen.is_frozen
    assert frozen.tomograms(None, None, None) == chosen
    assert frozen.grid(TOMOGRAM) == source.grid(TOMOGRAM)
    assert frozen.identity(TOMOGRAM) == source.identity(TOMOGRAM)
    np.testing.assert_array_equal(frozen.read_density(TOMOGRAM), VALUES)
    assert frozen.receipts.url == source.receipts.url
    folder = Path(source.root_url) / TOMOGRAM.path / "0"
    assert frozen.stored_bytes(TOMOGRAM) == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_damaged_tomogram_is_left_out_of_a_manifest(source: Project, tmp_path: Path) -> None:
    (Path(source.root_url) / TOMOGRAM.path / "0" / ".zarray").write_text("{")
    path = str(tmp_path / "frozen.parquet")
    left_out = freeze(source, path, source.tomograms(None, None, None), dataset="local", selection={})
    assert list(left_out) == ["TS_1"]
    assert open_project(path).runs() == ["TS_2"]


def test_results_go_to_the_overlay_and_copick_opens_them(source: Project, tmp_path: Path) -> None:
    import copick

    project = manifest(tmp_path, row(f"{source.root_url}/{TOMOGRAM.path}"))
    labels = SegmentationRef("TS_1", "membrane", "membrain", "1", 10.0)
    project.ensure_object("membrane", is_particle=False, identifier=None)
    project.ensure_object("protein", is_particle=True, identifier=None)
    project.write_segmentation(labels, (VALUES > 1).astype(np.uint8))
    project.write_picks(ObjectRef("TS_1", "protein", "membrain", "1"), Picks(np.ones((2, 3))))
    np.testing.assert_array_equal(project.read_labels(labels), VALUES > 1)
    assert not (Path(source.root_url) / labels.path).exists()
    run = copick.from_file(f"{project.root_url}/membrain-cloud/copick.json").get_run("TS_1")
    assert run.segmentations[0].name == "membrane"
    assert len(run.picks[0].points) == 2
    with pytest.raises(ProjectError, match="is a particle"):
        project.ensure_object("protein", is_particle=False, identifier=None)


def test_planning_opens_nothing_and_reading_checks(tmp_path: Path, source: Project) -> None:
    gone = manifest(tmp_path, row(str(tmp_path / "nowhere")))
    assert gone.grid(TOMOGRAM).shape == SHAPE
    assert gone.identity(TOMOGRAM) == "abc"
    with pytest.raises(ProjectError, match="make the manifest again"):
        gone.read_density(TOMOGRAM)
    other = manifest(tmp_path, row(f"{source.root_url}/{TOMOGRAM.path}", size_z=21))
    with pytest.raises(TomogramError, match="the manifest says"):
        other.read_density(TOMOGRAM)


def test_another_level_is_another_tomogram(tmp_path: Path, source: Project) -> None:
    project = manifest(
        tmp_path,
        row(
            f"{source.root_url}/{TOMOGRAM.path}",
            level="1",
            voxel_spacing_angstrom=20.0,
            size_z=10,
            size_y=12,
            size_x=14,
        ),
    )
    coarse = TomogramRef("TS_1", "wbp", 20.0)
    assert project.tomograms(None, None, None) == [coarse]
    assert project.grid(coarse).voxel_spacing_angstrom == 20.0
    assert project.read_density(coarse).shape == (10, 12, 14)
    assert project.identity(coarse) != "abc"
    assert not project.has(TOMOGRAM)


def test_no_chunk_of_a_tomogram_on_the_web_is_filled_in(tmp_path: Path, server: str, source: Project) -> None:
    project = manifest(tmp_path, row(f"{server}/{TOMOGRAM.path}"))
    np.testing.assert_array_equal(project.read_density(TOMOGRAM), VALUES)
    forbidden = Path(source.root_url) / "forbidden"
    forbidden.touch()
    with pytest.raises(ChunkError, match=r"chunk 1/1/1 .* cannot be read"):
        project.read_density(TOMOGRAM)
    forbidden.unlink()
    chunk = Path(source.root_url) / TOMOGRAM.path / "0/0/1/1"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-3])
    with pytest.raises(ChunkError, match="truncated"):
        project.read_density(TOMOGRAM)
    chunk.unlink()
    with pytest.raises(ChunkError, match=r"chunk 0/1/1 .* is missing"):
        project.read_density(TOMOGRAM)


def test_a_project_pickles_as_its_path_and_is_opened_once(tmp_path: Path, source: Project) -> None:
    project = manifest(tmp_path, row(f"{source.root_url}/{TOMOGRAM.path}"))
    assert open_project(project.config) is project
    again = pickle.loads(pickle.dumps(project))  # noqa: S301
    np.testing.assert_array_equal(again.read_density(TOMOGRAM), VALUES)
    changed = manifest(tmp_path, row(f"{source.root_url}/{TOMOGRAM.path}", identity="xyz"))
    assert changed.identity(TOMOGRAM) == "xyz"


def test_rows_that_make_no_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"run TS_1 has two tomograms, 4711 and 4712"):
        manifest(tmp_path, row("/a"), row("/b", tomogram_id="4712"))
    with pytest.raises(ProjectError, match=r"runs TS_1 and TS_2 are both tomogram 4711"):
        manifest(tmp_path, row("/a"), row("/b", run_name="TS_2"))
    with pytest.raises(ProjectError, match="row 1 has no identity"):
        manifest(tmp_path, row("/a", identity=None))
    with pytest.raises(ProjectError, match="size_z must be int32"):
        manifest(tmp_path, row("/a", size_z="many"))
    with pytest.raises(ProjectError, match="no tomogram is left"):
        manifest(tmp_path)
    for change in ({"run_name": "../a"}, {"dataset_id": "a/b"}, {"tomogram_type": ".."}, {"level": "../0"}):
        with pytest.raises(BadNameError):
            manifest(tmp_path, row("/a", **change))
    with pytest.raises(VoxelSpacingError):
        manifest(tmp_path, row("/a", voxel_spacing_angstrom=900.0)).grid(TomogramRef("TS_1", "wbp", 900.0))


def test_files_that_are_no_manifest_are_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no such manifest") as caught:
        read_manifest(str(tmp_path / "none.parquet"))
    assert "portal select" in caught.value.next_step
    path = tmp_path / "some.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ProjectError, match="is no manifest"):
        read_manifest(str(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ProjectError, match="is no manifest"):
        read_manifest(str(path))
    good = manifest(tmp_path, row("/a"))
    table = pq.read_table(good.config)
    metadata = json.loads(table.schema.metadata[b"membrain_cloud"])
    pq.write_table(table.drop_columns(["url", "level"]), path)
    with pytest.raises(ProjectError, match="no column level, url"):
        read_manifest(str(path))
    newer = {b"membrain_cloud": json.dumps(metadata | {"version": 2}).encode()}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(ProjectError, match="version 2"):
        read_manifest(str(path))


def test_a_row_with_a_bad_name_fails_alone(tmp_path: Path) -> None:
    good = manifest(tmp_path, row("/a"), row("/b", run_name="TS_2", tomogram_id="2"))
    table = pq.read_table(good.config)
    names = pa.array(["../TS_1", "TS_2"])
    bad = table.set_column(table.column_names.index("run_name"), "run_name", names)
    pq.write_table(bad, good.config)
    opened = open_project(good.config)
    assert opened.runs() == ["TS_2"]
    assert list(opened.bad_runs()) == ["../TS_1"]


def test_credentials_are_never_written(tmp_path: Path) -> None:
    secret = {
        "key": "AKIA",
        "secret": "hidden",
        "client_kwargs": {"aws_secret_access_key": "hidden", "region_name": "x"},
    }
    assert without_secrets(secret) == {"client_kwargs": {"region_name": "x"}}
    project = manifest(tmp_path, row("/a", further=3), source_fs_args={**secret, "anon": True})
    assert b"hidden" not in Path(project.config).read_bytes()
    assert project.manifest.metadata["source_fs_args"] == {"client_kwargs": {"region_name": "x"}, "anon": True}
    assert pq.read_table(project.config)["further"].to_pylist() == [3]
