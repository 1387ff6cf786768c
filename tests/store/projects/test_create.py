"""Volume files become projects: bounded memory, cleaned names, plausible spacings only."""

from __future__ import annotations

import functools
import gzip
import shutil
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError, TomogramError, UsageError, VoxelSpacingError
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.formats.volume_writer import write_mrc
from membrain_cloud.store.projects.create import create_project, init_project
from membrain_cloud.store.projects.import_annotations import import_picks, import_segmentation
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

VALUES = np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32)


def init(folder: Path, *files: Path, spacing: float | None = None) -> tuple[Project, list[str]]:
    notes: list[str] = []
    project = init_project(
        str(folder / "project"),
        [str(file) for file in files],
        voxel_spacing_angstrom=spacing,
        tomogram_type="wbp",
        report=notes.append,
    )
    return project, notes


def test_files_become_runs(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "TS_1.mrc"), VALUES, 10.0)
    (tmp_path / "my tomo.rec.gz").write_bytes(gzip.compress((tmp_path / "TS_1.mrc").read_bytes()))
    zarr.save(str(tmp_path / "plain.zarr"), VALUES, zarr_format=2)
    files = [tmp_path / name for name in ("TS_1.mrc", "my tomo.rec.gz")]
    project, notes = init(tmp_path, *files)
    assert [ref.key for ref in project.tomograms(None, None, None)] == ["TS_1/wbp@10.000", "my-tomo/wbp@10.000"]
    project, _ = init(tmp_path, tmp_path / "plain.zarr", spacing=7.84)
    assert len(project.runs()) == 3
    for ref in project.tomograms(None, None, None):
        np.testing.assert_array_equal(project.read_density(ref), VALUES)
        assert project.is_complete(ref)
    assert any("TS_1: 40 x 30 x 20 voxels (x, y, z), float32, 10 Å" in note for note in notes)
    assert sorted(p.name for p in (tmp_path / "project").iterdir()) == ["ExperimentRuns", "config.json"]


def test_complete_tomograms_are_kept_by_a_second_import(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "TS_1.mrc"), VALUES, 10.0)
    project, _ = init(tmp_path, tmp_path / "TS_1.mrc")
    ref = TomogramRef("TS_1", "wbp", 10.0)
    before = project.identity(ref)
    project, notes = init(tmp_path, tmp_path / "TS_1.mrc")
    assert project.identity(ref) == before
    assert any("is kept" in note for note in notes)
    (tmp_path / "project" / ref.path / ".zattrs").unlink()  # as if it had been interrupted
    project, _ = init(tmp_path, tmp_path / "TS_1.mrc")
    assert project.identity(ref) != before
    assert project.is_complete(ref)


def test_an_implausible_spacing_is_refused_before_writing(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "a.mrc"), VALUES, 10.0)
    write_mrc(str(tmp_path / "b.mrc"), VALUES, 1.0)
    with pytest.raises(VoxelSpacingError, match=r"b\.mrc") as caught:
        init(tmp_path, tmp_path / "a.mrc", tmp_path / "b.mrc")
    assert "voxel spacing" in caught.value.next_step
    assert not (tmp_path / "project").exists()
    project, notes = init(tmp_path, tmp_path / "a.mrc", tmp_path / "b.mrc", spacing=13.48)
    assert {ref.voxel_spacing_angstrom for ref in project.tomograms(None, None, None)} == {13.48}
    assert any("the file says 10 Å, the one given is used" in note for note in notes)
    with pytest.raises(VoxelSpacingError, match="absurd"):
        init(tmp_path, tmp_path / "a.mrc", spacing=3173.75)


def test_names_that_cannot_be_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("a b.mrc", "a-b.mrc", "...mrc", "x/a b.mrc"):
        write_mrc(str(tmp_path / name), VALUES, 10.0)
    with pytest.raises(BadNameError, match="both become run 'a-b'"):
        init(tmp_path, tmp_path / "a b.mrc", tmp_path / "a-b.mrc")
    with pytest.raises(BadNameError):
        init(tmp_path, tmp_path / "...mrc")
    with pytest.raises(UsageError, match="no files"):
        init(tmp_path)
    assert not (tmp_path / "project").exists()


def test_damaged_sources_are_refused(tmp_path: Path) -> None:
    write_mrc(str(tmp_path / "x.mrc"), VALUES, 10.0)
    (tmp_path / "x.mrc").write_bytes((tmp_path / "x.mrc").read_bytes()[:-5])
    with pytest.raises(TomogramError, match="truncated"):
        init(tmp_path, tmp_path / "x.mrc")
    zarr.create_array(str(tmp_path / "y.zarr"), data=VALUES, chunks=(10, 10, 10), zarr_format=2)
    (tmp_path / "y.zarr/1.1.1").unlink()
    with pytest.raises(ChunkError, match=r"1\.1\.1"):
        init(tmp_path, tmp_path / "y.zarr", spacing=10.0)
    np.save(tmp_path / "z.npy", np.ones((4, 4, 4), np.int64))
    with pytest.raises(TomogramError, match="int64"):
        init(tmp_path, tmp_path / "z.npy", spacing=10.0)


def test_memory_stays_at_a_few_chunks(tmp_path: Path) -> None:
    source = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, (128, 256, 512))
    source[::7] = 1.0
    source.flush()
    project = create_project(str(tmp_path / "project"), objects=[])
    ref = TomogramRef("big", "wbp", 10.0)
    tracemalloc.start()
    project.write_tomogram(ref, np.load(tmp_path / "big.npy", mmap_mode="r"), chunk=64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 64**3 * 4 < source.nbytes / 4
    np.testing.assert_array_equal(project.read_density(ref), source)


def test_real_files(tmp_path: Path, reference: Path) -> None:
    files = [
        "membrain-seg/tomo.mrc",
        "membrain-seg/tomo_int8.mrc",
        "real/tardis_mt_crops/rec3D.rec",
        "real/cylindra_mt/13pf_MT.tif",
    ]
    project, notes = init(tmp_path, *[reference / name for name in files])
    found = {ref.run: ref.voxel_spacing_angstrom for ref in project.tomograms(None, None, None)}
    assert found == {"tomo": 10.0, "tomo_int8": 10.0, "rec3D": 23.2, "13pf_MT": 10.52}
    assert any(note.startswith("rec3D: MRC header: no map id") for note in notes)
    for name in files[:2]:
        values, _ = read_volume(str(reference / name))
        found_values = project.read_density(TomogramRef(Path(name).stem, "wbp", 10.0))
        assert found_values.dtype == values.dtype
        np.testing.assert_array_equal(found_values, values)


def test_labels_are_imported_without_a_tomogram(project: Project, reference: Path) -> None:
    thylakoid = reference / "real/thylakoid_membrain1"
    crop = str(thylakoid / "T1S4M8_crop_z194y180x170.mrc.gz")
    values, header = read_volume(crop)
    notes: list[str] = []
    target = ObjectRef("T1S4M8", "membrane", "membrain1", "1")
    ref = import_segmentation(project, crop, target, instance=False, report=notes.append, chunk=64)
    assert ref == SegmentationRef("T1S4M8", "membrane", "membrain1", "1", 13.68)
    assert any("origin" in note for note in notes)
    assert project.runs() == ["T1S4M8"]
    np.testing.assert_array_equal(project.read_labels(ref), values > 0)
    picks = import_picks(
        project,
        str(thylakoid / "T1S4M8_picks.csv"),
        ObjectRef("T1S4M8", "PSII", "membrain1", "1"),
        origin_angstrom=header.origin,
    )
    found = project.read_picks(picks)
    assert len(found) == 17
    index = np.rint(project.grid(ref).to_voxels(found.positions)).astype(int)
    assert ((index >= 0) & (index < values.shape)).all()


def test_a_mask_of_several_labels_needs_a_label(project: Project, reference: Path) -> None:
    file = str(reference / "real/microsome_pyseg/tomo22_z50_ves_4_seg.mrc")
    values, _ = read_volume(file)
    imported = functools.partial(import_segmentation, project, file, ObjectRef("tomo22", "membrane", "pyseg", "1"))
    imported = functools.partial(imported, voxel_spacing_angstrom=21.0, chunk=64)
    with pytest.raises(TomogramError, match="labels"):
        imported(instance=False)
    with pytest.raises(TomogramError, match="no label 9"):
        imported(instance=False, label=9)
    mask = imported(instance=False, label=1)
    np.testing.assert_array_equal(project.read_labels(mask), values == 1)
    whole = imported(instance=True)
    np.testing.assert_array_equal(project.read_labels(whole), values)
    with pytest.raises(VoxelSpacingError):
        import_segmentation(project, file, ObjectRef("x", "membrane", "a", "1"), instance=True)


def test_labels_take_the_spacing_of_their_tomogram(project: Project, tmp_path: Path) -> None:
    project.write_tomogram(TomogramRef("TS_1", "wbp", 7.84), VALUES)
    labels = np.where(VALUES > 1, 300, 0).astype(np.float32)
    write_mrc(str(tmp_path / "labels.mrc"), labels, 1.0)
    target = ObjectRef("TS_1", "membrane", "a", "1")
    ref = import_segmentation(project, str(tmp_path / "labels.mrc"), target, instance=True)
    assert ref.voxel_spacing_angstrom == 7.84
    assert project.read_labels(ref).dtype == np.uint16
    np.testing.assert_array_equal(project.read_labels(ref), labels)
    write_mrc(str(tmp_path / "scores.mrc"), VALUES, 7.84)
    with pytest.raises(TomogramError, match="whole numbers"):
        import_segmentation(project, str(tmp_path / "scores.mrc"), target, instance=False)


def test_star_picks_are_imported(project: Project, reference: Path, tmp_path: Path) -> None:
    file = reference / "simulated-mixed/membrane_particles.star"
    target = ObjectRef("mixed", "protein", "polnet", "1")
    ref = import_picks(project, str(file), target)
    found = project.read_picks(ref)
    np.testing.assert_allclose(found.positions[0], [145.0, 955.0, 665.0])
    assert found.membrane_ids[0] == 5
    shutil.copy(file, tmp_path / "x.txt")
    with pytest.raises(ProjectError, match="not known"):
        import_picks(project, str(tmp_path / "x.txt"), target)


def test_an_existing_project_is_opened(tmp_path: Path) -> None:
    first = create_project(str(tmp_path), objects=[("membrane", False, None)])
    again = create_project(str(tmp_path), objects=[("membrane", False, None), ("PSII", True, None)])
    assert again.config == first.config
    assert [entry["name"] for entry in again.settings["pickable_objects"]] == ["membrane", "PSII"]
