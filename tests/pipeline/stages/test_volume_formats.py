"""The stages on tomograms of every layout, and results in OME-Zarr 0.5: the voxels are those of 0.4."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from standins.foreign_volumes import write_foreign

from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.projects.manifest import freeze
from membrain_cloud.store.projects.open import open_project
from membrain_cloud.store.refs import FeaturesRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

SHAPE = (20, 26, 28)
LAYOUTS: dict[str, dict[str, Any]] = {
    "v2": {"chunks": (16, 16, 16), "separator": "/"},
    "v3": {"zarr_format": 3, "chunks": (10, 20, 20)},
    "sharded": {"zarr_format": 3, "chunks": (8, 8, 8), "shards": (16, 16, 32)},
    "one shard": {"zarr_format": 3, "chunks": (16, 16, 16), "shards": (32, 32, 32)},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the setting of a small network with random weights."""
    import torch

    from membrain_cloud.networks.segmentation.architecture.unet import UNetArchitecture, build_unet
    from membrain_cloud.networks.segmentation.segmenter import save_segmenter

    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    torch.manual_seed(0)
    architecture = UNetArchitecture((4, 8, 8))
    save_segmenter(path, build_unet(architecture), architecture, {"window": 16, "voxel_spacing_angstrom": 10.0})
    return f"segment.model={path}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project of one run with the same density as a tomogram of every layout, as others write them."""
    project = create_project(str(tmp_path_factory.mktemp("layouts") / "project"), objects=[("membrane", False, None)])
    density = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [10.0] * 3}]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    for name, layout in LAYOUTS.items():
        path = Path(project.root_url) / TomogramRef("TS_1", name.replace(" ", "-"), 10.0).path
        old = {"multiscales": [multiscale | {"version": "0.4"}]}
        new = {"ome": {"version": "0.5", "multiscales": [multiscale]}}
        write_foreign(path, density, attributes=new if layout.get("zarr_format") == 3 else old, **layout)
    return project


def run(project: Project, overrides: list[str], stages: list[str]) -> Plan:
    settings = load_settings(None, ["output.chunk=16", "segment.mirrors=no", "segment.overlap=0.25", *overrides])
    made = plan(project, settings, STAGES, stages=stages)
    outcomes = execute_plan(project, settings, made, InProcessRunner(), STAGES)
    assert [o.line() + o.traceback for o in outcomes if o.state != "done"] == []
    return made


def output(made: Plan, stage: str) -> SegmentationRef:
    (ref,) = {task.output for task in made.tasks if task.stage == stage}
    assert isinstance(ref, SegmentationRef)
    return ref


def test_the_mask_does_not_depend_on_the_layout_of_the_tomogram(project: Project, model: str) -> None:
    masks = {}
    for name in LAYOUTS:
        kind = name.replace(" ", "-")
        made = run(project, [model, f"input.tomogram_type={kind}", f"output.session={kind}"], ["segment"])
        files, path = project.stored(output(made, "segment"))
        masks[name] = {key: files.read(f"{path}/{key}") for key in files.listing(path)}
    assert {key.partition("/")[0] for key in masks["v2"]} == {".zattrs", ".zgroup", "0", "1", "2"}
    assert all(mask == masks["v2"] for mask in masks.values())


def test_results_in_0_5_have_the_voxels_of_0_4(project: Project, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, rows of chunks and instances write each shard whole, by one write."""
    from membrain_cloud.store.objects.object_store import Files

    written: Counter[str] = Counter()
    write = Files.write

    def counting(self: Files, name: str, content: bytes) -> None:
        written[f"{self.url}/{name}"] += "/c/" in name
        write(self, name, content)

    common = [model, "input.tomogram_type=sharded", "segment.scores=float16"]
    common += ["segment.block_voxels=5000", "separate.min_voxels=1"]
    old = run(project, [*common, "output.session=old"], ["segment", "separate"])
    monkeypatch.setattr(Files, "write", counting)
    new = run(project, [*common, "output.session=new", "output.format=0.5"], ["segment", "separate"])
    assert len([task for task in new.tasks if task.stage == "segment"]) > 3
    assert set(written.values()) == {0, 1}, "metadata, and shards of one write each"
    for stage in ("segment", "separate"):
        refs = output(old, stage), output(new, stage)
        np.testing.assert_array_equal(*(project.read_labels(ref) for ref in refs))
        assert project.grid(refs[0]) == project.grid(refs[1])
        assert project.stored_shard(refs[1]) == project.stored_shard(refs[0]) == (16, 16, 16)
        assert project.stored_chunk(refs[1]) == (8, 8, 8)
        assert project.is_complete(refs[1])
        files, path = project.stored(refs[1])
        assert not {name.rpartition("/")[2] for name in files.listing(path)} & {".zarray", ".zattrs", ".zgroup"}
    names = [features.feature_type for features in project.features(TomogramRef("TS_1", "sharded", 10.0))]
    scores = [name for name in names if name.startswith("membrane-score")]
    assert scores
    assert all(project.is_complete(FeaturesRef("TS_1", "sharded", 10.0, name)) for name in scores)


def test_a_sharded_tomogram_is_read_from_a_manifest(project: Project, tmp_path: Path) -> None:
    file = str(tmp_path / "all.parquet")
    for kind in ("sharded", "v3"):
        ref = TomogramRef("TS_1", kind, 10.0)
        freeze(project, file, [ref], dataset="d", selection={})
        manifest = open_project(file)
        assert manifest.grid(ref) == project.grid(ref)
        assert manifest.identity(ref) == project.identity(ref)
        np.testing.assert_array_equal(manifest.read_density(ref), project.read_density(ref))
