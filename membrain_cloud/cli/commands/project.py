"""Verbs about projects: demo, project init, project manifest, import, export."""

from __future__ import annotations

import glob
import os
from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import (
    FAILED,
    Function,
    Program,
    Verb,
    absolute,
    config_argument,
    json_option,
    print_json,
    runs_option,
    say,
)
from membrain_cloud.errors import UsageError


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
    from membrain_cloud.pipeline.projects import demo as story
    from membrain_cloud.pipeline.runners import default_workers, open_runner

    count = workers or default_workers()
    project = story.simulate_demo(folder, small=small, processes=count, report=say)
    with open_runner(workers=count, scheduler=None, in_process=False) as runner:
        made = story.plan_demo(project, runner.memory_bytes)
        with display.Progress(made) as progress:
            outcomes = story.run_demo(project, made, runner, progress.observe)
        failed = any(outcome.state in ("failed", "blocked") for outcome in outcomes)
        scores = None if failed else story.score_demo(project, made, runner)
    page = story.write_demo_report(project, made.runs, scores)
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
    """Make copick projects, and manifests of them."""


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
    from membrain_cloud.store.projects.create_import import MEMBRANE_OBJECT, create_project, init_project

    if not patterns:
        click.echo(create_project(folder, objects=[MEMBRANE_OBJECT]).config)
        return

    files = sorted({file for pattern in patterns for file in glob.glob(pattern)})
    made = init_project(folder, files, voxel_spacing_angstrom=voxel_spacing, tomogram_type=tomogram_type, report=say)
    click.echo(made.config)


@project.command("manifest", cls=Verb)
@config_argument
@runs_option
@click.option("--output", required=True, metavar="FILE", help="The manifest, FILE.parquet (a path or URL).")
@click.option("--tomogram-type", metavar="TYPE", help="Of several tomograms of a run, this type.")
@click.option(
    "--voxel-spacing", type=float, metavar="A", help="Of several tomograms of a run, this voxel spacing in Å."
)
@click.option("--dataset", metavar="NAME", help="Partition of the tables (default: the setting output.dataset's).")
@json_option
def manifest(
    config: str,
    runs: tuple[str, ...],
    output: str,
    tomogram_type: str | None,
    voxel_spacing: float | None,
    dataset: str | None,
    as_json: bool,
) -> None:
    """Freeze a copick project into a manifest: its tomograms with their grids and identities, one a run.

    A manifest is planned in seconds, however many tomograms it has, since nothing is opened. Results go where the
    project's go, and what is done there counts as done. Make it again when tomograms are added or replaced.

    \b
    Example:
      membrain-cloud project manifest project/config.json --output project/all.parquet
      membrain-cloud run project/all.parquet
    """
    from membrain_cloud.pipeline.settings import OutputSettings
    from membrain_cloud.store.projects.manifest_project import freeze
    from membrain_cloud.store.projects.open import open_project

    opened, file = open_project(config), absolute(output)
    if not file.endswith(".parquet"):
        raise UsageError(f"{output}: a manifest is a Parquet file", "name it FILE.parquet")
    chosen = opened.tomograms(runs or None, tomogram_type, voxel_spacing)
    selection: dict[str, Any] = {"config": opened.config, "runs": list(runs)}
    selection |= {"tomogram_type": tomogram_type, "voxel_spacing_angstrom": voxel_spacing}
    left_out = freeze(opened, file, chosen, dataset=dataset or OutputSettings().dataset, selection=selection)
    for run, error in left_out.items():
        say(f"{run} is left out: {error}")
    count = len(chosen) - len(left_out)
    if as_json:
        print_json({"manifest": file, "tomograms": count, "left_out": {run: str(e) for run, e in left_out.items()}})
    else:
        click.echo(f"{count} tomograms -> {output}")
    if left_out:
        click.get_current_context().exit(FAILED)


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
    from membrain_cloud.store.projects.create_import import import_segmentation
    from membrain_cloud.store.projects.open import open_project

    opened = open_project(config)
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
@click.option("--tomogram", help="Its name in a STAR file of several, its number in a motive list.")
def picks(
    config: str,
    file: str,
    run: str,
    object_name: str,
    voxel_spacing: float | None,
    origin: tuple[float, float, float],
    **names: Any,
) -> None:
    """Import particles from a .star, .csv, .em (motive list) or .h5 (MemBrain-pick) file.

    \b
    Example:
      membrain-cloud import picks project/config.json psii.star -r TS_1 --object psii --user expert
    """
    from membrain_cloud.store.projects.create_import import import_picks
    from membrain_cloud.store.projects.open import open_project

    ref = import_picks(
        open_project(config),
        run,
        file,
        object=object_name,
        voxel_spacing_angstrom=voxel_spacing,
        origin_angstrom=origin,
        **names,
    )
    click.echo(ref.uri)


@import_.command(cls=Verb)
@config_argument
@click.argument("files", type=click.Path(exists=True), nargs=-1, required=True)
@_annotation_options
def meshes(config: str, files: tuple[str, ...], run: str, **names: Any) -> None:
    """Import meshes of membranes from .glb, .obj or .h5 (MemBrain-pick) files.

    Give --voxel-spacing where the files count voxels, as those of `membrain_pick convert` do.

    \b
    Example:
      membrain-cloud import meshes project/config.json mb1.h5 mb2.h5 -r TS_1 --user alice --voxel-spacing 10
    """
    from membrain_cloud.store.projects.create_import import import_meshes
    from membrain_cloud.store.projects.open import open_project

    spacing = names.pop("voxel_spacing")
    ref = import_meshes(open_project(config), run, list(files), voxel_spacing_angstrom=spacing, **names)
    click.echo(ref.uri)


@click.group()
def export() -> None:
    """Write annotations of a project as files of other programs."""


def _export_arguments(function: Function) -> Function:
    output = click.option("--output", required=True, metavar="FILE", callback=lambda _c, _p, value: absolute(value))
    run = click.option("-r", "--run", required=True, help="The run.")
    return config_argument(click.argument("uri", metavar="URI")(run(output(function))))


def _spacing_option(function: Function) -> Function:
    help_text = "Of the voxels to count in (default: the tomogram's)."
    return click.option("--voxel-spacing", type=float, metavar="A", help=help_text)(function)


def _spacing_of(project: Any, run: str, given: float | None) -> float:
    from membrain_cloud.errors import VoxelSpacingError

    if given is not None:
        return given
    tomograms = project.tomograms([run], None, None)
    if not tomograms:
        raise VoxelSpacingError(f"{run} has no tomogram to take the voxel spacing from", "give --voxel-spacing")
    return float(tomograms[0].voxel_spacing_angstrom)


@export.command(cls=Verb)
@_export_arguments
@_spacing_option
@click.option(
    "--for",
    "flavour",
    type=click.Choice(["plain", "relion3.1", "relion4", "relion5", "surforama"]),
    default="plain",
    show_default=True,
    help="The program that is to read it.",
)
def star(config: str, uri: str, run: str, output: str, voxel_spacing: float | None, flavour: str) -> None:
    """Write picks (URI name:user/session) as a RELION STAR file.

    \b
    Example:
      membrain-cloud export star project/config.json membrane-protein:membrain/1a2b3c4d -r TS_1 --output picks.star
    """
    from membrain_cloud.store.formats.any_volume import write_star
    from membrain_cloud.store.projects.open import open_project

    opened = open_project(config)
    found = opened.read_picks(opened.object(run, uri))
    tomograms = opened.tomograms([run], None, None)
    write_star(
        output,
        found,
        voxel_spacing_angstrom=_spacing_of(opened, run, voxel_spacing),
        tomogram=run,
        flavour=flavour,
        grid=opened.grid(tomograms[0]) if tomograms else None,
    )
    click.echo(f"{len(found)} picks -> {os.path.relpath(output)}")


@export.command(cls=Verb)
@_export_arguments
@_spacing_option
@click.option("--tomogram-number", type=int, default=1, show_default=True, help="Written for every particle.")
def motl(config: str, uri: str, run: str, output: str, voxel_spacing: float | None, tomogram_number: int) -> None:
    """Write picks (URI name:user/session) as a motive list: EM, or where OUTPUT ends in .star, STOPGAP's.

    \b
    Example:
      membrain-cloud export motl project/config.json membrane-protein:membrain/1a2b3c4d -r TS_1 --output picks.em
    """
    from membrain_cloud.store.formats.motl import write_motive_list, write_stopgap
    from membrain_cloud.store.projects.open import open_project

    opened = open_project(config)
    found = opened.read_picks(opened.object(run, uri))
    spacing = _spacing_of(opened, run, voxel_spacing)
    write = write_stopgap if output.lower().endswith(".star") else write_motive_list
    write(output, found, voxel_spacing_angstrom=spacing, tomogram_number=tomogram_number)
    click.echo(f"{len(found)} picks -> {os.path.relpath(output)}")


@export.command("meshes", cls=Verb)
@_export_arguments
@_spacing_option
@click.option("--picks", metavar="URI", help="Picks to write with the membranes they sit on (.h5).")
def export_meshes(config: str, uri: str, run: str, output: str, voxel_spacing: float | None, picks: str | None) -> None:
    """Write meshes (URI name:user/session): all in one .glb, or one .obj or .h5 (MemBrain-pick) a membrane, in Å.

    Several membranes get their number into the file's name. With --voxel-spacing an .obj counts voxels.

    \b
    Example:
      membrain-cloud export meshes project/config.json membrane:membrain/1a2b3c4d -r TS_1 --output membranes.glb
    """
    from membrain_cloud.store.formats.meshes import write_membranes
    from membrain_cloud.store.projects.open import open_project

    opened = open_project(config)
    written = write_membranes(
        output,
        opened.read_meshes(opened.object(run, uri)),
        None if picks is None else opened.read_picks(opened.object(run, picks)),
        voxel_spacing_angstrom=_spacing_of(opened, run, voxel_spacing) if output.lower().endswith(".h5") else 1.0,
        unit_angstrom=voxel_spacing or 1.0,
    )
    for file in written:
        click.echo(os.path.relpath(file))


@export.command(cls=Verb)
@_export_arguments
def mrc(config: str, uri: str, run: str, output: str) -> None:
    """Write a segmentation (URI name:user/session@spacing[?instance=true]) as MRC.

    \b
    Example:
      membrain-cloud export mrc project/config.json membrane:membrain/1a2b3c4d@10.0 -r TS_1 --output membranes.mrc
    """
    from membrain_cloud.store.formats.any_volume import write_mrc
    from membrain_cloud.store.projects.open import open_project

    opened = open_project(config)
    ref = opened.segmentation(run, uri)
    write_mrc(output, opened.read_labels(ref), ref.voxel_spacing_angstrom)
    click.echo(os.path.relpath(output))
