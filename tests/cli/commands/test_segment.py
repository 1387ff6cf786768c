"""`membrain-cloud segment`, `thresholds`, `components` and `skeletonize`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import mrcfile
import numpy as np
import pytest
from standins.command_line import call, call_json

from membrain_cloud.cli import display
from membrain_cloud.cli.commands.segment import process_files
from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.files.postprocess import Derived
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.formats.volume_writer import write_mrc

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, lightning_checkpoint: Callable[..., Path]) -> str:
    return str(lightning_checkpoint(tmp_path_factory.mktemp("models") / "random.ckpt"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with two tomograms, and return it."""
    monkeypatch.chdir(tmp_path)
    for k in (1, 2):
        with mrcfile.new(f"TS_{k}.mrc") as file:
            file.set_data(np.random.default_rng(k).normal(size=(20, 24, 18)).astype(np.float32))
            file.voxel_size = 10.0
    return tmp_path


def test_patterns_are_segmented_once(here: Path, model: str) -> None:
    command = ["segment", "TS_*.mrc", "--model", model, "--window", "16", "--no-mirrors"]
    assert call(*command).exit_code == 0
    assert sorted(os.listdir(here)) == [
        *("TS_1.mrc", "TS_1_scores.mrc", "TS_1_segmented.json", "TS_1_segmented.mrc"),
        *("TS_2.mrc", "TS_2_scores.mrc", "TS_2_segmented.json", "TS_2_segmented.mrc"),
    ]
    # files that were written are left out of the pattern
    again = call_json(*command)
    assert [(row["file"], row["state"]) for row in again] == [("TS_1.mrc", "skipped"), ("TS_2.mrc", "skipped")]
    other = call(*command, "--threshold", "0.01")
    assert other.exit_code == 1
    assert "--overwrite" in other.stderr
    assert call(*command, "--threshold", "0.01", "--overwrite").exit_code == 0


def test_a_bad_file_fails_alone(here: Path, model: str) -> None:
    (here / "bad.mrc").write_bytes(b"nothing")
    command = ["segment", "bad.mrc", "TS_1.mrc", "--model", model, "--window", "16", "--no-mirrors", "-o", "out"]
    result = call(*command, "--json")
    assert result.exit_code == 1
    assert "bad.mrc" in result.stderr
    rows = json.loads(result.stdout)
    assert [row["state"] for row in rows] == ["failed", "done"]
    assert rows[0]["next_step"]
    assert (here / "out" / "TS_1_segmented.mrc").exists()
    (here / "notes.txt").write_text("no volume")
    unknown = call("segment", "notes.txt", *command[2:], "--json")
    assert unknown.exit_code == 1
    assert [row["state"] for row in json.loads(unknown.stdout)] == ["failed", "skipped"]
    alone = call("segment", "bad.mrc", "--model", model)
    assert alone.exit_code == 2
    assert alone.stderr.startswith("error: bad.mrc")


def test_the_options_are_settings(here: Path, model: str) -> None:
    short = ["--window", "16", "--threshold", "0.02", "--mirrors", "yes", "--rescale", "no"]
    long = [f"--set=segment.{key}" for key in ("window=16", "threshold=0.02", "mirrors=yes", "rescale=no")]
    made = [
        call_json("segment", "TS_1.mrc", "--model", model, *words, "-o", name)
        for words, name in ((short, "short"), (long, "long"))
    ]
    for name in ("scores", "segmented"):
        assert Path(made[0][name]).read_bytes() == Path(made[1][name]).read_bytes()
    recipes = [json.loads(Path(row["segmented"].replace(".mrc", ".json")).read_text())["recipe"] for row in made]
    assert recipes[0] == recipes[1]
    assert recipes[0]["segment"]["mirrors"] == "yes"


def test_uncertainty_takes_the_mirrors_it_needs(here: Path, model: str) -> None:
    made = call_json("segment", "TS_1.mrc", "--model", model, "--window", "16", "--uncertainty", "--no-scores")
    assert made["scores"] is None
    assert mrcfile.read(made["uncertainty_map"]).max() > 0
    refused = call("segment", "TS_1.mrc", "--model", model, "--window", "16", "--uncertainty", "--no-mirrors")
    assert refused.exit_code == 2
    assert "mirrors" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--min-voxels", "5"], "--components"),
        (["--no-mirrors", "--mirrors", "yes"], "exclude"),
        (["--window", "17"], "try 16"),
        (["--mirrors", "maybe"], "adaptive"),
    ],
)
def test_options_that_make_no_sense(here: Path, model: str, arguments: list[str], what: str) -> None:
    result = call("segment", "TS_1.mrc", "--model", model, *arguments)
    assert result.exit_code == 2
    assert what in result.stderr


def test_the_options_of_membrain_segment(here: Path, model: str) -> None:
    membrain_seg = [
        "--tomogram-path",
        "TS_1.mrc",
        f"--ckpt-path={model}",
        "--out-folder",
        "theirs",
        "--in-pixel-size",
        "11",
    ]
    membrain_seg += ["--store-connected-components", "--connected-component-thres", "7", "--no-test-time-augmentation"]
    membrain_seg += ["--segmentation-threshold=-0.1", "--sliding-window-size", "16", "--no-rescale-patches"]
    membrain_seg += ["--store-probabilities", "--no-store-uncertainty-map"]
    ours = ["TS_1.mrc", "--model", model, "--output", "ours", "--voxel-spacing", "11", "--components"]
    ours += ["--min-voxels", "7", "--no-mirrors", "--threshold", "-0.1", "--window", "16", "--rescale", "no"]
    ours += ["--scores"]
    made = [call_json("segment", *words) for words in (membrain_seg, ours)]
    records = [json.loads(Path(row["segmented"].replace(".mrc", ".json")).read_text()) for row in made]
    assert records[0] == records[1]
    assert records[0]["recipe"]["components"] == 7
    mirrored = call_json("segment", "TS_1.mrc", "--model", model, "--sliding-window-size=16", "--store-uncertainty-map")
    assert Path(mirrored["uncertainty_map"]).is_file()
    assert "No such option" in call("segment", "TS_1.mrc", "--out-pixel-size", "10").stderr


def test_two_files_may_not_write_to_one_name(here: Path, model: str) -> None:
    (here / "other").mkdir()
    (here / "other" / "TS_1.mrc").write_bytes((here / "TS_2.mrc").read_bytes())
    for verb, more in (
        ("segment", ["--model", model, "--window", "16"]), ("thresholds", ["-t", "0"]), ("components", []),
        ("skeletonize", []),
    ):  # fmt: skip
        result = call(verb, "TS_1.mrc", "other/TS_1.mrc", "--overwrite", *more)
        assert result.exit_code == 2
        assert "other/TS_1.mrc: their outputs would have the same names" in result.stderr
    assert sorted(os.listdir(here)) == ["TS_1.mrc", "TS_2.mrc", "other"]


@pytest.mark.parametrize(("value", "cause"), [("nan", "no number"), ("inf", "finite")])
def test_an_infinite_or_nan_threshold_is_refused(here: Path, value: str, cause: str) -> None:
    result = call("thresholds", "TS_1.mrc", "-t", "0", "-t", value)
    assert result.exit_code == 2
    assert cause in result.stderr
    assert sorted(os.listdir(here)) == ["TS_1.mrc", "TS_2.mrc"]


def test_sigterm_ends_as_ctrl_c_does(here: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from membrain_cloud.pipeline.files import segment_file

    def terminate(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("SIGTERM was ignored")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(segment_file, "_write_outputs", terminate)
    result = call("segment", "TS_1.mrc", "--model", model, "--window", "16", "-o", "out")
    assert result.exit_code == 3
    assert os.listdir(here / "out") == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_from_scores_to_sheets_without_the_network(here: Path, model: str) -> None:
    made = call_json(
        "segment", "TS_1.mrc", "--model", model, "--window", "16", "--no-mirrors", "--components", "--min-voxels", "9",
        "--skeleton",
    )  # fmt: skip
    scores = mrcfile.read(made["scores"])
    masks = call_json("thresholds", made["scores"], "-t", "-0.5", "--threshold", "0", "-o", "masks")
    assert [Path(name).name for name in masks["outputs"]] == [
        "TS_1_scores_threshold_-0.5.mrc",
        "TS_1_scores_threshold_0.0.mrc",
    ]
    for name, threshold in zip(masks["outputs"], (-0.5, 0.0), strict=True):
        np.testing.assert_array_equal(mrcfile.read(name), scores > threshold)
    numbered = call_json("components", masks["outputs"][1], "--min-voxels", "9", "-o", "numbered")
    np.testing.assert_array_equal(mrcfile.read(numbered["outputs"][0]), mrcfile.read(made["segmented"]))
    assert numbered["counts"] == [made["components"]]
    sheets = call("skeletonize", made["segmented"], "-o", "sheets")
    assert sheets.output.strip() == str(Path("sheets", "TS_1_segmented_skel.mrc"))
    np.testing.assert_array_equal(mrcfile.read(sheets.output.strip()), mrcfile.read(made["skeleton"]))
    refused = call("skeletonize", made["segmented"], "-o", "sheets")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr


def test_overlapping_files_are_reported_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    """As on a GPU, where one file is read and written while another is segmented."""
    both = threading.Barrier(2, timeout=10)

    def work(file: str) -> Derived:
        if file != "c":
            both.wait()  # neither ends before the other has started
        if file == "a":
            time.sleep(0.05)
        if file == "b":
            raise InputError("b is no volume", "give another")
        return Derived(file, (f"{file}_out.mrc",), (1,), ())

    with pytest.raises(click.exceptions.Exit) as ended, display.Bars() as bars:
        process_files(["a", "b", "c"], work, False, at_once=2, bars=bars)
    assert ended.value.exit_code == 1
    output = capsys.readouterr()
    assert output.out.split() == ["a_out.mrc", "c_out.mrc"]
    assert "1 of 3 files failed" in output.err


def test_a_bug_in_one_of_overlapping_files_is_not_hidden() -> None:
    def work(file: str) -> Derived:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        process_files(["a", "b", "c"], work, False, at_once=2)


def test_a_file_is_segmented_into_scores_and_a_mask(tmp_path: Path) -> None:
    density = np.random.default_rng(0).normal(size=(20, 24, 28)).astype(np.float32)
    write_mrc(str(tmp_path / "grey.mrc"), density, 10.0)
    options = ("--output", str(tmp_path / "out"), "--set", "segment.mode=fast")
    result = call_json("segment", str(tmp_path / "grey.mrc"), *options)
    scores, _ = read_volume(result["scores"])
    mask, header = read_volume(result["segmented"])
    assert result["scores"].endswith("out/grey_scores.mrc")
    assert result["segmented"].endswith("out/grey_segmented.mrc")
    np.testing.assert_array_equal(mask, scores > 0)
    assert header.voxel_spacing_angstrom == 10.0
    assert result["membrane_voxels"] == mask.sum()


def test_a_file_without_a_believable_spacing_is_refused(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "grey.mrc"), np.zeros((8, 8, 8), np.float32), 0.0)
    result = call("segment", str(tmp_path / "grey.mrc"))
    assert result.exit_code == 2
    assert "--voxel-spacing" in result.stderr
