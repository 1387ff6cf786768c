"""The inputs of ../shared/cases, made there, with their right values; skipped where the folder is absent."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from standins.command_line import call

from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.projects.open import open_project

MAKER = Path(__file__).parents[4] / "shared" / "cases" / "make_cases.py"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    if not MAKER.is_file():
        pytest.skip(f"the cases are absent: {MAKER}")
    folder = tmp_path_factory.mktemp("cases")
    runpy.run_path(str(MAKER))["main"](str(folder))
    assert call("project", "init", str(folder / "p"), "--tomograms", str(folder / "TS_1.mrc")).exit_code == 0
    return folder, json.loads((folder / "right.json").read_text())


def imported(folder: Path, name: str, *words: str) -> Any:
    """Return the picks that are imported of a case."""
    config, target = str(folder / "p/config.json"), ("-r", "TS_1", "--object", "o", "--user", "u")
    result = call("import", "picks", config, str(folder / f"{name}.star"), *target, *words)
    assert result.exit_code == 0, result.output
    project = open_project(config)
    return project.read_picks(project.object("TS_1", result.stdout.strip()))


def test_particles(cases: tuple[Path, dict[str, Any]]) -> None:
    folder, right = cases
    picks = imported(folder, "subtomogram")
    np.testing.assert_allclose(picks.orientations[0], right["subtomogram"]["A_subtomogram A_particle"], atol=1e-4)
    np.testing.assert_allclose(picks.positions[0], right["subtomogram"]["position"], atol=1e-3)
    np.testing.assert_allclose(imported(folder, "relion30").positions, right["relion30"])
    for case, names in (("names", ("00255", "255")), ("names_none", ("None", "nan", "TS_1"))):
        for name in names:
            assert len(imported(folder, case, "--tomogram", name)) == right[case][name]
    assert len(imported(folder, "optics_twice")) == 3
    assert imported(folder, "membrane_nan").membrane_ids.tolist() == [1, 0, 2]
    config, target = str(folder / "p/config.json"), ("-r", "TS_1", "--object", "o", "--user", "u")
    refused = call("import", "picks", config, str(folder / "names.star"), *target)
    assert "2 tomograms" in refused.output
    for words in ((), ("--voxel-spacing", "10")):
        refused = call("import", "picks", config, str(folder / "normalised.star"), *target, *words)
        assert refused.exit_code == 2
        assert "normalised" in refused.output


def test_masks(cases: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, right = cases
    monkeypatch.chdir(folder)
    project = open_project("p/config.json")
    for file in ("imod_signed.mrc", "slope_nan_labels.nii.gz"):
        result = call("import", "segmentation", "p/config.json", file, "-r", "TS_1", "--user", "u")
        labels = project.read_labels(project.segmentation("TS_1", result.stdout.strip()))
        assert int(labels.sum()) == right["mask_voxels"]
    assert call("components", "imod_signed.mrc", "-o", "out").exit_code == 0
    components = read_volume("out/imod_signed_components.mrc")[0]
    assert int((components > 0).sum()) == right["mask_voxels"]
    assert call("skeletonize", "imod_signed.mrc", "-o", "out").exit_code == 0
    skeleton = read_volume("out/imod_signed_skel.mrc")[0]
    assert 0 < skeleton.sum() < right["mask_voxels"]
    assert not (skeleton & (components == 0)).any()


def test_volumes(cases: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = cases
    monkeypatch.chdir(folder)
    density = read_volume("TS_1.mrc")[0]
    for number, (file, words, spacing) in enumerate((
        ("no_extended_header.mrc", (), 10.0),
        ("slope_nan.nii.gz", (), 10.0),
        ("nm.zarr", (), 10.0),
        ("nm.zarr", ("--voxel-spacing", "13.48"), 13.48),
        ("no_unit.zarr", ("--voxel-spacing", "13.48"), 13.48),
        ("no_cubes.zarr", ("--voxel-spacing", "13.48"), 13.48),
        ("empty_chunks.zarr", ("--empty-chunks", "fill"), 10.0),
    )):  # fmt: skip
        result = call("project", "init", f"v{number}", "--tomograms", file, *words)
        assert result.exit_code == 0, result.output
        project = open_project(f"v{number}/config.json")
        (ref,) = project.all_tomograms(project.runs()[0])
        assert ref.voxel_spacing_angstrom == spacing
        expected = density.copy()
        if file.startswith("empty"):
            expected[:24, :24] = 0
        np.testing.assert_array_equal(project.read_density(ref), expected)
    refused = call("project", "init", "w", "--tomograms", "empty_chunks.zarr")
    assert "write_empty_chunks" in refused.output
    batch = call("project", "init", "b", "--tomograms", "batch/*.mrc")
    assert batch.exit_code == 1
    assert open_project("b/config.json").runs() == ["a", "c", "d"]
    assert "1 of 4 files failed" in batch.stderr
