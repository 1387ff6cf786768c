"""The real stages on small phantoms, with small networks of random weights: reading, cutting, writing, receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.geometry import Grid, Picks, box_around
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.projects.simulate import SimulatedTomogram, simulate_project
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.pipeline.stages.output_grid import GridChoice
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.pipeline.stages.segment import segment_blocks
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.manifest import freeze
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from pathlib import Path

    from membrain_cloud.store.projects.project import Project

SHAPE = (40, 48, 56)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return settings that name small models of random weights."""
    import torch

    from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
    from membrain_cloud.networks.segmentation.segmenter import save_segmenter

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    facts = {"window": 16, "voxel_spacing_angstrom": 10.0}
    save_segmenter(folder / "small.safetensors", build_unet(architecture), architecture, facts)
    return [f"segment.model={folder / 'small.safetensors'}"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Project:
    wanted = [SimulatedTomogram("TS_1", 5, PhantomSettings(shape=SHAPE, membranes=2, void_angstrom=(0.0, 0.0)))]
    folder = str(tmp_path_factory.mktemp("simulated") / "project")
    return simulate_project(folder, wanted, particle="membrane-protein", processes=1, report=lambda _: None)


def run(project: Project, overrides: list[str], stages: list[str]) -> Plan:
    settings = load_settings(None, overrides)
    made = plan(project, settings, STAGES, stages=stages)
    outcomes = execute_plan(project, settings, made, InProcessRunner(), STAGES)
    assert [o.line() + o.traceback for o in outcomes if o.state not in ("done", "skipped")] == []
    return made


def labels_of(project: Project, made: Plan) -> np.ndarray:
    output = made.tasks[-1].output
    assert isinstance(output, SegmentationRef)
    return project.read_labels(output)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_the_result_does_not_depend_on_how_the_volume_was_cut(simulated: Project, models: list[str], mode: str) -> None:
    overrides = [*models, f"segment.mode={mode}", "output.chunk=16"]
    whole = run(simulated, [*overrides, f"output.session=whole-{mode}"], ["segment"])
    assert [task.part for task in whole.tasks] == ["whole"]
    cut = run(simulated, [*overrides, f"output.session=cut-{mode}", "segment.block_voxels=20000"], ["segment"])
    parts = [task.part for task in cut.tasks]
    assert parts[0] == "prepare"
    assert parts[-1] == "finish"
    assert len(parts) > 4
    np.testing.assert_array_equal(labels_of(simulated, whole), labels_of(simulated, cut))
    assert 0 < labels_of(simulated, cut).mean() < 1


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
@pytest.mark.parametrize("block_voxels", [20_000, 10**9])
def test_stored_scores_give_another_threshold_without_the_network(
    simulated: Project, models: list[str], dtype: str, block_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = [*models, f"segment.scores={dtype}", "output.chunk=16", f"segment.block_voxels={block_voxels}"]
    keeping += ["segment.precision=float32", f"segment.overlap={0.5 if block_voxels > 10**6 else 0.25}"]
    plain = [line for line in keeping if "scores" not in line] + [f"output.session=plain-{dtype}-{block_voxels}"]
    np.testing.assert_array_equal(
        labels_of(simulated, run(simulated, keeping, ["segment"])),
        labels_of(simulated, run(simulated, plain, ["segment"])),
    )
    other = f"output.session=other-{dtype}-{block_voxels}"
    fresh = run(simulated, [*plain, other, "segment.threshold=0.2"], ["segment"])

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("membrain_cloud.pipeline.stages.segment.predict_slabs", no_network)
    again = run(simulated, [*keeping, "segment.threshold=0.2"], ["segment"])
    differing = labels_of(simulated, again) != labels_of(simulated, fresh)
    # The scores are rounded: to 11 bits, or the probability to 1/256.
    assert differing.mean() < (0.002 if dtype == "float16" else 0.05)


def test_scores_and_uncertainty_are_features_that_copick_reads(simulated: Project, models: list[str]) -> None:
    import copick

    overrides = [*models, "segment.mode=exact", "segment.scores=float16", "segment.uncertainty=yes", "output.chunk=16"]
    made = run(simulated, overrides, ["segment"])
    tomogram = copick.from_file(simulated.config).get_run("TS_1").voxel_spacings[0].tomograms[0]
    features = {f.feature_type: f.numpy() for f in tomogram.features if f.numpy().dtype == np.float16}
    scores = next(v for k, v in features.items() if k.startswith("membrane-score") and v.shape == SHAPE)
    variance = next(v for k, v in features.items() if k.startswith("membrane-uncertainty"))
    assert (variance >= 0).all()
    assert 0 < float(variance.max()) < 0.3
    assert len([k for k in features if k.startswith("membrane-uncertainty")]) == 1
    assert scores.shape == labels_of(simulated, made).shape


def test_blocks_left_to_do_are_done_and_no_others(simulated: Project, models: list[str]) -> None:
    cutting = [*models, "segment.mode=fast", "output.chunk=16", "segment.block_voxels=20000", "segment.threshold=0.01"]
    first = run(simulated, cutting, ["segment"])
    receipts = simulated.receipts
    receipts.remove(first.tasks[-1].receipt)
    receipts.remove(first.tasks[2].receipt)
    assert [task.part for task in run(simulated, cutting, ["segment"]).tasks] == ["block-1", "finish"]
    # Without the preparation the chunks are created anew: every block is done again.
    receipts.remove(first.tasks[-1].receipt)
    receipts.remove(first.tasks[0].receipt)
    assert len(run(simulated, cutting, ["segment"]).tasks) == len(first.tasks)


def test_blocks_of_a_volume_that_was_wiped_do_not_count(simulated: Project, models: list[str]) -> None:
    """After a run in blocks a run in one task creates the same output and dies: all blocks must be done again."""
    same = [*models, "segment.mode=fast", "output.chunk=16", "output.session=wiped"]
    cutting = [*same, "segment.block_voxels=20000"]
    first = run(simulated, cutting, ["segment"])
    simulated.receipts.remove(first.tasks[-1].receipt)
    settings = load_settings(None, same)
    task = plan(simulated, settings, STAGES, stages=["segment"]).tasks[0]

    class Dies(type(STAGES["segment"])):  # type: ignore[misc]
        def _block(self, *_: object) -> dict[str, int]:
            raise SystemExit

    from membrain_cloud.pipeline.execution.execute_task import execute_task

    with pytest.raises(SystemExit):
        execute_task(task, {"segment": Dies()})
    assert len(run(simulated, cutting, ["segment"]).tasks) == len(first.tasks)


def test_a_given_segmentation_is_separated_and_meshed(simulated: Project) -> None:
    made = run(simulated, ["separate.segmentation=membrane:truth/0@10.0"], ["separate", "mesh"])
    assert [task.stage for task in made.tasks] == ["separate", "mesh"]
    (ref,) = (task.output for task in made.tasks if task.stage == "mesh")
    truth = simulated.read_labels(SegmentationRef("TS_1", "membrane", "truth", "0", 10.0, True))
    assert len(simulated.read_meshes(ref)) == truth.max()  # type: ignore[arg-type]


def test_given_instances_go_straight_to_meshes(simulated: Project) -> None:
    uri = "separate.segmentation=membrane:truth/0@10.0?instance=true"
    made = plan(simulated, load_settings(None, [uri, "measure.picks=none"]), STAGES)
    assert "separate" not in made.stages
    assert "segment" not in made.stages
    assert run(simulated, [uri], ["mesh"]).tasks[0].inputs["instances"].instance  # type: ignore[union-attr]


def test_an_absent_segmentation_fails_and_the_present_ones_are_listed(simulated: Project) -> None:
    made = plan(
        simulated, load_settings(None, ["separate.segmentation=membrane:alice/3@10.0"]), STAGES, stages=["mesh"]
    )
    assert made.outcomes[0].state == "failed"
    assert "membrane:truth/0@10.000" in made.outcomes[0].next_step


def test_blocks_are_made_of_whole_chunks_and_tile_the_volume(models: list[str]) -> None:
    settings = load_settings(None, [*models, "segment.block_voxels=40000"])
    grid = Grid((40, 50, 60), 10.0)
    blocks = segment_blocks(GridChoice(0, grid, grid, 0.0), settings, (16, 16, 16))
    covered = np.zeros(grid.shape, int)
    for block in blocks:
        covered[block.core.slices] += 1
        assert block.block.core == block.core
        assert all(start % 16 == 0 for start in block.core.start)
        assert block.core.shape[0] * block.core.shape[1] * block.core.shape[2] <= 40000
    assert (covered == 1).all()


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory, simulated: Project) -> Project:
    """Return a project with the same tomogram at 5 Å: level 1 of its pyramid has the model's 10 Å."""
    project = create_project(str(tmp_path_factory.mktemp("fine") / "project"), objects=[("membrane", False, None)])
    density = simulated.read_density(simulated.tomograms(["TS_1"], None, None)[0])
    project.write_tomogram(TomogramRef("TS_1", "wbp", 5.0), density)
    return project


@pytest.mark.parametrize(
    ("grid", "spacing", "shape"),
    [("level", 10.0, (20, 24, 28)), ("model", 10.0, (20, 24, 28)), ("tomogram", 5.0, SHAPE)],
)
def test_masks_on_other_grids_do_not_depend_on_the_cut(
    fine: Project, models: list[str], grid: str, spacing: float, shape: tuple[int, int, int]
) -> None:
    overrides = [*models, f"segment.output_grid={grid}", "output.chunk=16", "separate.min_voxels=1"]
    whole = run(fine, [*overrides, f"output.session=whole-{grid}"], ["segment"])
    cut = run(
        fine, [*overrides, f"output.session=cut-{grid}", "segment.block_voxels=5000"], ["segment", "separate", "mesh"]
    )
    (mask,) = {task.output for task in cut.tasks if task.stage == "segment"}
    (instances,) = {task.output for task in cut.tasks if task.stage == "separate"}
    assert isinstance(mask, SegmentationRef)
    assert isinstance(instances, SegmentationRef)
    assert fine.grid(mask) == fine.grid(instances) == Grid(shape, spacing)
    assert len([task for task in cut.tasks if task.stage == "segment"]) > 3
    np.testing.assert_array_equal(labels_of(fine, whole), fine.read_labels(mask))
    assert 0 < fine.read_labels(mask).mean() < 1


def test_masks_on_a_level_are_the_same_from_a_manifest(fine: Project, models: list[str], tmp_path: Path) -> None:
    freeze(fine, str(tmp_path / "all.parquet"), fine.all_tomograms("TS_1"), dataset="d", selection={})
    manifest = open_project(str(tmp_path / "all.parquet"))
    tomogram = TomogramRef("TS_1", "wbp", 5.0)
    assert manifest.levels(tomogram) == fine.levels(tomogram)
    overrides = [*models, "segment.output_grid=level", "output.chunk=16", "segment.mirrors=no"]
    masks = [
        labels_of(made, run(made, [*overrides, f"output.session={session}"], ["segment"]))
        for made, session in ((fine, "project"), (manifest, "manifest"))
    ]
    np.testing.assert_array_equal(*masks)


def test_memory_grows_with_the_window(models: list[str]) -> None:
    grid = Grid((100, 100, 100), 10.0)
    small, large = (load_settings(None, [*models, f"segment.window={n}"]) for n in (64, 512))
    assert STAGES["segment"].memory_bytes(grid, large) > 10 * STAGES["segment"].memory_bytes(grid, small)


def test_box_around_a_mesh_stays_in_the_volume() -> None:
    from membrain_cloud.geometry import Mesh

    grid = Grid((10, 20, 30), 10.0)
    mesh = Mesh(np.array([[50.0, 60, 20], [100, 90, 40], [60, 60, 30]]), np.array([[0, 1, 2]], np.int32))
    box = box_around(mesh, grid, margin_angstrom=20.0)
    assert box is not None
    assert (box.start, box.stop) == ((0, 4, 3), (7, 12, 13))
    away = Mesh(mesh.vertices + 1000.0, mesh.faces)
    assert box_around(away, grid, margin_angstrom=20.0) is None


def test_picks_are_joined_in_order() -> None:
    one = Picks(np.ones((2, 3)), np.zeros((2, 3, 3)), np.array([0.5, 0.4]), np.array([1, 1]))
    none = Picks(np.zeros((0, 3)))
    assert Picks.concatenate([none, one, none]).membrane_ids.tolist() == [1, 1]
    assert len(Picks.concatenate([])) == 0


def test_defaults_choose_every_stage_that_has_its_input() -> None:
    from membrain_cloud.pipeline.planning.digests import choose_stages

    assert choose_stages(None, Settings(), STAGES) == tuple(
        name for name in STAGES if name not in ("context", "organelle")
    )
    given = load_settings(None, ["context.picks=ribosome:alice/1", "organelle.segmentations=er:alice/1"])
    assert choose_stages(None, given, STAGES) == tuple(STAGES)
