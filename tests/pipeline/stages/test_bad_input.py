"""Good and bad tomograms through the real stages: a bad one fails alone, with its cause and a next step."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.store.projects.stored_project import CopickProject

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

GOOD = {
    "int8": np.int8, "int16": np.int16, "uint16": np.uint16, "float16": np.float16, "float32": np.float32
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tomograms of every type, one thinner than a window, one with NaN, one constant, one with a torn chunk."""
    tmp_path, rng = tmp_path_factory.mktemp("input"), np.random.default_rng(0)
    noise = rng.standard_normal((24, 40, 36)) * 20 + 60
    volumes = {f"good-{name}": noise.astype(dtype) for name, dtype in GOOD.items()}
    volumes["thin"] = noise[:9].astype(np.float32)
    volumes["hole"] = noise.astype(np.float32)
    volumes["hole"][3, 4, 5] = np.inf
    volumes["flat"] = np.full((24, 40, 36), 7, np.int16)
    volumes["torn"] = noise.astype(np.float32)
    files = tmp_path / "files"
    files.mkdir()
    for name, volume in volumes.items():
        with mrcfile.new(files / f"{name}.mrc") as stored:
            with warnings.catch_warnings(action="ignore"):  # mrcfile notes the infinite voxel
                stored.set_data(volume)
            stored.voxel_size = 10.0
    double = np.asarray(noise, np.float64)
    np.save(files / "good-float64.npy", double)
    made = CliRunner().invoke(
        main, ["project", "init", str(tmp_path / "p"), "--tomograms", str(files / "*"), "--voxel-spacing", "10"]
    )
    assert made.exit_code == 0, made.output
    (chunk,) = (tmp_path / "p").glob("ExperimentRuns/torn/*/wbp.zarr/0/0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:500])
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    facts = {"window": 16, "voxel_spacing_angstrom": 10.0}
    save_segmenter(tmp_path / "m.safetensors", build_unet(architecture), architecture, facts)
    return tmp_path / "p" / "config.json"


def segment(project: Path) -> Result:
    model = project.parents[1] / "m.safetensors"
    changed = [f"segment.model={model}", "segment.mode=fast"]
    settings = [text for change in changed for text in ("--set", change)]
    return CliRunner().invoke(main, ["run", str(project), "--in-process", "--stages", "segment", *settings])


@pytest.fixture(scope="module")
def first_run(project: Path) -> Result:
    return segment(project)


def test_bad_tomograms_fail_alone_with_a_next_step(project: Path, first_run: Result) -> None:
    assert first_run.exit_code == 1, first_run.output
    listed = CliRunner().invoke(main, ["failures", str(project), "--json"])
    failures = {row["run"]: row for row in json.loads(listed.stdout)}
    assert set(failures) == {"hole", "flat", "torn"}, first_run.output
    assert "1 of" in failures["hole"]["message"]
    assert "NaN or infinite" in failures["hole"]["message"]
    assert "every voxel has the value 7" in failures["flat"]["message"]
    assert "chunk 0/0/0" in failures["torn"]["message"]
    assert all(row["next_step"] for row in failures.values())
    again = segment(project)
    assert again.exit_code == 1
    assert "0 done, 7 skipped, 3 failed" in again.stderr


def test_every_data_type_gives_a_mask_of_the_tomograms_shape(project: Path, first_run: Result) -> None:
    opened = CopickProject.open(str(project))
    for run in (*(f"good-{name}" for name in GOOD), "good-float64", "thin"):
        (tomogram,) = opened.tomograms([run], None, None)
        masks = [opened.grid(labels).shape for labels in opened.segmentations(run)]
        assert masks == [opened.grid(tomogram).shape], f"{run}: {first_run.output}"
    same = [opened.read_labels(opened.segmentations(f"good-{name}")[0]) for name in ("float32", "float64")]
    np.testing.assert_array_equal(*same)
