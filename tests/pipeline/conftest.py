"""A small real project, and light stages that go through the whole engine: mask -> size -> tables."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pytest

from membrain_cloud.errors import TransientError
from membrain_cloud.geometry import Grid, Picks
from membrain_cloud.pipeline.stages.base import RunContext, Stage, TaskContext, labels_ref
from membrain_cloud.store.projects.create import create_project
from membrain_cloud.store.refs import ObjectRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project

RUNS = ("TS_1", "TS_2", "TS_3")

# Workers know nothing of the tests' modules: their classes travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Mask(Stage):
    """Voxels above `segment.threshold`. Does what a file beside the config says: fail, pass later, die, wait."""

    name = "mask"

    def after(self, settings: Settings) -> Sequence[str]:
        return ()

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return {"threshold": settings.segment.threshold}

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        return {"density": context.require_tomogram(self.name)}

    def output(self, context: RunContext) -> Ref:
        return labels_ref(context, self.name, 10.0)

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return 1000 * grid.voxels

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        order = Path(context.project.config).with_name(f"order-{context.task.run}")
        text = order.read_text() if order.exists() else ""
        if text == "transient":
            order.unlink()
            raise TransientError("the store is busy", "wait")
        if text == "bug":
            raise ZeroDivisionError("a bug")
        if text == "disk":
            raise OSError(28, "No space left on device")
        _obey(text.split(), order)
        density = context.project.read_density(context.tomogram("density"))
        mask = (density > context.settings.segment.threshold).astype(np.uint8)
        context.project.write_segmentation(context.written_segmentation(), mask)
        with order.with_name("journal").open("a") as journal:
            journal.write(f"{context.task.key}\n")
        return {"voxels": int(mask.sum())}


def _obey(words: list[str], order: Path) -> None:
    """`wait N`, `die`, `stop`, `term`, in this order; with `once` the order is gone before that."""
    if "once" in words:
        order.unlink()
    if "term" in words:
        os.kill(os.getpid(), signal.SIGTERM)
    if "wait" in words:
        time.sleep(float(words[words.index("wait") + 1]))
    if "die" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    if "stop" in words:
        os.kill(os.getpid(), signal.SIGSTOP)


class Size(Stage):
    """The mask's voxels as picks."""

    name = "size"

    def after(self, settings: Settings) -> Sequence[str]:
        return ("mask",)

    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        return {"min_voxels": settings.separate.min_voxels}

    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        return {"mask": Mask().output(context)}

    def output(self, context: RunContext) -> Ref:
        return ObjectRef(context.run, "voxels", context.settings.output.user, context.sessions[self.name])

    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        return 1000

    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        mask = context.project.read_labels(context.segmentation("mask"))
        positions = np.argwhere(mask)[:, ::-1] * 10.0
        context.project.write_picks(context.written_object(), Picks(positions))
        with Path(context.project.config).with_name("journal").open("a") as journal:
            journal.write(f"{context.task.key}\n")
        return {"picks": len(positions)}


@pytest.fixture
def registry() -> dict[str, Stage]:
    return {"mask": Mask(), "size": Size()}


def make_project(folder: Path, runs: Sequence[str] = RUNS, shape: tuple[int, int, int] = (8, 10, 12)) -> Project:
    """The same voxels and the same modification times wherever it is made."""
    project = create_project(str(folder), objects=[("membrane", False, "GO:0016020"), ("voxels", True, None)])
    for seed, run in enumerate(runs):
        density = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), density)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project")


def journal(project: Project) -> list[str]:
    """The tasks that were worked on, in order of their ends."""
    file = Path(project.config).with_name("journal")
    return file.read_text().split() if file.exists() else []
