"""The command line as people and scripts meet it: exit codes, one line an error, JSON, and no needless waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from membrain_cloud.cli import main
from membrain_cloud.geometry import Picks
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.formats.volume_writer import write_mrc
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from membrain_cloud.store.projects.project import Project


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def call_json(*arguments: str) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


ALL = dict(commands(main))


def ball(radius: float, shape: tuple[int, int, int] = (32, 36, 40)) -> np.ndarray:
    z, y, x = np.indices(shape)
    distance = np.sqrt((z - 16) ** 2 + (y - 18) ** 2 + (x - 20) ** 2)
    return (abs(distance - radius) < 2).astype(np.uint8)


@pytest.fixture
def given(tmp_path: Path) -> Project:
    """Two runs with somebody's segmentation and picks of a vesicle; one of them has a tomogram."""
    project = create_project(str(tmp_path / "project"), objects=[("membrane", False, None), ("psii", True, None)])
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    for radius, run in ((9.0, "TS_1"), (11.0, "TS_2")):
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "3", 10.0), ball(radius))
        around = np.stack([20 + radius * np.cos(angles), 18 + radius * np.sin(angles), 16 + 0 * angles], 1)
        project.write_picks(ObjectRef(run, "psii", "expert", "1"), Picks(around * 10.0))
    noise = np.random.default_rng(0).normal(size=(32, 36, 40)).astype(np.float32)
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), noise - ball(9.0))
    return project


GIVEN = [
    "--stages",
    "separate,mesh,measure",
    "--set",
    "separate.segmentation=membrane:alice/3@10.0",
    "--set",
    "measure.picks=psii:expert/1",
]


@pytest.mark.parametrize("names", list(ALL), ids=" ".join)
def test_every_verb_has_help_with_an_example(names: tuple[str, ...]) -> None:
    result = call(*names, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"membrain-cloud {' '.join(names)}" in result.output
    assert "--debug" in result.output


def test_the_verbs_of_the_contract_are_there() -> None:
    promised = (
        "demo; project init; plan; run; status; failures; verify; clean; segment; train segmentation; train picking; "
        "thresholds; components; skeletonize; evaluate; tables list; tables describe; export star; export mrc; "
        "import segmentation; import picks; "
        "patches propose; patches extract; patches merge; train cross-validate; train rounds; "
        "models list; models info; models verify; models convert; report"
    )
    assert {tuple(names.split()) for names in promised.split("; ")} <= set(ALL)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, membrain_cloud.cli\n"
        "heavy = {'torch', 'dask', 'distributed', 'copick', 'zarr', 'pyarrow', 'scipy', 'numpy', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_it_runs_as_a_module() -> None:
    found = subprocess.run([sys.executable, "-m", "membrain_cloud", "--version"], capture_output=True, text=True)
    assert found.returncode == 0
    assert "membrain-cloud" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "what", "cure"),
    [
        (["plan", "absent.json"], "absent.json", "project init"),
        (["run", "CONFIG", "-r", "TS_9"], "TS_9", "TS_1"),
        (["run", "CONFIG", "--stages", "meshes"], "meshes", "mesh"),
        (["run", "CONFIG", "--set", "pick.bandwith=3"], "pick.bandwith", "bandwidth_angstrom"),
        (["run", "CONFIG", "--in-process", "--workers", "2"], "exclude", "one of them"),
        (["run", "CONFIG", "--set", "segment.model=ghost"], "ghost", "give"),
        (["evaluate", "CONFIG", "--stages", "separate", "--set", "separate.segmentation=membrane:alice/3"],
         "no truth", "--truth"),
        (["segment", "absent.mrc"], "absent.mrc", "give"),
        (["export", "star", "CONFIG", "psii:nobody/1", "-r", "TS_1", "--output", "x.star"], "psii:nobody/1", "expert"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_code_2(given: Project, arguments: list[str], what: str, cure: str) -> None:
    result = call(*(given.config if word == "CONFIG" else word for word in arguments))
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    message, _, next_step = line.partition(" -> ")
    assert what in message
    assert cure in next_step
    assert "Traceback" not in result.stderr
    assert "Traceback" in call("--debug", *(given.config if w == "CONFIG" else w for w in arguments)).stderr


def test_a_config_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text in ("{", "[]", "{}", '{"a": 1}'):
        file.write_text(text)
        result = call("run", str(file))
        assert result.exit_code == 2
        assert "config.json" in result.stderr


def test_a_given_segmentation_with_given_picks_runs_to_tables_and_again_does_nothing(given: Project) -> None:
    first = call_json("run", given.config, *GIVEN, "--in-process")
    assert first["summary"] == {"blocked": 0, "done": 6, "failed": 0, "skipped": 0}
    again = call_json("run", given.config, *GIVEN, "--in-process")
    assert again["summary"]["skipped"] == 6
    rows = {entry["table"]: entry["rows"] for entry in call_json("tables", "list", given.config)}
    assert rows["membranes"] == 2
    assert rows["particles"] == 12
    described = call_json("tables", "describe", given.config, "particles")["particles"]
    assert all(column["description"] for column in described)
    status = call_json("status", given.config, *GIVEN)
    assert status["runs"]["TS_2"] == {"separate": "done", "mesh": "done", "measure": "done"}
    assert call("run", given.config, *GIVEN, "--in-process").exit_code == 0


def test_plan_says_what_run_would_do_and_writes_nothing(given: Project) -> None:
    before = sorted(str(path) for path in Path(given.root_url).rglob("*"))
    planned = call_json("plan", given.config, *GIVEN)
    assert [(task["stage"], task["run"]) for task in planned["tasks"]] == [
        (stage, run) for run in ("TS_1", "TS_2") for stage in ("separate", "mesh", "measure")
    ]
    assert sorted(str(path) for path in Path(given.root_url).rglob("*")) == before
    assert "separate" in call("plan", given.config, *GIVEN).stdout


def test_a_failure_is_one_line_exit_code_1_and_in_the_list_until_cured(given: Project) -> None:
    picks = Path(given.root_url) / "ExperimentRuns/TS_2/Picks/expert_1_psii.json"
    kept = picks.read_text()
    picks.unlink()
    result = call("run", given.config, *GIVEN, "--in-process")
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("TS_2: measure failed")]
    assert " -> " in line
    listed = call("failures", given.config)
    assert listed.exit_code == 1
    assert "TS_2" in listed.stdout
    assert "psii:expert/1" in json.loads(call("failures", given.config, "--json").stdout)[0]["message"]
    picks.write_text(kept)
    assert call("run", given.config, *GIVEN, "--in-process").exit_code == 0
    assert call("failures", given.config).exit_code == 0


def test_verify_finds_what_is_lost_and_the_next_run_makes_it_again(given: Project) -> None:
    call_json("run", given.config, *GIVEN, "--in-process")
    assert call("verify", given.config).exit_code == 0
    (mesh,) = (Path(given.root_url) / "ExperimentRuns/TS_1/Meshes").glob("membrain_*_membrane.glb")
    content = mesh.read_bytes()
    mesh.unlink()
    assert call("verify", given.config).exit_code == 1
    assert call("verify", given.config, "--forget-missing").exit_code == 1
    assert call_json("run", given.config, *GIVEN, "--in-process")["summary"]["done"] == 1
    assert mesh.read_bytes() == content


def test_clean_removes_only_what_is_ours_and_nothing_vouches_for(given: Project) -> None:
    call_json("run", given.config, *GIVEN, "--in-process")
    left = SegmentationRef("TS_1", "membrane", "membrain", "dead", 10.0)
    given.write_segmentation(left, ball(5.0))
    assert call_json("clean", given.config)["annotations"] == [left.key]
    assert given.has(left)
    assert call_json("clean", given.config, "--yes")["removed"] is True
    assert not given.has(left)
    assert call_json("clean", given.config)["annotations"] == []
    assert given.has(SegmentationRef("TS_1", "membrane", "alice", "3", 10.0))
    assert call_json("run", given.config, *GIVEN, "--in-process")["summary"]["skipped"] == 6


def test_files_become_a_project_and_annotations_go_in_and_out(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "TS 1.mrc"), np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32), 12.5)
    folder = str(tmp_path / "project")
    result = call("project", "init", folder, "--tomograms", str(tmp_path / "*.mrc"))
    assert result.exit_code == 0, result.output
    config = result.stdout.strip()
    assert "12.5" in result.stderr
    assert CopickProject.open(config).runs() == ["TS-1"]
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:5] = 1
    write_mrc(str(tmp_path / "labels.mrc"), labels, 12.5)
    made = call("import", "segmentation", config, str(tmp_path / "labels.mrc"), "-r", "TS-1", "--user", "alice")
    assert made.stdout.strip() == "membrane:alice/1@12.500"
    out = str(tmp_path / "out.mrc")
    assert call("export", "mrc", config, "membrane:alice/1@12.5", "-r", "TS-1", "--output", out).exit_code == 0
    (tmp_path / "picks.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    words = ["-r", "TS-1", "--user", "expert", "--object", "psii", "--voxel-spacing", "12.5"]
    assert call("import", "picks", config, str(tmp_path / "picks.csv"), *words).stdout.strip() == "psii:expert/1"
    star = str(tmp_path / "picks.star")
    assert call("export", "star", config, "psii:expert/1", "-r", "TS-1", "--output", star).exit_code == 0
    again = ["-r", "TS-1", "--user", "expert", "--object", "psii", "--session", "2"]
    assert call("import", "picks", config, star, *again).exit_code == 0
    positions = CopickProject.open(config).read_picks(ObjectRef("TS-1", "psii", "expert", "2")).positions
    np.testing.assert_allclose(positions, np.array([[1, 2, 3], [4, 5, 6]]) * 12.5)


def test_no_tomogram_files_is_bad_usage(tmp_path: Path) -> None:
    assert call("project", "init", str(tmp_path / "p"), "--tomograms", str(tmp_path / "*.mrc")).exit_code == 2


def test_a_report_is_one_page_of_what_there_is(given: Project, tmp_path: Path) -> None:
    call_json("run", given.config, *GIVEN, "--in-process")
    page = tmp_path / "page.html"
    result = call("report", given.config, *GIVEN, "--output", str(page))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(page)
    text = page.read_text()
    assert "TS_1" in text
    assert "TS_2" in text  # a run without a tomogram has a page too
    assert 'src="http' not in text


def test_what_is_compared_with_itself_is_right(given: Project) -> None:
    call_json("run", given.config, *GIVEN, "--in-process")
    scores = call_json(
        "evaluate", given.config, *GIVEN, "--truth", "membrane:alice/3", "--truth-picks", "psii:expert/1"
    )
    assert [row["run"] for row in scores] == ["TS_1", "TS_2"]
    assert {row["dice"] for row in scores} == {1.0}
    assert {row["particle_f1"] for row in scores} == {1.0}


def test_a_file_is_segmented_into_scores_and_a_mask(tmp_path: Path) -> None:
    density = np.random.default_rng(0).normal(size=(20, 24, 28)).astype(np.float32)
    write_mrc(str(tmp_path / "grey.mrc"), density, 10.0)
    made = call_json("segment", str(tmp_path / "grey.mrc"), "--output", str(tmp_path / "out"),
                     "--set", "segment.mode=fast")  # fmt: skip
    scores, _ = read_volume(made["scores"])
    mask, header = read_volume(made["segmented"])
    assert made["scores"].endswith("out/grey_scores.mrc")
    assert made["segmented"].endswith("out/grey_segmented.mrc")
    np.testing.assert_array_equal(mask, scores > 0)
    assert header.voxel_spacing_angstrom == 10.0
    assert made["membrane_voxels"] == mask.sum()


def test_a_file_without_a_believable_spacing_is_refused(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "grey.mrc"), np.zeros((8, 8, 8), np.float32), 0.0)
    result = call("segment", str(tmp_path / "grey.mrc"))
    assert result.exit_code == 2
    assert "voxel_spacing_angstrom" in result.stderr


def test_a_report_shows_no_rows_of_other_settings(given: Project, tmp_path: Path) -> None:
    call_json("run", given.config, *GIVEN, "--in-process")
    page, word = tmp_path / "page.html", "not been measured with these settings"
    assert call("report", given.config, *GIVEN, "--output", str(page)).exit_code == 0
    assert word not in page.read_text()
    other = [*GIVEN, "--set", "mesh.smoothing_angstrom=12"]
    assert call("report", given.config, *other, "--output", str(page)).exit_code == 0
    assert word in page.read_text()
