"""A small project, and two light stages that go through the whole engine: tomogram -> mask -> its voxels as picks."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np

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

# Workers cannot import the tests' modules: these classes are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Mask(Stage):
    """Voxels above `segment.threshold`.

    It obeys a file `order-RUN` beside the config: "transient", "bug" and "disk" raise an error; see `_obey` for others.
    Each task that was done is a line of the file `journal` there.
    """

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
        _add_to_journal(context)
        return {"voxels": int(mask.sum())}


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
        _add_to_journal(context)
        return {"picks": len(positions)}


RUNS = ("TS_1", "TS_2", "TS_3")


def toy_project(folder: Path, runs: Sequence[str] = RUNS, shape: tuple[int, int, int] = (8, 10, 12)) -> Project:
    """Return a project with one tomogram of noise for each run; the voxels depend on the position in `runs` alone."""
    project = create_project(str(folder), objects=[("membrane", False, "GO:0016020"), ("voxels", True, None)])
    for seed, run in enumerate(runs):
        density = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        project.write_tomogram(TomogramRef(run, "wbp", 10.0), density)
    return project


def toy_registry() -> dict[str, Stage]:
    """Return both stages by name."""
    return {"mask": Mask(), "size": Size()}


def give_order(project: Project, text: str, run: str = "TS_1") -> None:
    """Tell the stage `mask` what to do on a run."""
    Path(project.config).with_name(f"order-{run}").write_text(text)


def _obey(words: list[str], order: Path) -> None:
    """Do `term`, `wait N`, `die`, `stop`, in this sequence; with `once` the order is removed before."""
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


def _add_to_journal(context: TaskContext) -> None:
    with Path(context.project.config).with_name("journal").open("a") as journal:
        journal.write(f"{context.task.key}\n")
