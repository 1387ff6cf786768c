"""The commands of README and tutorials, run in their order on tiny simulated tomograms."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from standins import pages

from membrain_cloud.cli import main
from membrain_cloud.geometry import Picks
from membrain_cloud.simulation.phantom import PhantomSettings, make_phantom
from membrain_cloud.store.formats.star import write_star
from membrain_cloud.store.formats.volume_writer import write_mrc
from membrain_cloud.store.projects.open import open_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS = PhantomSettings(shape=(40, 56, 56), membranes=2, void_angstrom=(0.0, 0.0))
# Commands that are not run here, and the tests that run them.
ELSEWHERE = {
    r"membrain-cloud demo\b": "tests/pipeline/projects/test_demo.py",
    r"membrain-cloud portal\b|chlamy/": "tests/end_to_end/test_portal_run.py, with a stand-in of the portal",
    r"--scheduler\b": "tests/pipeline/runners/test_runners.py, with its own scheduler",
    r"membrain-cloud view\b": "tests/pipeline/reporting/test_neuroglancer.py: it serves until it is stopped",
    r"membrain-cloud (patches|train)\b": "tests/pipeline/annotation and training, with networks of a few weights",
    r"(corrected/|segment\.model=)round-1|psii:alice/1 psii:bob/1": "tests/end_to_end/test_annotation_loop.py",
}
# Replacements that save time: each worker takes seconds to start.
REPLACED = {"--workers 4": "", "membrain-cloud run ": "membrain-cloud run --in-process "}
# Commands before the first one of a page that builds on another page.
FIRST = [
    "membrain-cloud project init my-project --tomograms data/TS_1.mrc",
    "membrain-cloud run my-project/config.json",
]
PAGES = {
    "README.md": [],
    "docs/tutorials/one-tomogram.md": [],
    "docs/tutorials/annotate-together.md": FIRST,
    "docs/tutorials/query-the-tables.md": FIRST,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, lightning_checkpoint: Callable[..., Path]) -> Path:
    """Return a folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "data").mkdir()
    for seed, name in enumerate(("TS_001", "TS_002")):
        phantom = make_phantom(seed + 1, SETTINGS)
        write_mrc(str(folder / "data" / f"{name}.mrc"), phantom.density, 10.0)
    write_mrc(str(folder / "tomogram.mrc"), phantom.density, 10.0)
    for name in ("labels", "corrected"):
        write_mrc(str(folder / f"{name}.mrc"), phantom.labels.astype(np.int8), 10.0)
    picks = phantom.particles if len(phantom.particles) else Picks(np.array([[200.0, 200, 200]]))
    write_star(str(folder / "psii.star"), picks, voxel_spacing_angstrom=10.0, tomogram="TS_001")
    (folder / "settings.yaml").write_text(
        next(block for block in pages.blocks(pages.ROOT / "README.md", "yaml") if "settings.yaml" in block)
    )
    lightning_checkpoint(folder / "MemBrain_seg_v10_alpha.ckpt")
    return folder


def sessions_of(folder: Path, kind: str) -> list[str]:
    """Return the sessions of the masks or meshes in the project, the oldest first."""
    pattern, at = {"masks": ("Segmentations/*_membrain_*_membrane.zarr", 2), "meshes": ("Meshes/membrain_*.glb", 1)}[
        kind
    ]
    paths = sorted((folder / "my-project/ExperimentRuns").glob(f"*/{pattern}"), key=lambda path: path.stat().st_ctime)
    return list(dict.fromkeys(path.name.split("_")[at] for path in paths))


def run_line(line: str, folder: Path) -> None:
    """Run a command of a page, with the sessions that exist in place of the page's."""
    for text, replacement in REPLACED.items():
        line = line.replace(text, replacement)
    for kind, first, last in (("masks", "1a2b3c4d", "5e6f7a8b"), ("meshes", "9c8d7e6f", "0f1e2d3c")):
        if f"/{first}" in line:
            sessions = sessions_of(folder, kind)
            line = line.replace(first, sessions[0]).replace(last, sessions[-1])
    words = shlex.split(line, comments=True)[1:]
    if any("*" in word for word in words):  # quoted in the page: the command itself expands it
        assert "--tomograms" in words
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page == "README.md" else [pytest.mark.slow]) for page in PAGES],
)
def test_commands_of_a_page_work_in_order(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(files, folder)
    if page != "README.md":
        shutil.copy(folder / "data/TS_001.mrc", folder / "data/TS_1.mrc")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEMBRAIN_CLOUD_CACHE", str(tmp_path / "cache"))
    lines = PAGES[page] + pages.shell_lines(pages.ROOT / page)
    commands = [line for line in lines if not any(re.search(pattern, line) for pattern in ELSEWHERE)]
    assert commands
    for line in commands:
        run_line(line, folder)
    project = open_project("my-project/config.json")
    assert all(project.segmentations(run) for run in project.runs())
    for block in pages.blocks(pages.ROOT / page, "python"):
        exec(compile(block, page, "exec"), {})
