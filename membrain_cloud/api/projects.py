"""Open a project, plan a run of it and execute the plan, as the command line does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Outcome, Task
    from membrain_cloud.store.projects.project import Project


def open_project(config: str | Path) -> Project:
    """Open a project.

    Parameters
    ----------
    config : str or Path
        Path or URL of a copick config, of a folder that holds one, or of a manifest (`.parquet`).

    Returns
    -------
    Project
        The project: lists its runs, reads its volumes and annotations, writes results.

    Raises
    ------
    ProjectError
        If the file does not exist, or is no config or manifest.

    Examples
    --------
    >>> import tempfile
    >>> import membrain_cloud as mc
    >>> mc.open_project(tempfile.mkdtemp() + "/config.json")
    Traceback (most recent call last):
    ...
    membrain_cloud.errors.ProjectError: ...
    """
    from membrain_cloud.store.projects.open import open_project as open_any

    return open_any(str(config))


def plan(
    project: Project | str | Path,
    *,
    settings: Settings | None = None,
    runs: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
) -> Plan:
    """List the tasks that a run would execute. Nothing is written.

    Parameters
    ----------
    project : Project, str or Path
        An open project, or its config or manifest.
    settings : Settings, optional
        Settings of the run. Default: the defaults.
    runs : sequence of str, optional
        Names of runs. Default: all runs of the project.
    stages : sequence of str, optional
        Names of stages. Default: all whose output is not replaced by an annotation.

    Returns
    -------
    Plan
        The tasks, and the outcomes that are settled: finished before, or refused.

    Raises
    ------
    ProjectError
        If a run does not exist, or the project has none.
    UsageError
        If a stage does not exist, `runs` or `stages` is empty, or a named session holds results of other settings.
    ModelError
        If a model does not exist.

    Examples
    --------
    >>> import tempfile
    >>> import membrain_cloud as mc
    >>> from membrain_cloud.store.projects.create import create_project
    >>> from membrain_cloud.store.refs import TomogramRef
    >>> project = create_project(tempfile.mkdtemp(), objects=[])
    >>> density = mc.simulate(seed=1, shape=(32, 48, 48), membranes=1).density
    >>> project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), density)
    >>> [task.stage for task in mc.plan(project, stages=["segment"]).tasks]
    ['segment']
    """
    from membrain_cloud.pipeline.planning.plan import plan as plan_run
    from membrain_cloud.pipeline.stages.registry import STAGES

    _check_names(runs=runs, stages=stages)
    return plan_run(_opened(project), checked_settings(settings), STAGES, runs=runs, stages=stages)


def run(
    project: Project | str | Path,
    *,
    settings: Settings | None = None,
    runs: Sequence[str] | None = None,
    stages: Sequence[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    in_process: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Run the stages on a project. Finished tasks are not repeated.

    Parameters
    ----------
    project : Project, str or Path
        An open project, or its config or manifest.
    settings : Settings, optional
        Settings of the run. Default: the defaults.
    runs, stages : sequence of str, optional
        As for `plan`.
    workers : int, optional
        Number of worker processes on this machine. Default: as many as cores and memory allow.
    scheduler : str, optional
        Address of a Dask scheduler. Default: worker processes on this machine.
    in_process : bool
        Whether tasks run one after the other in this process. Default: False.
    progress : callable, optional
        Called with the tasks done and their total.

    Returns
    -------
    list of Outcome
        What became of each task: its `state` is "done", "skipped", "failed" or "blocked", with a message and the next
        step.

    Raises
    ------
    StorageError
        If results cannot be written to the project.
    MembrainCloudError
        As `plan` raises. A task that fails does not raise: it is among the outcomes.

    Notes
    -----
    Worker processes import the main module: in a script, call `run` under ``if __name__ == "__main__":``.

    Examples
    --------
    >>> import tempfile
    >>> import membrain_cloud as mc
    >>> from membrain_cloud.store.projects.create import create_project
    >>> from membrain_cloud.store.refs import TomogramRef
    >>> project = create_project(tempfile.mkdtemp(), objects=[])
    >>> density = mc.simulate(seed=1, shape=(32, 48, 48), membranes=1).density
    >>> project.write_tomogram(TomogramRef("TS_1", "wbp", 10.0), density)
    >>> [outcome.state for outcome in mc.run(project, stages=["segment"], in_process=True)]
    ['done']
    """
    from membrain_cloud.pipeline.execution.driver import execute_plan
    from membrain_cloud.pipeline.planning.plan import plan as plan_run
    from membrain_cloud.pipeline.runners import open_runner
    from membrain_cloud.pipeline.stages.registry import STAGES

    _check_names(runs=runs, stages=stages)
    opened, chosen, done, total = _opened(project), checked_settings(settings), 0, 0

    def observe(event: str, _task: Task, _outcome: Outcome | None) -> None:
        nonlocal done
        if event == "finished":
            done += 1
            if progress is not None:
                progress(done, total)

    with open_runner(workers=workers, scheduler=scheduler, in_process=in_process) as runner:
        memory = runner.memory_limits
        planned = plan_run(opened, chosen, STAGES, runs=runs, stages=stages, worker_memory_bytes=memory)
        total = len(planned.tasks)
        return list(execute_plan(opened, chosen, planned, runner, STAGES, observe))


def checked_settings(settings: Any) -> Settings:
    """Return settings, or the defaults for None.

    Parameters
    ----------
    settings : Settings or None
        What the caller passed.

    Returns
    -------
    Settings
        The settings.

    Raises
    ------
    UsageError
        If `settings` is something else.
    """
    from membrain_cloud.pipeline.settings import Settings

    if settings is None:
        return Settings()
    if not isinstance(settings, Settings):
        raise UsageError(f"settings: of type {type(settings).__name__}", "pass membrain_cloud.Settings(segment={...})")
    return settings


def _opened(project: Project | str | Path) -> Project:
    return open_project(project) if isinstance(project, str | os.PathLike) else project


def _check_names(**names: Sequence[str] | None) -> None:
    """Refuse one name as text, and an empty list: None means all, so that a selection of nothing is a mistake."""
    for parameter, values in names.items():
        if isinstance(values, str):
            raise UsageError(f"{parameter} = {values!r}: one text", f"pass a list, [{values!r}]")
        if values is not None and not len(values):
            raise UsageError(f"{parameter} is empty", f"name some {parameter}, or leave the parameter out for all")
