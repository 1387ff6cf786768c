"""The demo: simulated tomograms with known truth, the whole run on them, scores against the truth, and a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.pipeline.evaluation.truth import Truth, evaluate_plan
from membrain_cloud.pipeline.execution.driver import execute_plan
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.projects.simulate import (
    SURFACE_SESSION,
    TRUTH_SESSION,
    TRUTH_USER,
    SimulatedTomogram,
    simulate_project,
    true_areas_nm2,
    true_picks,
)
from membrain_cloud.pipeline.reporting.report import nearest_neighbors_nm, write_report
from membrain_cloud.pipeline.settings import Settings, load_settings
from membrain_cloud.pipeline.stages.base import MEMBRANE
from membrain_cloud.pipeline.stages.registry import STAGES
from membrain_cloud.report.data import Column, Table
from membrain_cloud.simulation.phantom import PhantomSettings
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.tables.open import open_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from membrain_cloud.pipeline.execution.runner import Observer, Runner
    from membrain_cloud.pipeline.tasks import Kind, Outcome
    from membrain_cloud.store.projects.project import Project

# Seeds that no training uses.
SEEDS = (90_001, 90_002, 90_003, 90_004)
PHANTOM = PhantomSettings(shape=(96, 160, 160))
SMALL_SEEDS = SEEDS[:1]
SMALL_PHANTOM = PhantomSettings(shape=(64, 96, 96), membranes=2)
# A pick is right within this distance of a true centre, as MemBrain-pick counts.
RADIUS_ANGSTROM = 63.36
Scores = list[dict[str, Any]]
_Rows = list[dict[str, Any]]


def demo_settings() -> Settings:
    """Return the settings of the demo: the defaults, so that it shows what a user's own run does."""
    return Settings()


def simulate_demo(folder: str, *, small: bool, processes: int, report: Callable[[str], None]) -> Project:
    """Make the demo's project, or complete it.

    Parameters
    ----------
    folder : str
        Path of the project. Complete tomograms in it are kept.
    small : bool
        Whether to simulate one small tomogram in place of four.
    processes : int
        Number of processes that simulate tomograms.
    report : callable
        Called with a line of text after each tomogram.

    Returns
    -------
    Project
        The project.
    """
    seeds, phantom = (SMALL_SEEDS, SMALL_PHANTOM) if small else (SEEDS, PHANTOM)
    tomograms = [SimulatedTomogram(f"phantom-{number}", seed, phantom) for number, seed in enumerate(seeds, 1)]
    particle = demo_settings().pick.object
    return simulate_project(folder, tomograms, particle=particle, processes=processes, report=report)


def plan_demo(project: Project, memory_limits: Mapping[Kind, int] | None) -> Plan:
    """Plan all stages on all tomograms of the demo.

    Parameters
    ----------
    project : Project
        The demo's project.
    memory_limits : mapping of str to int, or None
        Memory of the largest worker for GPU and for CPU tasks.

    Returns
    -------
    Plan
        The plan.
    """
    return plan(project, demo_settings(), STAGES, worker_memory_bytes=memory_limits)


def run_demo(project: Project, demo_plan: Plan, runner: Runner, observe: Observer) -> Sequence[Outcome]:
    """Execute the demo's plan.

    Parameters
    ----------
    project : Project
        The demo's project.
    demo_plan : Plan
        The plan from `plan_demo`.
    runner : Runner
        Executes the tasks.
    observe : callable
        Called with each event of a task, see `execution.driver`.

    Returns
    -------
    sequence of Outcome
        The outcomes of all tasks.
    """
    return execute_plan(project, demo_settings(), demo_plan, runner, STAGES, observe)


def score_demo(project: Project, demo_plan: Plan, runner: Runner) -> Scores:
    """Score the demo's results against the truth, and write the scores to `scores.json` beside the config.

    The true membranes and particles are measured by the same stages as the results, into tables of their own.

    Parameters
    ----------
    project : Project
        The demo's project.
    demo_plan : Plan
        The plan that has been executed.
    runner : Runner
        Measures the truth.

    Returns
    -------
    list of dict
        One row for each tomogram and one of all together, whose "run" is "all".
    """
    truth = Truth(
        labels=f"{MEMBRANE}:{TRUTH_USER}/{TRUTH_SESSION}",
        instances=f"{MEMBRANE}:{TRUTH_USER}/{TRUTH_SESSION}?instance=true",
        picks=f"{demo_settings().pick.object}:{TRUTH_USER}/{TRUTH_SESSION}",
    )
    truth_settings = _truth_settings(project)
    execute_plan(project, truth_settings, plan(project, truth_settings, STAGES), runner, STAGES)
    ours, true = _tables(project, demo_settings()), _tables(project, truth_settings)
    scores = evaluate_plan(project, demo_plan, truth, radius_angstrom=RADIUS_ANGSTROM)
    for row in scores:
        run = row["run"]
        areas = true_areas_nm2(project, run) or {}
        row["area_nm2"] = _column_sum(ours, run, "one_sided_area_nm2")
        row["area_true_nm2"] = sum(areas.values())
        row["neighbor_nm"] = _mean(_neighbors(ours, run))
        row["neighbor_true_nm"] = _mean(_neighbors(true, run))
        row.update(_densities(row))
    pooled = _pooled(scores)
    pooled["neighbor_nm"] = _mean(np.concatenate([_neighbors(ours, run) for run in demo_plan.runs]))
    pooled["neighbor_true_nm"] = _mean(np.concatenate([_neighbors(true, run) for run in demo_plan.runs]))
    scores.append(pooled)
    files = Files(project.config.rpartition("/")[0])
    files.write("scores.json", json.dumps({"tomograms": scores[:-1], "all": scores[-1]}, indent=1).encode())
    return scores


def write_demo_report(project: Project, runs: Sequence[str], scores: Scores | None) -> str:
    """Write the report page, with scores and the true particles beside the results.

    Parameters
    ----------
    project : Project
        The demo's project.
    runs : sequence of str
        Its runs.
    scores : list of dict or None
        The scores from `score_demo`; None where a task failed.

    Returns
    -------
    str
        Path or URL of the page.
    """
    truth = {run: true_picks(run, demo_settings().pick.object) for run in runs}
    neighbors = {}
    if scores is not None:
        true = _tables(project, _truth_settings(project))
        neighbors = {run: _neighbors(true, run) for run in runs}
    return write_report(
        project,
        demo_settings(),
        plan(project, demo_settings(), STAGES),
        scores=None if scores is None else score_table(scores),
        truth=truth,
        truth_neighbors_nm=neighbors,
    )


def score_table(scores: Scores) -> Table:
    """Return the scores as a table of the report page; the last row, of all tomograms, is its footer.

    Parameters
    ----------
    scores : list of dict
        The scores from `score_demo`.
    """
    columns = {
        "run": Column("tomogram"),
        "dice": Column("Dice", digits=3),
        "surface_dice": Column("Surface-Dice", digits=3, at_least=0.85, help="as the MemBrain-seg paper defines it"),
        "membranes_found": Column("membranes found", digits=0),
        "membranes_true": Column("of", digits=0),
        "particle_f1": Column("particle F1", digits=3, at_least=0.80, help="within 63 Å"),
        "particles": Column("particles", digits=0),
        "particles_true": Column("true", digits=0),
        "density_per_um2": Column("density", "1/µm²", 0),
        "density_true_per_um2": Column("true", "1/µm²", 0),
        "neighbor_nm": Column("nearest neighbour", "nm", 1, help="mean of the distances along the membrane"),
        "neighbor_true_nm": Column("true", "nm", 1),
    }
    rows = [tuple(row.get(key) for key in columns) for row in scores]
    return Table(tuple(columns.values()), tuple(rows[:-1]), rows[-1])


def _truth_settings(project: Project) -> Settings:
    """Return the settings that measure the truth into tables of its own."""
    return load_settings(
        None,
        [
            f"separate.segmentation={MEMBRANE}:{TRUTH_USER}/{TRUTH_SESSION}?instance=true",
            f"measure.picks={demo_settings().pick.object}:{TRUTH_USER}/{SURFACE_SESSION}",
            f"output.tables={project.root_url}/membrain-cloud/truth-tables",
        ],
    )


def _tables(project: Project, settings: Settings) -> dict[str, _Rows]:
    tables = open_tables(project, settings.output.tables)
    return {name: tables.read(name).to_pylist() for name in ("membranes", "neighbors")}


def _neighbors(tables: Mapping[str, _Rows], run: str) -> NDArray[np.float64]:
    return nearest_neighbors_nm([row for row in tables["neighbors"] if row["run_name"] == run])


def _column_sum(tables: Mapping[str, _Rows], run: str, column: str) -> float:
    return float(sum(row[column] or 0.0 for row in tables["membranes"] if row["run_name"] == run))


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _densities(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the densities of picks and true particles on their membranes, per µm²; None without an area."""
    ours = 1e6 * row["particles"] / row["area_nm2"] if row["area_nm2"] else None
    true = 1e6 * row["particles_true"] / row["area_true_nm2"] if row["area_true_nm2"] else None
    return {"density_per_um2": ours, "density_true_per_um2": true}


def _pooled(scores: Scores) -> dict[str, Any]:
    """Pool all tomograms: sums of counts and areas, means of overlaps, F1 of the summed right and wrong picks."""
    sums = (
        "membranes_found",
        "membranes_true",
        "membranes",
        "particles",
        "particles_true",
        "area_nm2",
        "area_true_nm2",
    )
    means = ("dice", "surface_dice", "surface_precision", "surface_recall")
    pooled: dict[str, Any] = {"run": "all"}
    pooled |= {key: sum(row[key] for row in scores) for key in sums}
    pooled |= {key: float(np.mean([row[key] for row in scores])) for key in means}
    right = sum(row["particle_precision"] * row["particles"] for row in scores)
    reached = sum(row["particle_recall"] * row["particles_true"] for row in scores)
    precision = right / pooled["particles"] if pooled["particles"] else 0.0
    recall = reached / pooled["particles_true"] if pooled["particles_true"] else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    pooled |= {"particle_f1": f1, "particle_precision": precision, "particle_recall": recall}
    return pooled | _densities(pooled)
