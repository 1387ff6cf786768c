"""The verb `run`, with all that says where work is done and who watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import (
    FAILED,
    INTERRUPTED,
    Function,
    Program,
    Verb,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
    settings_options,
)
from membrain_cloud.cli.options import chosen_settings, make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.runners.kubernetes_scaling import Scaler
    from membrain_cloud.pipeline.tasks import Outcome


def register(main: Program) -> None:
    main.add_command(run)


def _place_options(function: Function) -> Function:
    """Where tasks are done."""
    options = [
        click.option("--workers", type=click.IntRange(1), metavar="N", help="Local processes (default: what fits)."),
        click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, e.g. tcp://host:8786 or tls://..."),
        click.option("--in-process", is_flag=True, help="One task after the other, in this process."),
        click.option(
            "--scale",
            multiple=True,
            metavar="KIND=GROUP:MAX",
            help="Scale a DaskWorkerGroup on Kubernetes with the work, e.g. gpu=membrain-gpu:64; repeat for cpu.",
        ),
        click.option("--namespace", metavar="NAME", help="Of the worker groups (default: the service account's)."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _watch_options(function: Function) -> Function:
    """Who watches, and how a run ends."""
    options = [
        click.option("--metrics-port", type=click.IntRange(0, 65535), metavar="N", help="Serve Prometheus metrics."),
        click.option("--log-file", metavar="FILE", help="JSON lines of all that happens; - is standard error."),
        click.option("--dask-report", metavar="FILE", help="Dask's performance report, an HTML page."),
        click.option(
            "--grace",
            type=click.FloatRange(0),
            default=20.0,
            show_default=True,
            metavar="SECONDS",
            help="For tasks in flight, once the run is told to stop (SIGTERM, Ctrl-C).",
        ),
        click.option("--retry-poison", is_flag=True, help="Try what was set aside because processes died at it."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@_place_options
@_watch_options
@json_option
def run(config: str, runs: tuple[str, ...], as_json: bool, grace: float, retry_poison: bool, **chosen: Any) -> None:
    """Segment, separate, mesh, pick and measure; what is done already is not done again.

    CONFIG is a copick config or a manifest (*.parquet), a path or URL. Kill it whenever you like: the next run goes on.
    Several may run at once on one project: they share the work. Exit codes: 0 all done, 1 something failed,
    2 bad usage or input, 3 told to stop before the end.

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

    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    project = open_project(config)
    scaler = _scaler(chosen["scale"], chosen["namespace"])
    where = {name: chosen[name] for name in ("workers", "scheduler", "in_process")}
    watch = {name: chosen[name] for name in ("metrics_port", "dask_report")}
    with log_to(chosen["log_file"]), stop_on_signals(grace) as stop, open_runner(**where, scaler=scaler) as runner:
        made = make_plan(project, settings, runs, chosen["stages"], runner.memory_bytes)
        with observe_run(made, runner, **watch) as watched, display.Progress(made, runner.snapshot) as progress:
            outcomes = execute_plan(
                project,
                settings,
                made,
                runner,
                STAGES,
                watched.with_observer(progress.observe),
                retry_poison=retry_poison,
                stop=stop.is_requested,
                grace_seconds=grace,
            )
    if scaler is not None and scaler.complaint:
        say(f"warning: {scaler.complaint}")
    _tell(made, outcomes, as_json)


def _scaler(scale: tuple[str, ...], namespace: str | None) -> Scaler | None:
    if not scale:
        return None
    from membrain_cloud.pipeline.runners.kubernetes_scaling import Scaler, WorkerGroup

    return Scaler([WorkerGroup.parse(text) for text in scale], namespace)


def _tell(made: Plan, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """What became of it, and the exit code. Fewer outcomes than there were tasks: it was told to stop."""
    left = len(made.tasks) + len(made.outcomes) - len(outcomes)
    if as_json:
        print_json(display.run_as_dict(made, outcomes) | {"left": left})
    else:
        display.show_summary(made, outcomes)
    if left:
        say(f"interrupted with {left} tasks left -> run the same command again: finished tasks are kept")
        click.get_current_context().exit(INTERRUPTED)
    if any(outcome.state in ("failed", "blocked") for outcome in outcomes):
        click.get_current_context().exit(FAILED)
