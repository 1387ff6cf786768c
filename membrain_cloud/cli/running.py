"""Verbs about runs but `run` itself: plan, status, failures, verify, clean, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.program import (
    FAILED,
    Program,
    Verb,
    absolute,
    config_argument,
    debugging,
    json_option,
    print_json,
    runs_option,
    say,
    settings_options,
)

if TYPE_CHECKING:
    from membrain_cloud.pipeline.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.project import Project


def register(main: Program) -> None:
    for command in (plan, status, failures, verify, clean, report):
        main.add_command(command)


def chosen_settings(settings_file: str | None, overrides: tuple[str, ...], tables: str | None = None) -> Settings:
    from membrain_cloud.pipeline.settings import load_settings

    extra = () if tables is None else (f"output.tables={absolute(tables)}",)
    return load_settings(settings_file, (*overrides, *extra))


def make_plan(
    project: Project, settings: Settings, runs: tuple[str, ...], stages: str | None, memory: int | None = None
) -> Plan:
    from membrain_cloud.pipeline.plan import plan
    from membrain_cloud.pipeline.stages import STAGES

    chosen = [name.strip() for name in stages.split(",") if name.strip()] if stages else None
    return plan(project, settings, STAGES, runs=runs or None, stages=chosen, worker_memory_bytes=memory)


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@json_option
def plan(config: str, runs: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Show what `run` would do, and why not: nothing is written.

    \b
    Example:
      membrain-cloud plan project/config.json --set segment.threshold=0.5
    """
    from membrain_cloud.store.opening import open_project

    stages, tables = chosen["stages"], chosen["tables"]
    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], tables)
    made = make_plan(open_project(config), settings, runs, stages)
    if as_json:
        print_json(display.plan_as_dict(made))
    else:
        display.show_plan(made)
    if any(outcome.state == "failed" for outcome in made.settled):
        click.get_current_context().exit(FAILED)


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@json_option
def status(config: str, runs: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Show which stages are done on which tomograms, with these settings.

    \b
    Example:
      membrain-cloud status project/config.json
    """
    from membrain_cloud.pipeline.ledger import FailureLedger
    from membrain_cloud.store.opening import open_project

    project = open_project(config)
    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    made = make_plan(project, settings, runs, chosen["stages"])
    grid = display.status_grid(made, FailureLedger(project.receipts).records())
    if as_json:
        print_json({"stages": list(made.stages), "sessions": dict(made.sessions), "runs": grid})
    else:
        display.show_status(made, grid)


@click.command(cls=Verb)
@config_argument
@json_option
def failures(config: str, as_json: bool) -> None:
    """List what failed, why, and what to do about it. A failure leaves the list when its stage succeeds.

    \b
    Example:
      membrain-cloud failures project/config.json
    """
    from membrain_cloud.pipeline.ledger import FailureLedger
    from membrain_cloud.store.opening import open_project

    records = FailureLedger(open_project(config).receipts).records()
    if as_json:
        print_json(records)
    else:
        display.show_failures(records, with_tracebacks=debugging())
    if records:
        click.get_current_context().exit(FAILED)


@click.command(cls=Verb)
@config_argument
@click.option("--forget-missing", is_flag=True, help="Remove receipts of lost outputs: the next run makes them again.")
@json_option
def verify(config: str, forget_missing: bool, as_json: bool) -> None:
    """Check that every finished output is still there, and as it was written.

    \b
    Example:
      membrain-cloud verify project/config.json
    """
    from membrain_cloud.pipeline import ledger
    from membrain_cloud.store.opening import open_project

    findings = ledger.verify(open_project(config), forget_missing=forget_missing)
    if as_json:
        print_json([{"output": f.output, "state": f.state, "receipt": f.receipt} for f in findings])
    else:
        display.show_findings(findings, forgotten=forget_missing)
    if any(finding.state == "missing" for finding in findings):
        click.get_current_context().exit(FAILED)


@click.command(cls=Verb)
@config_argument
@click.option("--yes", is_flag=True, help="Remove them. Without it they are only listed.")
@json_option
def clean(config: str, yes: bool, as_json: bool) -> None:
    """Remove annotations of user membrain that no receipt vouches for, as killed runs leave them.

    Nobody else's are touched.

    \b
    Example:
      membrain-cloud clean project/config.json          (lists)
      membrain-cloud clean project/config.json --yes    (removes)
    """
    from membrain_cloud.pipeline import ledger
    from membrain_cloud.store.opening import open_project
    from membrain_cloud.store.project import USER

    project = open_project(config)
    found = ledger.orphans(project, USER)
    if yes:
        for ref in found:
            project.remove(ref)
    if as_json:
        print_json({"removed": yes, "annotations": [ref.key for ref in found]})
        return
    for ref in found:
        click.echo(ref.key)
    say(f"{len(found)} {'removed' if yes else 'to remove; do it with --yes'}" if found else "nothing to remove")


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@click.option("--output", metavar="FILE", help="The page (default: report.html beside the config).")
def report(config: str, runs: tuple[str, ...], output: str | None, **chosen: Any) -> None:
    """Write one self-contained HTML page: slices, membranes with picks, curves, failures.

    \b
    Example:
      membrain-cloud report project/config.json --output report.html
    """
    from membrain_cloud.pipeline.reporting import write_report
    from membrain_cloud.store.opening import open_project

    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    project = open_project(config)
    made = make_plan(project, settings, runs, chosen["stages"])
    click.echo(write_report(project, settings, made, output))
