"""`demo`: simulated tomograms with known truth, the whole run on them, scores against the truth, and a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.pipeline.evaluation.truth import Truth, evaluate_plan
from membrain_cloud.pipeline.execution.driver import Observer, Runner, execute_plan
from membrain_cloud.pipeline.planning.plan import Plan, plan
from membrain_cloud.pipeline.projects.simulate import (
    SURFACE_SESSION,
    TRUTH_SESSION,
    TRUTH_USER,
    Simulated,
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

    from membrain_cloud.pipeline.tasks import Outcome
    from membrain_cloud.store.projects.project import Project

# Seeds that no training takes.
SEEDS = (90_001, 90_002, 90_003, 90_004)
PHANTOM = PhantomSettings(shape=(96, 160, 160))
SMALL_SEEDS = SEEDS[:1]
SMALL_PHANTOM = PhantomSettings(shape=(64, 96, 96), membranes=2)
# A pick is right within this distance of a true centre, as MemBrain-pick counts.
RADIUS_ANGSTROM = 63.36
Scores = list[dict[str, Any]]


def settings() -> Settings:
    """The defaults: the demo shows what a user's own run does."""
    return Settings()


def simulate(folder: str, *, small: bool, processes: int, report: Callable[[str], None]) -> Project:
    """The demo's project in `folder`; tomograms that are there already are kept."""
    seeds, phantom = (SMALL_SEEDS, SMALL_PHANTOM) if small else (SEEDS, PHANTOM)
    wanted = [Simulated(f"phantom-{number}", seed, phantom) for number, seed in enumerate(seeds, 1)]
    particle = settings().pick.object
    return simulate_project(folder, wanted, particle=particle, processes=processes, report=report)


def plan_demo(project: Project, memory_bytes: int) -> Plan:
    return plan(project, settings(), STAGES, worker_memory_bytes=memory_bytes)


def run_demo(project: Project, made: Plan, runner: Runner, observe: Observer) -> Sequence[Outcome]:
    return execute_plan(project, settings(), made, runner, STAGES, observe)


def score(project: Project, made: Plan, runner: Runner) -> Scores:
    """One row a tomogram and one for all; also written to `scores.json` beside the config.

    The true membranes and particles are measured by the same stages as ours, into tables of their own.
    """
    truth = Truth(
        labels=f"{MEMBRANE}:{TRUTH_USER}/{TRUTH_SESSION}",
        instances=f"{MEMBRANE}:{TRUTH_USER}/{TRUTH_SESSION}?instance=true",
        picks=f"{settings().pick.object}:{TRUTH_USER}/{TRUTH_SESSION}",
    )
    truth_settings = _truth_settings(project)
    truth_plan = plan(project, truth_settings, STAGES)
    execute_plan(project, truth_settings, truth_plan, runner, STAGES)
    ours, true = _tables(project, settings()), _tables(project, truth_settings)
    scores = evaluate_plan(project, made, truth, radius_angstrom=RADIUS_ANGSTROM)
    for row in scores:
        run = row["run"]
        areas = true_areas_nm2(project, run) or {}
        row |= {
            "area_nm2": _sum_of(ours, run, "one_sided_area_nm2"),
            "area_true_nm2": sum(areas.values()),
            "neighbor_nm": _mean(_neighbors(ours, run)),
            "neighbor_true_nm": _mean(_neighbors(true, run)),
        }
        row |= _densities(row)
    pooled = _pooled(scores)
    pooled["neighbor_nm"] = _mean(np.concatenate([_neighbors(ours, run) for run in made.runs]))
    pooled["neighbor_true_nm"] = _mean(np.concatenate([_neighbors(true, run) for run in made.runs]))
    scores.append(pooled)
    files = Files(project.config.rpartition("/")[0])
    files.write("scores.json", json.dumps({"tomograms": scores[:-1], "all": scores[-1]}, indent=1).encode())
    return scores


def write_demo_report(project: Project, made: Plan, runs: Sequence[str], scores: Scores | None) -> str:
    """The page, with scores and the true particles beside ours."""
    truth = {run: true_picks(run, settings().pick.object) for run in runs}
    neighbors = {}
    if scores is not None:
        true = _tables(project, _truth_settings(project))
        neighbors = {run: _neighbors(true, run) for run in runs}
    return write_report(
        project,
        settings(),
        plan(project, settings(), STAGES),
        scores=None if scores is None else score_table(scores),
        truth=truth,
        truth_neighbors_nm=neighbors,
    )


def score_table(scores: Scores) -> Table:
    """Scores for the page; the last row is that of all tomograms."""
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
    return load_settings(
        None,
        [
            f"separate.segmentation={MEMBRANE}:{TRUTH_USER}/{TRUTH_SESSION}?instance=true",
            f"measure.picks={settings().pick.object}:{TRUTH_USER}/{SURFACE_SESSION}",
            f"output.tables={project.root_url}/membrain-cloud/truth-tables",
        ],
    )


def _tables(project: Project, chosen: Settings) -> dict[str, list[dict[str, Any]]]:
    tables = open_tables(project, chosen.output.tables)
    return {name: tables.read(name).to_pylist() for name in ("membranes", "neighbors")}


def _neighbors(tables: Mapping[str, Sequence[Mapping[str, Any]]], run: str) -> np.ndarray:
    return nearest_neighbors_nm([row for row in tables["neighbors"] if row["run_name"] == run])


def _sum_of(tables: Mapping[str, Sequence[Mapping[str, Any]]], run: str, column: str) -> float:
    return float(sum(row[column] or 0.0 for row in tables["membranes"] if row["run_name"] == run))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _densities(row: Mapping[str, Any]) -> dict[str, float | None]:
    ours = 1e6 * row["particles"] / row["area_nm2"] if row["area_nm2"] else None
    true = 1e6 * row["particles_true"] / row["area_true_nm2"] if row["area_true_nm2"] else None
    return {"density_per_um2": ours, "density_true_per_um2": true}


def _pooled(scores: Scores) -> dict[str, Any]:
    """All tomograms as one: sums of counts and areas, means of overlaps, F1 of the summed right and wrong picks."""
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
