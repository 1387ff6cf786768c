"""The report of a whole run: an index with pictures and causes and a page for each tomogram, also in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from membrain_cloud.cli import main
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

RUNS = ("TS_1", "TS_2", "TS_10", "TS_bad", "TS_none")
WORDS = ("--stages", "separate,mesh,measure", "--set", "separate.segmentation=membrane:alice/1@10.0")
WORDS += ("--set", "separate.min_voxels=20", "--set", "measure.picks=none", "--set", "measure.simulations=0")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Measure three runs of one to three membranes, one with a truncated mask and one without a mask."""
    project = create_project(
        str(tmp_path_factory.mktemp("site") / "project"), objects=[("membrane", False, "GO:0016020")]
    )
    rng = np.random.default_rng(0)
    for number, run in enumerate(RUNS):
        shape = (26, 32, 36)
        mask = np.zeros(shape, np.uint8)
        for k in range(min(number, 2) + 1):
            mask[4 + 8 * k : 7 + 8 * k, 4:28, 4:32] = 1
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), rng.normal(size=shape).astype(np.float32) - 2 * mask)
        if run != "TS_none":
            project.write_segmentation(SegmentationRef(run, "membrane", "alice", "1", 10.0), mask)
    truncated = (
        Path(project.root_url) / SegmentationRef("TS_bad", "membrane", "alice", "1", 10.0).path / "0" / "0" / "0" / "0"
    )
    truncated.write_bytes(truncated.read_bytes()[:100])
    result = CliRunner().invoke(main, ["run", project.config, "--in-process", *WORDS])
    assert result.exit_code == 1, result.output
    return project


@pytest.fixture(scope="module")
def site(measured: Project) -> Path:
    target = Path(measured.root_url) / "report"
    result = CliRunner().invoke(main, ["report", measured.config, "--site", str(target), *WORDS])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(target / "index.html")
    return target


def test_every_link_is_relative_and_has_a_target(site: Path) -> None:
    text = (site / "index.html").read_text()
    links = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert len(links) == 9
    for link in links:
        assert not re.match(r"[a-z]+:|/", link), link
        assert (site / link).is_file(), link
    for page in (site / "tomograms").glob("*.html"):
        assert "<h1>" in page.read_text()


def test_rows_have_states_and_causes(site: Path) -> None:
    text = (site / "index.html").read_text()
    rows = {
        re.sub(r"<[^>]+>", "", re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)[1]).strip(): row
        for row in re.findall(r"<tr>\s*<td class=\"picture\".*?</tr>", text, re.DOTALL)
    }
    assert set(rows) == set(RUNS)
    assert 'class="state done"' in rows["TS_1"]
    assert 'data-value="3"' in rows["TS_10"]
    assert 'class="state failed"' in rows["TS_bad"]
    assert "truncated" in rows["TS_bad"]
    assert "copy the volume again" in rows["TS_bad"]
    assert 'class="state refused"' in rows["TS_none"]


def test_names_from_outside_are_escaped(site: Path) -> None:
    from membrain_cloud.report.site import IndexRow, SiteIndex, render_index

    text = render_index(SiteIndex("<b>", (("x", "<script>"),), (), [IndexRow("<img>", "d", "failed", cause="<i>")]))
    assert "<script>alert" not in text
    assert "&lt;img&gt;" in text
    assert "<b>" not in text.split("<header")[1].split("<ul")[0]


def test_a_site_on_s3_is_the_same(measured: Project, tmp_path: Path) -> None:
    pytest.importorskip("moto.server")
    from moto.server import ThreadedMotoServer

    from membrain_cloud.pipeline.planning.plan import plan
    from membrain_cloud.pipeline.reporting.site import write_site
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.stages.registry import STAGES
    from membrain_cloud.store.objects.object_store import Files

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        options = {"key": "x", "secret": "x", "endpoint_url": f"http://127.0.0.1:{server.get_host_and_port()[1]}"}
        bucket = Files("s3://pages/report", options)
        bucket._fs.mkdir("pages")
        settings = load_settings(None, [word for word in WORDS if "." in word and "=" in word])
        two_stages = plan(measured, settings, STAGES, runs=["TS_1"], stages=["separate", "mesh"])
        for target in ("s3://pages/report", str(tmp_path)):
            write_site(measured, settings, two_stages, target, options=options if "://" in target else None)
        here = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
        assert set(bucket.listing()) == set(here)
        assert all(bucket.read(name) == path.read_bytes() for name, path in here.items())
    finally:
        server.stop()


def test_in_a_browser(site: Path, browser_kit: Any, tmp_path: Path) -> None:
    script = """(() => {
      const names = () => [...document.querySelectorAll('#runs tbody tr')].filter(r => !r.hidden)
        .map(r => r.cells[1].textContent.trim());
      const heads = [...document.querySelectorAll('#runs thead button')];
      const first = names();
      heads[3].click(); const up = names(); heads[3].click(); const down = names();
      heads[0].click(); const natural = names();
      document.getElementById('failed').click(); const failed = names();
      document.getElementById('failed').click();
      const images = [...document.images].map(i => i.naturalWidth);
      return JSON.stringify({first, up, down, natural, failed, images, wide: document.documentElement.scrollWidth});
    })()"""
    with browser_kit.Browser(tmp_path / "profile") as browser:
        ready = "[...document.images].every(i => i.complete)"
        page = json.loads(browser.open(f"file://{site}/index.html", tmp_path / "index.png", ready, script))
    assert browser.errors == []
    assert page["up"][:3] == ["TS_1", "TS_2", "TS_10"]
    assert page["down"][:3] == ["TS_10", "TS_2", "TS_1"]
    assert page["natural"][:3] == ["TS_1", "TS_2", "TS_10"], "numbers in names sort as numbers"
    assert page["failed"] == ["TS_bad", "TS_none"]
    assert all(width > 100 for width in page["images"])
    assert page["wide"] <= 1200, "the page fits into the window"
    assert np.asarray(Image.open(tmp_path / "index.png")).std() > 10
