"""Long jobs on workers: one at a time each, retried when a worker dies, errors as they were raised."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from distributed import get_worker

from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.runners.job_pool import run_jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def job(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the worker and the times; kill the worker once or raise an error where the job says so."""
    order = Path(values["order"])
    if values["what"] == "die" and not order.exists():
        order.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if values["what"] == "fail":
        raise InputError("the data are bad", "give better ones")
    began = time.time()
    time.sleep(0.3)
    return {"number": values["number"], "worker": get_worker().address, "began": began, "ended": time.time()}


def jobs(tmp_path: Path, *what: str) -> list[dict[str, Any]]:
    return [{"number": k, "what": word, "order": str(tmp_path / f"order-{k}")} for k, word in enumerate(what)]


def test_each_worker_has_one_job_and_lost_jobs_are_retried(tmp_path: Path) -> None:
    reported: list[int] = []
    todo = jobs(tmp_path, "work", "die", "work", "work", "work")
    results = run_jobs(job, todo, workers=2, done=lambda index, result: reported.append(index))
    assert [result["number"] for result in results] == [0, 1, 2, 3, 4]
    assert sorted(reported) == [0, 1, 2, 3, 4]
    assert (tmp_path / "order-1").exists()
    for one in results:
        for other in results:
            if one is not other and one["worker"] == other["worker"]:
                assert one["ended"] <= other["began"] or other["ended"] <= one["began"]


def test_an_error_is_raised_as_it_was(tmp_path: Path) -> None:
    reported: list[int] = []
    with pytest.raises(InputError, match="bad") as caught:
        run_jobs(job, jobs(tmp_path, "work", "fail", "work"), workers=1, done=lambda i, _: reported.append(i))
    assert caught.value.next_step == "give better ones"
    assert reported == [0]


def test_no_jobs_need_no_workers() -> None:
    assert run_jobs(job, []) == []
