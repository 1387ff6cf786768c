"""Segmentation training: patches, and a loop that learns and resumes exactly."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from membrain_cloud.errors import MembrainCloudError, UsageError
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import load_network
from membrain_cloud.simulation.phantom import PhantomSettings, make_specimen
from membrain_cloud.training.augmentation.policy import PRESETS
from membrain_cloud.training.segmentation.batches import batches, training_batches
from membrain_cloud.training.segmentation.config import MEMBRAIN_SEG, SegmentationTraining, fine_tuning
from membrain_cloud.training.segmentation.labelled_patches import Patch, Planes, VolumePatches, prepare
from membrain_cloud.training.segmentation.loop import Pretrained, SegmentationData, train_segmenter
from membrain_cloud.training.segmentation.losses import mirror_loss
from membrain_cloud.training.segmentation.simulated_patches import (
    draw_patch,
    load_specimen,
    make_pool,
    simulated_sources,
)
from membrain_cloud.training.segmentation.trainer import Trainer, trains_in_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validation_patches=4, validate_every=3, threads=1, workers=0, precision="float32",
)  # fmt: skip
FACTS = {"voxel_spacing_angstrom": 10.0, "trained_on": "a test"}


class Sheets:
    """Patches of a bright sheet in noise: a source that needs no file."""

    volumes = 5
    identity = "sheets"

    def patch(self, seed: int, n: int) -> Patch:
        rng = np.random.default_rng((seed, n))
        image = rng.standard_normal((16, 16, 16)).astype(np.float32)
        label = np.zeros((16, 16, 16), np.uint8)
        where = int(rng.integers(2, 12))
        label[where : where + 3] = 1
        label[..., :2] = 2
        return Patch(image + 2.0 * (label == 1).astype(np.float32), label)


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


def test_simulated_patches_are_normalised_and_depend_on_their_seed_alone() -> None:
    specimen = make_specimen(2, PhantomSettings(shape=(48, 48, 48), membranes=2))
    stored = (specimen.density.astype(np.float16), specimen.labels, 10.0)
    first, again, other = (draw_patch(stored, 24, PRESETS["simulated"], np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == first.label.shape == (24, 24, 24)
    assert first.image.dtype == np.float32
    assert abs(first.image.mean()) < 1e-3
    assert first.image.std() == pytest.approx(1, abs=1e-3)


def test_a_pool_is_made_once(tmp_path: Path) -> None:
    paths = make_pool(tmp_path, count=1, edge=40, seed=3, processes=1, done=lambda n: None)
    stamp = paths[0].stat().st_mtime_ns
    assert make_pool(tmp_path, count=1, edge=40, seed=3, processes=1, done=lambda n: None) == paths
    assert paths[0].stat().st_mtime_ns == stamp
    density, label, spacing = load_specimen(paths[0])
    assert density.shape == label.shape == (40, 40, 40)
    assert 8 <= spacing <= 14


def test_coarse_specimens_are_drawn_so_many_times_as_often(tmp_path: Path) -> None:
    settings = replace(TINY, specimens=9, specimen_edge=40, validation_specimens=1, seed=3)
    plain, held_back = simulated_sources(tmp_path, settings, lambda *_: None)
    often, same = simulated_sources(tmp_path, replace(settings, coarse=3), lambda *_: None)
    counts = Counter(often.paths)
    spacings = {path: load_specimen(path)[2] for path in plain.paths}
    assert held_back.paths == same.paths
    assert counts == {path: 3 if spacing >= 11.0 else 1 for path, spacing in spacings.items()}
    assert set(counts.values()) == {1, 3}
    assert often.identity != plain.identity


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
    # Done is done: a third call writes the same model and takes no step.
    assert_same(straight, train(tmp_path, "b", TINY, progress=lambda step, line: pytest.fail(line)))


def test_the_curve_goes_to_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for its writer: the package itself is none of ours."""
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
loop._SAVE_SECONDS = 0.0  # after every step: the checkpoint is being written most of the time
train(Path(sys.argv[2]), "killed", replace(TINY, steps=30, validate_every=10, patience=9))
"""


def test_a_training_killed_at_any_moment_has_the_curve_of_one_left_alone(tmp_path: Path) -> None:
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


def test_another_trainings_state_is_refused(tmp_path: Path) -> None:
    train(tmp_path, "a", TINY)
    with pytest.raises(UsageError, match="other settings or data"):
        train(tmp_path, "a", replace(TINY, learning_rate=1e-4))
    with pytest.raises(UsageError, match="other settings or data"):
        train(tmp_path, "a", replace(TINY, channels=(4, 8, 16)))
    train(tmp_path, "a", replace(TINY, threads=2))  # as fast as one likes


def test_training_stops_when_it_gets_no_better_and_the_best_is_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    # No rate, no change: the first validation stays the best.
    settings = replace(TINY, steps=30, validate_every=2, patience=3, learning_rate=0.0)
    made = train(tmp_path, "a", settings, progress=lambda step, line: lines.append(f"{step} {line}"))
    assert lines[-1].startswith("8 ")
    assert "stopped" in lines[-1]
    assert load_network(str(made))[1]["validation_dice"] == pytest.approx(
        float(lines[0].split("Dice ")[1][:5]), abs=1e-3
    )


def test_fine_tuning_stops_where_it_forgets_and_keeps_what_it_knew(tmp_path: Path) -> None:
    base = train(tmp_path, "base", replace(TINY, batch=2, steps=100, validate_every=100))
    network, header = load_network(str(base))
    known = header["validation_dice"]
    assert known > 0.6

    class Inverted(Sheets):
        identity = "inverted"

        def patch(self, seed: int, n: int) -> Patch:
            patch = super().patch(seed, n)
            return Patch(patch.image, np.where(patch.label == 2, 2, 1 - patch.label).astype(np.uint8))

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


def test_a_better_base_is_kept_where_one_waits_for_something_better(tmp_path: Path) -> None:
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


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(MembrainCloudError, match=r"the loss of step \d+ is"):
        train(tmp_path, "a", replace(TINY, steps=50, learning_rate=1e30, clip_norm=0.0, optimizer="sgd"))


def test_a_few_predictions_are_shown(tmp_path: Path) -> None:
    shown: list[tuple[int, tuple[int, ...]]] = []

    def picture(step: int, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> None:
        assert images.shape == labels.shape == logits.shape
        shown.append((step, tuple(images.shape)))

    train(tmp_path, "a", replace(TINY, steps=8, validate_every=1), picture=picture)
    assert [step for step, _ in shown] == [2, 4, 6, 8]


def test_workers_make_the_patches_that_this_process_would(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal((20, 20, 20)).astype(np.float32)
    label = (noise > 1).astype(np.uint8)
    planes = Planes((20, 20, 20), lambda a, b: noise[a:b], lambda a, b: label[a:b], None)
    volume = prepare(tmp_path, "v", "1", lambda: planes, margin=0)
    source = VolumePatches((volume,), 16, PRESETS["membrain-seg"])
    alone, helped = (
        [image for image, _ in batches(source, replace(TINY, workers=workers), 5, 0, 4)] for workers in (0, 2)
    )
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("views", [1, 3])
def test_patches_are_shown_as_often_as_asked_and_the_same_ones_after_a_stop(
    views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("membrain_cloud.training.segmentation.batches._KEPT_VOXELS", 4 * 16**3)
    settings = replace(TINY, steps=29, views=views)
    shown = [float(image[0, 0, 0, 0, 0]) for image, _ in training_batches(Sheets(), settings, 0)]
    made = [float(image[0, 0, 0, 0, 0]) for image, _ in batches(Sheets(), settings, settings.seed, 0, 29)]
    assert len(shown) == 29
    assert shown[::views] == made[: -(-29 // views)]
    for step, again in enumerate(shown):
        newest = step // views
        assert made.index(again) in range(max(0, newest - 3), newest + 1)  # of the four that are kept
    for stop in range(30):
        assert [float(image[0, 0, 0, 0, 0]) for image, _ in training_batches(Sheets(), settings, stop)] == shown[stop:]


def test_rates_fall_as_the_recipes_say() -> None:
    poly = replace(MEMBRAIN_SEG, steps=1000, epoch_steps=10)
    assert poly.rate(0) == poly.rate(9) == 1e-2
    assert poly.rate(500) == pytest.approx(1e-2 * 0.5**0.9)
    plateau = replace(TINY, steps=1000, learning_rate=1.0)
    assert [plateau.rate(s) for s in (99, 500, 875)] == pytest.approx([0.5, 1.0, 0.5])


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UsageError, match="patches of 40 voxels do not fit a network of 5 levels"):
        SegmentationTraining(window=40)
    with pytest.raises(UsageError, match="cannot be supervised at 3 resolutions"):
        replace(TINY, heads=(1.0, 0.5, 0.25))
    with pytest.raises(UsageError, match="no optimizer"):
        replace(TINY, optimizer="adam")
    with pytest.raises(UsageError, match="no precision"):
        trains_in_bfloat16(torch.device("cpu"), "float16")


def test_a_patch_and_its_mirror_image_are_to_give_one_answer() -> None:
    """The loss of both as patches of their own, and how far they are apart; another mirror at every step."""
    torch.manual_seed(0)
    settings = SegmentationTraining(channels=(4, 4, 4), window=16, mirror_loss=3.0, precision="float32")
    trainer = Trainer(settings, torch.device("cpu"), None)
    image = torch.randn(2, 1, 16, 16, 16)
    label = (torch.rand(image.shape) < 0.3).to(torch.uint8)
    seen = set()
    for step, axes in ((0, [4]), (1, [3]), (6, [2, 3, 4]), (7, [4])):
        trainer.step = step
        with torch.no_grad():
            loss = float(trainer._loss(image, label))
            plain, mirrored = trainer._outputs(image), trainer._outputs(image.flip(axes))
            expected = settings.loss(
                [torch.cat([plain[0], mirrored[0]])], torch.cat([label, label.flip(axes)])
            ) + 3 * mirror_loss(plain[0], mirrored[0].flip(axes), label)
        assert loss == pytest.approx(float(expected), rel=1e-5)
        seen.add(loss)
    assert len(seen) == 3


def test_heads_are_for_training_alone() -> None:
    settings = replace(TINY, channels=(4, 8, 8, 8), heads=(1.0, 0.5, 0.25))
    trainer = Trainer(settings, torch.device("cpu"), None)
    shapes = [tuple(out.shape[2:]) for out in trainer._outputs(torch.zeros(1, 1, 16, 16, 16))]
    assert shapes == [(16, 16, 16), (8, 8, 8), (4, 4, 4)]
    assert set(trainer.average.state_dict()) == set(build_unet(settings.architecture).state_dict())


def test_a_network_is_gone_on_from_as_it_is(lightning_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    network, header = load_network(str(lightning_checkpoint(tmp_path / "v.ckpt", channels=(4, 8, 8, 8))))
    settings = fine_tuning(TINY, UNetArchitecture.from_dict(header["architecture"]), 32)
    image = torch.randn(1, 1, 32, 32, 32)
    trainer = Trainer(settings, torch.device("cpu"), network)
    with torch.inference_mode():
        torch.testing.assert_close(trainer.predict(image), network(image))


def test_gradients_are_numbers_on_the_smallest_maps_whatever_memory_held() -> None:
    settings = replace(
        SegmentationTraining(), channels=(4, 8, 8, 8), residual=True, window=16, batch=2, precision="bfloat16"
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    trainer = Trainer(settings, torch.device("cpu"), None)

    def leave_nonsense() -> None:
        [torch.full((size,), math.nan) for size in [*range(64, 4096, 64), *(1000 << k for k in range(9))]]

    for _ in range(100):  # with channels last, one in thirty went wrong
        label = (torch.rand(2, 1, 16, 16, 16) > 0.7).to(torch.uint8)
        leave_nonsense()
        loss = trainer.loss(trainer._outputs(torch.randn(2, 1, 16, 16, 16)), label)
        trainer.network.zero_grad(set_to_none=True)
        leave_nonsense()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in trainer.network.parameters() if p.grad is not None)


def test_a_symmetric_network_is_trained_saved_gone_on_with_and_tuned_as_one(tmp_path: Path) -> None:
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


def test_a_symmetric_network_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(4, 8, 8\) .* cannot be symmetric"):
        replace(TINY, mirror_symmetric=True)
    with pytest.raises(UsageError, match="mirror loss of 1 cannot be symmetric"):
        replace(TINY, channels=(8, 8, 8), mirror_symmetric=True, mirror_loss=1.0)


def test_a_teachers_answers_are_learnt_while_it_teaches_also_where_nothing_is_labelled() -> None:
    torch.manual_seed(0)
    settings = replace(TINY, steps=10)
    teacher = build_unet(UNetArchitecture((4, 4, 4)))
    image, nothing = torch.randn(1, 1, 16, 16, 16), torch.full((1, 1, 16, 16, 16), 2, dtype=torch.uint8)
    trainer = Trainer(settings, torch.device("cpu"), None, teacher)
    with torch.no_grad():
        logits, told = trainer._outputs(image)[0], teacher(image)
        expected = functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(told))
        for step, share in ((0, 1), (5, 1), (6, 0), (9, 0)):
            trainer.step = step
            left = float(trainer._loss(image, nothing)) - float(trainer.loss([logits], nothing))
            assert left == pytest.approx(share * float(expected), abs=1e-6)
        trainer.settings = replace(settings, teacher_weight=3.0, teacher_part=1.0, teacher_looks=2)
        for step, axes in ((1, [3]), (9, [3, 4])):
            trainer.step = step
            told = (teacher(image) + teacher(image.flip(axes)).flip(axes)) / 2
            expected = functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(told))
            left = float(trainer._loss(image, nothing)) - float(trainer.loss([logits], nothing))
            assert left == pytest.approx(3 * float(expected), abs=1e-5)
    unchanged = [parameter.clone() for parameter in teacher.parameters()]
    trainer.step = 0
    trainer.train(image, nothing)
    assert all(torch.equal(one, other) for one, other in zip(unchanged, teacher.parameters(), strict=True))
