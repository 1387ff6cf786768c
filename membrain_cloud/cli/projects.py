"""Verbs about projects: demo, project init, import, export."""

from __future__ import annotations

import glob
import os
from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.program import (
    FAILED,
    Function,
    Program,
    Verb,
    absolute,
    config_argument,
    json_option,
    print_json,
    say,
)


def register(main: Program) -> None:
    for command in (demo, project, import_, export):
        main.add_command(command)


@click.command(cls=Verb)
@click.argument("folder", metavar="[DIR]", default="demo", callback=lambda _c, _p, value: absolute(value))
@click.option("--small", is_flag=True, help="One tiny tomogram, to see that everything works.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Local processes (default: as many as fit).")
@json_option
def demo(folder: str, small: bool, workers: int | None, as_json: bool) -> None:
    """Simulate tomograms with known truth, run everything on them, score it, and write a report.

    \b
    Example:
      membrain-cloud demo demo --small
    """
    from membrain_cloud.pipeline import demo as story
    from membrain_cloud.pipeline.run import default_workers, open_runner

    count = workers or default_workers()
    project = story.simulate(folder, small=small, processes=count, report=say)
    with open_runner(workers=count, scheduler=None, in_process=False) as runner:
        made = story.plan_demo(project, runner.memory_bytes)
        with display.Progress(made) as progress:
            outcomes = story.run_demo(project, made, runner, progress.observe)
        failed = any(outcome.state in ("failed", "blocked") for outcome in outcomes)
        scores = None if failed else story.score(project, made, runner)
    page = story.write_demo_report(project, made, made.runs, scores)
    if as_json:
        print_json({"config": project.config, "report": page, "tables": made.job.tables, "scores": scores})
    else:
        if scores is not None:
            display.show_scores(scores)
        display.show_summary(made, outcomes)
        say(f"project: {project.config}\nreport: {page}")
    if failed:
        click.get_current_context().exit(FAILED)


@click.group()
def project() -> None:
    """Make copick projects."""


@project.command("init", cls=Verb)
@click.argument("folder", metavar="DIR", callback=lambda _c, _p, value: absolute(value))
@click.option("--tomograms", "patterns", multiple=True, metavar="GLOB", help="Files; quote the pattern.")
@click.option("--voxel-spacing", type=float, metavar="A", help="Voxel spacing in Å, in place of the headers'.")
@click.option("--tomogram-type", default="wbp", show_default=True, help="Their type in the project.")
def init(folder: str, patterns: tuple[str, ...], voxel_spacing: float | None, tomogram_type: str) -> None:
    """Make a copick project (DIR/config.json) of .mrc, .rec, .tif, .npy or .zarr files, one run a file.

    Without --tomograms the project is empty, ready for `membrain-cloud import`.

    \b
    Example:
      membrain-cloud project init project --tomograms 'data/*.mrc' --voxel-spacing 13.68
    """
    from membrain_cloud.store.setup import MEMBRANE_OBJECT, create_project, init_project

    if not patterns:
        click.echo(create_project(folder, objects=[MEMBRANE_OBJECT]).config)
        return

    files = sorted({file for pattern in patterns for file in glob.glob(pattern)})
    made = init_project(folder, files, voxel_spacing_angstrom=voxel_spacing, tomogram_type=tomogram_type, report=say)
    click.echo(made.config)


def _annotation_options(function: Function) -> Function:
    options = [
        click.option("-r", "--run", required=True, help="The run it belongs to (made if it is not there)."),
        click.option("--user", required=True, help="Who made it."),
        click.option("--session", default="1", show_default=True, help="Their session."),
        click.option("--voxel-spacing", type=float, metavar="A", help="Voxel spacing in Å, in place of the file's."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group("import")
def import_() -> None:
    """Bring other people's annotations into a project."""


@import_.command(cls=Verb)
@config_argument
@click.argument("file", type=click.Path(exists=True))
@_annotation_options
@click.option("--name", default="membrane", show_default=True, help="Name of the segmentation.")
@click.option("--instances", is_flag=True, help="Keep the labels as numbered membranes.")
@click.option("--label", type=int, help="The one label that is membrane, where the file has several.")
def segmentation(config: str, file: str, run: str, voxel_spacing: float | None, instances: bool, **names: Any) -> None:
    """Import a label volume.

    \b
    Example:
      membrain-cloud import segmentation project/config.json labels.mrc -r TS_1 --user alice --session 3
    """
    from membrain_cloud.store.project import Project
    from membrain_cloud.store.setup import import_segmentation

    opened = Project.open(config)
    ref = import_segmentation(
        opened, run, file, instance=instances, voxel_spacing_angstrom=voxel_spacing, report=say, **names
    )
    click.echo(ref.uri)


@import_.command(cls=Verb)
@config_argument
@click.argument("file", type=click.Path(exists=True))
@_annotation_options
@click.option("--object", "object_name", required=True, help="Name of the particle.")
@click.option("--origin", nargs=3, type=float, default=(0.0, 0.0, 0.0), metavar="X Y Z", help="In Å, subtracted.")
@click.option("--tomogram", help="The tomogram's name in a STAR file of several.")
def picks(
    config: str,
    file: str,
    run: str,
    object_name: str,
    voxel_spacing: float | None,
    origin: tuple[float, float, float],
    **names: Any,
) -> None:
    """Import particles from a .star or .csv file.

    \b
    Example:
      membrain-cloud import picks project/config.json psii.star -r TS_1 --object psii --user expert
    """
    from membrain_cloud.store.project import Project
    from membrain_cloud.store.setup import import_picks

    ref = import_picks(
        Project.open(config),
        run,
        file,
        object=object_name,
        voxel_spacing_angstrom=voxel_spacing,
        origin_angstrom=origin,
        **names,
    )
    click.echo(ref.uri)


@click.group()
def export() -> None:
    """Write annotations of a project as files of other programs."""


def _export_arguments(function: Function) -> Function:
    output = click.option("--output", required=True, metavar="FILE", callback=lambda _c, _p, value: absolute(value))
    run = click.option("-r", "--run", required=True, help="The run.")
    return config_argument(click.argument("uri", metavar="URI")(run(output(function))))


@export.command(cls=Verb)
@_export_arguments
@click.option("--voxel-spacing", type=float, metavar="A", help="Of the pixels to count in (default: the tomogram's).")
def star(config: str, uri: str, run: str, output: str, voxel_spacing: float | None) -> None:
    """Write picks (URI name:user/session) as a RELION STAR file.

    \b
    Example:
      membrain-cloud export star project/config.json membrane-protein:membrain/1a2b3c4d -r TS_1 --output picks.star
    """
    from membrain_cloud.errors import VoxelSpacingError
    from membrain_cloud.store.exchange import write_star
    from membrain_cloud.store.project import Project

    opened = Project.open(config)
    ref = opened.object(run, uri)
    if voxel_spacing is None:
        tomograms = opened.tomograms([run], None, None)
        if not tomograms:
            raise VoxelSpacingError(f"{run} has no tomogram to take the voxel spacing from", "give --voxel-spacing")
        voxel_spacing = tomograms[0].voxel_spacing_angstrom
    found = opened.read_picks(ref)
    write_star(output, found, voxel_spacing_angstrom=voxel_spacing, tomogram=run)
    click.echo(f"{len(found)} picks -> {os.path.relpath(output)}")


@export.command(cls=Verb)
@_export_arguments
def mrc(config: str, uri: str, run: str, output: str) -> None:
    """Write a segmentation (URI name:user/session@spacing[?instance=true]) as MRC.

    \b
    Example:
      membrain-cloud export mrc project/config.json membrane:membrain/1a2b3c4d@10.0 -r TS_1 --output membranes.mrc
    """
    from membrain_cloud.store.exchange import write_mrc
    from membrain_cloud.store.project import Project

    opened = Project.open(config)
    ref = opened.segmentation(run, uri)
    write_mrc(output, opened.read_labels(ref), ref.voxel_spacing_angstrom)
    click.echo(os.path.relpath(output))
