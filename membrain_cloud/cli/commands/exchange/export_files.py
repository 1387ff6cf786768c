"""The group `export`: annotations as files of other programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from membrain_cloud.cli.app import Command
from membrain_cloud.cli.options import Function, absolute_path
from membrain_cloud.cli.project_options import config_argument
from membrain_cloud.errors import VoxelSpacingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from membrain_cloud.store.projects.project import Project


@click.group()
def export() -> None:
    """Export annotations of a project for other programs."""


def _export_arguments(function: Function) -> Function:
    """Add CONFIG, URI, `--run` and `--output`."""
    output = click.option(
        "--output",
        required=True,
        metavar="FILE",
        callback=absolute_path,
        help="File to write; an existing one is replaced.",
    )
    run = click.option("-r", "--run", required=True, metavar="RUN", help="Run of the annotation.")
    return config_argument(click.argument("uri", metavar="URI")(run(output(function))))


def _spacing_option(text: str) -> Callable[[Function], Function]:
    return click.option("--voxel-spacing", type=float, metavar="A", help=text)


def _voxel_spacing(project: Project, run: str, voxel_spacing: float | None) -> float:
    """Return the voxel spacing that is given, or that of the run's tomogram, in Å."""
    if voxel_spacing is not None:
        return voxel_spacing
    tomograms = project.tomograms([run], None, None)
    if not tomograms:
        raise VoxelSpacingError(f"{run} has no tomogram to take the voxel spacing from", "give --voxel-spacing")
    return float(tomograms[0].voxel_spacing_angstrom)


_PIXELS = "Voxel spacing of the written coordinates in Å (default: the tomogram's)."


@export.command(cls=Command)
@_export_arguments
@_spacing_option(_PIXELS)
@click.option(
    "--for",
    "flavour",
    type=click.Choice(["plain", "relion3.1", "relion4", "relion5", "surforama"]),
    default="plain",
    show_default=True,
    help="The program that shall read the file.",
)
def star(config: str, uri: str, *, run: str, output: str, voxel_spacing: float | None, flavour: str) -> None:
    """Write picks (URI name:user/session) as a RELION STAR file.

    \b
    Example:
      membrain-cloud export star project/config.json membrane-protein:membrain/1a2b3c4d -r TS_1 --output picks.star
    """
    from membrain_cloud.store.formats.star import write_star
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    picks = project.read_picks(project.object(run, uri))
    tomograms = project.tomograms([run], None, None)
    write_star(
        output,
        picks,
        voxel_spacing_angstrom=_voxel_spacing(project, run, voxel_spacing),
        tomogram=run,
        flavour=flavour,
        grid=project.grid(tomograms[0]) if tomograms else None,
    )
    click.echo(f"{len(picks)} picks -> {os.path.relpath(output)}")


@export.command(cls=Command)
@_export_arguments
@_spacing_option(_PIXELS)
@click.option(
    "--tomogram-number",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Tomogram number written for every particle.",
)
def motl(config: str, uri: str, *, run: str, output: str, voxel_spacing: float | None, tomogram_number: int) -> None:
    """Write picks (URI name:user/session) as a motive list.

    The format is EM, or STOPGAP's if the output's name ends in .star.

    \b
    Example:
      membrain-cloud export motl project/config.json membrane-protein:membrain/1a2b3c4d -r TS_1 --output picks.em
    """
    from membrain_cloud.store.formats.motl import write_motive_list, write_stopgap
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    picks = project.read_picks(project.object(run, uri))
    spacing = _voxel_spacing(project, run, voxel_spacing)
    write = write_stopgap if output.lower().endswith(".star") else write_motive_list
    write(output, picks, voxel_spacing_angstrom=spacing, tomogram_number=tomogram_number)
    click.echo(f"{len(picks)} picks -> {os.path.relpath(output)}")


@export.command(cls=Command)
@_export_arguments
@_spacing_option("Write .obj coordinates in voxels of this spacing in Å (default: in Å; for .h5 the tomogram's).")
@click.option(
    "--picks", metavar="URI", help="Picks to write into each .h5 with the membrane that they are on (default: none)."
)
def meshes(config: str, uri: str, *, run: str, output: str, voxel_spacing: float | None, picks: str | None) -> None:
    """Write meshes (URI name:user/session) as .glb, .obj or .h5.

    One .glb holds all membranes; of .obj and .h5 (MemBrain-pick) there is one file a membrane. Coordinates are in Å. If
    there are several membranes, each file's name gets the membrane's number.

    \b
    Example:
      membrain-cloud export meshes project/config.json membrane:membrain/1a2b3c4d -r TS_1 --output membranes.glb
    """
    from membrain_cloud.store.formats.meshes import write_membranes
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    files = write_membranes(
        output,
        project.read_meshes(project.object(run, uri)),
        None if picks is None else project.read_picks(project.object(run, picks)),
        voxel_spacing_angstrom=_voxel_spacing(project, run, voxel_spacing) if output.lower().endswith(".h5") else 1.0,
        unit_angstrom=voxel_spacing or 1.0,
    )
    for file in files:
        click.echo(os.path.relpath(file))


@export.command(cls=Command)
@_export_arguments
def mrc(config: str, uri: str, *, run: str, output: str) -> None:
    """Write a segmentation as MRC.

    URI is name:user/session@spacing, with ?instance=true for numbered membranes.

    \b
    Example:
      membrain-cloud export mrc project/config.json membrane:membrain/1a2b3c4d@10.0 -r TS_1 --output membranes.mrc
    """
    from membrain_cloud.store.formats.volume_writer import write_mrc
    from membrain_cloud.store.projects.open import open_project

    project = open_project(config)
    ref = project.segmentation(run, uri)
    write_mrc(output, project.read_labels(ref), ref.voxel_spacing_angstrom)
    click.echo(os.path.relpath(output))
