"""Options of `train cross-validate` and `train rounds` as a job for a worker."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from membrain_cloud.cli.commands.train.validation import JobOptions, cross_validate

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def options(**values: Any) -> JobOptions:
    empty: dict[str, Any] = {part.name: None for part in dataclasses.fields(JobOptions)}
    given = {"recipe": "built-in", "labels": ("membrane:alice/1@10",), "work": "folds", "seed": 1, "overrides": ()}
    return JobOptions(**(empty | given | values))


def test_a_job_carries_the_given_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = options(batch=4, loaders=0, epochs=3, overrides=("segment.mode=exact",)).job("config.json")
    assert job.work == str(tmp_path / "folds")
    assert dict(job.values) == {"batch": 4, "seed": 1, "workers": 0}
    assert (job.epochs, job.settings, job.labels) == (3, ("segment.mode=exact",), ("membrane:alice/1@10",))


def test_one_fold_is_refused() -> None:
    words = ["config.json", "--labels", "membrane:alice/1@10", "--work", "w", "--folds", "1"]
    result = CliRunner().invoke(cross_validate, words)
    assert result.exit_code == 2
    assert "--folds" in result.output
