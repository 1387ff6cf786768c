"""Patches are proposed once, extracted as copick projects that copick opens, and merged by a stated rule."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import copick
import mrcfile
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from membrain_cloud.cli import main
from membrain_cloud.errors import InputError, ProjectError, StorageError, UsageError
from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
from membrain_cloud.networks.segmentation.segmenter import save_segmenter
from membrain_cloud.pipeline.annotation.annotators import Sources, patch_states
from membrain_cloud.pipeline.annotation.extract import (
    BORDER_VOXELS,
    MULTILABEL,
    extract,
    extract_files,
    open_patch_project,
    patch_refs,
)
from membrain_cloud.pipeline.annotation.merge import MergeOutcome, MergeOutput, merge
from membrain_cloud.pipeline.annotation.patch_set import PatchSet
from membrain_cloud.pipeline.annotation.propose import ProposalSettings, predicted_uri, propose
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import SegmentationRef, TomogramRef
from membrain_cloud.training.corrections import patch_border

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

SHAPE = (24, 60, 64)
EDGE, BORDER = 24, 4
QUICK = ("segment.scores=float16", "segment.mirrors=no", "segment.overlap=0", "segment.precision=float32")
SETTINGS = ProposalSettings(4, 0, EDGE, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """Two tomograms segmented by a small random network, with scores."""
    folder = tmp_path_factory.mktemp("patches")
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    model = folder / "m.safetensors"
    save_segmenter(model, build_unet(architecture), architecture, {"window": 16, "voxel_spacing_angstrom": 10.0})
    project = create_project(str(folder / "p"), objects=[("membrane", False, "GO:0016020")])
    for seed, run in enumerate(("TS_1", "TS_2")):
        density = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), density, chunk=32)
    settings = load_settings(None, [f"segment.model={model}", "output.chunk=32", *QUICK])
    outcomes = execute_plan(
        project, settings, plan(project, settings, STAGES, stages=["segment"]), InProcessRunner(), STAGES
    )
    assert {outcome.state for outcome in outcomes} == {"done"}, [o.line() for o in outcomes]
    return folder / "p", settings


@pytest.fixture
def settings(made: tuple[Path, Settings]) -> Settings:
    return made[1]


@pytest.fixture
def project(made: tuple[Path, Settings], tmp_path: Path) -> Project:
    folder = tmp_path / "p"
    shutil.copytree(made[0], folder, copy_function=shutil.copy2)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"overlay_root": str(folder)}))
    return open_project(str(config))


@pytest.fixture
def patch_set(project: Project, settings: Settings) -> PatchSet:
    """Four patches proposed and extracted."""
    propose(project, (), "round-1", SETTINGS, prediction=predicted_uri(settings))
    patch_set = PatchSet(project, "round-1")
    extract(patch_set, patch_set.patches(), border=BORDER, output=None)
    return patch_set


def paint(
    patch_set: PatchSet, patch: str, annotator: str, marks: np.ndarray, name: str = MULTILABEL
) -> SegmentationRef:
    user, _, session = annotator.partition("/")
    ref = SegmentationRef(patch, name, user, session, 10.0)
    open_patch_project(patch_set).write_segmentation(ref, marks.astype(np.uint8))
    return ref


def merged(patch_set: PatchSet, **more: object) -> list[MergeOutcome]:
    sources = more.pop("sources", Sources((), (), 3, BORDER))
    output = more.pop("output", MergeOutput("corrected", "round-1", 16))
    rule = more.pop("rule", "agree")
    return merge(
        patch_set, patch_set.patches(), open_patch_project(patch_set), sources, rule=rule, output=output, **more
    )  # type: ignore[arg-type]


def test_proposals_are_the_least_certain_places_and_repeatable(project: Project, settings: Settings) -> None:
    uri = predicted_uri(settings)
    first = propose(project, (), "round-1", SETTINGS, prediction=uri)
    assert (first.added, len(first.patches)) == (4, 4)
    assert [p.patch for p in first.patches] == [f"patch-{k:04d}" for k in range(1, 5)]
    assert [p.doubt for p in first.patches] == sorted((p.doubt for p in first.patches), reverse=True)
    assert {p.run for p in first.patches} == {"TS_1", "TS_2"}
    assert {p.evidence for p in first.patches} == {"scores"}
    receipt = project.receipts.parts(f"segment/membrain_{uri.rpartition('/')[2]}/TS_1/membrane@10.000")["complete"]
    assert {p.model_sha256 for p in first.patches} == {receipt["model"]["sha256"]}
    for one in first.patches:
        others = [p.box for p in first.patches if p.run == one.run and p is not one]
        assert not any(one.box.intersection(box) for box in others)
    again = propose(project, (), "round-1", SETTINGS, prediction=uri)
    assert (again.added, list(again.patches)) == (0, list(first.patches))
    other = propose(project, (), "other", SETTINGS, prediction=uri)
    assert list(other.patches) == list(first.patches), "the same results give the same patches"


def test_more_patches_are_added_to_a_set(project: Project, settings: Settings) -> None:
    uri = predicted_uri(settings)
    first = propose(project, (), "a", SETTINGS, prediction=uri)
    second = propose(project, (), "a", ProposalSettings(4, 1, EDGE, 3), prediction=uri)
    assert second.added == 1
    assert list(second.patches[:4]) == list(first.patches)
    assert second.patches[4].patch == "patch-0005"
    full = propose(project, (), "a", ProposalSettings(4, 9, EDGE, 3), prediction=uri)
    assert len(full.patches) == 6, "three of each tomogram"
    assert "raise per_tomogram" in full.notes[-1]
    patch_set = PatchSet(project, "a")
    assert [p.patch for p in patch_set.patches()] == [f"patch-{k:04d}" for k in range(1, 7)]
    text = (Path(project.root_url) / "membrain-cloud/patches/a/patches.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["patch"] for row in rows] == [p.patch for p in patch_set.patches()]
    with pytest.raises(UsageError, match="edge of 24"):
        propose(project, (), "a", ProposalSettings(9, 0, 32, 3), prediction=uri)


def test_scores_are_read_once(project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = predicted_uri(settings)
    propose(project, (), "a", ProposalSettings(1, 0, EDGE, 3), prediction=uri)
    monkeypatch.setattr(CopickProject, "read_features", None)
    assert propose(project, (), "a", ProposalSettings(1, 1, EDGE, 3), prediction=uri).added == 1
    with pytest.raises(TypeError):
        propose(project, (), "b", ProposalSettings(1, 0, EDGE, 3), prediction=uri)


def test_runs_without_scores_are_named(project: Project, settings: Settings) -> None:
    (score,) = Path(project.root_url).glob("ExperimentRuns/TS_1/*/*score*.zarr")
    shutil.rmtree(score)
    made = propose(project, (), "a", ProposalSettings(2, 0, EDGE, 3), prediction=predicted_uri(settings))
    assert {p.run for p in made.patches} == {"TS_2"}
    assert any(note.startswith("TS_1: no scores") for note in made.notes)
    with pytest.raises(InputError, match=r"segment\.scores=uint8"):
        propose(project, ["TS_1"], "b", ProposalSettings(2, 0, EDGE, 3), prediction=predicted_uri(settings))
    with pytest.raises(UsageError, match="multiple of 8"):
        propose(project, (), "b", ProposalSettings(2, 0, 30, 3), prediction=predicted_uri(settings))


def test_copick_opens_extracted_patches_for_painting(patch_set: PatchSet) -> None:
    config = str(Path(patch_set.url) / "project" / "config.json")
    root = copick.from_file(config)
    assert {o.name: o.label for o in root.config.pickable_objects} == {"membrane": 1, "ignore": 2, "background": 3}
    patch = patch_set.patches()[0]
    run = root.get_run(patch.patch)
    (tomogram,) = run.get_voxel_spacing(10.0).tomograms
    np.testing.assert_array_equal(tomogram.numpy(), patch_set.project.read_density(patch.tomogram, patch.box))
    (segmentation,) = run.segmentations
    assert segmentation.is_multilabel
    assert (segmentation.name, segmentation.user_id) == ("membrane", "membrain")
    marks = segmentation.numpy()
    inner = patch_set.project.read_labels(patch.predicted, patch.box)
    assert (marks[marks != 2] == (inner[marks != 2] != 0)).all()
    assert 0 < (marks == 2).mean() < 1
    # As napari-copick saves what was painted.
    mine = run.new_segmentation(
        voxel_size=10.0, name="membrane", session_id="1", user_id="alice", is_multilabel=True, exist_ok=True
    )
    mine.from_numpy(np.ones(EDGE * np.ones(3, int), np.uint8), levels=1)
    (outcome,) = merged(patch_set)
    assert (outcome.run, outcome.sources, outcome.patches) == (patch.run, ["alice/1"], 1)
    whole = patch_set.project.read_labels(patch_set.project.segmentation(patch.run, "membrane:corrected/round-1"))
    assert set(np.unique(whole[patch.box.slices])) == {1, 2}


def test_extraction_keeps_unchanged_patches_and_annotations(patch_set: PatchSet) -> None:
    patch = patch_set.patches()[0]
    ref = paint(patch_set, patch.patch, "alice/1", np.ones((EDGE, EDGE, EDGE)))
    project = open_patch_project(patch_set)
    before = project.identity(ref)
    _, again = extract(patch_set, patch_set.patches(), border=BORDER, output=None)
    assert {one.state for one in again} == {"skipped"}
    _, other = extract(patch_set, patch_set.patches(), border=2, output=None)
    assert {one.state for one in other} == {"done"}, "another border is another prefilled segmentation"
    assert project.identity(ref) == before
    assert [row["annotators"] for row in patch_states(patch_set)] == [["alice/1"], [], [], []]
    with pytest.raises(UsageError, match="leaves nothing"):
        extract(patch_set, patch_set.patches(), border=EDGE, output=None)


def test_two_annotators_are_merged_by_the_rule(patch_set: PatchSet) -> None:
    patch = patch_set.patches()[0]
    alice, bob = np.zeros((EDGE,) * 3), np.zeros((EDGE,) * 3)
    alice[:, 8:16] = 1
    bob[:, 8:12], bob[:, 12:14] = 1, 2
    files = {who: paint(patch_set, patch.patch, who, marks) for who, marks in (("alice/1", alice), ("bob/7", bob))}
    project = open_patch_project(patch_set)
    before = {who: project.identity(ref) for who, ref in files.items()}
    expected = {"agree": (1, 2, 2, 3), "majority": (1, 1, 2, 3), "last": (1, 1, 3, 3)}
    for rule, values in expected.items():
        output = MergeOutput("corrected", rule, 16)
        (outcome,) = merged(patch_set, rule=rule, output=output)
        assert outcome.sources == ["alice/1", "bob/7"]
        whole = patch_set.project.read_labels(output.of(patch.tomogram))
        inside = whole[patch.box.slices]
        centre = tuple(inside[EDGE // 2, y, EDGE // 2] for y in (9, 13, 15, 17))
        assert centre == values, rule
        outside = whole.copy()
        outside[patch.box.slices] = 0
        assert not outside.any(), "no marks outside of the patch"
        assert set(np.unique(inside)) <= {1, 2, 3}
    assert {who: project.identity(ref) for who, ref in files.items()} == before
    receipt = patch_set.receipts.read("merged/corrected_agree/" + f"{patch.run}-10.000")
    assert receipt is not None
    record = receipt["patches"][patch.patch]
    assert [source["source"] for source in record["sources"]] == ["alice/1", "bob/7"]
    assert record["model_sha256"] == patch.model_sha256
    assert record["disagreed_voxels"] == EDGE * EDGE * 4


def test_an_edit_rewrites_its_patch_alone(patch_set: PatchSet) -> None:
    own = [p for p in patch_set.patches() if p.run == patch_set.patches()[0].run][:2]
    assert len(own) == 2
    for patch in own:
        paint(patch_set, patch.patch, "alice/1", np.ones((EDGE,) * 3))
    output = MergeOutput("corrected", "round-1", 12)
    (first,) = merged(patch_set, output=output)
    assert (first.state, first.changed) == ("done", sorted(p.patch for p in own))
    ref = output.of(own[0].tomogram)
    (again,) = merged(patch_set, output=output)
    assert (again.state, again.changed) == ("skipped", ())
    # Saved again with the same voxels: nothing to do. With others: that patch alone.
    paint(patch_set, own[0].patch, "alice/1", np.ones((EDGE,) * 3))
    assert merged(patch_set, output=output)[0].state == "skipped"
    stamps = {
        p: p.stat().st_mtime_ns for p in Path(patch_set.project.root_url, ref.path, "0").rglob("*") if p.is_file()
    }
    paint(patch_set, own[0].patch, "alice/1", np.zeros((EDGE,) * 3))
    (edited,) = merged(patch_set, output=output)
    assert (edited.state, edited.changed) == ("done", [own[0].patch])
    chunk = patch_set.project.stored_chunk(ref)
    touched = [
        tuple(int(part) for part in path.relative_to(Path(patch_set.project.root_url, ref.path, "0")).parts)
        for path, stamp in stamps.items()
        if path.stat().st_mtime_ns != stamp
    ]
    box = own[0].box
    expected = {
        (z // chunk[0], y // chunk[1], x // chunk[2])
        for z in range(box.start[0], box.stop[0])
        for y in range(box.start[1], box.stop[1])
        for x in range(box.start[2], box.stop[2])
    }
    assert set(touched) == expected
    whole = patch_set.project.read_labels(ref)
    assert 1 not in whole[own[0].box.slices]
    assert 1 in whole[own[1].box.slices]


def test_a_killed_merge_is_repeated_whole(patch_set: PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = patch_set.patches()[0]
    paint(patch_set, patch.patch, "alice/1", np.ones((EDGE,) * 3))
    whole = CopickProject.write_labels
    left = [2]

    def dying(self: CopickProject, ref: SegmentationRef, box: object, array: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        whole(self, ref, box, array)  # type: ignore[arg-type]

    output = MergeOutput("corrected", "round-1", 16)
    monkeypatch.setattr(CopickProject, "write_labels", dying)
    with pytest.raises(KeyboardInterrupt):
        merged(patch_set, output=output)
    monkeypatch.setattr(CopickProject, "write_labels", whole)
    (outcome,) = merged(patch_set, output=output)
    assert outcome.state == "done"
    assert patch_set.project.is_complete(output.of(patch.tomogram))
    assert merged(patch_set, output=output)[0].state == "skipped"


def test_masks_of_objects_and_of_whole_tomograms_are_merged(patch_set: PatchSet) -> None:
    first, second = patch_set.patches()[:2]
    stripe = np.zeros((EDGE,) * 3)
    stripe[:, 8:12] = 1
    paint(patch_set, first.patch, "alice/1", stripe, "membrane")
    paint(patch_set, first.patch, "alice/1", np.roll(stripe, 4, 1), "ignore")
    whole = np.zeros(SHAPE, np.uint8)
    whole[:, :, ::2] = 1
    patch_set.project.write_segmentation(SegmentationRef(second.run, "membrane", "carol", "3", 10.0), whole)
    sources = Sources([("alice", None), ("carol", "3")], (), 3, BORDER)
    merged(patch_set, sources=sources)
    output = MergeOutput("corrected", "round-1")
    inside = patch_set.project.read_labels(output.of(first.tomogram), first.box)
    if first.run != second.run:
        assert [inside[12, y, 12] for y in (9, 13, 17)] == [1, 2, 3]
    inner = patch_set.project.read_labels(output.of(second.tomogram), second.box)[12, 12, 8:14]
    expected = np.where(whole[second.box.slices][12, 12, 8:14], 1, 3)
    np.testing.assert_array_equal(inner, expected)


def test_membrain_seg_folders_are_written_and_read(patch_set: PatchSet, tmp_path: Path) -> None:
    folder = tmp_path / "membrain-seg"
    patch = patch_set.patches()[0]
    images = extract_files(patch_set, [patch], str(folder), border=BORDER)
    assert [Path(image).name for image in images] == ["round-1_patch-0001.mrc"]
    with mrcfile.open(images[0]) as file:
        np.testing.assert_array_equal(file.data, patch_set.project.read_density(patch.tomogram, patch.box))
        assert float(file.voxel_size.x) == pytest.approx(10.0)
        assert float(file.header.origin.x) == pytest.approx(patch.x * 10.0)
    with mrcfile.open(folder / "labelsCorr" / "round-1_patch-0001.mrc") as file:
        labels = np.array(file.data)
    assert set(np.unique(labels)) <= {0, 1, 2}
    with pytest.raises(UsageError, match="holds no correction of any of these patches"):
        merged(patch_set, sources=Sources((), [str(folder)], 3, BORDER))
    marks = folder / "corrections" / "round-1_patch-0001"
    for name, rows in (("Remove1", slice(8, 16)), ("Add1", slice(8, 11)), ("ignore2", slice(10, 13))):
        array = np.zeros((EDGE,) * 3, np.int8)
        array[:, rows] = 1
        with mrcfile.new(marks / f"{name}.mrc") as file:
            file.set_data(array)
    (marks / "notes.txt").write_text("checked twice")
    target = tmp_path / "train"
    sources = Sources((), [str(folder)], 3, BORDER)
    (outcome,) = merged(patch_set, sources=sources, training_folder=str(target))
    assert outcome.patches == 1
    inside = patch_set.project.read_labels(MergeOutput("corrected", "round-1").of(patch.tomogram), patch.box)[12, :, 12]
    assert [inside[y] for y in (8, 9, 10, 12, 13, 15)] == [1, 1, 2, 2, 3, 3]
    with mrcfile.open(target / "labelsTr" / "round-1_patch-0001.mrc") as file:
        np.testing.assert_array_equal(file.data[12, :, 12], np.where(inside == 3, 0, inside))
    assert (target / "imagesTr" / "round-1_patch-0001_0000.mrc").is_file()
    (again,) = merged(patch_set, sources=replace(sources, folders=[str(folder / "corrections")]))
    assert [(source.split("/")[-1], again.patches) for source in again.sources] == [("corrections", 1)]


def test_a_merge_has_the_border_that_patches_were_extracted_with(patch_set: PatchSet) -> None:
    patch = patch_set.patches()[0]
    paint(patch_set, patch.patch, "alice/1", np.ones((EDGE,) * 3))
    assert BORDER != BORDER_VOXELS
    for border, expected in ((None, BORDER), (8, 8)):
        merged(patch_set, sources=Sources((), (), 3, border))
        inside = patch_set.project.read_labels(MergeOutput("corrected", "round-1").of(patch.tomogram), patch.box)
        edge = patch_border(patch.box, SHAPE, expected)
        assert edge.any()
        np.testing.assert_array_equal(inside, np.where(edge, 2, 1))


def test_labels_are_never_written_beside_another_image(patch_set: PatchSet, tmp_path: Path) -> None:
    patch, folder = patch_set.patches()[0], tmp_path / "train"
    paint(patch_set, patch.patch, "alice/1", np.ones((EDGE,) * 3))
    image = folder / "imagesTr" / "round-1_patch-0001_0000.mrc"
    image.parent.mkdir(parents=True)
    with mrcfile.new(image) as file:
        file.set_data(np.zeros((EDGE,) * 3, np.float32))
    before = image.read_bytes()
    with pytest.raises(UsageError, match=r"patch-0001_0000\.mrc exists, and is not of patch-0001 of TS_"):
        merged(patch_set, training_folder=str(folder))
    assert image.read_bytes() == before
    assert not (folder / "labelsTr").exists()
    shutil.copytree(folder / "imagesTr", folder / "imagesCorr")
    (folder / "imagesCorr" / image.name).rename(folder / "imagesCorr" / "round-1_patch-0001.mrc")
    with pytest.raises(UsageError, match="take the old files out"):
        extract_files(patch_set, [patch], str(folder), border=BORDER)


@pytest.mark.parametrize(
    ("marks", "message"),
    [(np.full((EDGE,) * 3, 9), "values from 9 to 9"), (np.ones((8, 8, 8)), "8, 8, 8")],
)
def test_annotations_that_do_not_fit_are_refused_before_writing(
    patch_set: PatchSet, marks: np.ndarray, message: str
) -> None:
    paint(patch_set, "patch-0001", "alice/1", marks)
    with pytest.raises(InputError, match=message):
        merged(patch_set)
    assert not [
        ref for run in ("TS_1", "TS_2") for ref in patch_set.project.segmentations(run) if ref.user == "corrected"
    ]


def test_other_segmentations_are_not_overwritten(patch_set: PatchSet) -> None:
    patch = patch_set.patches()[0]
    paint(patch_set, patch.patch, "alice/1", np.ones((EDGE,) * 3))
    with pytest.raises(UsageError, match="annotators"):
        merged(patch_set, sources=Sources([("alice", "1")], (), 3, BORDER), output=MergeOutput("alice", "1"))
    theirs = SegmentationRef(patch.run, "membrane", "corrected", "round-1", 10.0)
    patch_set.project.write_segmentation(theirs, np.ones(SHAPE, np.uint8))
    with pytest.raises(StorageError, match="no merge has made it"):
        merged(patch_set)
    with pytest.raises(UsageError, match=r"bob has saved nothing .* alice/1 has"):
        merged(patch_set, sources=Sources([("alice", "1"), ("bob", None)], (), 3, BORDER))


def test_a_merged_segmentation_that_was_edited_is_kept(patch_set: PatchSet) -> None:
    patch = patch_set.patches()[0]
    paint(patch_set, patch.patch, "alice/1", np.ones((EDGE,) * 3))
    output = MergeOutput("corrected", "round-1", 16)
    merged(patch_set, output=output)
    ref = output.of(patch.tomogram)
    folder = Path(patch_set.project.root_url, ref.path, "0")
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes())  # as a copy of the project has it: other times, the same content
    assert merged(patch_set, output=output)[0].state == "skipped"
    patch_set.project.write_segmentation(ref, np.ones(SHAPE, np.uint8), 16)
    with pytest.raises(StorageError, match="changed since it was merged"):
        merged(patch_set, output=output)
    patch_set.project.remove(ref)
    assert merged(patch_set, output=output)[0].state == "done"


def test_missing_sets_and_projects_are_named(project: Project) -> None:
    with pytest.raises(ProjectError, match="patches propose"):
        PatchSet(project, "none").require_patches()
    with pytest.raises(ProjectError, match="patches extract"):
        open_patch_project(PatchSet(project, "none"))


def test_the_commands_do_the_same(project: Project, settings: Settings) -> None:
    def call(*words: str) -> object:
        result = CliRunner().invoke(main, ["patches", words[0], project.config, *words[1:], "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    options = [word for key in (f"segment.model={settings.segment.model}", *QUICK) for word in ("--set", key)]
    proposed = call("propose", *options, "--count", "2", "--edge", str(EDGE))
    assert proposed["added"] == 2  # type: ignore[index]
    assert call("extract", "--border", "4")["project"].endswith("patches/project/config.json")  # type: ignore[index]
    patch_set = PatchSet(project, "patches")
    paint(patch_set, "patch-0001", "alice/1", np.ones((EDGE,) * 3))
    (outcome,) = call("merge", "--border", "4")  # type: ignore[misc]
    assert outcome["segmentation"] == "membrane:corrected/patches@10.000"
    listed = call("list")
    assert [row["annotators"] for row in listed] == [["alice/1"], []]  # type: ignore[attr-defined]


def test_refs_of_a_patch_name_its_own_run(patch_set: PatchSet) -> None:
    tomogram, labels = patch_refs(patch_set.patches()[1])
    assert (tomogram.run, labels.run) == ("patch-0002", "patch-0002")
    assert labels.path.endswith("_membrane-multilabel.zarr")


def test_uncertainties_are_preferred_to_scores(project: Project, settings: Settings) -> None:
    (tomogram,) = project.all_tomograms("TS_1")
    (score,) = project.features(tomogram)
    variance = np.zeros(SHAPE, np.float16)
    variance[:, 30:40, 40:50] = 0.2
    ref = replace(score, feature_type=score.feature_type.replace("score", "uncertainty"))
    project.create_features(ref, project.grid(tomogram), "float16", 64)
    project.write_features(ref, project.grid(tomogram).box, variance)
    project.finish_features(ref)
    (patch,) = propose(
        project, ["TS_1"], "a", ProposalSettings(1, 0, EDGE, 3), prediction=predicted_uri(settings)
    ).patches
    assert patch.evidence == "uncertainty"
    assert patch.y <= 31
    assert patch.y + EDGE >= 39
    assert patch.x <= 41
    assert patch.x + EDGE >= 49
    # 24 x 8 x 8 voxels are left once the surface of the doubted place is taken off.
    assert patch.doubt == pytest.approx(0.2 * 24 * 8 * 8 / EDGE**3, rel=0.01)
