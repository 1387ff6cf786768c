"""MemBrain v1's network: its size, its weights' names, and pickers of its kind in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from membrain_cloud.errors import ModelError
from membrain_cloud.networks.picking.picker import load_picker, save_picker
from membrain_cloud.networks.picking.subvolume_net import SubvolumeNet
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker

if TYPE_CHECKING:
    from pathlib import Path


def picker(outputs: int = 1, classes: tuple[str, ...] = ()) -> SubvolumePicker:
    torch.manual_seed(0)
    network = SubvolumeNet(outputs=outputs).eval().requires_grad_(False)
    return SubvolumePicker(network, 12, 14.0, 15.0, classes=classes, notes={"trained_on": "nothing"})


def test_it_has_the_parameters_of_membrain_v1() -> None:
    network = SubvolumeNet(outputs=1)
    assert sum(p.numel() for p in network.parameters()) == 100_577
    assert {name.split(".")[0] for name in network.state_dict()} == {
        "conv1", "conv1b", "conv2", "conv2b", "batchnorm1", "batchnorm2", "batchnorm3", "batchnorm4", "mlp1"
    }  # fmt: skip
    assert network(torch.zeros(3, 1, 12, 12, 12)).shape == (3, 1)


def test_scores_do_not_hang_on_the_portions_or_the_scale() -> None:
    boxes = np.random.default_rng(1).normal(size=(300, 12, 12, 12)).astype(np.float32)
    made = picker()
    whole = made.predict_boxes(boxes, mean=0.0, deviation=1.0)
    assert whole.shape == (300,)
    alone = np.concatenate([made.predict_boxes(boxes[i : i + 50], mean=0.0, deviation=1.0) for i in range(0, 300, 50)])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    scaled = made.predict_boxes(7.0 * boxes + 3.0, mean=3.0, deviation=7.0)
    np.testing.assert_allclose(scaled, whole, atol=1e-4)


@pytest.mark.parametrize(
    ("outputs", "classes", "names"), [(1, (), ()), (2, ("a", "b"), ("a", "b")), (1, ("a",), ("a",))]
)
def test_a_picker_survives_writing_and_reading(
    tmp_path: Path, outputs: int, classes: tuple[str, ...], names: tuple[str, ...]
) -> None:
    made, file = picker(outputs, classes), tmp_path / "p.safetensors"
    save_picker(made, file)
    first = file.read_bytes()
    read = load_picker(file)
    assert isinstance(read, SubvolumePicker)
    assert read.class_names == names
    assert (read.edge, read.spacing_angstrom, read.notes) == (12, 14.0, made.notes)
    assert read.reach_angstrom == pytest.approx(np.sqrt(3) * 5.5 * 14.0)
    boxes = np.random.default_rng(1).normal(size=(5, 12, 12, 12)).astype(np.float32)
    found = read.predict_boxes(boxes, mean=0.0, deviation=1.0)
    assert found.shape == ((5, outputs) if outputs > 1 else (5,))
    np.testing.assert_array_equal(found, made.predict_boxes(boxes, mean=0.0, deviation=1.0))
    save_picker(read, file)
    assert file.read_bytes() == first


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = picker()
    object.__setattr__(made, "network", torch.nn.Linear(3, 2))
    made.network.outputs = 1
    save_picker(made, tmp_path / "p.safetensors")
    with pytest.raises(ModelError, match="not a picker model"):
        load_picker(tmp_path / "p.safetensors")
