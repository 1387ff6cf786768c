"""One round of annotation with two annotators: run, propose, extract, correct, merge, fine-tune, run again."""

from __future__ import annotations

import json
from pathlib import Path

import copick
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.pipeline.models import model_sha256
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import TomogramRef

SHAPE, EDGE = (32, 40, 48), 24
QUICK = ("segment.scores=uint8", "segment.mirrors=no", "segment.overlap=0", "segment.precision=float32")


def shell(seed: int) -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    return np.abs(np.sqrt((z - 16) ** 2 + (y - 20 - seed) ** 2 + (x - 24) ** 2) - 11) < 2.5


def call(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


def options(model: Path) -> list[str]:
    return [word for key in (f"segment.model={model}", *QUICK) for word in ("--set", key)]


def segmented(config: str, model: Path) -> str:
    """Run the stage `segment` with a model; return the session."""
    call("run", config, "--stages", "segment", "--in-process", *options(model))
    plan = json.loads(call("plan", config, "--stages", "segment", *options(model), "--json"))
    return str(plan["sessions"]["segment"])


@pytest.fixture
def begun(tmp_path: Path) -> tuple[str, Path]:
    """Return a project with two simulated tomograms, and a network of random weights."""
    project = create_project(str(tmp_path / "p"), objects=[("membrane", False, "GO:0016020")])
    for seed, run in enumerate(("TS_1", "TS_2")):
        density = np.random.default_rng(seed).normal(size=SHAPE) - 3 * shell(seed)
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), density.astype(np.float32))
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    model = tmp_path / "first.safetensors"
    save_segmenter(model, build_unet(architecture), architecture, {"window": 16, "voxel_spacing_angstrom": 10.0})
    return project.config, model


def correct(patches_config: str, user: str, truth: dict[str, np.ndarray], *, overlooks: int) -> None:
    """Correct the predictions of all patches as an annotator does in napari-copick, and save them under a user name.

    overlooks : planes at the end of a patch that stay as predicted, or are labelled "ignore" (for an odd number).
    """
    root = copick.from_file(patches_config)
    for run in root.runs:
        (prediction,) = [s for s in run.segmentations if s.user_id == "membrain"]
        marks = np.array(prediction.numpy())
        right = truth[run.name].astype(np.uint8)
        seen = slice(0, marks.shape[0] - overlooks)
        marks[seen] = np.where(marks[seen] == 2, 2, right[seen])
        if overlooks % 2:
            marks[-overlooks:] = 2
        mine = run.new_segmentation(
            voxel_size=10.0, name="membrane", session_id="1", user_id=user, is_multilabel=True, exist_ok=True
        )
        mine.from_numpy(marks, levels=1)


def test_one_round_of_annotation_with_two_annotators(begun: tuple[str, Path], tmp_path: Path) -> None:
    config, model = begun
    session = segmented(config, model)
    project = open_project(config)
    proposed = json.loads(call(
        "patches", "propose", config, *options(model), "--name", "round-1", "--count", "2", "--per-tomogram", "1",
        "--edge", str(EDGE), "--json",
    ))  # fmt: skip
    assert {patch["run"] for patch in proposed["patches"]} == {"TS_1", "TS_2"}
    assert {patch["prediction"] for patch in proposed["patches"]} == {f"membrane:membrain/{session}@10.000"}
    assert {patch["model_sha256"] for patch in proposed["patches"]} == {model_sha256(str(model))}
    common = (config, "--name", "round-1", "--border", "4")
    patches_config = json.loads(call("patches", "extract", *common, "--json"))["project"]
    truth = {}
    for patch in proposed["patches"]:
        whole = shell(int(patch["run"][-1]) - 1)
        cut = [slice(patch[a], patch[a] + patch[b]) for a, b in (("z", "depth"), ("y", "height"), ("x", "width"))]
        truth[patch["patch"]] = whole[tuple(cut)]
    correct(patches_config, "alice", truth, overlooks=0)
    correct(patches_config, "bob", truth, overlooks=5)
    before = {path: path.read_bytes() for path in Path(patches_config).parent.rglob("*") if path.is_file()}

    merged = json.loads(call("patches", "merge", *common, "--json"))
    assert [(one["run"], one["sources"], one["state"]) for one in merged] == [
        ("TS_1", ["alice/1", "bob/1"], "done"), ("TS_2", ["alice/1", "bob/1"], "done"),
    ]  # fmt: skip
    assert {path: path.read_bytes() for path in before} == before, "annotators' files have not changed"
    for patch in proposed["patches"]:
        (ref,) = [r for r in project.segmentations(patch["run"]) if r.user == "corrected"]
        labels = project.read_labels(ref)
        marks = labels[labels > 0]
        right = shell(int(patch["run"][-1]) - 1)
        assert (labels[right] != 3).all()
        assert (labels[~right] != 1).all()
        assert (marks == 2).any()
        assert (marks == 1).any()
        assert (marks == 3).any()

    tuned = tmp_path / "second.safetensors"
    call(
        "train", "segmentation", "--output", str(tuned), "--work", str(tmp_path / "work"), "--from", str(model),
        "--data", config, "--labels", "membrane:corrected/round-1@10.0", "--validation", "TS_2", "--steps", "4",
        "--batch", "1", "--window", "16", "--workers", "0", "--threads", "1", "--augmentations", "none",
        "--device", "cpu",
    )  # fmt: skip
    again = segmented(config, tuned)
    assert again != session
    for run in ("TS_1", "TS_2"):
        receipt = project.receipts.parts(f"segment/membrain_{again}/{run}/membrane@10.000")["complete"]
        assert receipt["model"]["sha256"] == model_sha256(str(tuned)) != model_sha256(str(model))
    scores = json.loads(call(
        "evaluate", config, f"membrane:membrain/{again}@10.0", "membrane:corrected/round-1@10.0", "--json",
    ))  # fmt: skip
    assert [row["run"] for row in scores] == ["TS_1", "TS_2", "*"]
    assert scores[0]["ignored_voxels"] > SHAPE[0] * SHAPE[1] * SHAPE[2] - EDGE**3

    # Alice corrects one patch again: that tomogram's labels change, and the next round starts with the new model.
    run = copick.from_file(patches_config).get_run("patch-0001")
    (hers,) = [s for s in run.segmentations if s.user_id == "alice"]
    hers.from_numpy(np.where(hers.numpy() == 1, 2, hers.numpy()).astype(np.uint8), levels=1)
    states = {one["run"]: one["state"] for one in json.loads(call("patches", "merge", *common, "--json"))}
    first = proposed["patches"][0]["run"]
    assert states == {first: "done", ({"TS_1", "TS_2"} - {first}).pop(): "skipped"}
    second = json.loads(call(
        "patches", "propose", config, *options(tuned), "--name", "round-2", "--count", "1", "--edge", str(EDGE),
        "--json",
    ))  # fmt: skip
    assert second["patches"][0]["model_sha256"] == model_sha256(str(tuned))
