"""`membrain-cloud portal select` against a stand-in of the portal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from membrain_cloud.cli import main
from membrain_cloud.cli.commands.portal import QueryOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("cryoet_data_portal")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def stub(portal_stub: Any) -> Iterator[Any]:
    served = portal_stub.PortalStub(portal_stub.crowd(12)).start()
    yield served
    served.stop()


def select(stub: Any, folder: Path, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["portal", "select", str(folder), "--set", f"portal.endpoint={stub.url}", *words], prog_name="x"
    )


def test_manifest_and_config_are_written_once(stub: Any, tmp_path: Path) -> None:
    result = select(stub, tmp_path / "chosen", "--unannotated", "--limit", "3", "--json")
    assert result.exit_code == 0, result.output
    selection = json.loads(result.stdout)
    assert (selection["tomograms"], selection["datasets"], selection["voxels"]) == (3, 1, 3 * 960)
    assert selection["left_out"]["above the limit"] == 1
    assert 0 < selection["estimated_gpu_hours"] < 0.1
    table = pyarrow.parquet.read_table(selection["manifest"])
    assert table.column("tomogram_id").to_pylist() == ["2", "4", "8"]
    assert table.column("run_name").to_pylist() == ["1", "2", "4"]
    meta = json.loads(table.schema.metadata[b"membrain_cloud"])
    assert meta["version"] == 1
    assert meta["source_fs_args"] == {"anon": True}
    assert meta["selection"]["query"]["unannotated"] is True
    assert meta["selection"]["endpoint"] == stub.url
    config = json.loads(Path(selection["config"]).read_text())
    assert config["config_type"] == "cryoet_data_portal"
    assert config["dataset_ids"] == [10000]
    assert config["pickable_objects"][0]["identifier"] == "GO:0016020"
    again = select(stub, tmp_path / "chosen")
    assert again.exit_code == 2
    assert "is there already" in again.output
    assert select(stub, tmp_path / "chosen", "--overwrite").exit_code == 0
    assert pyarrow.parquet.read_table(selection["manifest"]).num_rows == 6


def test_a_dry_run_writes_nothing_and_reports_what_is_left_out(stub: Any, tmp_path: Path) -> None:
    result = select(stub, tmp_path / "chosen", "--dry-run")
    assert result.exit_code == 0
    assert "6 (another tomogram of their run was taken)" in result.output
    assert not (tmp_path / "chosen").exists()


def test_secrets_do_not_reach_the_manifest(stub: Any, tmp_path: Path) -> None:
    options = ("--overlay", "s3://bucket/here", "--overlay-option", "secret=hush")
    result = select(stub, tmp_path / "chosen", *options)
    assert result.exit_code == 2
    assert "environment" in result.output
    assert "hush" not in result.output
    assert not (tmp_path / "chosen").exists()


def test_options_are_the_query() -> None:
    empty: dict[str, Any] = dict.fromkeys(("datasets", "depositions", "organisms", "runs"), ())
    empty |= {"processings": (), "reconstructions": (), "visualization_default": False, "unannotated": False}
    query = QueryOptions(**(empty | {"voxel_spacing": (5.0, 8.0), "datasets": (10302,)})).query()
    assert (query.voxel_spacing_min_angstrom, query.voxel_spacing_max_angstrom) == (5.0, 8.0)
    assert query.datasets == (10302,)
    assert QueryOptions(**(empty | {"voxel_spacing": None})).query().voxel_spacing_min_angstrom is None


def test_nothing_selected_is_an_error(stub: Any, tmp_path: Path) -> None:
    result = select(stub, tmp_path / "chosen", "--organism", "nobody")
    assert result.exit_code == 2
    assert "no tomogram is left" in result.output


_PROBE = """
import sys
from membrain_cloud.cli import main
from membrain_cloud.cli.commands.portal import QueryOptions
code = main(sys.argv[1:], standalone_mode=False)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_twenty_thousand_tomograms(portal_stub: Any, tmp_path: Path) -> None:
    """Selecting takes less than 1 GB (0.3 GB measured) and one request per 500 tomograms."""
    server = subprocess.Popen([sys.executable, portal_stub.__file__, "20000"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = f"portal.endpoint={server.stdout.readline().strip()}"
        words = ["portal", "select", str(tmp_path / "all"), "--unannotated", "--json", "--set", endpoint]
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", _PROBE, *words], capture_output=True, text=True, check=False)
        print(f"{time.monotonic() - start:.1f} s, {done.stderr.strip().splitlines()[-1]}")
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    assert done.returncode == 0, done.stderr
    selection = json.loads(done.stdout)
    assert selection["tomograms"] == 6667
    assert selection["requests"] <= 20000 // 500
    assert selection["estimated_gpu_hours"] > 0
    assert int(done.stderr.split("VmHWM:")[1].split()[0]) * 1024 < 1e9
