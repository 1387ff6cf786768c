"""Two runs at once on a store without conditional writes: both hold every lease, and the results are right."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from standins.chaos_cluster import make_project, receipt_names, results, vesicle
from standins.fault_proxy import FaultProxy

from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.execution.driver import RetryPolicy, run_tasks
from membrain_cloud.pipeline.execution.execute_task import execute_task
from membrain_cloud.pipeline.execution.stale_leases import remove_stale_leases
from membrain_cloud.pipeline.maintenance.clean import find_orphans
from membrain_cloud.pipeline.maintenance.verify import verify
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.runners import InProcessRunner
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.store.projects.project import USER, Project
from membrain_cloud.store.projects.stored_project import CopickProject
from membrain_cloud.store.refs import ObjectRef, SegmentationRef
from membrain_cloud.store.run_state.leases import Holder
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from membrain_cloud.pipeline.tasks import Outcome

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


@dataclass
class LeaseState:
    """What two runs have done with one lease. arrived : about to read it.  looked : have found none."""

    arrived: set[int] = field(default_factory=set)
    looked: set[int] = field(default_factory=set)
    wrote: list[int] = field(default_factory=list)
    read_back: bool = False

    @property
    def both_arrived(self) -> bool:
        return len(self.arrived) == RUNS


class Lockstep:
    """Make two runs, each behind a proxy of its own, claim the same lease so that both believe to hold it.

    Both read it and find none; one writes it; it reads it back, and before it gets the answer the other one writes it
    as well. The run that arrives first at a lease waits there for the other one.
    """

    def __init__(self, proxies: Sequence[FaultProxy]) -> None:
        self.both_hold: set[str] = set()
        self.log: list[str] = []
        self._states: dict[str, LeaseState] = {}
        self._one_waits = False
        self._moved = threading.Condition()
        for run, proxy in enumerate(proxies):
            proxy.gate, proxy.witness = partial(self.gate, run), partial(self.witness, run)

    def gate(self, run: int, method: str, path: str) -> None:
        if "leases/" not in path or "?" in path:
            return
        with self._moved:
            self.log.append(f"run {run}: {method} {path}")
            state = self._states.setdefault(path, LeaseState())
            if method == "GET" and not state.wrote:
                self._arrive(run, state)
            elif method == "PUT" and run not in state.wrote:
                state.wrote.append(run)
                self._moved.notify_all()
                if not state.both_arrived:
                    return
                if state.wrote[0] == run:
                    self._until(lambda: len(state.looked) == RUNS)
                elif self._until(lambda: state.read_back):
                    self.both_hold.add(path)

    def _arrive(self, run: int, state: LeaseState) -> None:
        if self._one_waits and not state.arrived:
            return  # the other run waits at another lease: this one passes, and will arrive there
        state.arrived.add(run)
        self._moved.notify_all()
        if not state.both_arrived:
            self._one_waits = True
            if not self._until(lambda: state.both_arrived, 2.0 if self.both_hold else 60.0):
                state.arrived.clear()
            self._one_waits = False

    def witness(self, run: int, method: str, path: str, _headers: object, _body: bytes, status: int) -> None:
        with self._moved:
            state = self._states.get(path)
            if method != "GET" or state is None or not state.both_arrived:
                return
            if status == 404:
                state.looked.add(run)
                self._moved.notify_all()
            elif state.wrote[:1] == [run] and not state.read_back:
                state.read_back = True
                self._moved.notify_all()
                self._until(lambda: len(state.wrote) == RUNS)

    def _until(self, holds: Callable[[], bool], seconds: float = 60.0) -> bool:
        return self._moved.wait_for(holds, seconds)


def seen_through(project: Project, proxy: FaultProxy, folder: Path) -> Project:
    """Open the same project through another proxy."""
    values = json.loads(Path(project.config).read_text())
    values["overlay_fs_args"]["endpoint_url"] = proxy.url
    config = folder / "seen-through-another-proxy.json"
    config.write_text(json.dumps(values))
    return CopickProject.open(str(config))


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


def execute(made: Plan) -> list[Outcome]:
    return run_tasks(made, InProcessRunner(), STAGES, policy=RetryPolicy(held_seconds=0.3, again_seconds=0.5))


@dataclass
class Rival:
    """Another run, which starts to write the same volume anew when this run sends the request `moment`, once."""

    moment: str
    begin: Callable[[], None]
    created: bool = False
    has_begun: bool = False

    def gate(self, method: str, path: str) -> None:
        what = f"{method} {path.partition('InstanceSegmentations')[2].partition('.zarr')[2]}"
        self.created |= what == "PUT /0/.zarray"
        if self.created and not self.has_begun and what == self.moment:
            self.has_begun = True
            self.begin()


MOMENTS = {"before it writes a chunk": "GET /0/.zarray", "before the pyramid": "PUT /1/.zarray"}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("has_lease", [True, False], ids=["holds the lease", "has lost the lease"])
def test_a_volume_wiped_by_another_run_is_written_by_the_leases_holder(
    proxy: FaultProxy, tmp_path: Path, moment: str, has_lease: bool
) -> None:
    """The task has no upstream task, and yet its missing chunks are no error of its input."""
    made = make_project(tmp_path, f"wiped-{moment[:3]}-{has_lease}".lower(), proxy.url, 1)
    add_inputs(made)
    task = planned(made).tasks[0]
    assert (task.stage, task.needs) == ("separate", ())
    lease = f"{task.address}/{task.part}.json"
    other = Holder("other", 0, "another-machine/1/1.0").__dict__

    def begin() -> None:
        if not has_lease:
            rival.receipts.beside("leases").write(lease, json.dumps(other).encode())
        rival.remove(task.output)

    with FaultProxy(proxy.port) as unwatched:
        rival = seen_through(made, unwatched, tmp_path)
        proxy.gate = (meets := Rival(moment, begin)).gate
        outcome = execute_task(task, STAGES, sleep=lambda _: None)
        proxy.calm()
        assert meets.has_begun
        assert outcome.measured["retries"] == 1, outcome.line()
        if not has_lease:
            assert outcome.state == "held", outcome.line()
            assert not made.is_complete(task.output), "the task is left to the other run"
            rival.receipts.beside("leases").remove(lease)
            outcome = execute_task(task, STAGES)
    assert outcome.state == "done", outcome.line()
    assert made.is_complete(task.output)
    assert np.array_equal(made.read_labels(task.output) > 0, vesicle(int(task.run[-2:]))[1])


def test_both_hold_every_lease_and_the_results_are_right(proxy: FaultProxy, tmp_path: Path) -> None:
    alone = make_project(tmp_path, "alone", proxy.url, RUNS)
    add_inputs(alone)
    assert {outcome.state for outcome in execute(planned(alone))} == {"done"}
    shared = make_project(tmp_path, "shared", proxy.url, RUNS)
    add_inputs(shared)
    with FaultProxy(proxy.port) as other:
        plans = [planned(shared), planned(seen_through(shared, other, tmp_path))]
        steps = Lockstep([proxy, other])
        proxy.dropped = other.dropped = {"if-none-match"}
        with ThreadPoolExecutor(RUNS) as threads:
            outcomes = list(threads.map(execute, plans))
    proxy.calm()
    assert steps.both_hold, "\n".join(["the runs never held one lease at once", *steps.log])
    assert [o.line() for of_run in outcomes for o in of_run if o.state not in ("done", "skipped")] == []
    assert results(shared) == results(alone)
    assert receipt_names(shared) == receipt_names(alone)
    tables = open_tables(shared, SETTINGS.output.tables)
    assert [finding for finding in verify(shared, tables, USER, content=True) if finding.state != "ok"] == []
    remove_stale_leases([shared.receipts, tables.receipts])
    assert find_orphans(shared, tables, USER, hours=0.0) == []
    assert [name for name in shared.files.listing() if "leases/" in name or "attempts/" in name] == []
