"""Leases have one holder at a time, and those of dead processes are taken over."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.run_state import leases as module
from membrain_cloud.store.run_state.leases import Leases, this_process

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = "another-machine/1/1.0"


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(Files(str(tmp_path)))


def test_a_second_claim_gets_the_holder(leases: Leases) -> None:
    lease, heir_of = leases.claim("mesh/TS_1/whole", "a", {"worker": "one"})
    assert lease is not None
    assert heir_of is None
    second, holder = leases.claim("mesh/TS_1/whole", "b", {})
    assert second is None
    assert holder is not None
    assert (holder.token, holder.facts["worker"], holder.is_dead()) == ("a", "one", False)
    assert set(leases.all()) == {"mesh/TS_1/whole"}
    lease.release()
    assert leases.all() == {}
    assert leases.claim("mesh/TS_1/whole", "b", {})[0] is not None


def test_one_of_many_concurrent_claims_succeeds(leases: Leases) -> None:
    got: list[str] = []

    def claim(token: str) -> None:
        if leases.claim("x/y", token, {})[0] is not None:
            got.append(token)

    threads = [threading.Thread(target=claim, args=(str(k),)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_the_lease_of_an_ended_local_process_is_taken_over(leases: Leases, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom membrain_cloud.store.objects.object_store import Files\n"
        "from membrain_cloud.store.run_state.leases import Leases\n"
        "Leases(Files(sys.argv[1])).claim('x/y', 'child', {'alone': True}); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert leases.all()["x/y"].is_dead()
    lease, heir_of = leases.claim("x/y", "next", {})
    assert lease is not None
    assert heir_of is not None
    assert (heir_of.token, heir_of.facts) == ("child", {"alone": True})


def test_a_remote_lease_is_taken_over_only_if_it_stands_still(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_process", lambda: ELSEWHERE)
    first, _ = leases.claim("x/y", "there", {})
    assert first is not None
    _, seen = leases.claim("x/y", "here", {})
    assert seen is not None
    first.beat()
    _, moved = leases.claim("x/y", "here", {}, take_over=seen.state)
    assert moved is not None, "it has been renewed since, so its process is alive"
    lease, heir_of = leases.claim("x/y", "here", {}, take_over=moved.state)
    assert lease is not None
    assert heir_of is not None
    assert not first.is_held()
    first.beat()
    first.release()
    assert leases.all()["x/y"].token == "here"


def test_a_torn_lease_has_an_unknown_holder(leases: Leases, tmp_path: Path) -> None:
    Files(str(tmp_path)).write("x/y.json", b'{"tok')
    lease, holder = leases.claim("x/y", "a", {})
    assert lease is None
    assert holder is not None
    assert leases.claim("x/y", "a", {}, take_over=holder.state)[0] is not None


def test_heartbeats_count_up(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, _ = leases.claim("x/y", "a", {})
    assert lease is not None
    for beats in (1, 2):
        lease.beat()
        assert leases.all()["x/y"].count == beats
    assert this_process() == leases.all()["x/y"].process
