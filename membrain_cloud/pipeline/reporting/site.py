"""A page a tomogram and an index of them, for runs of any size: static files with relative links, on any store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import membrain_cloud
from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.pipeline.execution.failure_log import FailureLog
from membrain_cloud.pipeline.reporting.report import rows_by_run, tomogram_report
from membrain_cloud.pipeline.reporting.statistics import curves_by_run, measured_runs
from membrain_cloud.report.data import Curves, Failure, Number, ReportData, TomogramReport
from membrain_cloud.report.page import render_page
from membrain_cloud.report.site import IndexRow, SiteIndex, render_index, thumbnail
from membrain_cloud.store.objects.object_store import Files

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
    """Write `index.html`, and a page and a picture a tomogram, below `target`; where the index is.

    One tomogram is held at a time. What cannot be read gets a row that says why, and the rest goes on.
    """
    files = Files(target, options)
    measured = measured_runs(project, settings, plan)
    rows, curves = rows_by_run(measured), curves_by_run(measured, {})
    failures = {record["run"]: record for record in FailureLog(project.receipts).records()}
    states = _states(plan, failures)
    index: list[IndexRow] = []
    names = sorted({*plan.runs, *states})
    for number, run in enumerate(names, 1):
        row = _row(project, run, states.get(run, "to do"), failures.get(run), settings)
        if plan.refs.get(run):
            row = _with_page(project, settings, plan, run, rows.get(run, {}), curves.get(run), row, files)
        index.append(row)
        progress(number, len(names))
    files.write("index.html", render_index(_index(project, plan, index)).encode())
    return f"{files.url}/index.html"


def _with_page(
    project: Project,
    settings: Settings,
    plan: Plan,
    run: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    curves: Curves | None,
    row: IndexRow,
    files: Files,
) -> IndexRow:
    """Write a tomogram's page and picture; its row with links and numbers."""
    try:
        report = tomogram_report(project, run, plan.refs[run], rows, curves=curves)
    except MembrainCloudError as error:
        return _changed(row, cause=row.cause or error.message, next_step=row.next_step or error.next_step)
    failures = [Failure(run, "", row.cause, row.next_step)] if row.cause else []
    page = ReportData(
        title=run,
        facts=(("config", project.config), ("version", f"membrain_cloud {membrain_cloud.__version__}")),
        failures=failures,
        tomograms=(report,),
        settings=settings.as_dict(),
    )
    files.write(f"{_PAGES}/{run}.html", render_page(page).encode())
    picture = thumbnail(report)
    if picture:
        files.write(f"{_PICTURES}/{run}.png", picture)
    links = {"page": f"{_PAGES}/{run}.html", "picture": f"{_PICTURES}/{run}.png" if picture else ""}
    return _changed(row, **links, **_numbers(report, bool(rows.get("membranes"))))


def _numbers(report: TomogramReport, measured: bool) -> dict[str, Any]:
    """From the tables where the run was measured; else what is drawn is counted."""
    if not measured:
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


def _changed(row: IndexRow, **values: Any) -> IndexRow:
    return IndexRow(**{**row.__dict__, **values})


def _row(project: Project, run: str, state: str, failure: Mapping[str, Any] | None, settings: Settings) -> IndexRow:
    said = failure or {}
    cause = f"{said['stage']}: {said['message']}" if said else ""
    dataset = project.dataset_of(run) or settings.output.dataset
    return IndexRow(run, dataset, state, cause=cause, next_step=str(said.get("next_step", "")))


def _states(plan: Plan, failures: Mapping[str, Any]) -> dict[str, str]:
    """How each tomogram is as a whole: the worst that is said of any of its stages."""
    states: dict[str, str] = {}
    order = ("failed", "refused", "blocked", "to do", "done")
    found = [
        (outcome.run, {"skipped": "done", "failed": "refused"}.get(outcome.state, outcome.state))
        for outcome in plan.outcomes
    ]
    found += [(task.run, "failed" if task.run in failures else "to do") for task in plan.tasks]
    for run, state in found:
        states[run] = min(states.get(run, "done"), state, key=order.index)
    return states


def _index(project: Project, plan: Plan, rows: Sequence[IndexRow]) -> SiteIndex:
    done = sum(row.state == "done" for row in rows)
    bad = sum(row.state in ("failed", "refused", "blocked") for row in rows)
    known = [row for row in rows if row.particles is not None]
    return SiteIndex(
        title=str(project.settings.get("name") or "membrain-cloud"),
        facts=(
            ("config", project.config),
            ("tables", plan.job.tables),
            ("annotations", ", ".join(f"{stage}: {session}" for stage, session in plan.sessions.items())),
            ("version", f"membrain_cloud {membrain_cloud.__version__}"),
        ),
        numbers=(
            Number("tomograms", len(rows)),
            Number("done", done),
            Number("failed", bad),
            Number("membranes", sum(row.membranes or 0 for row in rows)),
            Number("area", sum(row.area_nm2 or 0.0 for row in rows) / 1e6, "µm²", 4),
            Number("particles", sum(row.particles or 0 for row in known) if known else None),
        ),
        rows=rows,
    )
