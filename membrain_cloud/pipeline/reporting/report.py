"""The report page of a run: its content is collected from the project and its tables as plain arrays and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.geometry import Box, Grid
from membrain_cloud.pipeline.execution.failure_log import FailureLog
from membrain_cloud.pipeline.planning.builder import output_address
from membrain_cloud.pipeline.reporting.statistics import curves_by_run, measured_runs, statistics
from membrain_cloud.report.data import (
    Column,
    Curves,
    Failure,
    MembraneRow,
    Number,
    ReportData,
    SliceView,
    Table,
    TomogramReport,
)
from membrain_cloud.report.page import render_page
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.planning.plan import Plan
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.tables import Analysis


def write_report(
    project: Project,
    settings: Settings,
    plan: Plan,
    output: str | None = None,
    *,
    scores: Table | None = None,
    truth: Mapping[str, ObjectRef] | None = None,
    truth_neighbors_nm: Mapping[str, NDArray[np.float64]] | None = None,
) -> str:
    """Write the report page of a plan's runs.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of the run.
    plan : Plan
        The plan, which names the runs and their data.
    output : str, optional
        Path or URL of the page. Default: `report.html` beside the config.
    scores : Table, optional
        Scores against the truth. Default: none are shown.
    truth : mapping of str to ObjectRef, optional
        The true particles of a run. Default: unknown.
    truth_neighbors_nm : mapping of str to (N,) float64 array, optional
        Distance of each true particle to its nearest neighbour along the membrane, in nm, by run. Default: unknown.

    Returns
    -------
    str
        Path or URL of the page.
    """
    folder, _, name = (output or f"{project.config.rpartition('/')[0]}/report.html").rpartition("/")
    data = report_data(
        project, settings, plan, scores=scores, truth=truth or {}, truth_neighbors_nm=truth_neighbors_nm or {}
    )
    files = Files(folder or ".")
    files.write(name, render_page(data).encode())
    return f"{files.url}/{name}"


def report_data(
    project: Project,
    settings: Settings,
    plan: Plan,
    *,
    scores: Table | None,
    truth: Mapping[str, ObjectRef],
    truth_neighbors_nm: Mapping[str, NDArray[np.float64]],
) -> ReportData:
    """Collect the content of the report page; what is absent (yet) is left out.

    Parameters
    ----------
    project : Project
        The project.
    settings : Settings
        The settings of the run.
    plan : Plan
        The plan, which names the runs and their data.
    scores : Table or None
        Scores against the truth.
    truth : mapping of str to ObjectRef
        The true particles of a run, where they are known.
    truth_neighbors_nm : mapping of str to (N,) float64 array
        Distance of each true particle to its nearest neighbour along the membrane, in nm, by run.

    Returns
    -------
    ReportData
        The content.
    """
    analysis = measured_runs(project, settings, plan)
    rows = rows_by_run(analysis)
    curves = curves_by_run(analysis, truth_neighbors_nm)
    tomograms = [
        tomogram_report(project, run, plan.refs[run], rows.get(run, {}), truth.get(run), curves.get(run))
        for run in plan.runs
        if plan.refs.get(run)
    ]
    failures = [
        Failure(record["run"], record["stage"], record["message"], record["next_step"])
        for record in FailureLog(project.receipts).records()
    ]
    membranes = sum(len(tomogram.membranes) for tomogram in tomograms)
    particles = sum(len(tomogram.picks) for tomogram in tomograms if tomogram.picks is not None)
    return ReportData(
        title=project_title(project),
        facts=project_facts(project, plan),
        numbers=(
            Number("tomograms", len(tomograms)),
            Number("membranes", membranes),
            Number("particles", particles),
            Number("failures", len(failures)),
        ),
        stages=stages_table(plan),
        scores=scores,
        statistics=None if analysis is None else statistics(analysis),
        failures=failures,
        tomograms=tomograms,
        settings=settings.as_dict(),
    )


def project_title(project: Project) -> str:
    """Return the title of a project's pages.

    Parameters
    ----------
    project : Project
        The project.
    """
    return str(project.settings.get("name") or "membrain-cloud")


def project_facts(project: Project, plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return what the head of a page says of a project, by name.

    Parameters
    ----------
    project : Project
        The project.
    plan : Plan
        The plan, with the tables and the sessions.
    """
    return (
        ("config", project.config),
        ("tables", plan.job.tables),
        ("annotations", ", ".join(f"{stage}: {session}" for stage, session in plan.sessions.items())),
        ("version", f"membrain_cloud {__version__}"),
    )


def stages_table(plan: Plan) -> Table:
    """Return the state of each stage on each tomogram: done, to do, failed or blocked.

    Parameters
    ----------
    plan : Plan
        The plan of the run.

    Returns
    -------
    Table
        A row for each tomogram, a column for each stage.
    """
    left = {(task.run, task.stage) for task in plan.tasks}
    outcomes = {(outcome.run, outcome.stage): outcome.state for outcome in plan.outcomes}
    names = {"skipped": "done"}

    def state(run: str, stage: str) -> str | None:
        if (run, stage) in left:
            return "to do"
        outcome = outcomes.get((run, stage))
        return None if outcome is None else names.get(outcome, outcome)

    runs = sorted({*plan.runs, *(run for run, _ in outcomes)})
    columns = (Column("tomogram"), *(Column(stage) for stage in plan.stages))
    return Table(columns, tuple((run, *(state(run, stage) for stage in plan.stages)) for run in runs))


def rows_by_run(analysis: Analysis | None) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the rows of the tables `membranes` and `neighbors`, by run and table.

    Parameters
    ----------
    analysis : Analysis or None
        The measured runs; None without any.

    Returns
    -------
    dict of str to dict of str to list of dict
        The rows, with None for NULL.
    """
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    if analysis is None:
        return rows
    for table in ("membranes", "neighbors"):
        frame = analysis.frame(table)
        with_none = frame.astype(object).where(frame.notna(), None)
        for run, part in with_none.groupby("run_name"):
            records = [{str(name): value for name, value in row.items()} for row in part.to_dict("records")]
            rows.setdefault(str(run), {})[table] = records
    return rows


def tomogram_report(
    project: Project,
    run: str,
    refs: Mapping[str, Ref],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    truth: ObjectRef | None = None,
    curves: Curves | None = None,
) -> TomogramReport:
    """Collect the content of one run's section of the page.

    Parameters
    ----------
    project : Project
        The project.
    run : str
        Name of the run.
    refs : mapping of str to Ref
        The run's data by role, as a plan has them. Absent data are left out.
    rows : mapping of str to sequence of mapping
        The run's rows of the tables `membranes` and `neighbors`.
    truth : ObjectRef, optional
        The true particles. Default: unknown.
    curves : Curves, optional
        Statistics of the particles. Default: none.

    Returns
    -------
    TomogramReport
        The content.
    """
    present = {role: ref for role, ref in refs.items() if project.has(ref)}
    density, instances = present.get("density"), present.get("instances") or present.get("labels")
    meshes, picks = present.get("meshes"), present.get("picks")
    volume = density if isinstance(density, TomogramRef) else instances
    assert isinstance(volume, TomogramRef | SegmentationRef)
    grid = project.grid(volume)
    failed = [row for row in rows.get("membranes", ()) if row["error"] is not None]
    notes = [f"membrane {row['membrane_id']} could not be measured: {row['error']}" for row in failed]
    if not rows.get("membranes"):
        notes.append("it has not been measured with these settings yet")
    notes += _segmentation_notes(project, refs.get("labels"))
    return TomogramReport(
        name=run,
        grid=grid,
        slices=_slices(
            project,
            grid,
            density if isinstance(density, TomogramRef) else None,
            instances if isinstance(instances, SegmentationRef) else None,
        ),
        meshes=project.read_meshes(meshes) if isinstance(meshes, ObjectRef) else {},
        picks=project.read_picks(picks) if isinstance(picks, ObjectRef) else None,
        truth_picks=project.read_picks(truth) if truth is not None else None,
        membranes=tuple(_membrane(row, rows.get("neighbors", ())) for row in rows.get("membranes", ())),
        curves=curves or Curves(),
        notes=tuple(notes),
    )


def _segmentation_notes(project: Project, labels: Ref | None) -> list[str]:
    """Return what the stage `segment` noted of the tomogram's values in its receipts."""
    if not isinstance(labels, SegmentationRef):
        return []
    receipts = project.receipts.parts(output_address("segment", labels)).values()
    return list(dict.fromkeys(note for receipt in receipts for note in receipt.get("counts", {}).get("notes", ())))


def _slices(
    project: Project, grid: Grid, density: TomogramRef | None, instances: SegmentationRef | None
) -> tuple[SliceView, ...]:
    """Return the middle planes; zeros for an absent tomogram or segmentation, or one of another shape."""
    z, y, x = grid.shape
    planes = {"xy": Box((z // 2, 0, 0), (z // 2 + 1, y, x)), "xz": Box((0, y // 2, 0), (z, y // 2 + 1, x))}
    if instances is not None and project.grid(instances).shape != grid.shape:
        instances = None
    views = []
    for plane, box in planes.items():
        shape = tuple(n for n in box.shape if n > 1)
        if len(shape) != 2:
            continue
        grey = np.zeros(shape) if density is None else project.read_density(density, box).reshape(shape)
        labels = np.zeros(shape, int) if instances is None else project.read_labels(instances, box).reshape(shape)
        views.append(SliceView("xy" if plane == "xy" else "xz", z // 2 if plane == "xy" else y // 2, grey, labels))
    return tuple(views)


def _membrane(row: Mapping[str, Any], neighbors: Sequence[Mapping[str, Any]]) -> MembraneRow:
    distances = nearest_neighbors_nm([n for n in neighbors if n["membrane_id"] == row["membrane_id"]])
    return MembraneRow(
        membrane_id=row["membrane_id"],
        area_nm2=row["one_sided_area_nm2"],
        closed=row["is_closed"],
        particles=row["n_particles"],
        particles_per_um2=row["particles_per_um2"],
        nearest_neighbor_nm=float(np.median(distances)) if len(distances) else None,
        bilayer_nm=row["bilayer_thickness_nm"],
    )


def nearest_neighbors_nm(neighbors: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the distance of each particle to its nearest neighbour of its own kind.

    Parameters
    ----------
    neighbors : sequence of mapping
        Rows of the table `neighbors`.

    Returns
    -------
    (N,) float64 array
        Distances along the membrane in nm, of the particles that have such a neighbour.
    """
    return np.array(
        [n["geodesic_nm"] for n in neighbors if n["rank"] == 1 and n["object_name"] == n["target_object_name"]]
    )
