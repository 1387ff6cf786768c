"""Several processes write to one project at the same time, and no write is lost."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from membrain_cloud.errors import TransientError
from membrain_cloud.geometry import Picks
from membrain_cloud.store.objects import lock as file_lock
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project

PROCESSES, OBJECTS = 4, 6


def work(config: str, number: int, start: float) -> None:
    """Write objects, picks and a mask, at the same moment as the other processes."""
    project = CopickProject.open(config)
    time.sleep(max(0.0, start - time.time()))
    for k in range(OBJECTS):
        project.ensure_object(f"object-{number}-{k}", is_particle=True, identifier=None)
        project.ensure_object("membrane", is_particle=False, identifier="GO:0016020")
        picks = Picks(np.full((5, 3), 10.0 * number + k))
        project.write_picks(ObjectRef("TS_1", f"object-{number}-{k}", f"user{number}", "1"), picks)
    mask = np.full((24, 24, 24), number + 1, np.uint8)
    project.write_segmentation(SegmentationRef("TS_1", "membrane", f"user{number}", "1", 10.0, True), mask, chunk=8)


def test_processes_on_one_overlay_lose_no_writes(project: Project) -> None:
    config = json.loads(Path(project.config).read_text())
    config["pickable_objects"] = [entry for entry in config["pickable_objects"] if entry["name"] != "membrane"]
    Path(project.config).write_text(json.dumps(config))
    project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), np.zeros((24, 24, 24), np.float32))
    context = multiprocessing.get_context("spawn")
    start = time.time() + 4.0
    crowd = [context.Process(target=work, args=(project.config, number, start)) for number in range(PROCESSES)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(120)
    assert [process.exitcode for process in crowd] == [0] * PROCESSES
    objects = json.loads(Path(project.config).read_text())["pickable_objects"]
    names = [entry["name"] for entry in objects]
    assert sorted(names) == sorted(
        {"ribosome", "membrane"} | {f"object-{number}-{k}" for number in range(PROCESSES) for k in range(OBJECTS)}
    )
    assert len({entry["label"] for entry in objects}) == len(objects), "every object has a label of its own"
    for number in range(PROCESSES):
        ref = SegmentationRef("TS_1", "membrane", f"user{number}", "1", 10.0, True)
        assert set(np.unique(project.read_labels(ref)).tolist()) == {number + 1}
        for k in range(OBJECTS):
            picks = project.read_picks(ObjectRef("TS_1", f"object-{number}-{k}", f"user{number}", "1"))
            assert (picks.positions == 10.0 * number + k).all()
    assert not list(Path(project.config).parent.glob(".*lock"))


def test_a_missing_identifier_is_added(project: Project) -> None:
    project.ensure_object("ribosome", is_particle=True, identifier="GO:0005840")
    project.ensure_object("ribosome", is_particle=True, identifier="GO:0000000")
    entries = {entry["name"]: entry for entry in json.loads(Path(project.config).read_text())["pickable_objects"]}
    assert entries["ribosome"]["identifier"] == "GO:0005840", "an identifier is not replaced"


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(str(tmp_path))
    assert files.create(".config.json.lock", b"dead")
    monkeypatch.setattr(file_lock, "_STALE_SECONDS", 0.3)
    with file_lock.object_lock(files, "config.json"):
        assert files.read(".config.json.lock") != b"dead"
    assert not files.exists(".config.json.lock")


def test_waiting_for_a_lock_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(str(tmp_path))
    files.create(".config.json.lock", b"another process")
    monkeypatch.setattr(file_lock, "_PATIENCE_SECONDS", 0.3)
    with pytest.raises(TransientError, match="other processes keep"), file_lock.object_lock(files, "config.json"):
        raise AssertionError("the lock is not ours")
    assert files.read(".config.json.lock") == b"another process"
