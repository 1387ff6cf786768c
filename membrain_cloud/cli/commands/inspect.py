"""Verbs about runs but `run` itself: plan, status, failures, verify, clean, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import (
    FAILED,
    Function,
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
from membrain_cloud.cli.options import chosen_settings, make_plan

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.tables.parquet_tables import Tables


def register(main: Program) -> None:
    for command in (plan, status, failures, verify, clean, report):
        main.add_command(command)


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
    from membrain_cloud.store.projects.open import open_project

    stages, tables = chosen["stages"], chosen["tables"]
    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], tables)
    made = make_plan(open_project(config), settings, runs, stages)
    if as_json:
        print_json(display.plan_as_dict(made))
    else:
        display.show_plan(made)
    if any(outcome.state == "failed" for outcome in made.outcomes):
        click.get_current_context().exit(FAILED)


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@json_option
def status(config: str, runs: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Show which stages are done on which tomograms, with these settings, and what is at work now, here or elsewhere.

    All of it from the store alone: what is at work by leases, how fast by the times of receipts.

    \b
    Example:
      membrain-cloud status project/config.json
    """
    from membrain_cloud.pipeline.execution.failure_log import FailureLog
    from membrain_cloud.pipeline.monitoring.activity import read_activity
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    made = make_plan(project, settings, runs, chosen["stages"])
    grid = display.status_grid(made, FailureLog(project.receipts).records())
    now = read_activity(project, settings, made)
    if as_json:
        print_json({"stages": list(made.stages), "sessions": dict(made.sessions), "runs": grid} | vars(now))
    else:
        display.show_status(made, grid)
        display.show_activity(now)


@click.command(cls=Verb)
@config_argument
@json_option
def failures(config: str, as_json: bool) -> None:
    """List what failed, why, and what to do about it. A failure leaves the list when its stage succeeds.

    \b
    Example:
      membrain-cloud failures project/config.json
    """
    from membrain_cloud.pipeline.execution.failure_log import FailureLog
    from membrain_cloud.store.projects.open import open_project

    records = FailureLog(open_project(config).receipts).records()
    if as_json:
        print_json(records)
    else:
        display.show_failures(records, with_tracebacks=debugging())
    if records:
        click.get_current_context().exit(FAILED)


def _outputs_options(function: Function) -> Function:
    """Which of a project's outputs `verify` and `clean` are about."""
    user = click.option("--user", metavar="NAME", help="Whose annotations are ours (default: output.user's).")
    tables = click.option("--tables", metavar="URL", help="Where the Parquet tables are kept (default: the project's).")
    return user(tables(function))


def _open_outputs(config: str, tables: str | None, user: str | None) -> tuple[Project, Tables, str]:
    from membrain_cloud.store.projects.open import open_project
    from membrain_cloud.store.tables.open import open_tables

    settings = chosen_settings(None, (), tables)
    project = open_project(config)
    return project, open_tables(project, settings.output.tables), user or settings.output.user


@click.command(cls=Verb)
@config_argument
@_outputs_options
@click.option("--content", is_flag=True, help="Read everything, and compare checksums.")
@click.option("--forget-missing", is_flag=True, help="Forget what is lost or torn: the next run makes it again.")
@json_option
def verify(
    config: str, tables: str | None, user: str | None, content: bool, forget_missing: bool, as_json: bool
) -> None:
    """Check that every finished output is there, whole, as it was written, and that there is nothing else.

    Annotations, kept scores and table rows are compared with their receipts: names, sizes and what the store says of
    changes; with --content every byte. Exit code 1 where anything is missing or torn (with --content: or changed).

    \b
    Example:
      membrain-cloud verify project/config.json --content
    """
    from membrain_cloud.pipeline.maintenance.verify import LOST
    from membrain_cloud.pipeline.maintenance.verify import verify as verified

    findings = verified(*_open_outputs(config, tables, user), content=content, forget_missing=forget_missing)
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        display.show_findings(findings, forgotten=forget_missing)
    if any(finding.state in LOST or (content and finding.state == "changed") for finding in findings):
        click.get_current_context().exit(FAILED)


@click.command(cls=Verb)
@config_argument
@_outputs_options
@click.option("--yes", is_flag=True, help="Remove them. Without it they are only listed.")
@click.option(
    "--hours",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Age of temporary files that are left over.",
)
@json_option
def clean(config: str, tables: str | None, user: str | None, yes: bool, hours: float, as_json: bool) -> None:
    """Remove what no receipt vouches for, as killed runs leave it: annotations, kept scores, table parts, receipts of
    older versions, leases that nobody keeps up or needs, and temporary files.

    Nobody else's are touched, nor what a run is at work on.

    \b
    Example:
      membrain-cloud clean project/config.json          (lists)
      membrain-cloud clean project/config.json --yes    (removes)
    """
    from membrain_cloud.pipeline.maintenance.clean import find_orphans, remove_orphans

    project, opened, whose = _open_outputs(config, tables, user)
    found = find_orphans(project, opened, whose, hours=hours)
    if yes:
        remove_orphans(project, opened, found)
    if as_json:
        annotations = [item.key for item in found if item.kind == "annotation"]
        print_json({"removed": yes, "annotations": annotations, "found": [vars(item) for item in found]})
        return
    if found:
        display.show_table("", ("kind", "store", "name"), [(item.kind, item.store, item.name) for item in found])
    say(f"{len(found)} {'removed' if yes else 'to remove; do it with --yes'}" if found else "nothing to remove")


@click.command(cls=Verb)
@config_argument
@runs_option
@settings_options
@click.option("--output", metavar="FILE", help="The page (default: report.html beside the config).")
@click.option("--site", metavar="DIR", help="In its place: an index with pictures, and a page a tomogram; also a URL.")
def report(config: str, runs: tuple[str, ...], output: str | None, site: str | None, **chosen: Any) -> None:
    """Write what a run made as HTML: slices, membranes with picks, curves, failures.

    One self-contained page, or with --site static files for runs of any size: an index that can be sorted, with a
    picture and the numbers of each tomogram and the cause of each failure, and a page for each. Links are relative, so
    the folder can be served from anywhere, S3 included.

    \b
    Examples:
      membrain-cloud report project/config.json --output report.html
      membrain-cloud report chlamy/manifest.parquet --site chlamy/report
    """
    from membrain_cloud.pipeline.reporting.report import write_report
    from membrain_cloud.pipeline.reporting.site import write_site
    from membrain_cloud.store.projects.open import open_project

    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    project = open_project(config)
    made = make_plan(project, settings, runs, chosen["stages"])
    if site is not None:
        same_store = "://" in site and site.partition("://")[0] == project.root_url.partition("://")[0]
        options = project.storage_options if same_store else None
        with display.Bar("tomograms") as bar:
            click.echo(write_site(project, settings, made, absolute(site), progress=bar.update, options=options))
        return
    click.echo(write_report(project, settings, made, output))
