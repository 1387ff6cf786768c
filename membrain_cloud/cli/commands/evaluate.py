"""The command `evaluate`: scores of a run, or of any annotation, against annotations taken as true."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import PlanOptions, json_option, option, option_group, output_exists, takes
from membrain_cloud.cli.project_options import config_argument, runs_option
from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.evaluation.mesh_scores import MeshScores
    from membrain_cloud.store.projects.project import Project


@option_group
class ScoreOptions:
    """What is taken as true, and how it is compared."""

    truth: str | None = option("--truth", metavar="URI", help="True segmentation, e.g. membrane:truth/0.")
    truth_instances: str | None = option(
        "--truth-instances", metavar="URI", help="True membranes one by one, e.g. membrane:truth/0?instance=true."
    )
    truth_picks: str | None = option(
        "--truth-picks", metavar="URI", help="True particles, e.g. membrane-protein:truth/0."
    )
    radius: float = option(
        "--radius",
        type=float,
        default=63.36,
        show_default=True,
        metavar="A",
        help="Largest distance of a correct pick from a true one, in Å.",
    )
    tolerance: float = option(
        "--tolerance",
        type=click.FloatRange(0, min_open=True),
        default=20.0,
        show_default=True,
        metavar="A",
        help="Largest distance of a correct surface point from the true surface, in Å: half a membrane's thickness.",
    )
    kind: str | None = option(
        "--kind",
        type=click.Choice(["segmentations", "picks", "meshes"]),
        help="Kind of FIRST and SECOND, where a name stands for several (default: the first of these that both have).",
    )

    @property
    def truths(self) -> tuple[str | None, str | None, str | None]:
        """URIs of the true segmentation, instances and picks."""
        return self.truth, self.truth_instances, self.truth_picks


@option_group
class ScoreFiles:
    """The files to which scores are written."""

    table: str | None = option(
        "--table", metavar="FILE", help="Also write the scores to this .parquet or .csv (default: only print them)."
    )
    figure: str | None = option(
        "--figure", metavar="FILE", help="Also draw the scores into this .png (default: no figure)."
    )
    overwrite: bool = option("--overwrite", is_flag=True, help="Replace the files of --table and --figure.")

    def check(self) -> None:
        """Raise UsageError where a file cannot be written, before anything is computed."""
        from membrain_cloud.store.tables.row_export import check_row_file

        if self.table is not None:
            check_row_file(self.table, overwrite=self.overwrite)
        if self.figure is None:
            return
        if not self.figure.endswith(".png"):
            raise UsageError(f"{self.figure}: figures are written as PNG", "give a name that ends in .png")
        if Path(self.figure).exists() and not self.overwrite:
            raise output_exists(self.figure)

    def write(self, scores: Sequence[Mapping[str, Any]], title: str, draw: Callable[[], bytes] | None) -> None:
        """Write the rows and the figure, where they are asked for.

        Parameters
        ----------
        scores : sequence of mapping
            A row for each run, and `*` for all runs together.
        title : str
            Title of the figure.
        draw : callable or None
            Returns the figure as PNG; None for the figure of scores.
        """
        from membrain_cloud.store.tables.row_export import write_bytes, write_rows

        if self.table is not None:
            write_rows(self.table, scores)
            say(f"wrote {self.table}")
        if self.figure is not None:
            from membrain_cloud.report.score_figure import scores_figure

            of_runs = [row for row in scores if row.get("run") != "*"]
            write_bytes(self.figure, draw() if draw else scores_figure(of_runs, title=title, group=""))
            say(f"wrote {self.figure}")


@click.command(cls=Command)
@config_argument
@click.argument("first", required=False, metavar="[FIRST")
@click.argument("second", required=False, metavar="SECOND]")
@runs_option
@takes(PlanOptions, ScoreOptions, ScoreFiles)
@json_option
def evaluate(
    plan: PlanOptions,
    options: ScoreOptions,
    files: ScoreFiles,
    config: str,
    *,
    first: str | None,
    second: str | None,
    runs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score a run or an annotation against true annotations.

    Without FIRST and SECOND the results of a run are scored against --truth. Otherwise FIRST is scored, and SECOND is
    taken as true.

    Segmentations: Dice, Surface-Dice, precision and recall. Voxels that either annotation marks to be ignored are left
    out; where SECOND is marked in patches only (values 3), so is all that is not marked. Picks: F1, precision and
    recall within the radius, as MemBrain-pick counts (many to one) and one to one, and the Chamfer distance. Meshes:
    the shares of both surfaces' areas within the tolerance of the other (precision, recall, F1), Chamfer and Hausdorff
    distances, both ways and each way, the angle between their normals, areas and components. The row `*` holds all runs
    together.

    `name:user/session` can name a segmentation, picks and a mesh at once: --kind meshes compares the meshes.

    \b
    Examples:
      membrain-cloud evaluate project/config.json --truth membrane:alice/3 --truth-picks psii:expert/1
      membrain-cloud evaluate project/config.json membrane:alice/3@10.0 membrane:bob/1@10.0 --table scores.parquet
      membrain-cloud evaluate project/config.json psii:membrain/1a2b3c4d psii:expert/1 --figure scores.png
      membrain-cloud evaluate project/config.json membrane:alice/3 membrane:bob/1 --kind meshes --figure meshes.png
    """
    from membrain_cloud.store.projects.open import open_project

    _check_usage(first, second, options)
    files.check()
    project = open_project(config)
    draw: Callable[[], bytes] | None = None
    if first is not None and second is not None:
        title = f"{first}, with {second} taken as true"
        scores, draw = _annotation_scores(project, runs, first, second, options, title)
    else:
        title = f"with {', '.join(filter(None, options.truths))} taken as true"
        scores = _run_scores(project, plan, runs, options)
    files.write(scores, title, draw)
    if as_json:
        print_json(scores)
    else:
        hidden = ("first", "second")
        display.show_scores([{name: value for name, value in row.items() if name not in hidden} for row in scores])


def _check_usage(first: str | None, second: str | None, options: ScoreOptions) -> None:
    if (first is None) != (second is None) or (first and any(options.truths)):
        raise UsageError(
            "give two annotations, or --truth for the results of a run", "e.g. membrane:alice/3 membrane:bob/1"
        )
    if first is None and options.kind is not None:
        raise UsageError("--kind chooses between kinds of two annotations", "give FIRST and SECOND too")
    if first is None and not any(options.truths):
        raise UsageError("there is no truth to compare with", "give --truth, --truth-instances or --truth-picks")


def _annotation_scores(
    project: Project, runs: Sequence[str], first: str, second: str, options: ScoreOptions, title: str
) -> tuple[list[dict[str, Any]], Callable[[], bytes] | None]:
    """Return the rows of two annotations, and a function that draws their figure if they are meshes."""
    from membrain_cloud.pipeline.evaluation.scores import annotation_scores

    comparison = annotation_scores(
        project,
        runs,
        first,
        second,
        radius_angstrom=options.radius,
        tolerance_angstrom=options.tolerance,
        kind=options.kind,
    )
    if comparison.meshes is None:
        return comparison.rows, None
    return comparison.rows, functools.partial(_mesh_figure, project, comparison.meshes, title, options.tolerance)


def _run_scores(
    project: Project, options: PlanOptions, runs: tuple[str, ...], scores: ScoreOptions
) -> list[dict[str, Any]]:
    from membrain_cloud.pipeline.evaluation.truth import Truth, evaluate_plan

    plan = options.plan(project, options.load(), runs)
    return evaluate_plan(project, plan, Truth(*scores.truths), radius_angstrom=scores.radius)


def _mesh_figure(project: Project, scores: MeshScores, title: str, tolerance: float) -> bytes:
    from membrain_cloud.pipeline.evaluation.mesh_scores import colours_of_farthest
    from membrain_cloud.report.mesh_figure import mesh_figure

    return mesh_figure(
        (scores.to_true.distances, scores.to_mesh.distances),
        colours_of_farthest(project, scores),
        where=scores.farthest.run if scores.farthest else "",
        tolerance_angstrom=tolerance,
        title=title,
    )
