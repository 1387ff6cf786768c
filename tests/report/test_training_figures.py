"""Figures of a training show image, labels and probability of each patch."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from membrain_cloud.report.training_figures import predictions_figure


def draw(logits: np.ndarray) -> np.ndarray:
    images = np.random.default_rng(0).normal(size=logits.shape)
    labels = np.zeros(logits.shape, int)
    labels[:, :, :8] = 1
    png = predictions_figure(images, labels, logits, title="epoch 3")
    assert png == predictions_figure(images, labels, logits, title="epoch 3")
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_row_for_each_patch_with_labels_in_blue() -> None:
    one, two = draw(np.zeros((1, 16, 16, 16))), draw(np.zeros((2, 16, 16, 16)))
    assert two.shape[0] - one.shape[0] == 250
    blue = (np.abs(two - np.array([0, 114, 178])) < 8).all(axis=2)
    assert 0.05 < blue.mean() < 0.3


def test_probabilities_run_from_purple_to_yellow() -> None:
    def yellow(image: np.ndarray) -> float:
        return float(((image[..., 0] > 230) & (image[..., 1] > 210) & (image[..., 2] < 80)).mean())

    assert yellow(draw(np.full((1, 16, 16, 16), 50.0))) > 0.1
    assert yellow(draw(np.full((1, 16, 16, 16), -50.0))) == 0.0
