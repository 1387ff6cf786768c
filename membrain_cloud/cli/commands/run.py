"""The command `run`: execute all stages, locally or on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import INTERRUPTED, Command, exit_failed, print_json, say
from membrain_cloud.cli.options import PlacementOptions, PlanOptions, json_option, option, option_group, takes
from membrain_cloud.cli.project_options import config_argument, runs_option
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler
    from membrain_cloud.pipeline.tasks import Kind, Outcome


@option_group
class ClusterOptions(PlacementOptions):
    """Where tasks are executed, and how a cluster is scaled."""

    scale: tuple[str, ...] = option(
        "--scale",
        multiple=True,
        metavar="KIND=GROUP:MAX",
        help="Scale a DaskWorkerGroup on Kubernetes with the work, up to MAX workers of KIND gpu or cpu, e.g. "
        "gpu=membrain-gpu:64 (repeatable). Groups of one kind are filled in the order given.",
    )
    expect: tuple[str, ...] = option(
        "--expect",
        multiple=True,
        type=click.Choice(("gpu", "cpu")),
        help="Workers of this kind connect sooner or later: their stages wait for them and go to no others "
        "(repeatable; default: the kinds of --scale).",
    )
    wait: float | None = option(
        "--wait-for-workers",
        type=click.FloatRange(0, min_open=True),
        metavar="MINUTES",
        help="Time that ready tasks wait for a worker which can take them, in minutes; then the run fails (default: 30 "
        "with --scale or --expect, else 10).",
    )
    namespace: str | None = option(
        "--namespace",
        metavar="NAME",
        help="Kubernetes namespace of the worker groups (default: the service account's).",
    )

    def scaler(self) -> Scaler | None:
        """Return the scaler of the worker groups, or None without `--scale`.

        Raises
        ------
        UsageError
            Places exclude each other, `--scale` comes without a scheduler or is not of its form, or a group is unknown.
        """
        self.check()
        if not self.scale:
            return None
        from membrain_cloud.pipeline.runners.kubernetes.api import GroupApi
        from membrain_cloud.pipeline.runners.kubernetes.groups import WorkerGroup
        from membrain_cloud.pipeline.runners.kubernetes.scaler import Scaler

        groups = [WorkerGroup.parse(text) for text in self.scale]
        if self.scheduler is None:
            raise UsageError("--scale is for the worker groups of a scheduler", "give --scheduler as well")
        return Scaler(groups, GroupApi(self.namespace))

    def expected(self) -> tuple[Kind, ...]:
        """Return the kinds of workers that connect sooner or later.

        Raises
        ------
        UsageError
            There is no scheduler to which they could connect.
        """
        if self.expect and self.scheduler is None:
            raise UsageError("--expect is for the workers of a scheduler", "give --scheduler as well")
        return tuple("gpu" if kind == "gpu" else "cpu" for kind in self.expect)


@option_group
class MonitoringOptions:
    """How a run is observed, and how it ends."""

    metrics_port: int | None = option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Serve Prometheus metrics at this port; 0 takes a free one (default: not served).",
    )
    log_file: str | None = option(
        "--log-file",
        metavar="FILE",
        help="Write a log as JSON lines; - is standard error (default: not written).",
    )
    dask_report: str | None = option(
        "--dask-report", metavar="FILE", help="Write Dask's performance report as HTML (default: not written)."
    )
    grace: float = option(
        "--grace",
        type=click.FloatRange(0),
        default=20.0,
        show_default=True,
        metavar="SECONDS",
        help="Time for running tasks to finish after SIGTERM or Ctrl-C, in seconds.",
    )
    retry_poison: bool = option(
        "--retry-poison",
        is_flag=True,
        help="Retry tasks that were set aside because worker processes died while executing them.",
    )


@click.command(cls=Command)
@config_argument
@runs_option
@takes(PlanOptions, ClusterOptions, MonitoringOptions)
@json_option
def run(
    options: PlanOptions,
    cluster: ClusterOptions,
    monitoring: MonitoringOptions,
    config: str,
    *,
    runs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Segment, separate, mesh, pick and measure membranes.

    What is already done is skipped. CONFIG is a copick config or a manifest (*.parquet), a path or URL. A run can be
    stopped at any time: the next one continues. Several runs at once on one project share the work. Exit codes: 0 all
    done, 1 something failed, 2 bad usage or input, 3 stopped before the end.

    \b
    Examples:
      membrain-cloud run project/config.json
      membrain-cloud run project/config.json -r TS_1 --set pick.bandwidth_angstrom=60 --workers 4
      membrain-cloud run project/config.json --stages separate,mesh,measure \\
          --set separate.segmentation=membrane:alice/3@10.0 --set measure.picks=psii:expert/1
      membrain-cloud run portal.parquet --scheduler tcp://scheduler:8786 --metrics-port 9100 --log-file - \\
          --scale gpu=membrain-gpu:64 --scale cpu=membrain-cpu:32
    """
    from membrain_cloud.pipeline.execution.driver import execute_plan
    from membrain_cloud.pipeline.execution.graceful_stop import stop_on_signals
    from membrain_cloud.pipeline.monitoring.json_log import log_to
    from membrain_cloud.pipeline.monitoring.observers import observe_run
    from membrain_cloud.pipeline.runners import open_runner
    from membrain_cloud.pipeline.stages.registry import STAGES
    from membrain_cloud.store.projects.open import open_project

    settings = options.load()
    project = open_project(config)
    scaler = cluster.scaler()
    open_placed = open_runner(
        workers=cluster.workers,
        scheduler=cluster.scheduler,
        in_process=cluster.in_process,
        scaler=scaler,
        expected=cluster.expected(),
        wait_seconds=None if cluster.wait is None else 60 * cluster.wait,
    )
    with log_to(monitoring.log_file), stop_on_signals(monitoring.grace) as stop, open_placed as runner:
        plan = options.plan(project, settings, runs, runner.memory_limits)
        observers = observe_run(plan, runner, metrics_port=monitoring.metrics_port, dask_report=monitoring.dask_report)
        with observers as observer, display.Progress(plan, runner.snapshot) as progress:
            outcomes = execute_plan(
                project,
                settings,
                plan,
                runner,
                STAGES,
                observer.with_observer(progress.observe),
                retry_poison=monitoring.retry_poison,
                stop=stop.is_requested,
                grace_seconds=monitoring.grace,
            )
    if scaler is not None and scaler.complaint:
        say(f"warning: {scaler.complaint}")
    _print_outcomes(plan, outcomes, as_json)


def _print_outcomes(plan: Plan, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Print the summary and end with the exit code; a stopped run has fewer outcomes than tasks."""
    left = len(plan.tasks) + len(plan.outcomes) - len(outcomes)
    if as_json:
        print_json(display.run_as_dict(plan, outcomes) | {"left": left})
    else:
        display.show_summary(plan, outcomes)
    if left:
        say(f"interrupted with {left} tasks left -> run the same command again: finished tasks are kept")
        click.get_current_context().exit(INTERRUPTED)
    if any(outcome.state in ("failed", "blocked") for outcome in outcomes):
        exit_failed()
