"""Training from the command line: folders, labels of several annotators, fine-tuning, bad input."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING, Any

import mrcfile
import numpy as np
import pytest
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Box
from membrain_cloud.networks.model_file import model_sha256
from membrain_cloud.networks.segmentation.architecture.mirror_symmetry import mirrors_are_tied
from membrain_cloud.networks.segmentation.segmenter import load_network
from membrain_cloud.pipeline.training import labelled_volumes as label_data
from membrain_cloud.pipeline.training.labelled_volumes import (
    find_layers,
    folder_volumes,
    is_partial,
    project_volumes,
    read_merged_labels,
)
from membrain_cloud.pipeline.training.segmentation import TrainingPlan, train_segmentation
from membrain_cloud.pipeline.training.segmentation_data import TrainingData
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SMALL = ["--channels", "4,8,8", "--window", "16", "--batch", "1", "--workers", "0", "--threads", "1"]
SHAPE = (24, 26, 28)


def sheet(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros(shape, np.uint8)
    label[:, 8 + seed : 12 + seed] = 1
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (noise - 2.0 * label).astype(np.float32), label


def write_nifti(path: Path, array: np.ndarray, spacing: float = 10.0) -> None:
    code = {"float32": 16, "uint8": 2}[str(array.dtype)]
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h", raw, 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", raw, 70, code, array.itemsize * 8)
    struct.pack_into("<8f", raw, 76, 1, spacing, spacing, spacing, 1, 1, 1, 1)
    struct.pack_into("<f", raw, 108, 352)
    raw[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(raw) + array.tobytes(), 1))


def write_mrc(path: Path, array: np.ndarray, spacing: float = 10.0) -> None:
    with mrcfile.new(path) as file:
        file.set_data(array)
        file.voxel_size = spacing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two volumes to train on, one of each format, and one to validate on."""
    root = tmp_path / "patches"
    for part, numbers in (("Tr", (0, 1)), ("Val", (2,))):
        for kind in ("images", "labels"):
            (root / f"{kind}{part}").mkdir(parents=True)
        for k in numbers:
            image, label = sheet(k)
            if k == 1:
                write_mrc(root / f"images{part}" / f"set_{k}_0000.mrc", image)
                write_mrc(root / f"labels{part}" / f"set_{k}.mrc", label.astype(np.int8))
            else:
                write_nifti(root / f"images{part}" / f"set_{k}_0000.nii.gz", image)
                write_nifti(root / f"labels{part}" / f"set_{k}.nii.gz", label)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return three runs: alice marked two of them completely, bob corrected a patch in TS_2 and TS_3."""
    made = create_project(str(tmp_path / "project"), objects=[("membrane", False, None)])
    for k, run in enumerate(("TS_1", "TS_2", "TS_3")):
        image, label = sheet(k)
        made.write_tomogram(TomogramRef(run, "wbp", 10.0), image)
        if run != "TS_3":
            made.write_segmentation(SegmentationRef(run, "membrane", "alice", "1", 10.0), label)
        if run != "TS_1":
            marks = np.zeros(SHAPE, np.uint8)
            marks[:16, :16, :16] = np.where(label[:16, :16, :16] == 1, 1, 3)
            marks[:2, :16, :16] = 2
            made.write_segmentation(SegmentationRef(run, "membrane", "bob", "1", 10.0), marks)
    return made


def run(*words: object) -> str:
    result = CliRunner().invoke(main, ["train", "segmentation", *[str(word) for word in words]])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code}: {result.output}"


def test_folders_in_membrain_segs_layout_are_read(folder: Path, tmp_path: Path) -> None:
    found = folder_volumes(folder, "Tr", tmp_path / "work", margin=16)
    assert [volume.name for volume in found] == ["set_0", "set_1"]
    for k, volume in enumerate(found):
        image, label = sheet(k)
        np.testing.assert_array_equal(volume.label(), label)
        np.testing.assert_allclose(volume.image(), (image - image.mean()) / image.std(), atol=5e-3)
        assert volume.voxel_spacing_angstrom == 10.0


def test_labels_of_annotators_are_merged_in_the_order_given(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = "membrane:alice/1@10", "membrane:bob/1@10"
    whole = Box((0, 0, 0), SHAPE)
    layers = find_layers(project, "TS_2", [alice, bob])
    assert [ref.user for ref in layers] == ["alice", "bob"]
    assert [is_partial(project, ref) for ref in layers] == [False, True]
    merged = read_merged_labels(project, layers, whole, partial=False)
    expected = sheet(1)[1]
    expected[:2, :16, :16] = 2
    np.testing.assert_array_equal(merged, expected)
    alone = read_merged_labels(project, layers[1:], whole, partial=True)
    assert (alone[16:] == 2).all()
    assert (alone[2:16, :16, :16] == expected[2:16, :16, :16]).all()
    monkeypatch.setattr(label_data, "_SLAB_BYTES", 0)  # the minimum: two slabs of 16 planes
    found = project_volumes(project, ["TS_1", "TS_2", "TS_3"], [alice, bob], tmp_path / "work", margin=0)
    assert [volume.name for volume in found] == ["TS_1", "TS_2", "TS_3"]
    np.testing.assert_array_equal(found[1].label(), expected)
    assert found[2].label().shape == (16, 16, 16)  # cropped to the patch that bob marked


def test_a_model_trained_on_a_folder_says_so(folder: Path, tmp_path: Path) -> None:
    output, work = tmp_path / "m.safetensors", tmp_path / "w"
    said = run(
        "--output", output, "--work", work, "--data", folder, "--epochs", 4, *SMALL, "--augment", "missing_wedge=1"
    )
    assert said.startswith("0:")
    header = load_network(str(output))[1]
    assert header["trained_on"] == {"source": "patches", "labels": [], "volumes": ["set_0", "set_1"]}
    assert header["training"]["steps"] == 8
    assert header["training"]["augmentations"]["missing_wedge"] == 1
    assert header["training"]["augmentations"]["rotate"] == 0.75
    assert header["voxel_spacing_angstrom"] == 10.0
    assert (work / "log.csv").exists()
    pictures = sorted((work / "figures").glob("*.png"))
    assert pictures
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def test_a_project_fine_tunes_a_checkpoint_of_membrain_seg(
    project: Project, tmp_path: Path, lightning_checkpoint: Callable[..., Path]
) -> None:
    base = lightning_checkpoint(tmp_path / "v.ckpt")
    before = base.read_bytes()
    words = [
        "--work", tmp_path / "w", "--data", project.config, "--labels", "membrane:alice/1@10", "--labels",
        "membrane:bob/1@10", "--from", base, "--epochs", 2, "--validation", "TS_3", "--window", 16, "--batch", 1,
        "--workers", 0, "--threads", 1,
    ]  # fmt: skip
    assert run("--output", tmp_path / "tuned.safetensors", *words).startswith("0:")
    header = load_network(str(tmp_path / "tuned.safetensors"))[1]
    assert header["fine_tuned_from"]["model"] == str(base)
    assert header["architecture"] == {"channels": [4, 8, 8, 8], "residual": True}
    assert header["training"]["learning_rate"] == 1e-5
    assert header["trained_on"]["volumes"] == ["TS_1", "TS_2"]
    said = run("--output", base, *words)
    assert said.startswith("2:")
    assert "is the model to fine-tune" in said
    assert base.read_bytes() == before
    said = run("--output", tmp_path / "other.safetensors", *words, "--channels", "4,8,16,16")
    assert "leave channels out" in said


def test_a_network_is_symmetric_unless_options_prevent_it(folder: Path, tmp_path: Path) -> None:
    words = ["--data", folder, "--window", 16, "--batch", 1, "--workers", 0, "--threads", 1, "--steps", 1]

    def trained(name: str, *more: object) -> dict[str, Any]:
        output = tmp_path / f"{name}.safetensors"
        assert run("--output", output, "--work", tmp_path / name, *words, *more).startswith("0:")
        network, header = load_network(str(output))
        assert mirrors_are_tied(network) == header["training"]["mirror_symmetric"]
        return header

    assert trained("a", "--channels", "8,8,8")["training"]["mirror_symmetric"]
    assert not trained("b", "--channels", "4,8,8")["training"]["mirror_symmetric"]
    assert not trained("c", "--channels", "8,8,8", "--mirror-loss", 1)["training"]["mirror_symmetric"]
    assert trained("d", "--from", tmp_path / "a.safetensors")["training"]["mirror_symmetric"]
    told = trained("e", "--channels", "8,8,8", "--teacher", tmp_path / "b.safetensors")["taught_by"]
    assert told == {"model": str(tmp_path / "b.safetensors"), "sha256": model_sha256(str(tmp_path / "b.safetensors"))}

    def refused(*more: object) -> str:
        said = run("--output", tmp_path / "no.safetensors", "--work", tmp_path / "no", *words, *more)
        assert said.startswith("2:")
        return said

    assert "cannot be symmetric" in refused("--channels", "4,8,8", "--mirror-symmetric")
    assert "are not symmetric, and would be lost" in refused("--from", tmp_path / "b.safetensors", "--mirror-symmetric")
    trained("f", "--channels", "4,4,4,4")
    said = refused("--channels", "8,8,8", "--window", 20, "--teacher", tmp_path / "f.safetensors")
    assert "takes windows of multiples of 8 voxels, patches have 20" in said


def test_bad_folders_are_refused_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    label = folder / "labelsTr" / "set_0.nii.gz"
    _, good = sheet(0)

    def refused() -> str:
        said = run("--output", tmp_path / "m.safetensors", "--work", tmp_path / "w", "--data", folder, *SMALL)
        assert said.startswith("2:"), said
        assert not (tmp_path / "m.safetensors").exists()
        assert not (tmp_path / "w" / "checkpoint.pt").exists()
        return said

    write_nifti(label, good[1:])
    assert "is of shape (23, 26, 28), its image (24, 26, 28)" in refused()
    write_nifti(label, good, spacing=7.84)
    assert "has voxels of 7.84 Å, its image of 10 Å" in refused()
    write_nifti(label, good * 3)
    assert "set_0: labels hold the value 3" in refused()
    write_nifti(label, np.full_like(good, 2))
    assert "set_0: every voxel is labelled ignore" in refused()
    label.unlink()
    assert "it has no labels" in refused()
    for path in (folder / "imagesTr").iterdir():
        path.unlink()
    for k, path in enumerate((folder / "labelsTr").iterdir()):
        path.unlink()
        write_nifti(folder / "imagesTr" / f"set_{k}_0000.nii.gz", sheet(k)[0])
        write_nifti(folder / "labelsTr" / f"set_{k}.nii.gz", np.zeros_like(good))
    assert "no voxel is labelled membrane" in refused()


def test_validation_uses_other_images_with_the_same_spacing(folder: Path, tmp_path: Path) -> None:
    def refused() -> str:
        said = run("--output", tmp_path / "m.safetensors", "--work", tmp_path / "w", "--data", folder, *SMALL)
        assert not (tmp_path / "w" / "checkpoint.pt").exists()
        return said

    image, label = sheet(2)
    for kind, array in (("images", image), ("labels", label)):
        write_nifti(folder / f"{kind}Val" / f"set_2{'_0000' if kind == 'images' else ''}.nii.gz", array, spacing=20.0)
    said = refused()
    assert "voxels of 10 and of 20 Å in one training" in said
    for kind in ("images", "labels"):
        for path in (folder / f"{kind}Val").iterdir():
            path.unlink()
        name = f"set_0{'_0000' if kind == 'images' else ''}.nii.gz"
        (folder / f"{kind}Val" / f"again{name[5:]}").write_bytes((folder / f"{kind}Tr" / name).read_bytes())
    said = refused()
    assert said.startswith("2:")
    assert "again of imagesVal is the image set_0 that is trained on" in said


def test_annotations_that_do_not_fit_are_refused(project: Project, tmp_path: Path) -> None:
    def prepared(*uris: str, runs: tuple[str, ...] = ("TS_1",)) -> None:
        project_volumes(project, runs, uris, tmp_path / "work", margin=0)

    with pytest.raises(ProjectError, match="none of 1 runs has membrane:carol/1@10"):
        prepared("membrane:carol/1@10")
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "dora", "1", 10.0), np.ones((8, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"is of shape \(8, 8, 8\), its tomogram \(24, 26, 28\)"):
        prepared("membrane:dora/1@10")
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "alice", "1", 20.0), np.ones(SHAPE, np.uint8))
    with pytest.raises(ProjectError, match="no tomogram of type any at 20"):
        prepared("membrane:alice/1@20")
    with pytest.raises(InputError, match="annotations of 10 and 20 Å cannot be merged"):
        prepared("membrane:alice/1@20", "membrane:alice/1@10")
    with pytest.raises(ProjectError, match="names 2 segmentations"):
        prepared("membrane:alice/1")
    project.write_segmentation(SegmentationRef("TS_1", "membrane", "emil", "1", 10.0), np.full(SHAPE, 9, np.uint8))
    with pytest.raises(InputError, match=r"emil/1@10\.000 holds the value 9"):
        prepared("membrane:emil/1@10")


@pytest.mark.parametrize(
    ("plan", "data", "message"),
    [
        (TrainingPlan(recipe="other"), TrainingData(), "there is no recipe 'other'"),
        (TrainingPlan(values={"teacher_part": 0.5}), TrainingData(), "the setting teacher_part is given without"),
        (TrainingPlan(values={"learning_rate": -1.0}), TrainingData(), "the training setting learning_rate is -1"),
        (TrainingPlan(values={"specimens": 8}), TrainingData(), "8 specimens: 8 are held back"),
        (TrainingPlan(), TrainingData(labels=("membrane:alice/1",)), "are for data of your own"),
        (TrainingPlan(augmentations="all"), TrainingData(), "there are no augmentations 'all'"),
    ],
)
def test_errors_name_settings_and_no_command_line_options(
    plan: TrainingPlan, data: TrainingData, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        train_segmentation(
            str(tmp_path / "m.safetensors"), str(tmp_path / "w"), plan, data, device="cpu", progress=lambda *_: None
        )
    assert "--" not in str(caught.value)
    assert caught.value.next_step


def test_options_that_do_not_fit_together_are_refused(tmp_path: Path, folder: Path, project: Project) -> None:
    files = ["--output", tmp_path / "m.safetensors", "--work", tmp_path / "w", *SMALL]
    for words, says in (
        (["--labels", "membrane:alice/1@10"], "are for data of your own"),
        (["--specimens", 8], "8 are held back"),
        (["--teacher-weight", 2], "teacher_weight is given without a teacher"),
        (["--data", folder, "--labels", "membrane:alice/1@10"], "are for copick projects"),
        (["--data", project.config], "which annotations are the labels"),
        (["--data", project.config, "--labels", "membrane:alice/1@10", "--validation", "TS_3"], "none of the labels"),
        (["--data", folder, "--epochs", 1, "--steps", 1], "exclude each other"),
        (["--data", folder, "--output", tmp_path / "none" / "m.safetensors"], "there is no such folder"),
        (["--data", folder, "--device", "tpu"], "device tpu: there is none"),
        (["--data", folder, "--augment", "blur=1"], "there is no augmentation 'blur'"),
        (["--data", folder, "--augment", "noise"], "expected NAME=CHANCE"),
        (["--data", folder, "--from", "nobody"], "nobody"),
        (["--data", folder, "--learning-rate", "-1"], "-1"),
        (["--data", folder, "--learning-rate", "nan"], "'--learning-rate': nan is no number"),
        (["--data", folder, "--surface-dice", "inf"], "surface_dice is inf: out of range"),
        (["--data", folder, "--channels", "0,-3,5"], "channels (0, -3, 5) cannot be"),
        (["--data", folder, "--channels", "8"], "give three or more"),
        (["--data", folder, "--from", "membrain-cloud-picker"], "not for segmentation"),
    ):
        said = run(*files, *words)
        assert said.startswith("2:"), said
        assert says in said, said
