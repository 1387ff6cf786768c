"""Every command of copick and copick-utils that reads segmentations, meshes or picks works on our output.

docs/copick-tools.md lists the commands, and a test compares the two lists. A command passes if it exits with 0 and has
written its output: several of them log errors and exit with 0.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from membrain_cloud.geometry import Picks, orientations_from_normals
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import open_runner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

    from membrain_cloud.store.projects.project import Project

pytest.importorskip("copick_utils")
pytestmark = pytest.mark.filterwarnings("ignore")

MASK = "membrane:membrain/0@10.0"
INSTANCES = "membrane:membrain/0@10.0?instance=true"
MESH = "membrane:membrain/0"
PICKS = "psii:membrain/0"
DOCUMENT = Path(__file__).parents[3] / "docs" / "copick-tools.md"


@dataclass(frozen=True)
class Case:
    """A command, a pattern of what it must write (in the run or in the scratch folder `{out}`), and what it removes."""

    words: str
    leaves: str
    takes: str = ""

    @property
    def command(self) -> str:
        head = [word for word in self.words.split() if not word.startswith(("-", "{"))]
        return " ".join(head[:2]) if head[0] not in ("cp", "mv", "rm", "deposit") else head[0]


CASES = [
    # copick-utils: convert
    Case(f"convert seg2mesh -i {MASK} -o membrane:tool/a", "Meshes/tool_a_membrane.glb"),
    Case(
        f"convert seg2picks -i {MASK} -si 1 --min-particle-size 1 --max-particle-size 99999 -o psii:tool/a",
        "Picks/tool_a_psii.json",
    ),
    Case(f"convert seg2fil -i {MASK} --min-length 10 --min-aspect 0 -o membrane:tool/fil", "Filaments/*tool_fil*"),
    Case(f"convert mesh2seg -i {MESH} -tt wbp -o membrane:tool/b@10.0", "Segmentations/10.000_tool_b_membrane.zarr"),
    Case(
        f"convert mesh2picks -i {MESH} -t wbp@10.0 --sampling-type surface --n-points 50 --edge-dist 0 -o psii:tool/b",
        "Picks/tool_b_psii.json",
    ),
    Case(f"convert mesh2caps -i {MESH} -o membrane:tool/caps", "Meshes/tool_caps_membrane.glb"),
    Case(f"convert picks2seg -i {PICKS} --radius 30 -tt wbp -o membrane:tool/c@10.0", "*Segmentations/10.000_tool_c*"),
    Case(f"convert picks2mesh -i {PICKS} -o membrane:tool/d", "Meshes/tool_d_membrane.glb"),
    Case(f"convert picks2sphere -i {PICKS} -o membrane:tool/e", "Meshes/tool_e_membrane.glb"),
    Case(f"convert picks2ellipsoid -i {PICKS} -o membrane:tool/f", "Meshes/tool_f_membrane.glb"),
    Case(f"convert picks2plane -i {PICKS} -o membrane:tool/g", "Meshes/tool_g_membrane.glb"),
    Case(
        f"convert picks2surface -i {PICKS} --surface-method delaunay -o membrane:tool/h", "Meshes/tool_h_membrane.glb"
    ),
    # copick-utils: logical
    Case(f"logical clipmesh -i {MESH} -rs {MASK} -d 200 -o membrane:tool/i", "Meshes/tool_i_membrane.glb"),
    Case(f"logical clippicks -i {PICKS} -rm {MESH} -d 200 -o psii:tool/i", "Picks/tool_i_psii.json"),
    Case(
        f"logical clipseg -i {MASK} -rm {MESH} -d 200 -o membrane:tool/j@10.0",
        "Segmentations/10.000_tool_j_membrane.zarr",
    ),
    Case(
        f"logical enclosed -i1 {MASK} -i2 {MASK} -vs 10.0 -o membrane:tool/k@10.0",
        "Segmentations/10.000_tool_k_membrane.zarr",
    ),
    Case(f"logical meshop -i {MESH} -i {MESH} -op concatenate -o membrane:tool/l", "Meshes/tool_l_membrane.glb"),
    Case(f"logical picksin -i {PICKS} -rm {MESH} -o psii:tool/m", "Picks/tool_m_psii.json"),
    Case(f"logical picksout -i {PICKS} -rm {MESH} -o psii:tool/n", "Picks/tool_n_psii.json"),
    Case(
        f"logical segop -i {MASK} -i {MASK} -op union -vs 10.0 -o membrane:tool/o@10.0",
        "Segmentations/10.000_tool_o_membrane.zarr",
    ),
    # copick-utils: process
    Case(
        "process combine -i membrane:membrain/*@10.0 -o membrane:tool/p@10.0?multilabel=true",
        "Segmentations/10.000_tool_p_*",
    ),
    Case(f"process expand-labels -i {MASK} -d 20 -o membrane:tool/q@10.0", "Segmentations/10.000_tool_q_membrane.zarr"),
    Case(
        f"process filter-components -i {MASK} --min-size 10 -o membrane:tool/r@10.0",
        "Segmentations/10.000_tool_r_membrane.zarr",
    ),
    Case(f"process fit-spline -i {MASK} -vs 10.0 --spacing-distance 40 -o psii:tool/s", "Picks/tool_s_psii.json"),
    Case(f"process hull -i {MESH} -o membrane:tool/t", "Meshes/tool_t_membrane.glb"),
    Case(f"process rescale -i {MASK} -tvs 20 -o membrane:tool/u@20.0", "Segmentations/20.000_tool_u_membrane.zarr"),
    Case(f"process seg-stats -i {MASK} -f csv -op {{out}}/stats.csv", "{out}/stats.csv"),
    Case(
        f"process separate-components -i {MASK} --min-size 10 -o membrane:tool/v@10.0", "*Segmentations/10.000_tool_v*"
    ),
    Case(f"process skeletonize -i {MASK} -o membrane:tool/w@10.0", "Segmentations/10.000_tool_w_membrane.zarr"),
    Case(
        f"process thickness-filter -i {MASK} -mt 10 -o membrane:tool/x@10.0",
        "Segmentations/10.000_tool_x_membrane.zarr",
    ),
    # copick
    Case(f"cp segmentation {MASK} membrane:copy/0@10.0", "Segmentations/10.000_copy_0_membrane.zarr"),
    Case(f"cp mesh {MESH} membrane:copy/0", "Meshes/copy_0_membrane.glb"),
    Case(f"cp picks {PICKS} psii:copy/0", "Picks/copy_0_psii.json"),
    Case("mv picks psii:spare/1 psii:moved/0", "Picks/moved_0_psii.json", "Picks/spare_1_psii.json"),
    Case("rm picks psii:spare/2 --force", "Picks/membrain_0_psii.json", "Picks/spare_2_psii.json"),
    Case(f"export picks --picks-uri {PICKS} --output-dir {{out}} --output-format csv", "{out}/**/*.csv"),
    Case(f"export segmentation --segmentation-uri {MASK} --output-dir {{out}} --output-format mrc", "{out}/**/*.mrc"),
    Case("stats picks --output table", ""),
    Case("stats meshes --output table", ""),
    Case("stats segmentations --output table", ""),
    Case(
        "deposit --target-dir {out}/deposit --picks psii:membrain/0 --meshes membrane:membrain/0",
        "{out}/deposit/**/*.glb",
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Run our stages on a round and a flat membrane, and put 60 oriented particles on the round one."""
    project = create_project(
        str(tmp_path_factory.mktemp("tools")), objects=[("membrane", False, "GO:0016020"), ("psii", True, None)]
    )
    shape = (44, 48, 52)
    z, y, x = np.indices(shape)
    radius = np.sqrt((z - 22.0) ** 2 + (y - 22.0) ** 2 + (x - 20.0) ** 2)
    mask = ((radius > 11) & (radius < 15)) | ((x > 42) & (x < 46) & (y > 6) & (y < 42) & (z > 6) & (z < 38))
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), noise - 3 * mask)
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "membrain", "0", 10.0), mask.astype(np.uint8))
    pairs = ("separate.segmentation=" + MASK, "separate.min_voxels=50", "output.session=0")
    settings = load_settings(None, pairs)
    made = plan(project, settings, STAGES, stages=["separate", "mesh"])
    with open_runner(workers=None, scheduler=None, in_process=True) as runner:
        outcomes = execute_plan(project, settings, made, runner, STAGES, lambda *event: None)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    normals = np.random.default_rng(1).normal(size=(60, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    centres = np.array([200.0, 220.0, 220.0]) + 150 * normals
    picks = Picks(centres, orientations_from_normals(normals), membrane_ids=np.ones(60, np.int64))
    for user, session in (("membrain", "0"), ("spare", "1"), ("spare", "2")):
        project.write_picks(ObjectRef("TS_1", "psii", user, session), picks)
    project.write_segmentation(
        SegmentationRef("TS_1", "membrane", "membrain", "1", 10.0), (radius < 12).astype(np.uint8)
    )
    return project


@pytest.fixture(scope="module")
def copick_cli() -> click.Group:
    from copick.cli.cli import _cli, add_core_commands, add_plugin_commands

    return add_plugin_commands(add_core_commands(_cli))


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"[^\w]+", " ", case.words)[:50].strip())
def test_command_reads_our_output(case: Case, project: Project, copick_cli: click.Group, out: Path) -> None:
    words = case.words.replace("{out}", str(out)).split()
    result = CliRunner().invoke(copick_cli, [*words, "-c", project.config], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    if case.leaves:
        base = out if case.leaves.startswith("{out}") else Path(project.root_url) / "ExperimentRuns" / "TS_1"
        pattern = case.leaves.removeprefix("{out}/")
        found = list(base.glob(pattern))
        assert found, f"{pattern} is not there: {result.output[-2000:]}"
        assert all(path.is_dir() or path.stat().st_size > 0 for path in found)
        assert not case.takes or not list(base.glob(case.takes))
    else:
        assert "60" in result.output or "membrane" in result.output


def test_the_docs_list_these_commands() -> None:
    listed = set(re.findall(r"^\| `copick ([^`]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {case.command for case in CASES}
