"""The profile picker: targets, augmentation, training, simulated examples and the built-in picker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import trimesh
from click.testing import CliRunner
from scipy import ndimage
from scipy.spatial import cKDTree

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.geometry import Mesh, Picks, orientations_from_normals
from membrain_cloud.mesh.spectral.operators import surface_operators
from membrain_cloud.networks.picking.picker import Picker, load_picker
from membrain_cloud.picking.clustering_options import ClusteringOptions
from membrain_cloud.pipeline.training import picker_defaults as learning
from membrain_cloud.pipeline.training.picker_defaults import PICKER_EXAMPLES, PICKER_RECIPE
from membrain_cloud.training.picking.built_in_picker import PhantomPlan, train_picker_on_phantoms
from membrain_cloud.training.picking.examples import PickingExample
from membrain_cloud.training.picking.profile_augmentation import augment_profiles, averaging_matrix
from membrain_cloud.training.picking.profile_picker import PickerTraining, train_picker
from membrain_cloud.training.picking.simulated_examples import (
    PhantomExamples,
    dark_regions,
    imperfect_mask,
    phantom_examples,
    random_phantom,
)
from membrain_cloud.training.picking.targets import particle_targets
from membrain_cloud.training.picking.validation import evaluate_picker, pooled_f1

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = PickerTraining(
    offsets_angstrom=tuple(np.arange(-10.0, 25.0, 5.0)),
    window=6,
    eigenpairs=24,
    partition_vertices=2000,
    length_unit_angstrom=500.0,
    score_unit_angstrom=15.0,
    spline_order=1,
    width=8,
    hidden=8,
    blocks=1,
    epochs=3,
    learning_rate=1e-2,
    accumulate=1,
    seed=0,
)
CLUSTERING = ClusteringOptions(
    bandwidth_angstrom=75.0,
    score_threshold=6.0,
    max_iterations=150,
    min_samples=5,
    center_offset_angstrom=0.0,
    largest_nm2=None,
    min_distance_angstrom=None,
    least_elongation=1.5,
    refine=True,
)
EXAMPLES = PhantomExamples(
    shape=(40, 56, 56),
    voxel_spacing_angstrom=(10.0, 10.0),
    snr=(2.0, 3.0),
    particles_per_um2=(1500.0, 2500.0),
    smoothing_angstrom=10.0,
    vertex_area_angstrom2=400.0,
    imperfect=0.0,
)
ONE_PHANTOM = PhantomPlan(
    seed=5,
    phantoms=1,
    validation_phantoms=1,
    examples=EXAMPLES,
    training=replace(TRAINING, epochs=1),
    clustering=CLUSTERING,
)


def slab(radius: float = 300.0, thickness: float = 50.0) -> Mesh:
    """Return the outer and inner shell of a vesicle, both with normals that point out of the slab."""
    outer = trimesh.creation.icosphere(3, radius=radius + thickness / 2)
    inner = trimesh.creation.icosphere(3, radius=radius - thickness / 2)
    faces = np.concatenate([outer.faces, inner.faces[:, ::-1] + len(outer.vertices)])
    return Mesh(np.concatenate([outer.vertices, inner.vertices]).astype(np.float64), faces.astype(np.int32))


def particles_on(radius: float, directions: np.ndarray, outside: np.ndarray) -> Picks:
    axes = np.where(outside[:, None], directions, -directions)
    return Picks(radius * directions, orientations_from_normals(axes))


def easy_example(seed: int) -> PickingExample:
    """Return profiles that show the distance from the particles, with noise."""
    mesh = slab()
    directions = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0], [-0.6, 0.64, -0.48]])
    particles = particles_on(300.0, directions, np.array([True, False, True, True]))
    targets = particle_targets(mesh, particles, score_unit_angstrom=15.0)
    noise = np.random.default_rng(seed).normal(0, 0.1, (len(mesh.vertices), len(TRAINING.offsets_angstrom)))
    return PickingExample(mesh, (np.clip(targets, 0, 10)[:, None] / 10 + noise).astype(np.float32), particles)


# -- targets -------------------------------------------------------------------------------------------------------


def test_targets_are_distances_on_the_side_of_the_particle() -> None:
    mesh = slab()
    half = len(mesh.vertices) // 2
    axis = np.array([[0, 0, 1.0]])
    for outside in (True, False):
        targets = particle_targets(mesh, particles_on(300.0, axis, np.array([outside])), score_unit_angstrom=15.0)
        same, other = (slice(0, half), slice(half, None)) if outside else (slice(half, None), slice(0, half))
        top = np.array([0, 0, 325.0 if outside else 275.0])
        expected = np.minimum(np.linalg.norm(mesh.vertices[same] - top, axis=1) / 15.0, 10.0)
        np.testing.assert_allclose(targets[same], expected, atol=0.35)
        assert targets[same].min() < 0.5
        assert set(np.unique(targets[other])) == {np.float32(10.0), np.float32(10.05)}


def test_targets_without_orientations_take_the_nearest_side() -> None:
    mesh = slab()
    half = len(mesh.vertices) // 2
    targets = particle_targets(mesh, Picks(np.array([[0, 0, 322.0]])), score_unit_angstrom=15.0)
    assert targets[:half].min() < 1.0
    assert targets[half:].min() >= 10.0


def test_without_particles_everything_is_far() -> None:
    targets = particle_targets(slab(), Picks(np.zeros((0, 3)), np.zeros((0, 3, 3))), score_unit_angstrom=15.0)
    assert (targets == 10.0).all()


# -- augmentation --------------------------------------------------------------------------------------------------


def test_augmentation_is_finite_varied_and_reproducible() -> None:
    mesh = slab()
    averaging = averaging_matrix(mesh.faces, len(mesh.vertices))
    np.testing.assert_allclose(averaging @ np.ones(len(mesh.vertices)), 1.0, rtol=1e-5)
    waves = np.sin(mesh.vertices @ np.array([0.01, 0.006, 0.003]))[:, None] * np.cos(np.arange(20) / 4)
    profiles = (waves / waves.std()).astype(np.float32)
    untouched = profiles.copy()
    seen = set()
    for seed in range(40):
        one, two = (
            augment_profiles(profiles, mesh.vertices, averaging, np.random.default_rng(seed), step_angstrom=5.0)
            for _ in range(2)
        )
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, two)
        seen.add(one.tobytes())
        # The profiles must stay recognisable.
        assert np.corrcoef(one.ravel(), profiles.ravel())[0, 1] > 0.5
    assert len(seen) == 40
    np.testing.assert_array_equal(profiles, untouched)


def test_constant_profiles_can_be_augmented() -> None:
    mesh = slab()
    averaging = averaging_matrix(mesh.faces, len(mesh.vertices))
    for seed in range(20):
        changed = augment_profiles(
            np.zeros((len(mesh.vertices), 20), np.float32),
            mesh.vertices,
            averaging,
            np.random.default_rng(seed),
            step_angstrom=5.0,
        )
        assert np.isfinite(changed).all()


# -- the loop ------------------------------------------------------------------------------------------------------


def test_training_learns_to_pick() -> None:
    losses: list[float] = []
    picker = train_picker(
        [easy_example(seed) for seed in range(2)],
        settings=replace(TRAINING, epochs=25),
        checkpoint=None,
        progress=lambda epoch, loss: losses.append(loss),
    )
    assert len(losses) == 25
    assert losses[-1] < 0.3 * losses[0]
    score = evaluate_picker(picker, [easy_example(99)], clustering=CLUSTERING)
    assert score["f1"] == 1.0
    assert score["particles"] == 4
    assert picker.window_starts == (0, 1)


class Stop(Exception):
    pass


def weights(picker: Picker) -> torch.Tensor:
    return torch.cat([p.ravel() for p in picker.network.parameters()])


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    examples = [easy_example(0)]
    whole = train_picker(examples, settings=TRAINING, checkpoint=None, progress=lambda epoch, loss: None)

    def stop(epoch: int, loss: float) -> None:
        raise Stop

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(Stop):
        train_picker(examples, settings=TRAINING, checkpoint=checkpoint, progress=stop)
    epochs: list[int] = []
    resumed = train_picker(
        examples, settings=TRAINING, checkpoint=checkpoint, progress=lambda epoch, loss: epochs.append(epoch)
    )
    assert epochs == [2, 3]
    assert torch.equal(weights(whole), weights(resumed))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    train_picker([easy_example(0)], settings=TRAINING, checkpoint=checkpoint, progress=lambda epoch, loss: None)
    other = replace(TRAINING, learning_rate=1e-3)
    with pytest.raises(UsageError, match="other settings"):
        train_picker([easy_example(0)], settings=other, checkpoint=checkpoint, progress=lambda epoch, loss: None)


def test_training_without_particles_is_refused() -> None:
    empty = replace(easy_example(0), particles=Picks(np.zeros((0, 3)), np.zeros((0, 3, 3))))
    with pytest.raises(InputError, match="no particle"):
        train_picker([empty], settings=TRAINING, checkpoint=None, progress=lambda epoch, loss: None)


# -- data and scores -----------------------------------------------------------------------------------------------


def test_pooled_f1_keeps_membranes_apart() -> None:
    here, there = np.zeros((1, 3)), np.full((1, 3), 1000.0)
    score, _ = pooled_f1([Picks(here), Picks(here)], [Picks(here), Picks(there)])
    assert score == (0.5, 0.5, 0.5)


def test_imperfect_masks_stay_near_the_mask() -> None:
    z, y, x = np.indices((40, 40, 40)) - 20
    mask = np.abs(np.sqrt(x**2 + y**2 + z**2) - 13) < 2.5
    overlaps = []
    for seed in range(8):
        spoilt = imperfect_mask(mask, np.random.default_rng(seed))
        overlaps.append(2 * (spoilt & mask).sum() / (spoilt.sum() + mask.sum()))
        assert not spoilt[:3].any()
    assert min(overlaps) > 0.5
    assert np.ptp(overlaps) > 0.02
    assert max(overlaps) < 1.0


def test_phantom_examples_have_the_true_particles() -> None:
    phantom = random_phantom(5, EXAMPLES)
    examples = phantom_examples(phantom, EXAMPLES, offsets_angstrom=(-5.0, 5.0, 15.0), spline_order=1, seed=5)
    assert examples
    assert 0 < sum(len(e.particles) for e in examples) <= len(phantom.particles)
    for example in examples:
        assert example.profiles.shape == (len(example.mesh.vertices), 3)
        targets = particle_targets(example.mesh, example.particles, score_unit_angstrom=15.0)
        assert not len(example.particles) or targets.min() < 1.0
        # Dense is dark: the leaflet is darker than the solvent.
        assert example.profiles[:, 0].mean() < phantom.density.mean()


def test_a_fine_tuned_picker_keeps_the_size_of_its_base() -> None:
    def trained(settings: PickerTraining, base: Picker | None) -> Picker:
        return train_picker([easy_example(0)], settings=settings, checkpoint=None, progress=lambda *_: None, base=base)

    base = trained(replace(TRAINING, width=12, blocks=2, epochs=1), None)
    made = trained(replace(TRAINING, epochs=1), base)
    assert made.network.architecture == base.network.architecture
    assert made.network.architecture != TRAINING.architecture
    pairs = zip(base.network.parameters(), made.network.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    with pytest.raises(UsageError, match="built otherwise"):
        trained(replace(TRAINING, window=5), base)


def test_segmented_surfaces_have_the_nearest_particles() -> None:
    phantom = random_phantom(5, EXAMPLES)
    half = np.arange(phantom.density.shape[0])[:, None, None] < 20
    asked: list[float] = []

    def segment(density: np.ndarray, spacing_angstrom: float) -> np.ndarray:
        asked.append(spacing_angstrom)
        assert density is phantom.density
        return np.where(half, phantom.instances, 0)

    def made(surfaces: str, **more) -> list[PickingExample]:
        settings = replace(EXAMPLES, surfaces=surfaces)
        return phantom_examples(phantom, settings, offsets_angstrom=(-5.0, 5.0), spline_order=1, seed=5, **more)

    found, masks, both = made("segmented", segment=segment), made("masks"), made("both", segment=segment)
    assert asked == [10.0, 10.0]
    assert len(both) == len(found) + len(masks)
    counts = [sum(len(example.particles) for example in examples) for examples in (found, masks)]
    assert 0 < counts[0] < counts[1]
    for example in found:
        away = cKDTree(example.mesh.vertices).query(example.particles.positions)[0]
        assert (away <= 60.0).all()
        assert example.mesh.vertices[:, 2].max() < 210.0
    assert not made("segmented", segment=lambda density, _: np.zeros(density.shape, np.uint16))
    with pytest.raises(ValueError, match="need a network"):
        made("both")


def test_clutter_changes_only_a_fraction_of_the_phantoms() -> None:
    def densities(share: float) -> list[np.ndarray]:
        return [random_phantom(seed, replace(EXAMPLES, cluttered=share)).density for seed in range(4)]

    clear, some, all_ = densities(0.0), densities(0.5), densities(1.0)
    same = [np.array_equal(one, other) for one, other in zip(clear, some, strict=True)]
    assert 0 < sum(same) < 4
    assert not any(np.array_equal(one, other) for one, other in zip(clear, all_, strict=True))
    for index, kept in enumerate(same):
        assert np.array_equal(some[index], (clear if kept else all_)[index])


def test_decoys_are_dark_regions_without_particles() -> None:
    settings = replace(EXAMPLES, shape=(60, 100, 100), cluttered=1.0, decoys=2)
    phantom = random_phantom(3, settings)
    dark = dark_regions(phantom, 2, np.random.default_rng(0))
    assert set(np.unique(dark)) == {0, 1, 2}
    away = ndimage.distance_transform_edt(phantom.labels == 0)
    assert away[dark > 0].min() > 6.0
    others = (dark == 0) & (away > 6.0)
    assert phantom.density[dark > 0].mean() < phantom.density[others].mean() - phantom.density[others].std()

    def made(settings: PhantomExamples) -> list[PickingExample]:
        return phantom_examples(phantom, settings, offsets_angstrom=(-5.0, 5.0), spline_order=1, seed=3)

    membranes, everything = made(replace(settings, decoys=0)), made(settings)
    decoys = everything[len(membranes) :]
    assert 0 < len(decoys) <= 2
    for decoy in decoys:
        assert not len(decoy.particles)
        assert particle_targets(decoy.mesh, decoy.particles, score_unit_angstrom=15.0).min() == 10.0


def test_a_phantom_full_of_membranes_has_no_decoys() -> None:
    phantom = random_phantom(5, EXAMPLES)
    no_particles = Picks(np.zeros((0, 3)), np.zeros((0, 3, 3)))
    large = random_phantom(3, replace(EXAMPLES, shape=(60, 100, 100), cluttered=1.0))
    empty = replace(large, labels=np.zeros_like(large.labels), particles=no_particles)
    assert dark_regions(empty, 3, np.random.default_rng(0)).max() == 3
    full = replace(phantom, labels=np.ones_like(phantom.labels))
    assert not dark_regions(full, 3, np.random.default_rng(0)).any()


@pytest.mark.parametrize("spacing", [8.0, 12.5])
def test_phantoms_with_other_voxels_fill_the_same_volume(spacing: float) -> None:
    phantom = random_phantom(1, replace(EXAMPLES, voxel_spacing_angstrom=(spacing, spacing)))
    assert phantom.voxel_spacing_angstrom == spacing
    np.testing.assert_allclose(np.array(phantom.density.shape) * spacing, (400.0, 560.0, 560.0), atol=spacing)


def test_a_picker_is_trained_on_phantoms_scored_and_written(tmp_path: Path) -> None:
    said: list[str] = []
    arguments: dict[str, Any] = {"plan": ONE_PHANTOM, "progress": said.append}
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    scores = train_picker_on_phantoms(one, workdir=tmp_path / "work", **arguments)
    assert set(scores) == {"true_masks", "imperfect_masks"}
    assert any("epoch 1 of 1" in line for line in said)
    # A second training from the kept examples and state writes the same model.
    train_picker_on_phantoms(two, workdir=tmp_path / "work", **arguments)
    assert one.read_bytes() == two.read_bytes()
    picker = load_picker(one)
    assert picker.notes["scores"] == scores
    assert picker.notes["examples"]["snr"] == [2.0, 3.0]
    operators = surface_operators(
        slab().vertices, slab().faces, slab().vertex_normals(), eigenpairs=24, length_unit_angstrom=500.0
    )
    assert np.isfinite(picker.predict(np.zeros((len(slab().vertices), 7)), operators)).all()


def test_a_picker_is_fine_tuned_on_phantoms(tmp_path: Path) -> None:
    said: list[str] = []
    once = ONE_PHANTOM.training

    def train(name: str, workdir: str, training: PickerTraining, base: Picker | None = None) -> None:
        plan = replace(ONE_PHANTOM, training=training)
        train_picker_on_phantoms(
            tmp_path / f"{name}.safetensors", plan, workdir=tmp_path / workdir, progress=said.append, base=base
        )

    train("base", "work", once)
    base = load_picker(tmp_path / "base.safetensors")
    # With a learning rate of 0 the result is the base.
    still = replace(once, learning_rate=0.0)
    for name, training in (("still", still), ("on", once)):
        train(name, name, training, base)
        made = load_picker(tmp_path / f"{name}.safetensors")
        assert made.notes["base"] == {"name": base.name, "sha256": base.sha256}
        pairs = zip(base.network.parameters(), made.network.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) == (name == "still")
    said.clear()
    with pytest.raises(UsageError, match="built otherwise"):
        train("x", "work", replace(once, eigenpairs=30), base)
    assert not said, "refused before anything is simulated"


def test_the_command_passes_clutter_and_base_to_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def record(_output: Path, plan: PhantomPlan, **arguments: Any) -> dict[str, Any]:
        asked.append({"examples": plan.examples, "training": plan.training, **arguments})
        return {}

    monkeypatch.setattr(learning, "train_picker_on_phantoms", record)
    command = ["train", "picking", "--output", str(tmp_path / "x.safetensors"), "--work", str(tmp_path / "w")]
    for options in ([], ["--cluttered", "0.5", "--base", "membrain-cloud-picker"], ["--base", "none"]):
        done = CliRunner().invoke(main, [*command, *options])
        assert done.exit_code == 0, done.output
    usual, crowded, none = asked
    assert (usual["examples"], usual["base"], usual["training"]) == (PICKER_EXAMPLES, None, PICKER_RECIPE)
    assert (none["base"], none["training"]) == (None, PICKER_RECIPE)
    assert (crowded["examples"].cluttered, crowded["examples"].decoys) == (0.5, 3)
    assert crowded["base"].name == "membrain-cloud-picker"
    assert crowded["training"].learning_rate < PICKER_RECIPE.learning_rate
    assert CliRunner().invoke(main, [*command, "--cluttered", "nan"]).exit_code == 2
