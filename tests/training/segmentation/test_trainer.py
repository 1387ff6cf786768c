"""Steps of a segmentation training: mirror loss, heads, teacher, gradients, fine-tuning."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import load_network
from membrain_cloud.training.segmentation.config import SegmentationTraining, fine_tuning
from membrain_cloud.training.segmentation.losses import mirror_loss
from membrain_cloud.training.segmentation.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY = SegmentationTraining(
    channels=(4, 8, 8), window=16, batch=1, steps=6, specimens=2, specimen_edge=40, validation_specimens=1,
    validation_patches=4, validate_every=3, threads=1, workers=0, precision="float32",
)  # fmt: skip


def test_mirror_loss_compares_a_patch_with_its_mirror_image() -> None:
    """The loss of both as separate patches plus their distance, with another mirror in every step."""
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


def test_heads_are_used_in_training_alone() -> None:
    settings = replace(TINY, channels=(4, 8, 8, 8), heads=(1.0, 0.5, 0.25))
    trainer = Trainer(settings, torch.device("cpu"), None)
    shapes = [tuple(out.shape[2:]) for out in trainer._outputs(torch.zeros(1, 1, 16, 16, 16))]
    assert shapes == [(16, 16, 16), (8, 8, 8), (4, 4, 4)]
    assert set(trainer.average.state_dict()) == set(build_unet(settings.architecture).state_dict())


def test_fine_tuning_starts_from_the_weights_of_the_base(
    lightning_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    network, header = load_network(str(lightning_checkpoint(tmp_path / "v.ckpt", channels=(4, 8, 8, 8))))
    settings = fine_tuning(TINY, UNetArchitecture.from_dict(header["architecture"]), 32)
    image = torch.randn(1, 1, 32, 32, 32)
    trainer = Trainer(settings, torch.device("cpu"), network)
    with torch.inference_mode():
        torch.testing.assert_close(trainer.predict(image), network(image))


def test_gradients_are_finite_on_the_smallest_maps() -> None:
    settings = replace(
        SegmentationTraining(), channels=(4, 8, 8, 8), residual=True, window=16, batch=2, precision="bfloat16"
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    trainer = Trainer(settings, torch.device("cpu"), None)

    def fill_memory_with_nan() -> None:
        [torch.full((size,), math.nan) for size in [*range(64, 4096, 64), *(1000 << k for k in range(9))]]

    for _ in range(100):  # with channels last, one in thirty had NaN
        label = (torch.rand(2, 1, 16, 16, 16) > 0.7).to(torch.uint8)
        fill_memory_with_nan()
        loss = trainer.loss(trainer._outputs(torch.randn(2, 1, 16, 16, 16)), label)
        trainer.network.zero_grad(set_to_none=True)
        fill_memory_with_nan()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in trainer.network.parameters() if p.grad is not None)


def test_teacher_loss_is_used_for_a_part_of_the_steps() -> None:
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
