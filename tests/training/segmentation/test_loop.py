"""Segmentation training: batches, steps, and a loop that learns and resumes exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from membrain_cloud.errors import MembrainCloudError, UsageError
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture
from membrain_cloud.networks.segmentation.segmenter import load_network
from membrain_cloud.training.segmentation.config import SegmentationTraining, fine_tuning
from membrain_cloud.training.segmentation.labelled_patches import (
    LabelledPatch,
)
from membrain_cloud.training.segmentation.loop import Pretrained, SegmentationData, train_segmenter
from membrain_cloud.training.segmentation.simulated_patches import (
    simulated_sources,
)
from membrain_cloud.training.segmentation.trainer import Trainer

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validation_patches=4, validate_every=3, threads=1, workers=0, precision="float32",
)  # fmt: skip
FACTS = {"voxel_spacing_angstrom": 10.0, "trained_on": "a test"}


class Sheets:
    """Patches of a bright sheet in noise; a source without files."""

    volumes = 5
    identity = "sheets"

    def patch(self, seed: int, n: int) -> LabelledPatch:
        rng = np.random.default_rng((seed, n))
        image = rng.standard_normal((16, 16, 16)).astype(np.float32)
        label = np.zeros((16, 16, 16), np.uint8)
        where = int(rng.integers(2, 12))
        label[where : where + 3] = 1
        label[..., :2] = 2
        return LabelledPatch(image + 2.0 * (label == 1).astype(np.float32), label)


def quiet(step: int, line: str) -> None:
    pass


def train(folder: Path, name: str, settings: SegmentationTraining, **options: Any) -> Path:
    options = {"device": "cpu", "progress": quiet, **options}
    data = SegmentationData(Sheets(), Sheets(), FACTS)
    return train_segmenter(folder / f"{name}.safetensors", folder / name, settings, data, **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_network(str(path))[0].state_dict()


def assert_same(first: Path, second: Path) -> None:
    for (name, one), two in zip(weights(first).items(), weights(second).values(), strict=True):
        assert torch.equal(one, two), name


def test_training_on_simulated_specimens_learns(tmp_path: Path) -> None:
    """A hundred and fifty steps on one specimen must bring the loss well below where it starts."""
    lines: list[float] = []

    def note(step: int, line: str) -> None:
        if line.startswith("loss"):
            lines.append(float(line.split()[1].rstrip(",")))

    settings = replace(TINY, channels=(8, 16, 16), steps=150, learning_rate=5e-3, validate_every=75, window=24)
    data = SegmentationData(*simulated_sources(tmp_path, settings, quiet), FACTS)
    train_segmenter(tmp_path / "m.safetensors", tmp_path, settings, data, device="cpu", progress=note)
    assert lines[-1] < 0.85 * lines[0], lines
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0] == "step,loss,validation_dice,learning_rate"
    assert [row.split(",")[0] for row in rows[1:]] == ["75", "150"]


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "sgd", "schedule": "polynomial", "learning_rate": 1e-2, "surface_dice": 0.5}]
)
def test_both_optimizers_find_a_sheet(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = replace(TINY, batch=2, steps=120, validate_every=60, heads=(1.0, 0.5), **options)
    header = load_network(str(train(tmp_path, "a", settings)))[1]
    assert header["validation_dice"] > 0.7
    assert header["training"]["optimizer"] == settings.optimizer


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_after_three(step: int, line: str) -> None:
        if "validation" in line and step == 3:
            raise Stop

    straight = train(tmp_path, "a", TINY)
    with pytest.raises(Stop):
        train(tmp_path, "b", TINY, progress=stop_after_three)
    assert_same(straight, train(tmp_path, "b", TINY))
    assert (tmp_path / "a" / "log.csv").read_text() == (tmp_path / "b" / "log.csv").read_text()
    # A third call has nothing left to do: it writes the same model and takes no step.
    assert_same(straight, train(tmp_path, "b", TINY, progress=lambda step, line: pytest.fail(line)))


def test_the_curve_is_written_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for its writer, because TensorBoard is no dependency."""
    shown: dict[str, list[tuple[int, float]]] = {}

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path / "a" / "tensorboard"), 3)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            shown.setdefault(name, []).append((step, value))

        def flush(self) -> None:
            pass

    installed, board = ModuleType("tensorboard"), ModuleType("torch.utils.tensorboard")
    installed.__spec__ = ModuleSpec("tensorboard", None)
    vars(board)["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, "tensorboard", installed)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    train(tmp_path, "a", TINY)
    names, *rows = [line.split(",") for line in (tmp_path / "a" / "log.csv").read_text().splitlines()]
    assert list(shown) == names[1:]
    for column, name in enumerate(names[1:], 1):
        wanted = [(int(row[0]), float(row[column])) for row in rows]
        assert [step for step, _ in shown[name]] == [step for step, _ in wanted]
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in wanted], rel=1e-2, abs=1e-5)


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loop import TINY, train
from membrain_cloud.training.segmentation import loop
loop._SAVE_SECONDS = 0.0  # after every step, so that most kills hit a save
train(Path(sys.argv[2]), "killed", replace(TINY, steps=30, validate_every=10, patience=9))
"""


def test_a_training_killed_at_any_moment_has_the_same_curve(tmp_path: Path) -> None:
    straight = train(tmp_path, "straight", replace(TINY, steps=30, validate_every=10, patience=9))
    checkpoint, kills, command = tmp_path / "killed" / "checkpoint.pt", 0, [sys.executable, "-c", KILLED]
    while not (tmp_path / "killed.safetensors").exists():
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(
                [*command, str(Path(__file__).parent), str(tmp_path)], stdout=output, stderr=output
            )
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and kills < 1:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                time.sleep(0.03)
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        code = process.wait()
        assert code in (0, -signal.SIGKILL), (tmp_path / "output").read_text()
    assert kills >= 1
    assert_same(straight, tmp_path / "killed.safetensors")
    assert (tmp_path / "straight" / "log.csv").read_text() == (tmp_path / "killed" / "log.csv").read_text()


def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path, "a", TINY)
    with pytest.raises(UsageError, match="other settings or data"):
        train(tmp_path, "a", replace(TINY, learning_rate=1e-4))
    with pytest.raises(UsageError, match="other settings or data"):
        train(tmp_path, "a", replace(TINY, channels=(4, 8, 16)))
    train(tmp_path, "a", replace(TINY, threads=2))  # affects the speed alone


def test_training_stops_without_improvement_and_keeps_the_best(tmp_path: Path) -> None:
    lines: list[str] = []
    # With a learning rate of 0 nothing changes, and the first validation stays the best.
    settings = replace(TINY, steps=30, validate_every=2, patience=3, learning_rate=0.0)
    made = train(tmp_path, "a", settings, progress=lambda step, line: lines.append(f"{step} {line}"))
    assert lines[-1].startswith("8 ")
    assert "stopped" in lines[-1]
    assert load_network(str(made))[1]["validation_dice"] == pytest.approx(
        float(lines[0].split("Dice ")[1][:5]), abs=1e-3
    )


def test_fine_tuning_stops_when_validation_gets_worse(tmp_path: Path) -> None:
    base = train(tmp_path, "base", replace(TINY, batch=2, steps=100, validate_every=100))
    network, header = load_network(str(base))
    assert header["validation_dice"] > 0.6

    class Inverted(Sheets):
        identity = "inverted"

        def patch(self, seed: int, n: int) -> LabelledPatch:
            patch = super().patch(seed, n)
            return LabelledPatch(patch.image, np.where(patch.label == 2, 2, 1 - patch.label).astype(np.uint8))

    settings = fine_tuning(TINY, UNetArchitecture((4, 8, 8)), 16)
    assert (settings.learning_rate, settings.tolerance) == (1e-5, 0.05)
    lines: list[str] = []
    settings = replace(settings, learning_rate=0.02, steps=200, validate_every=10)
    tuned = train_segmenter(
        tmp_path / "tuned.safetensors",
        tmp_path / "tuning",
        settings,
        SegmentationData(Inverted(), Sheets(), FACTS),
        device="cpu",
        progress=lambda step, line: lines.append(f"{step} {line}"),
        pretrained=Pretrained(start=network),
    )
    assert "before the first step" in lines[0]
    assert "stopped" in lines[-1]
    assert int(lines[-1].split()[0]) < 200
    kept = load_network(str(tuned))[1]["validation_dice"]
    assert kept >= 0.95 * float(lines[0].split("Dice ")[1].split()[0]) - 1e-3
    assert_same(base, base)


def test_the_initial_weights_are_kept_if_no_others_are_better(tmp_path: Path) -> None:
    base = train(tmp_path, "base", replace(TINY, batch=2, steps=100, validate_every=100))
    settings = fine_tuning(TINY, UNetArchitecture((4, 8, 8)), 16)
    settings = replace(settings, learning_rate=1e-30, steps=6, validate_every=1, patience=2, tolerance=0.9)
    said: list[str] = []
    values = iter([0.9, 0.8, 0.85, 0.7])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "validate", lambda *_: next(values))
        tuned = train_segmenter(
            tmp_path / "tuned.safetensors",
            tmp_path / "tuning",
            settings,
            SegmentationData(Sheets(), Sheets(), FACTS),
            device="cpu",
            progress=lambda _, line: said.append(line),
            pretrained=Pretrained(start=load_network(str(base))[0]),
        )
    assert "0.900 was the best for 2 validations" in said[-1]
    _, header = load_network(str(tuned))
    assert header["validation_dice"] == 0.9
    assert_same(base, tuned)


def test_an_infinite_loss_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(MembrainCloudError, match=r"the loss of step \d+ is"):
        train(tmp_path, "a", replace(TINY, steps=50, learning_rate=1e30, clip_norm=0.0, optimizer="sgd"))


def test_a_few_predictions_are_shown(tmp_path: Path) -> None:
    shown: list[tuple[int, tuple[int, ...]]] = []

    def picture(step: int, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> None:
        assert images.shape == labels.shape == logits.shape
        shown.append((step, tuple(images.shape)))

    train(tmp_path, "a", replace(TINY, steps=8, validate_every=1), picture=picture)
    assert [step for step, _ in shown] == [2, 4, 6, 8]


def test_a_symmetric_network_stays_symmetric(tmp_path: Path) -> None:
    settings = replace(TINY, channels=(8, 16, 16), mirror_symmetric=True)
    whole = train(tmp_path / "a", "whole", settings)
    network, header = load_network(str(whole))
    assert mirrors_are_tied(network)
    assert header["training"]["mirror_symmetric"] is True
    image = torch.randn(1, 1, 16, 16, 16)
    tuned = replace(fine_tuning(TINY, settings.architecture, 16, mirror_symmetric=True), steps=2)
    trainer = Trainer(tuned, torch.device("cpu"), network)
    with torch.inference_mode():
        torch.testing.assert_close(trainer.predict(image), network(image))
    label = (image > 1).to(torch.uint8)
    for _ in range(3):
        trainer.train(image, label)
    assert mirrors_are_tied(trainer.average)
    assert not torch.equal(trainer.predict(image), network(image))
