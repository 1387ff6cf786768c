"""Two runs at once on a store that knows no conditional writes: both hold every lease, and the results are right."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from chaos_world import STAGES as ALL_STAGES
from chaos_world import make_project, receipt_names, results, vesicle
from fault_proxy import FaultProxy

from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.cleaning import find_litter
from membrain_cloud.pipeline.drive import Patience, drive
from membrain_cloud.pipeline.plan import Plan, open_tables, plan
from membrain_cloud.pipeline.run import InProcess
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages import STAGES
from membrain_cloud.pipeline.sweeping import sweep
from membrain_cloud.pipeline.tasks import Outcome
from membrain_cloud.pipeline.verification import verify
from membrain_cloud.store.project import USER, Project
from membrain_cloud.store.refs import ObjectRef, SegmentationRef

pytest.importorskip("s3fs")
RUNS = 2
SETTINGS = load_settings(
    None,
    [
        "separate.segmentation=membrane:alice/3@10.0",
        "measure.picks=membrane-protein:expert/1",
        "measure.simulations=0",
        "mesh.vertex_area_angstrom2=1000",
    ],
)


class Lockstep:
    """Lets two runs claim each lease in turn, each of them told that it is its own.

    Both look, and find none; one writes it, and reads it back; then the other one does.
    """

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()
        self.both_hold: set[str] = set()
        self._lock = threading.Lock()
        self._looked: dict[str, threading.Barrier] = {}
        self._read_back: dict[str, threading.Event] = {}

    def gate(self, method: str, path: str) -> None:
        if "leases/" not in path or "?" in path:
            return
        with self._lock:
            looked = self._looked.setdefault(path, threading.Barrier(2))
            read_back = self._read_back.setdefault(path, threading.Event())
            writes = self.written[path]
            self.written[path] += method == "PUT"
        if method == "GET" and not writes and not looked.broken:
            try:
                looked.wait(2.0 if self.both_hold else 60.0)  # both begin with the same task
            except threading.BrokenBarrierError:  # the other one is not at this task
                read_back.set()
        elif method == "PUT" and writes == 1 and not read_back.is_set() and read_back.wait(60.0):
            self.both_hold.add(path)

    def witness(self, method: str, path: str, _headers: object, _body: bytes, status: int) -> None:
        if method == "GET" and status == 200 and path in self._read_back:
            self._read_back[path].set()


def add_inputs(project: Project) -> None:
    for run in project.runs():
        _, membrane = vesicle(int(run[-2:]))
        project.write_segmentation(SegmentationRef(run, "membrane", "alice", "3", 10.0), membrane.astype(np.uint8))
        at = np.linspace(0, 2 * np.pi, 7)[:-1]
        around = np.stack([16 + 7 * np.cos(at), 15 + 7 * np.sin(at), 14 + 0 * at], 1)
        project.write_picks(ObjectRef(run, "membrane-protein", "expert", "1"), Picks(around * 10.0))


def planned(project: Project) -> Plan:
    made = plan(project, SETTINGS, STAGES, stages=["separate", "mesh", "measure"])
    for name in made.stages:
        STAGES[name].declare(project, SETTINGS)
    return made


def drive_it(made: Plan) -> list[Outcome]:
    return drive(made, InProcess(), STAGES, patience=Patience(held_seconds=0.3, again_seconds=0.5))


def test_both_hold_every_lease_and_the_results_are_right(proxy: FaultProxy, tmp_path: Path) -> None:
    assert len(STAGES) == ALL_STAGES
    alone = make_project(tmp_path, "alone", proxy.url, RUNS)
    add_inputs(alone)
    assert {outcome.state for outcome in drive_it(planned(alone))} == {"done"}
    shared = make_project(tmp_path, "shared", proxy.url, RUNS)
    add_inputs(shared)
    plans, steps = [planned(shared), planned(shared)], Lockstep()
    proxy.dropped, proxy.gate, proxy.witness = {"if-none-match"}, steps.gate, steps.witness
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(drive_it, plans))
    proxy.calm()
    assert steps.both_hold, "the runs never were at one task at once"
    assert [o.line() for of_run in outcomes for o in of_run if o.state not in ("done", "skipped")] == []
    assert results(shared) == results(alone)
    assert receipt_names(shared) == receipt_names(alone)
    tables = open_tables(shared, SETTINGS)
    assert [finding for finding in verify(shared, tables, USER, content=True) if finding.state != "ok"] == []
    sweep([shared.receipts, tables.receipts])
    assert find_litter(shared, tables, USER, hours=0.0) == []
    assert [name for name in shared._overlay.listing() if "leases/" in name or "attempts/" in name] == []
