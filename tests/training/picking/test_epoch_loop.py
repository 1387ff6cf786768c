"""The training of a picker by epochs: validation, best weights, log, death by SIGKILL, edited annotations, rounds."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import trimesh

from membrain_cloud.errors import UsageError
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.networks.picking.picker import Picker, load_picker
from membrain_cloud.picking import particles as picking
from membrain_cloud.picking.clustering_options import ClusteringOptions
from membrain_cloud.picking.particles import slab_thickness
from membrain_cloud.training.picking import profile_picker as picker_loop
from membrain_cloud.training.picking import validation as picker_scores
from membrain_cloud.training.picking.epoch_loop import Anchor, EpochPlan, run_epochs
from membrain_cloud.training.picking.examples import Example, PickingExample, SubvolumeExample, content_digest
from membrain_cloud.training.picking.learning_curve import Protocol, annotation_order, run_rounds
from membrain_cloud.training.picking.profile_picker import PickerTraining, train_picker
from membrain_cloud.training.picking.subvolume_picker import SubvolumeTraining, train_subvolume_picker
from membrain_cloud.training.picking.targets import particle_targets
from membrain_cloud.training.picking.validation import Validation, evaluate_picker

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

OFFSETS = tuple(np.arange(-5.0, 10.0, 5.0))
TRAINING = PickerTraining(
    offsets_angstrom=OFFSETS, window=2, eigenpairs=12, partition_vertices=2000, length_unit_angstrom=500.0,
    score_unit_angstrom=15.0, spline_order=1, width=4, hidden=4, blocks=1, epochs=3, learning_rate=1e-2, accumulate=1,
    seed=0,
)  # fmt: skip
CLUSTERING = ClusteringOptions(75.0, 7.0, 150, 5, 0.0, None, None, 1.5, True)
DIRECTIONS = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]])


def ball(radius: float = 170.0) -> Mesh:
    shape = trimesh.creation.icosphere(3, radius=radius)
    return Mesh(np.array(shape.vertices, float), np.array(shape.faces, np.int32))


def example(seed: int, count: int = 3) -> PickingExample:
    """Return profiles that show the distance from the particles, with noise."""
    mesh, axes = ball(170.0 + seed), DIRECTIONS[:count]
    particles = Picks((170.0 + seed) * axes, orientations_from_normals(axes))
    near = np.clip(particle_targets(mesh, particles, score_unit_angstrom=15.0), 0, 10)[:, None] / 10
    noise = np.random.default_rng(seed).normal(0, 0.1, (len(near), len(OFFSETS)))
    return PickingExample(mesh, (near + noise).astype(np.float32), particles)


def quiet(epoch: int, loss: float) -> None:
    pass


def log_of(checkpoint: Path) -> list[dict[str, str]]:
    with checkpoint.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def weights(picker: Picker) -> bytes:
    return b"".join(value.numpy().tobytes() for value in picker.network.state_dict().values())


def test_every_epoch_is_validated_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    """The second of four epochs validates best: the network ends with its weights."""
    network = torch.nn.Linear(1, 1)
    seen: list[float] = []
    f1 = iter([0.5, 0.9, 0.904, 0.2])
    loss = iter([1.0, 0.5, 0.6, 0.1])

    def train_epoch(optimiser: torch.optim.Optimizer, epoch: int) -> float:
        with torch.no_grad():
            network.weight.fill_(float(epoch))
        seen.append(optimiser.param_groups[0]["lr"])
        return float(epoch)

    def validate() -> dict[str, float | None]:
        assert not network.training
        return {"validation_loss": next(loss), "f1": next(f1)}

    plan = EpochPlan(4, 0.1, 1, "s", "d", tmp_path / "state.pt")
    state = run_epochs(network, plan, train_epoch=train_epoch, validate=validate, progress=quiet)
    assert state.best_at == 2
    assert float(network.weight.detach()) == 1.0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    np.testing.assert_allclose(seen, [0.1 * (1 - e / 4) ** 0.9 for e in range(4)])
    rows = log_of(tmp_path / "state.pt")
    assert [(row["epoch"], row["f1"], row["validation_loss"]) for row in rows] == [
        ("1", "0.5", "1"), ("2", "0.9", "0.5"), ("3", "0.904", "0.6"), ("4", "0.2", "0.1"),
    ]  # fmt: skip


def train(
    checkpoint: Path, *, kill_after: int = 0, examples: tuple[PickingExample, ...] = (), heard: list[int] | None = None
) -> Picker:
    """Train with a validation; the process kills itself by SIGKILL after `kill_after` epochs, if not 0."""

    def progress(epoch: int, loss: float) -> None:
        if heard is not None:
            heard.append(epoch)
        if epoch == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    found = train_picker(
        examples or (example(0),),
        settings=TRAINING,
        checkpoint=checkpoint,
        progress=progress,
        validation=Validation([example(9)], CLUSTERING),
    )
    assert isinstance(found, Picker)
    return found


def test_a_training_killed_by_sigkill_ends_with_the_same_bytes(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(
        target=train, args=(tmp_path / "killed.pt",), kwargs={"kill_after": 2}
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    heard: list[int] = []
    resumed, whole = train(tmp_path / "killed.pt", heard=heard), train(tmp_path / "whole.pt")
    assert heard == [3]
    assert weights(resumed) == weights(whole)
    assert resumed.notes == whole.notes
    assert log_of(tmp_path / "killed.pt") == log_of(tmp_path / "whole.pt")
    rows = log_of(tmp_path / "whole.pt")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(row["validation_loss"] and row["f1"] and row["precision"] and row["recall"] for row in rows)


def test_interpolated_weights_are_validated_and_kept(
    tmp_path: Path,
) -> None:
    network = torch.nn.Linear(1, 1)
    anchor = Anchor({"weight": torch.full((1, 1), 10.0), "bias": torch.zeros(1)}, 0.25)
    begun: list[float] = []
    seen: list[float] = []

    def train_epoch(optimiser: torch.optim.Optimizer, epoch: int) -> float:
        begun.append(float(network.weight.detach()))
        with torch.no_grad():
            network.weight.fill_(float(epoch))
            network.bias.fill_(4.0)
        return 0.0

    def validate() -> dict[str, float | None]:
        seen.append(float(network.weight.detach()))
        return {"validation_loss": 0.0, "f1": [0.1, 0.9, 0.2][len(seen) - 1]}

    plan = EpochPlan(3, 0.1, 1, "s", "d", tmp_path / "state.pt")
    run_epochs(network, plan, train_epoch=train_epoch, validate=validate, progress=quiet, anchor=anchor)
    assert begun[1:] == [0.0, 1.0]
    np.testing.assert_allclose(seen, [2.5, 3.25, 4.0])
    assert float(network.weight.detach()) == 3.25
    assert float(network.bias.detach()) == 3.0
    unwatched = replace(plan, checkpoint=None)
    run_epochs(network, unwatched, train_epoch=train_epoch, validate=None, progress=quiet, anchor=anchor)
    assert float(network.weight.detach()) == 4.0


def test_an_edited_annotation_invalidates_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    train(checkpoint)
    heard: list[int] = []
    train(checkpoint, heard=heard)
    assert heard == []  # nothing is left to do
    moved = example(0).particles.positions + np.array([0.0, 0.0, 20.0])
    edited = replace(example(0), particles=replace(example(0).particles, positions=moved))
    again = train(checkpoint, examples=(edited,), heard=heard)
    assert heard == [1, 2, 3]
    assert checkpoint.with_suffix(".stale.pt").exists()
    assert weights(again) == weights(train(tmp_path / "other.pt", examples=(edited,)))


@pytest.mark.parametrize("what", ["moved", "fewer", "turned", "vertex", "density", "kinds"])
def test_the_digest_covers_everything_that_is_annotated(what: str) -> None:
    one = example(0)
    mesh, particles = one.mesh, one.particles
    bent, dark = mesh.vertices.copy(), one.profiles.copy()
    bent[0] += 1.0
    dark[0, 0] += 1.0
    changed: dict[str, PickingExample] = {
        "moved": replace(one, particles=replace(particles, positions=particles.positions + 1.0)),
        "fewer": replace(one, particles=particles.select(np.array([0, 1]))),
        "turned": replace(one, particles=replace(particles, orientations=particles.frames()[:, :, ::-1])),
        "vertex": replace(one, mesh=Mesh(bent, mesh.faces)),
        "density": replace(one, profiles=dark),
        "kinds": replace(one, kinds=np.array([0, 0, 1])),
    }
    assert content_digest([one]) == content_digest([example(0)])
    assert content_digest([changed[what]]) != content_digest([one])


def test_a_picker_is_fine_tuned_from_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = train(tmp_path / "base.pt")
    before = weights(base)
    slow = replace(TRAINING, learning_rate=1e-12, epochs=1)
    found = train_picker([example(1)], settings=slow, checkpoint=None, progress=quiet, base=base)
    for one, other in zip(base.network.parameters(), found.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert weights(base) == before
    never = replace(TRAINING, learning_rate=100.0, epochs=1)
    watched = train_picker(
        [example(1)], settings=never, checkpoint=tmp_path / "state.pt", progress=quiet, base=base,
        validation=Validation([example(9)], CLUSTERING),
    )  # fmt: skip
    assert weights(watched) == before  # a single step with such a learning rate makes it worse
    assert [row["epoch"] for row in log_of(tmp_path / "state.pt")] == ["0", "1"]
    other_operators = replace(slow, eigenpairs=slow.eigenpairs - 1)
    with pytest.raises(UsageError, match="built otherwise"):
        train_picker([example(1)], settings=other_operators, checkpoint=None, progress=quiet, base=base)
    kept = train_picker([example(1)], settings=TRAINING, checkpoint=None, progress=quiet, base=base)
    monkeypatch.setattr(picker_loop, "BASE_SHARE", 0.0)
    trained = train_picker([example(1)], settings=TRAINING, checkpoint=None, progress=quiet, base=base)
    parts = zip(base.network.parameters(), trained.network.parameters(), kept.network.parameters(), strict=True)
    for start, end, between in parts:
        torch.testing.assert_close(between, 0.5 * (start + end))
    assert weights(trained) != before


def test_thickness_is_measured_once_for_all_clusterings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picker = train(tmp_path / "state.pt")
    to_the_middle = replace(CLUSTERING, center_offset_angstrom=None)
    alone = Validation([example(9)], to_the_middle)
    expected = evaluate_picker(picker, alone.examples, clustering=alone.best_clustering(picker))
    measured: list[Mesh] = []

    def counted(mesh: Mesh) -> NDArray[np.float64]:
        measured.append(mesh)
        return slab_thickness(mesh)

    monkeypatch.setattr(picker_scores, "slab_thickness", counted)
    monkeypatch.setattr(picking, "slab_thickness", counted)
    watched = Validation([example(9)], to_the_middle)
    best = watched.best_clustering(picker)
    watched.scores(picker, ())
    assert len(measured) == 1
    assert evaluate_picker(picker, watched.examples, clustering=best) == expected


def test_subvolumes_are_validated_too(tmp_path: Path) -> None:
    mesh, particles = ball(), example(0).particles
    boxes = np.random.default_rng(0).normal(size=(len(mesh.vertices), 12, 12, 12)).astype(np.float32)
    whole = SubvolumeExample(mesh.vertices, mesh.vertex_normals(), boxes, (particles,), mesh)
    settings = SubvolumeTraining(
        spacing_angstrom=14.0, score_unit_angstrom=15.0, epochs=2, steps=1, samples=8, learning_rate=1e-3, seed=0
    )
    train_subvolume_picker(
        [whole],
        settings=settings,
        checkpoint=tmp_path / "state.pt",
        progress=quiet,
        validation=Validation([whole], CLUSTERING),
    )
    assert [row["epoch"] for row in log_of(tmp_path / "state.pt") if row["validation_loss"]] == ["1", "2"]


# -- rounds --------------------------------------------------------------------------------------------------------


def protocol(train_on: list[Example], counts: tuple[int, ...] = (1, 2)) -> Protocol:
    return Protocol(counts, 3, train_on, Validation([example(9)], CLUSTERING), [example(8)], ["about"])


def trained(heard: list[int]):  # type: ignore[no-untyped-def]
    def train_one(annotated: list[PickingExample], folder: Path) -> Picker:
        heard.append(len(annotated))
        return train_picker(
            annotated, settings=replace(TRAINING, epochs=1), checkpoint=folder / "state.pt", progress=quiet
        )

    return train_one


def test_rounds_make_one_table_and_are_not_repeated(tmp_path: Path) -> None:
    membranes: list[Example] = [example(0, count=0), example(1), example(2, count=2)]
    order = annotation_order(membranes, 3)
    assert sorted(order[:2]) == [1, 2]  # an empty membrane comes last
    heard: list[int] = []
    rows = run_rounds(protocol(membranes), trained(heard), tmp_path, lambda line: None)
    assert heard == [1, 2]
    assert [row["annotated_membranes"] for row in rows] == [1, 2]
    assert rows[0]["annotated_particles"] == membranes[order[0]].count
    assert rows[1]["annotated_particles"] == 5
    with (tmp_path / "rounds.csv").open() as file:
        assert [row["annotated_membranes"] for row in csv.DictReader(file)] == ["1", "2"]
    scores = evaluate_picker(
        load_picker(rows[1]["model"]),
        [example(8)],
        clustering=replace(
            CLUSTERING, bandwidth_angstrom=rows[1]["bandwidth_angstrom"], score_threshold=rows[1]["threshold"]
        ),
    )
    assert {name: rows[1][name] for name in ("f1", "precision", "recall", "chamfer_angstrom")} == {
        name: scores[name] for name in ("f1", "precision", "recall", "chamfer_angstrom")
    }
    again = run_rounds(protocol(membranes), trained(heard), tmp_path, lambda line: None)
    assert (again, heard) == (rows, [1, 2])
    edited = membranes.copy()
    edited[order[1]] = example(2 if order[1] == 2 else 1, count=1)
    run_rounds(protocol(edited), trained(heard), tmp_path, lambda line: None)
    assert heard == [1, 2, 2]  # the first round does not depend on what was edited


@pytest.mark.parametrize("counts", [(), (0,), (1, 4)])
def test_impossible_rounds_are_refused(tmp_path: Path, counts: tuple[int, ...]) -> None:
    membranes: list[Example] = [example(0), example(1)]
    with pytest.raises(UsageError, match="there are 2"):
        run_rounds(protocol(membranes, counts), trained([]), tmp_path, lambda line: None)
