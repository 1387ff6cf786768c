"""Training of a picker on annotated membranes: number of epochs, base, summary and file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.networks.picking.picker import Picker, load_picker
from membrain_cloud.pipeline.training import picker as picker_training
from membrain_cloud.pipeline.training.picker import network_name, train_in_rounds, train_on_membranes
from membrain_cloud.pipeline.training.picker_data import PickerData
from membrain_cloud.pipeline.training.picker_defaults import NO_BASE, PICKER_TRAINING, SUBVOLUME_TRAINING
from membrain_cloud.training.picking.examples import PickingExample
from membrain_cloud.training.picking.targets import particle_targets

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = replace(
    PICKER_TRAINING, offsets_angstrom=(-5.0, 0.0, 5.0), window=2, eigenpairs=12, partition_vertices=2000, width=4,
    hidden=4, blocks=1, accumulate=1,
)  # fmt: skip


def example(seed: int, count: int = 3) -> PickingExample:
    """Return a ball whose profiles show the distance from its particles, with noise."""
    shape = trimesh.creation.icosphere(3, radius=170.0 + seed)
    mesh = Mesh(np.array(shape.vertices, float), np.array(shape.faces, np.int32))
    axes = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]])[:count]
    particles = Picks((170.0 + seed) * axes, orientations_from_normals(axes))
    near = np.clip(particle_targets(mesh, particles, score_unit_angstrom=15.0), 0, 10)[:, None] / 10
    noise = np.random.default_rng(seed).normal(0, 0.1, (len(near), 3))
    return PickingExample(mesh, (near + noise).astype(np.float32), particles)


def data(**changes: Any) -> PickerData:
    return replace(
        PickerData([example(0), example(1)], [example(9)], [example(8)], TRAINING, {"runs": ["a"]}), **changes
    )


def quiet(_line: str) -> None:
    pass


def test_the_number_of_epochs_follows_from_the_vertices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picker_training, "ROUND_VERTICES", 3 * 2 * 642 + 1)
    monkeypatch.setattr(picker_training, "ROUND_EPOCHS", (1, 5))
    lines: list[str] = []
    output = str(tmp_path / "picker.safetensors")
    summary = train_on_membranes(data(), output, str(tmp_path / "w"), {}, base=NO_BASE, progress=lines.append)
    assert lines[0] == "2 membranes, particles: 6 particles; 1 to validate with"
    assert [line.partition(":")[0] for line in lines[1:]] == [f"epoch {k} of 3" for k in (1, 2, 3)]
    assert (summary["membranes"], summary["particles"], summary["network"]) == (2, {"particles": 6}, "profiles")
    picker = load_picker(output)
    assert isinstance(picker, Picker)
    assert picker.notes["trained_on"] == {
        "membranes": 2, "particles": {"particles": 6}, "network": "profiles", "runs": ["a"],
    }  # fmt: skip
    assert picker.notes["validation"] == summary["validation"]
    assert picker.notes["training"]["epochs"] == 3


def test_training_starts_from_a_named_base(tmp_path: Path) -> None:
    base, output = str(tmp_path / "base.safetensors"), str(tmp_path / "tuned.safetensors")
    train_on_membranes(data(), base, str(tmp_path / "w"), {"epochs": 1}, base=NO_BASE, progress=quiet)
    lines: list[str] = []
    train_on_membranes(data(), output, str(tmp_path / "v"), {"epochs": 1}, base=base, progress=lines.append)
    assert any("begins with the weights of" in line for line in lines)
    assert load_picker(output).notes["trained_on"]["base"] == base
    with pytest.raises(UsageError, match="is the picker to begin with -> write the new one to another file"):
        train_on_membranes(data(), base, str(tmp_path / "w"), {"epochs": 1}, base=base, progress=quiet)


def test_validation_needs_particles(tmp_path: Path) -> None:
    output, work = str(tmp_path / "picker.safetensors"), str(tmp_path / "w")
    with pytest.raises(InputError, match="not one particle to validate with"):
        train_on_membranes(data(validation=[example(9, 0)]), output, work, {}, base=NO_BASE, progress=quiet)
    with pytest.raises(UsageError, match="name validation runs"):
        train_in_rounds(data(validation=[]), [1], output, work, {}, base=NO_BASE, progress=quiet)


def test_networks_have_names() -> None:
    assert (network_name(PICKER_TRAINING), network_name(SUBVOLUME_TRAINING)) == ("profiles", "subvolumes")
