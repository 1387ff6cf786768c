"""The verb evaluate: scores of a run, or of any annotation, against what is taken as true."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import (
    Program,
    Verb,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
    settings_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from membrain_cloud.pipeline.evaluation.mesh_scores import MeshScores
    from membrain_cloud.store.projects.project import Project


def register(main: Program) -> None:
    main.add_command(evaluate)


@click.command(cls=Verb)
@config_argument
@click.argument("first", required=False, metavar="[FIRST")
@click.argument("second", required=False, metavar="SECOND]")
@runs_option
@settings_options
@click.option("--truth", metavar="URI", help="True segmentation, e.g. membrane:truth/0.")
@click.option("--truth-instances", metavar="URI", help="True membranes, e.g. membrane:truth/0?instance=true.")
@click.option("--truth-picks", metavar="URI", help="True particles, e.g. membrane-protein:truth/0.")
@click.option("--radius", type=float, default=63.36, show_default=True, help="A pick is right within it, in Å.")
@click.option(
    "--tolerance", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True,
    help="A surface is right within it, in Å: half a membrane's thickness.",
)  # fmt: skip
@click.option(
    "--kind", type=click.Choice(["segmentations", "picks", "meshes"]),
    help="Of FIRST and SECOND, where a name stands for several.  [default: the first of these that both have]",
)  # fmt: skip
@click.option("--table", metavar="FILE", help="Also write the rows there: .parquet or .csv.")
@click.option("--figure", metavar="FILE", help="Also draw the scores there: .png.")
@click.option("--overwrite", is_flag=True, help="Replace files of these names.")
@json_option
def evaluate(
    config: str,
    first: str | None,
    second: str | None,
    runs: tuple[str, ...],
    truth: str | None,
    truth_instances: str | None,
    truth_picks: str | None,
    radius: float,
    tolerance: float,
    kind: str | None,
    table: str | None,
    figure: str | None,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Score what a run made against annotations taken as true, or any annotation, FIRST, against another, SECOND.

    Segmentations: Dice, Surface-Dice, precision and recall; voxels that either marks to be ignored are left out, and
    where SECOND is marked in patches alone (values 3), all that is not marked. Picks: F1, precision and recall within
    the radius, as MemBrain-pick counts (many to one) and one to one, and the Chamfer distance. Meshes: the shares of
    both surfaces' areas within the tolerance of the other (precision, recall, F1), Chamfer and Hausdorff distances,
    both ways and each way, the angle between their normals, areas and components. All runs together are the row `*`.

    `name:user/session` may name a segmentation, picks and a mesh at once: --kind meshes compares the meshes.

    \b
    Examples:
      membrain-cloud evaluate project/config.json --truth membrane:alice/3 --truth-picks psii:expert/1
      membrain-cloud evaluate project/config.json membrane:alice/3@10.0 membrane:bob/1@10.0 --table scores.parquet
      membrain-cloud evaluate project/config.json psii:membrain/1a2b3c4d psii:expert/1 --figure scores.png
      membrain-cloud evaluate project/config.json membrane:alice/3 membrane:bob/1 --kind meshes --figure meshes.png
    """
    from membrain_cloud.errors import UsageError
    from membrain_cloud.store.projects.open import open_project

    truths = (truth, truth_instances, truth_picks)
    if (first is None) != (second is None) or (first and any(truths)):
        raise UsageError("give two annotations, or --truth for what a run made", "e.g. membrane:alice/3 membrane:bob/1")
    if first is None and kind is not None:
        raise UsageError("--kind is of two annotations", "give FIRST and SECOND too")
    _check_files(table, figure, overwrite)
    project = open_project(config)
    draw: Callable[[], bytes] | None = None
    if first is not None and second is not None:
        title = f"{first}, with {second} taken as true"
        scores, draw = _of_two(project, runs, first, second, (radius, tolerance), kind, title)
    else:
        title = f"with {', '.join(filter(None, truths))} taken as true"
        scores = _of_a_run(project, runs, truths, radius, chosen)
    keep_scores(scores, table, figure, title, draw=draw)
    if as_json:
        print_json(scores)
    else:
        shown = [{name: value for name, value in row.items() if name not in ("first", "second")} for row in scores]
        display.show_scores(shown)


def _of_two(
    project: Project,
    runs: Sequence[str],
    first: str,
    second: str,
    limits: tuple[float, float],
    kind: str | None,
    title: str,
) -> tuple[list[dict[str, Any]], Callable[[], bytes] | None]:
    """Rows, and what draws the figure, if it is another than of scores. limits : radius of picks, tolerance, in Å."""
    from membrain_cloud.pipeline.evaluation.scores import annotation_scores

    radius, tolerance = limits
    compared = annotation_scores(
        project, runs, first, second, radius_angstrom=radius, tolerance_angstrom=tolerance, kind=kind
    )
    if compared.meshes is None:
        return compared.rows, None
    return compared.rows, functools.partial(_mesh_figure, project, compared.meshes, title, tolerance)


def _of_a_run(
    project: Project,
    runs: tuple[str, ...],
    truths: tuple[str | None, str | None, str | None],
    radius: float,
    chosen: Mapping[str, Any],
) -> list[dict[str, Any]]:
    from membrain_cloud.cli.options import chosen_settings, make_plan
    from membrain_cloud.pipeline.evaluation.truth import Truth, evaluate_plan

    settings = chosen_settings(chosen["settings_file"], chosen["overrides"], chosen["tables"])
    made = make_plan(project, settings, runs, chosen["stages"])
    return evaluate_plan(project, made, Truth(*truths), radius_angstrom=radius)


def _check_files(table: str | None, figure: str | None, overwrite: bool) -> None:
    from membrain_cloud.store.tables.row_export import check_row_file

    if table is not None:
        check_row_file(table, overwrite=overwrite)
    _check_figure(figure, overwrite)


def _check_figure(path: str | None, overwrite: bool) -> None:
    import os

    from membrain_cloud.errors import UsageError

    if path is not None and not path.endswith(".png"):
        raise UsageError(f"{path}: figures are written as PNG", "give a name that ends in .png")
    if path is not None and os.path.exists(path) and not overwrite:
        raise UsageError(f"{path}: exists already", "give another name, or --overwrite")


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


def keep_scores(
    scores: Sequence[Mapping[str, Any]],
    table: str | None,
    figure: str | None,
    title: str,
    group: str = "",
    draw: Callable[[], bytes] | None = None,
) -> None:
    """Rows and figure as files, where they are asked for. draw : gives the figure, if it is another than of scores."""
    from membrain_cloud.store.tables.row_export import write_bytes, write_rows

    if table is not None:
        write_rows(table, scores)
        say(f"wrote {table}")
    if figure is not None:
        from membrain_cloud.report.score_figure import scores_figure

        single = [row for row in scores if row.get("run") != "*"]
        write_bytes(figure, draw() if draw else scores_figure(single, title=title, group=group))
        say(f"wrote {figure}")
