"""Segmentation training: patches, loss, and a loop that learns and resumes exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from membrain_cloud.membranes.phantom import PhantomSettings, make_specimen
from membrain_cloud.networks.checkpoints import load_network
from membrain_cloud.training.augmentation import augment, fourier_amplitude, normalise
from membrain_cloud.training.loop import SegmentationTraining, train_segmenter
from membrain_cloud.training.losses import dice_bce_loss
from membrain_cloud.training.patches import draw_patch, load_specimen, make_pool

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validate_every=3, threads=1, workers=0,
)  # fmt: skip


def test_the_loss_falls_as_the_prediction_improves_and_skips_ignored_voxels() -> None:
    target = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    target[..., :4] = 1
    right, wrong = (target.float() * 2 - 1) * 6, (1 - target.float() * 2) * 6
    assert dice_bce_loss(right, target) < 0.05 < 1 < dice_bce_loss(wrong, target)
    ignored = target.clone()
    ignored[..., :2] = 2
    half_wrong = right.clone()
    half_wrong[..., :2] *= -1
    assert dice_bce_loss(half_wrong, ignored) < 0.05


def test_patches_are_normalised_and_depend_on_their_seed_alone() -> None:
    specimen = make_specimen(2, PhantomSettings(shape=(48, 48, 48), membranes=2))
    stored = (specimen.density.astype(np.float16), specimen.labels, 10.0)
    first, again, other = (draw_patch(stored, 24, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == first.label.shape == (24, 24, 24)
    assert first.image.dtype == np.float32
    assert abs(first.image.mean()) < 1e-3
    assert first.image.std() == pytest.approx(1, abs=1e-3)


def test_augmentations_keep_shape_and_stay_finite() -> None:
    image = np.random.default_rng(0).standard_normal((20, 21, 22)).astype(np.float32)
    for seed in range(30):
        out = augment(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert np.isfinite(out).all()
    assert np.abs(fourier_amplitude(image, np.random.default_rng(0), 0.2) - image).mean() > 0.05
    assert (normalise(np.ones((4, 4, 4), np.float32)) == 0).all()


def test_a_pool_is_made_once(tmp_path: Path) -> None:
    paths = make_pool(tmp_path, count=1, edge=40, seed=3, processes=1, done=lambda n: None)
    stamp = paths[0].stat().st_mtime_ns
    assert make_pool(tmp_path, count=1, edge=40, seed=3, processes=1, done=lambda n: None) == paths
    assert paths[0].stat().st_mtime_ns == stamp
    density, label, spacing = load_specimen(paths[0])
    assert density.shape == label.shape == (40, 40, 40)
    assert 8 <= spacing <= 14


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_after_three(step: int, line: str) -> None:
        if "validation" in line and step == 3:
            raise Stop

    def quiet(step: int, line: str) -> None:
        pass

    straight = train_segmenter(tmp_path / "a.safetensors", tmp_path / "a", TINY, device="cpu", progress=quiet)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "pool").symlink_to(tmp_path / "a" / "pool")
    with pytest.raises(Stop):
        train_segmenter(tmp_path / "b.safetensors", tmp_path / "b", TINY, device="cpu", progress=stop_after_three)
    resumed = train_segmenter(tmp_path / "b.safetensors", tmp_path / "b", TINY, device="cpu", progress=quiet)
    first, second = (load_network(str(p))[0].state_dict() for p in (straight, resumed))
    for (name, one), two in zip(first.items(), second.values(), strict=True):
        assert torch.equal(one, two), name


def test_training_learns_to_tell_dark_from_bright(tmp_path: Path) -> None:
    """A hundred and fifty steps on two specimens must bring the loss well below where it starts."""
    lines: list[float] = []

    def note(step: int, line: str) -> None:
        if line.startswith("loss"):
            lines.append(float(line.split()[1].rstrip(",")))

    settings = replace(TINY, channels=(8, 16, 16), steps=150, learning_rate=5e-3, validate_every=150, window=24)
    train_segmenter(tmp_path / "m.safetensors", tmp_path / "w", settings, device="cpu", progress=note)
    assert lines[-1] < 0.85 * lines[0], lines
    assert (tmp_path / "w" / "log.csv").read_text().startswith("step,loss,validation_dice")
