"""Commands about runs other than `run` itself: plan, status, failures, verify, clean, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, debugging, exit_failed, print_json, say
from membrain_cloud.cli.options import PlanOptions, TablesOptions, absolute, json_option, option, option_group, takes
from membrain_cloud.cli.project_options import config_argument, runs_option

if TYPE_CHECKING:
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.tables.parquet_tables import Tables


@click.command(cls=Command)
@config_argument
@runs_option
@takes(PlanOptions)
@json_option
def plan(options: PlanOptions, config: str, *, runs: tuple[str, ...], as_json: bool) -> None:
    """Show what `run` would do, with time and cost.

    Nothing is written. Refused tasks are listed with cause and next step; the exit code is then 1.

    \b
    Example:
      membrain-cloud plan project/config.json --set segment.threshold=0.5
    """
    from membrain_cloud.store.projects.open import open_project

    settings = options.load()
    made = options.plan(open_project(config), settings, runs)
    if as_json:
        print_json(display.plan_as_dict(made))
    else:
        display.show_plan(made)
    if any(outcome.state == "failed" for outcome in made.outcomes):
        exit_failed()


@click.command(cls=Command)
@config_argument
@runs_option
@takes(PlanOptions)
@json_option
def status(options: PlanOptions, config: str, *, runs: tuple[str, ...], as_json: bool) -> None:
    """Show which stages are done on which tomograms.

    Done means: with these settings. Tasks that any run executes now are listed too. Everything is read from the store:
    current tasks from leases, their speed from the times of receipts.

    \b
    Example:
      membrain-cloud status project/config.json
    """
    from membrain_cloud.pipeline.execution.failure_log import FailureLog
    from membrain_cloud.pipeline.monitoring.activity import read_activity
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    settings = options.load()
    plan = options.plan(project, settings, runs)
    grid = display.status_grid(plan, FailureLog(project.receipts).records())
    current = read_activity(project, settings, plan)
    if as_json:
        print_json({"stages": list(plan.stages), "sessions": dict(plan.sessions), "runs": grid} | vars(current))
    else:
        display.show_status(plan, grid)
        display.show_activity(current)


@click.command(cls=Command)
@config_argument
@json_option
def failures(config: str, *, as_json: bool) -> None:
    """List the failures of a project with cause and next step.

    A failure leaves the list when its stage succeeds. The exit code is 1 if there is any.

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
        exit_failed()


@option_group
class OutputsOptions(TablesOptions):
    """Which of a project's outputs are checked or cleaned."""

    user: str | None = option(
        "--user", metavar="NAME", help="User of the annotations that membrain-cloud wrote (default: membrain)."
    )

    def open(self, config: str) -> tuple[Project, Tables, str]:
        """Open the project and its tables.

        Parameters
        ----------
        config : str
            A copick config or manifest, a path or URL.

        Returns
        -------
        project : Project
            The project.
        tables : Tables
            Its tables, or those of `--tables`.
        user : str
            The user of the outputs.
        """
        from membrain_cloud.pipeline.settings import load_settings
        from membrain_cloud.store.projects.open import open_project
        from membrain_cloud.store.tables.open import open_tables

        output = load_settings(None, self.tables_setting()).output
        project = open_project(config)
        return project, open_tables(project, output.tables), self.user or output.user


@click.command(cls=Command)
@config_argument
@takes(OutputsOptions)
@click.option("--content", is_flag=True, help="Read every object and compare its checksum (default: names and sizes).")
@click.option(
    "--forget-missing",
    is_flag=True,
    help="Forget missing and torn outputs, so that the next run makes them again (default: only report them).",
)
@json_option
def verify(outputs: OutputsOptions, config: str, *, content: bool, forget_missing: bool, as_json: bool) -> None:
    """Check that every finished output is present and whole.

    Annotations, kept scores and table rows are compared with their receipts: names, sizes and the store's record of
    changes; with --content every byte. Outputs without a receipt are reported too. The exit code is 1 if anything is
    missing or torn (with --content: or changed).

    \b
    Example:
      membrain-cloud verify project/config.json --content
    """
    from membrain_cloud.pipeline.maintenance.verify import LOST
    from membrain_cloud.pipeline.maintenance.verify import verify as verify_outputs

    findings = verify_outputs(*outputs.open(config), content=content, forget_missing=forget_missing)
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        display.show_findings(findings, forgotten=forget_missing)
    if any(finding.state in LOST or (content and finding.state == "changed") for finding in findings):
        exit_failed()


@click.command(cls=Command)
@config_argument
@takes(OutputsOptions)
@click.option("--yes", is_flag=True, help="Remove the listed objects (default: only list them).")
@click.option(
    "--hours",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="HOURS",
    help="Smallest age of temporary files that count as left over, in hours.",
)
@json_option
def clean(outputs: OutputsOptions, config: str, *, yes: bool, hours: float, as_json: bool) -> None:
    """List or remove what killed runs left behind.

    This is: annotations of the user, kept scores and table parts without a receipt, receipts of older versions, leases
    that are expired or not needed, and temporary files. Other users' annotations are not touched, nor is what a run is
    writing now.

    \b
    Example:
      membrain-cloud clean project/config.json          (lists)
      membrain-cloud clean project/config.json --yes    (removes)
    """
    from membrain_cloud.pipeline.maintenance.clean import find_orphans, remove_orphans

    project, tables, user = outputs.open(config)
    orphans = find_orphans(project, tables, user, hours=hours)
    if yes:
        remove_orphans(project, tables, orphans)
    if as_json:
        annotations = [item.key for item in orphans if item.kind == "annotation"]
        print_json({"removed": yes, "annotations": annotations, "found": [vars(item) for item in orphans]})
        return
    if orphans:
        display.show_table("", ("kind", "store", "name"), [(item.kind, item.store, item.name) for item in orphans])
    say(f"{len(orphans)} {'removed' if yes else 'to remove; add --yes to do it'}" if orphans else "nothing to remove")


@click.command(cls=Command)
@config_argument
@runs_option
@takes(PlanOptions)
@click.option("--output", metavar="FILE", help="The page to write (default: report.html beside the config).")
@click.option(
    "--site",
    metavar="DIR",
    help="Folder or URL for a site: an index with pictures, and a page for each tomogram (default: one page).",
)
def report(options: PlanOptions, config: str, *, runs: tuple[str, ...], output: str | None, site: str | None) -> None:
    """Write the results of a run as HTML.

    They are slices, membranes with picks, curves and failures: in one self-contained page, or with --site static files
    for runs of any size: a sortable index with a picture and the numbers of each tomogram and the cause of each
    failure, and a page for each. Links are relative, so any web server or bucket can serve the folder.

    \b
    Examples:
      membrain-cloud report project/config.json --output report.html
      membrain-cloud report chlamy/manifest.parquet --site chlamy/report
    """
    from membrain_cloud.pipeline.reporting.report import write_report
    from membrain_cloud.pipeline.reporting.site import write_site
    from membrain_cloud.store.projects.open import open_project

    settings = options.load()
    project = open_project(config)
    plan = options.plan(project, settings, runs)
    if site is None:
        click.echo(write_report(project, settings, plan, output))
        return
    same_store = "://" in site and site.partition("://")[0] == project.root_url.partition("://")[0]
    storage = project.storage_options if same_store else None
    with display.Bar("tomograms") as bar:
        click.echo(write_site(project, settings, plan, absolute(site), progress=bar.update, options=storage))
