"""A site of reports for runs of any size: an index and a page for each tomogram, static files with relative links."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.pipeline.execution.failure_log import FailureLog
from membrain_cloud.pipeline.reporting.report import project_facts, project_title, rows_by_run, tomogram_report
from membrain_cloud.pipeline.reporting.statistics import curves_by_run, measured_runs
from membrain_cloud.report.data import Curves, Failure, Number, ReportData, TomogramReport
from membrain_cloud.report.page import render_page
from membrain_cloud.report.site import IndexRow, SiteIndex, render_index, thumbnail
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.store.projects.project import Project

_PAGES, _PICTURES = "tomograms", "thumbnails"


def write_site(
    project: Project,
    settings: Settings,
    plan: Plan,
    target: str,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Write `index.html`, and a page and a picture for each tomogram.

    One tomogram is held in memory at a time. A tomogram that cannot be read gets a row with the cause.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of the run.
    plan : Plan
        The plan, which names the runs and their data.
    target : str
        Path or URL of the folder to write to.
    progress : callable, optional
        Called with the number of tomograms written and the number of all. Default: nothing.
    options : mapping of str to Any, optional
        fsspec's options for `target`. Default: none.

    Returns
    -------
    str
        Path or URL of the index.
    """
    files = Files(target, options)
    pages = _TomogramPages(project, settings, plan, files)
    analysis = measured_runs(project, settings, plan)
    table_rows, curves = rows_by_run(analysis), curves_by_run(analysis, {})
    failures = {record["run"]: record for record in FailureLog(project.receipts).records()}
    states = _states(plan, failures)
    index: list[IndexRow] = []
    names = sorted({*plan.runs, *states})
    for number, run in enumerate(names, 1):
        row = _index_row(project, settings, run, states.get(run, "to do"), failures.get(run))
        if plan.refs.get(run):
            row = pages.write(row, table_rows.get(run, {}), curves.get(run))
        index.append(row)
        progress(number, len(names))
    files.write("index.html", render_index(_index(project, plan, index)).encode())
    return f"{files.url}/index.html"


@dataclass(frozen=True)
class _TomogramPages:
    """Writes the pages and pictures of single tomograms."""

    project: Project
    settings: Settings
    plan: Plan
    files: Files

    def write(
        self, row: IndexRow, table_rows: Mapping[str, Sequence[Mapping[str, Any]]], curves: Curves | None
    ) -> IndexRow:
        """Write a tomogram's page and picture; return its row with links and numbers, or with the cause of an error."""
        run = row.name
        try:
            report = tomogram_report(self.project, run, self.plan.refs[run], table_rows, curves=curves)
        except MembrainCloudError as error:
            return replace(row, cause=row.cause or error.message, next_step=row.next_step or error.next_step)
        page = ReportData(
            title=run,
            facts=(("config", self.project.config), ("version", f"membrain_cloud {__version__}")),
            failures=[Failure(run, "", row.cause, row.next_step)] if row.cause else [],
            tomograms=(report,),
            settings=self.settings.as_dict(),
        )
        self.files.write(f"{_PAGES}/{run}.html", render_page(page).encode())
        picture = thumbnail(report)
        if picture:
            self.files.write(f"{_PICTURES}/{run}.png", picture)
        numbers = _numbers(report, is_measured=bool(table_rows.get("membranes")))
        return replace(row, page=f"{_PAGES}/{run}.html", picture=f"{_PICTURES}/{run}.png" if picture else "", **numbers)


def _numbers(report: TomogramReport, *, is_measured: bool) -> dict[str, Any]:
    """Return the numbers of a tomogram's row: from the tables if it was measured, else counts of meshes and picks."""
    if not is_measured:
        count = len(report.meshes) or None
        return {"membranes": count, "particles": None if report.picks is None else len(report.picks)}
    area = sum(row.area_nm2 or 0.0 for row in report.membranes)
    counted = [row.particles for row in report.membranes if row.particles is not None]
    particles = sum(counted) if counted else None
    return {
        "membranes": len(report.membranes),
        "area_nm2": area,
        "particles": particles,
        "particles_per_um2": 1e6 * particles / area if particles is not None and area else None,
    }


def _index_row(
    project: Project, settings: Settings, run: str, state: str, failure: Mapping[str, Any] | None
) -> IndexRow:
    """Return a tomogram's row without links and numbers."""
    record = failure or {}
    cause = f"{record['stage']}: {record['message']}" if record else ""
    dataset = project.dataset_of(run) or settings.output.dataset
    return IndexRow(run, dataset, state, cause=cause, next_step=str(record.get("next_step", "")))


def _states(plan: Plan, failures: Mapping[str, Any]) -> dict[str, str]:
    """Return the state of each tomogram, the worst of its stages' states."""
    order = ("failed", "refused", "blocked", "to do", "done")
    stage_states = [
        (outcome.run, {"skipped": "done", "failed": "refused"}.get(outcome.state, outcome.state))
        for outcome in plan.outcomes
    ]
    stage_states += [(task.run, "failed" if task.run in failures else "to do") for task in plan.tasks]
    states: dict[str, str] = {}
    for run, state in stage_states:
        states[run] = min(states.get(run, "done"), state, key=order.index)
    return states


def _index(project: Project, plan: Plan, rows: Sequence[IndexRow]) -> SiteIndex:
    done = sum(row.state == "done" for row in rows)
    bad = sum(row.state in ("failed", "refused", "blocked") for row in rows)
    with_particles = [row for row in rows if row.particles is not None]
    return SiteIndex(
        title=project_title(project),
        facts=project_facts(project, plan),
        numbers=(
            Number("tomograms", len(rows)),
            Number("done", done),
            Number("failed", bad),
            Number("membranes", sum(row.membranes or 0 for row in rows)),
            Number("area", sum(row.area_nm2 or 0.0 for row in rows) / 1e6, "µm²", 4),
            Number("particles", sum(row.particles or 0 for row in with_particles) if with_particles else None),
        ),
        rows=rows,
    )
