"""Training of MemBrain v1's network, distances that follow a particle's shape, and training on projects."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Grid, Mesh, Picks, orientations_from_normals
from membrain_cloud.mesh.density_sampling import subvolumes_from_volume
from membrain_cloud.networks.picking.picker import Picker, load_picker
from membrain_cloud.networks.picking.subvolume_picker import SubvolumePicker
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import ObjectRef, TomogramRef
from membrain_cloud.training.picking.examples import SubvolumeExample
from membrain_cloud.training.picking.subvolume_picker import SubvolumeTraining, train_subvolume_picker
from membrain_cloud.training.picking.targets import class_targets, particle_targets

GRID = Grid((60, 60, 60), 10.0)
TRAINING = SubvolumeTraining(
    spacing_angstrom=14.0, score_unit_angstrom=15.0, epochs=3, steps=12, samples=16, learning_rate=2e-3, seed=0
)


def ball() -> Mesh:
    shape = trimesh.creation.icosphere(3, radius=180.0)
    return Mesh(np.array(shape.vertices, float) + 300.0, np.array(shape.faces, np.int32))


def spots(count: int = 5) -> Picks:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(count, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return Picks(300.0 + 180.0 * z, orientations_from_normals(z))


def density(particles: Picks) -> np.ndarray:
    places = np.moveaxis(np.indices(GRID.shape)[::-1], 0, -1) * 10.0
    found = np.random.default_rng(1).normal(0, 0.05, GRID.shape)
    for position, frame in zip(particles.positions, particles.frames(), strict=True):
        found += np.exp(-0.5 * ((places - position - 30.0 * frame[:, 2]) ** 2).sum(-1) / 25.0**2)
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def example() -> SubvolumeExample:
    mesh, particles = ball(), spots()
    values, normals = density(particles), mesh.vertex_normals()
    boxes = subvolumes_from_volume(
        lambda box: values[box.slices], GRID, mesh.vertices, normals, edge=12, spacing_angstrom=14.0, outside=0.0
    )
    return SubvolumeExample(mesh.vertices, normals, boxes, (particles,))


def test_it_learns_from_one_membrane(example: SubvolumeExample) -> None:
    losses: list[float] = []
    picker = train_subvolume_picker(
        [example], settings=TRAINING, checkpoint=None, progress=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < 0.6 * losses[0]
    mean, deviation = float(example.boxes.mean()), float(example.boxes.std())
    scores = picker.predict_boxes(example.boxes, mean=mean, deviation=deviation)
    truth = particle_targets(ball(), spots(), score_unit_angstrom=15.0)
    assert np.corrcoef(scores, truth)[0, 1] > 0.7


def test_a_stopped_training_resumes_to_the_same_weights(example: SubvolumeExample, tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    settings = replace(TRAINING, epochs=2, steps=2)

    def stop(epoch: int, _: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_subvolume_picker([example], settings=settings, checkpoint=file, progress=stop)
    resumed = train_subvolume_picker([example], settings=settings, checkpoint=file, progress=lambda *_: None)
    whole = train_subvolume_picker([example], settings=settings, checkpoint=None, progress=lambda *_: None)
    for (_, one), (_, other) in zip(
        resumed.network.state_dict().items(), whole.network.state_dict().items(), strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    with pytest.raises(UsageError, match="other settings"):
        train_subvolume_picker([example], settings=TRAINING, checkpoint=file, progress=lambda *_: None)


def test_training_without_particles_is_refused(example: SubvolumeExample) -> None:
    with pytest.raises(InputError, match="no particle"):
        train_subvolume_picker(
            [replace(example, particles=(Picks(np.zeros((0, 3))),))],
            settings=TRAINING,
            checkpoint=None,
            progress=lambda *_: None,
        )


def test_distances_follow_a_particles_shape() -> None:
    axis = np.arange(-200.0, 201.0, 20.0)
    x, y = (values.ravel() for values in np.meshgrid(axis, axis, indexing="ij"))
    flat = Mesh(np.stack([x, y, np.zeros(len(x))], axis=1), np.zeros((0, 3), np.int32))  # its normals are z
    one = Picks(np.zeros((1, 3)), np.eye(3)[None])
    shape = (80.0, 20.0, 40.0)
    found = particle_targets(flat, one, score_unit_angstrom=15.0, shape=shape)
    expected = np.minimum(np.hypot(x / 80.0, y / 20.0) * 40.0 / 15.0, 10.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    round_one = particle_targets(flat, one, score_unit_angstrom=15.0)
    np.testing.assert_allclose(round_one, np.minimum(np.hypot(x, y) / 15.0, 10.0), atol=1e-5)
    both = class_targets(
        flat.vertices, flat.vertex_normals(), (one, Picks(np.zeros((0, 3)))), score_unit_angstrom=15.0, shapes=()
    )
    np.testing.assert_array_equal(both[:, 0], round_one)
    assert (both[:, 1] == 10.0).all()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = create_project(str(tmp_path_factory.mktemp("p") / "project"), objects=[("membrane", False, None)])
    particles = spots()
    made.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), density(particles))
    made.write_meshes(ObjectRef("TS_1", "membrane", "alice", "1"), {1: ball()})
    for name, some in (("psii", particles.select(np.arange(5) < 3)), ("b6f", particles.select(np.arange(5) >= 3))):
        made.ensure_object(name, is_particle=True, identifier=None)
        made.write_picks(ObjectRef("TS_1", name, "alice", "1"), some)
    return made.config


@pytest.mark.parametrize(("network", "kind"), [("subvolumes", SubvolumePicker), ("profiles", Picker)])
def test_a_picker_of_several_kinds_is_trained_on_a_project(
    project: str, tmp_path: Path, network: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    from membrain_cloud.pipeline.training import picker_data

    monkeypatch.setattr(picker_data, "SUBVOLUME_TRAINING", replace(TRAINING, steps=2))
    small = replace(picker_data.PICKER_TRAINING, eigenpairs=16, partition_vertices=400, width=8, hidden=8, blocks=1)
    monkeypatch.setattr(picker_data, "PICKER_TRAINING", small)
    output = tmp_path / "kinds.safetensors"
    command = [
        "train", "picking", "--output", str(output), "--work", str(tmp_path / "w"), "--epochs", "1",
        "--project", project, "--meshes", "membrane:alice/1",
        "--picks", "psii=psii:alice/1", "--picks", "b6f=b6f:alice/1",
        "--shape", "70,30,40", "--shape", "30,30,30", "--network", network,
    ]  # fmt: skip
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["particles"] == {"psii": 3, "b6f": 2}
    picker = load_picker(output)
    assert isinstance(picker, kind)
    assert picker.class_names == ("psii", "b6f")


@pytest.mark.parametrize("network", ["subvolumes", "profiles"])
def test_a_held_out_run_validates(tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from membrain_cloud.pipeline.training import picker_data

    monkeypatch.setattr(picker_data, "SUBVOLUME_TRAINING", replace(TRAINING, steps=1))
    small = replace(picker_data.PICKER_TRAINING, eigenpairs=16, partition_vertices=400, width=8, hidden=8, blocks=1)
    monkeypatch.setattr(picker_data, "PICKER_TRAINING", small)
    made = create_project(str(tmp_path / "project"), objects=[("membrane", False, None), ("psii", True, None)])
    for run in ("TS_1", "TS_2"):
        made.write_tomogram(TomogramRef(run, "wbp", 10.0), density(spots()))
        made.write_meshes(ObjectRef(run, "membrane", "alice", "1"), {1: ball()})
        made.write_picks(ObjectRef(run, "psii", "alice", "1"), spots())
    command = [
        "train", "picking", "--output", str(tmp_path / "x.safetensors"), "--work", str(tmp_path / "w"), "--epochs", "1",
        "--project", made.config, "--meshes", "membrane:alice/1", "--picks", "psii:alice/1", "--network", network,
    ]  # fmt: skip
    done = CliRunner().invoke(main, [*command, "--validation-run", "TS_2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["membranes"], told["best_epoch"], told["validation"]["particles"]) == (1, 1, 5)
    assert set(told["settings"]) == {"pick.bandwidth_angstrom", "pick.threshold"}
    done = CliRunner().invoke(main, [*command, "--run", "TS_1", "--validation-run", "TS_1"])
    assert done.exit_code == 2
    assert "in two parts" in done.output + (done.stderr or "")
    done = CliRunner().invoke(main, [*command, "--incremental", "1"])
    assert done.exit_code == 2
    assert "name validation runs" in done.output + (done.stderr or "")


def test_runs_without_annotations_are_left_out(project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from membrain_cloud.pipeline.training import picker_data

    shutil.copytree(Path(project).parent, tmp_path / "p")
    config = tmp_path / "p" / "config.json"
    config.write_text(config.read_text().replace(str(Path(project).parent), str(tmp_path / "p")))
    made = open_project(str(config))
    made.write_tomogram(TomogramRef("TS_2", "wbp", 10.0), density(spots()))
    made.write_meshes(ObjectRef("TS_2", "membrane", "alice", "1"), {1: ball()})
    made.write_picks(ObjectRef("TS_2", "psii", "alice", "1"), spots())

    def material(*kinds: str, runs: tuple[str, ...] = ()) -> picker_data.PickerData:
        return picker_data.project_data(
            made.config, runs=picker_data.RunSplit(runs), meshes="membrane:alice/1",
            picks={name: f"{name}:alice/1" for name in kinds}, network="subvolumes", shapes=(), progress=said.append,
        )  # fmt: skip

    said: list[str] = []
    assert material("psii").about["runs"] == ["TS_1", "TS_2"]
    assert not said
    assert material("psii", "b6f").about["runs"] == ["TS_1"]
    assert said == ["1 runs lack some of these annotations and are left out: TS_2"]
    with pytest.raises(ProjectError, match="TS_2: there is no mesh and there are no picks 'b6f"):
        material("psii", "b6f", runs=("TS_2",))
    made.write_picks(ObjectRef("TS_1", "b6f", "alice", "1"), Picks(np.zeros((0, 3)), np.zeros((0, 3, 3))))
    with pytest.raises(InputError, match="not one particle of 'b6f' lies on the 1 membranes"):
        material("psii", "b6f")


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ([], "membrain-cloud-picker"),
        (["--base", "none"], None),
        (["--base", "membrain-cloud-picker", "--enough"], "membrain-cloud-picker"),
        (["--enough"], None),
        (["--shape", "70,30,40"], None),
        (["--network", "subvolumes"], None),
    ],
)
def test_few_membranes_start_from_the_built_in_picker(
    tmp_path: Path, options: list[str], base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from membrain_cloud.pipeline.training import picker_data

    monkeypatch.setattr(picker_data, "SUBVOLUME_TRAINING", replace(TRAINING, steps=1))
    if "--enough" in options:  # one membrane then counts as enough
        options = [option for option in options if option != "--enough"]
        monkeypatch.setattr("membrain_cloud.pipeline.training.picker.ENOUGH_MEMBRANES", 1)
    made = create_project(str(tmp_path / "project"), objects=[("membrane", False, None), ("psii", True, None)])
    made.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), density(spots()))
    made.write_meshes(ObjectRef("TS_1", "membrane", "alice", "1"), {1: ball()})
    made.write_picks(ObjectRef("TS_1", "psii", "alice", "1"), spots())
    output = tmp_path / "x.safetensors"
    command = [
        "train", "picking", "--output", str(output), "--work", str(tmp_path / "w"), "--epochs", "1",
        "--project", made.config, "--meshes", "membrane:alice/1", "--picks", "psii:alice/1", *options,
    ]  # fmt: skip
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert load_picker(output).notes["trained_on"].get("base") == base
    assert ("the base `none`" in done.stderr) == (base is not None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--network", "subvolumes"], "--project"),
        (["--project", "P", "--meshes", "membrane:alice/1"], "--picks"),
        (
            ["--project", "P", "--meshes", "membrane:alice/1", "--picks", "psii:alice/1", "--picks", "b6f:alice/1"],
            "NAME",
        ),
        (["--project", "P", "--meshes", "membrane:alice/1", "--picks", "psii:alice/1", "--shape", "1,2"], "80,40,40"),
        (["--project", "P", "--meshes", "membrane:alice/1", "--picks", "psii:alice/9"], "psii:alice/9"),
        (["--classes", "nobody"], "dimer"),
    ],
)
def test_impossible_trainings_are_refused(project: str, tmp_path: Path, options: list[str], said: str) -> None:
    given = [project if option == "P" else option for option in options]
    command = ["train", "picking", "--output", str(tmp_path / "x.safetensors"), "--work", str(tmp_path / "w"), *given]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert said in done.output + (done.stderr or "")
