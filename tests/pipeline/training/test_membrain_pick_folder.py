"""Training in MemBrain-pick's folder layout: reading, refusals, and the command from end to end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import trimesh
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, MembrainCloudError, ProjectError, UsageError, VoxelSpacingError
from membrain_cloud.geometry import Picks, orientations_from_normals
from membrain_cloud.networks.picking.picker import Picker, load_picker
from membrain_cloud.pipeline.training import picker_data
from membrain_cloud.pipeline.training.membrain_pick_folder import read_training_folder
from membrain_cloud.simulation.phantom import Phantom, PhantomSettings, make_phantom
from membrain_cloud.store.formats.meshes import read_h5
from membrain_cloud.store.formats.star import write_star

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPACING = 10.0
AXES = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0], [-0.6, 0.64, -0.48]])


def write_membrane(folder: Path, name: str, *, radius: float = 170.0, count: int = 4) -> None:
    """Write files like `membrain_pick convert`: points in voxels, faces, and densities along inward normals."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = trimesh.creation.icosphere(3, radius=radius)
    vertices = np.array(shape.vertices) + 300.0
    normals = np.array(shape.vertices) / radius
    away = np.linalg.norm(vertices[:, None] - (300.0 + radius * AXES[:count]), axis=2).min(axis=1, initial=1e3)
    inward = np.arange(-25.0, 25.0, 2.5)
    density = np.where(inward < 0, np.minimum(away[:, None], 150.0), 150.0)  # outside of the shell there is something
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["points"], file["faces"] = vertices / SPACING, np.array(shape.faces)[:, [0, 2, 1]].astype(np.int64)
        file["normals"], file["normal_values"] = -normals, density
        file["pixel_size"], file["tomo_file"] = 1.0, "Tomo1.mrc"
    positions = 300.0 + radius * AXES[:count]
    write_star(str(folder / f"{name}.star"), Picks(positions), voxel_spacing_angstrom=SPACING, tomogram="T")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    write_membrane(made / "train", "T1_mb1")
    write_membrane(made / "train", "T1_mb2", radius=180.0, count=3)
    write_membrane(made / "val", "T2_mb1", radius=175.0)
    return made


def test_the_reference_layout_is_read(reference: Path) -> None:
    layout = reference / "membrain-pick" / "training_layout"
    parts = read_training_folder(str(layout), voxel_spacing_angstrom=10.0, classes=())
    assert {name: [e.count for e in examples] for name, examples in parts.items()} == {"train": [20], "val": [12]}
    (example,) = parts["train"]
    stored = read_h5(str(layout / "train" / "Tomo0001_mb2.h5"), voxel_spacing_angstrom=10.0)
    assert stored.profiles is not None
    np.testing.assert_array_equal(example.profiles, stored.profiles[:, ::-1])
    # bumps are brighter than the noise, outside of the membrane, where the particles are
    near = np.linalg.norm(example.mesh.vertices[:, None] - example.particles.positions, axis=2).min(axis=1) < 40.0
    outside = example.profiles[:, 12:].mean(axis=1)
    assert abs(outside[near].mean() - outside[~near].mean()) > 3 * outside.std() / np.sqrt(near.sum())


def test_profiles_run_outward_and_both_conventions_of_angles_are_read(folder: Path) -> None:
    read = read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())
    example = read["train"][0]
    assert (example.profiles[:, 10:].min(axis=1) < 150.0).sum() > 20  # samples beyond the surface come last
    assert (example.profiles[:, :9] == 150.0).all()
    assert example.particles.orientations is None
    turned = orientations_from_normals(AXES, np.arange(4.0))
    star = folder / "train" / "T1_mb1.star"
    for frames in (turned, turned.transpose(0, 2, 1)):
        picks = Picks(300.0 + 170.0 * AXES, frames)
        write_star(str(star), picks, voxel_spacing_angstrom=SPACING, tomogram="T", flavour="surforama")
        found = read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())["train"][0].particles
        assert found.orientations is not None
        np.testing.assert_allclose(found.orientations, turned, atol=1e-5)
    aside = orientations_from_normals(np.roll(AXES, 1, axis=1))
    write_star(str(star), Picks(300.0 + 170.0 * AXES, aside), voxel_spacing_angstrom=SPACING, tomogram="T")
    found = read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())["train"][0].particles
    assert found.orientations is None


def test_each_class_has_a_file_of_its_own(folder: Path) -> None:
    for part, name in (("train", "T1_mb1"), ("train", "T1_mb2"), ("val", "T2_mb1")):
        (folder / part / f"{name}.star").rename(folder / part / f"{name}_psii.star")
    shutil.copy(folder / "train" / "T1_mb2_psii.star", folder / "train" / "T1_mb2_b6f.star")
    read = read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=("psii", "b6f"))
    assert [len(picks) for picks in read["train"][1].of_classes(2)] == [3, 3]
    assert [len(picks) for picks in read["train"][0].of_classes(2)] == [4, 0]


def _change(folder: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(folder / "train" / "T1_mb1.h5", "r+") as file:
        change(file)


def _set(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


def _hole(file: h5py.File) -> None:
    file["normal_values"][3, 3] = np.nan


BAD: dict[str, tuple[Callable[[Path], object], type[MembrainCloudError], str]] = {
    "no folder": (shutil.rmtree, UsageError, "is no folder"),
    "no val": (lambda f: shutil.rmtree(f / "val"), UsageError, "val is no folder"),
    "nothing in train": (lambda f: [p.unlink() for p in (f / "train").iterdir()], InputError, "no .h5"),
    "no star": (lambda f: (f / "train" / "T1_mb1.star").unlink(), InputError, "T1_mb1.star beside it"),
    "no densities": (lambda f: _change(f, lambda h: h.__delitem__("normal_values")), InputError, "no normal_values"),
    "16 samples": (
        lambda f: _change(f, lambda h: _set(h, "normal_values", np.zeros((642, 16)))), InputError, "(642, 16)"
    ),
    "a gap": (lambda f: _change(f, _hole), ProjectError, "normal_values have gaps"),
    "no HDF5": (lambda f: (f / "train" / "T1_mb1.h5").write_bytes(b"no"), ProjectError, "HDF5"),
    "no STAR": (lambda f: (f / "train" / "T1_mb1.star").write_text("no"), ProjectError, "T1_mb1.star"),
    "the same twice": (
        lambda f: [shutil.copy(p, f / "val" / p.name) for p in (f / "train").glob("T1_mb1.*")], ProjectError, "same"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_folders_are_refused(folder: Path, what: str) -> None:
    spoil, error, said = BAD[what]
    spoil(folder)
    with pytest.raises(error) as caught:
        read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())
    assert said in str(caught.value)
    assert caught.value.next_step


def test_voxel_spacing_is_required_and_checked(folder: Path) -> None:
    with pytest.raises(VoxelSpacingError, match="voxel_spacing_angstrom"):
        read_training_folder(str(folder), voxel_spacing_angstrom=None, classes=())
    far = Picks(np.full((3, 3), 9000.0))  # Å where voxels are meant
    write_star(
        str(folder / "train" / "T1_mb1.star"), far, voxel_spacing_angstrom=SPACING, tomogram="T", flavour="surforama"
    )
    with pytest.raises(InputError, match="within 80 Å"):
        read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())


def test_a_part_without_particles_is_refused(folder: Path) -> None:
    empty = Picks(np.zeros((0, 3)))
    stars = sorted((folder / "train").glob("*.star"))
    write_star(str(stars[0]), empty, voxel_spacing_angstrom=SPACING, tomogram="T", flavour="surforama")
    read = read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())
    assert [example.count for example in read["train"]] == [0, 3]
    write_star(str(stars[1]), empty, voxel_spacing_angstrom=SPACING, tomogram="T", flavour="surforama")
    with pytest.raises(InputError, match="not one particle"):
        read_training_folder(str(folder), voxel_spacing_angstrom=SPACING, classes=())


def run(folder: Path, *options: str) -> dict[str, object] | list[dict[str, object]]:
    command = ["train", "picking", "--output", str(folder / "made.safetensors"), "--work", str(folder / "work")]
    done = CliRunner().invoke(main, [*command, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, object] | list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_the_command_trains_on_a_folder_and_in_rounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(picker_data.PICKER_TRAINING, eigenpairs=12, partition_vertices=2000, hidden=4, blocks=1)
    monkeypatch.setattr(picker_data, "PICKER_TRAINING", small)
    source = ["--data", str(folder), "--voxel-spacing", "10", "--epochs", "2"]
    told = run(folder, *source)
    assert isinstance(told, dict)
    assert (told["membranes"], told["particles"]) == (2, {"particles": 7})
    picker = load_picker(folder / "made.safetensors")
    assert isinstance(picker, Picker)
    np.testing.assert_array_equal(picker.offsets_angstrom, np.arange(-22.5, 27.5, 2.5))
    assert (picker.network.architecture.channels, len(picker.window_starts)) == (16, 5)
    assert picker.notes["validation"] == told["validation"]
    assert len((folder / "work" / "picker-training.csv").read_text().splitlines()) == 3
    rows = run(folder, *source, "--incremental", "1,2", "--json")
    assert isinstance(rows, list)
    assert [row["annotated_membranes"] for row in rows] == [1, 2]
    assert load_picker(folder / "made.safetensors").notes["rounds"] == rows
    for model in (rows[-1]["model"], folder / "made.safetensors"):
        suits = {"pick.bandwidth_angstrom": rows[-1]["bandwidth_angstrom"], "pick.threshold": rows[-1]["threshold"]}
        assert load_picker(str(model)).notes["settings"] == suits
    command = ["train", "picking", "--output", str(folder / "made.safetensors"), "--work", str(folder / "work")]
    table = CliRunner().invoke(main, [*command, *source, "--incremental", "1,2"])
    assert "annotated membranes" in table.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "D", "--project", "P"], "exclude each other"),
        (["--voxel-spacing", "10"], "--data"),
        (["--data", "D", "--phantoms", "3"], "simulated tomograms"),
        (["--data", "D", "--run", "TS_1"], "--project"),
        (["--data", "D", "--cluttered", "0.5"], "simulated tomograms"),
        (["--base", "membrain-cloud-picker", "--classes", "tower,dimer"], "built otherwise"),
        (["--data", "D", "--voxel-spacing", "10", "--incremental", "one"], "1,2,5"),
        (["--data", "D", "--voxel-spacing", "10", "--incremental", "5"], "there are 2"),
        (["--data", "D", "--voxel-spacing", "10", "--base", "membrain-cloud-picker"], "built otherwise"),
        (["--incremental", "1", "--classes", "nobody"], "dimer"),
    ],
)
def test_contradicting_options_are_refused(folder: Path, options: list[str], said: str) -> None:
    given = [str(folder) if option == "D" else option for option in options]
    command = ["train", "picking", "--output", str(folder / "x.safetensors"), "--work", str(folder / "w"), *given]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2, done.output
    assert said in done.output + (done.stderr or "")
    assert not (folder / "x.safetensors").exists()


@pytest.mark.parametrize(("classes", "kinds"), [((), ("dimer", "tower", "head-on-stalk")), (("tower",), ("tower",))])
def test_phantoms_have_only_the_kinds_that_are_asked_for(
    classes: tuple[str, ...], kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each membrane has one kind, so rounds for one protein need phantoms with that protein alone."""
    small = PhantomSettings(
        shape=(48, 64, 64), membranes=1, particles_per_um2=(2000.0, 2000.0), cytosolic_per_um3=(1.0, 2.0)
    )
    monkeypatch.setattr(picker_data, "PhantomSettings", lambda: small)
    monkeypatch.setattr(picker_data, "ROUND_SEEDS", {"train": range(3, 5), "val": range(5, 6), "test": range(6, 7)})
    made: list[Phantom] = []

    def recorded(seed: int, settings: PhantomSettings) -> Phantom:
        made.append(make_phantom(seed, settings))
        return made[-1]

    monkeypatch.setattr("membrain_cloud.training.picking.built_in_picker.make_phantom", recorded)
    data = picker_data.phantom_data(tmp_path, classes=classes, progress=lambda line: None)
    found = {name for phantom in made for name in phantom.particle_classes}
    assert found
    assert found <= set(kinds)
    assert data.training.classes == classes
    if not classes:
        assert len(found) > 1
