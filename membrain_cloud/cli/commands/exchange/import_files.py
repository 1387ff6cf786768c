"""The group `import`: annotations from files of other programs, and statistics of a folder of meshes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from membrain_cloud.cli.app import Command, exit_failed, print_json, say
from membrain_cloud.cli.options import SettingsOptions, absolute, json_option, option, option_group, takes
from membrain_cloud.cli.project_options import config_argument
from membrain_cloud.cli.read_options import empty_chunks_option, label_threshold_option

if TYPE_CHECKING:
    from membrain_cloud.geometry import MeshSurface
    from membrain_cloud.pipeline.projects.measure_folder import FolderOptions, MeasuredRun


@click.group("import")
def import_() -> None:
    """Import annotations or meshes of other programs."""


@option_group
class AnnotationOptions:
    """Where an imported annotation goes."""

    run: str = option(
        "-r", "--run", required=True, metavar="RUN", help="Run of the annotation; it is made if it does not exist."
    )
    user: str = option("--user", required=True, metavar="NAME", help="User of the annotation: who or what made it.")
    session: str = option(
        "--session", default="1", show_default=True, metavar="NAME", help="Session of the annotation."
    )
    voxel_spacing: float | None = option(
        "--voxel-spacing", type=float, metavar="A", help="Voxel spacing of the file in Å (default: from the file)."
    )


@import_.command(cls=Command)
@config_argument
@click.argument("file", type=click.Path(exists=True))
@takes(AnnotationOptions)
@click.option("--name", default="membrane", show_default=True, metavar="NAME", help="Object of the segmentation.")
@click.option("--instances", is_flag=True, help="Keep the labels as numbered membranes (default: one mask).")
@click.option(
    "--label", type=int, metavar="N", help="Label of membrane in a file of several labels (default: its only label)."
)
@label_threshold_option
@empty_chunks_option
def segmentation(
    target: AnnotationOptions,
    config: str,
    file: str,
    *,
    name: str,
    instances: bool,
    label: int | None,
    label_threshold: float | None,
    empty_chunks: str,
) -> None:
    """Import a label volume as a segmentation.

    \b
    Example:
      membrain-cloud import segmentation project/config.json labels.mrc -r TS_1 --user alice --session 3
    """
    from membrain_cloud.store.projects.import_annotations import import_segmentation
    from membrain_cloud.store.projects.open import open_project
    from membrain_cloud.store.refs import ObjectRef

    ref = import_segmentation(
        open_project(config),
        file,
        ObjectRef(target.run, name, target.user, target.session),
        instance=instances,
        label=label,
        label_threshold=label_threshold,
        fill_empty_chunks=empty_chunks == "fill",
        voxel_spacing_angstrom=target.voxel_spacing,
        report=say,
    )
    click.echo(ref.uri)


@import_.command(cls=Command)
@config_argument
@click.argument("file", type=click.Path(exists=True))
@takes(AnnotationOptions)
@click.option("--object", "object_name", required=True, metavar="NAME", help="Object of the picks, e.g. psii.")
@click.option(
    "--origin",
    nargs=3,
    type=float,
    default=(0.0, 0.0, 0.0),
    show_default=True,
    metavar="X Y Z",
    help="Origin that the positions are relative to, in Å; it is subtracted.",
)
@click.option(
    "--tomogram",
    metavar="NAME",
    help="Tomogram to take from a file: its name in a STAR file, its number in a motive list (default: the only one).",
)
@click.option(
    "--inverse-angles",
    is_flag=True,
    help="Angles rotate the particle into the tomogram (default: the inverse, as RELION's do).",
)
@click.option(
    "--keep-outside",
    is_flag=True,
    help="Import particles although most lie outside of the tomogram (default: they are refused).",
)
def picks(
    target: AnnotationOptions,
    config: str,
    file: str,
    *,
    object_name: str,
    origin: tuple[float, float, float],
    tomogram: str | None,
    inverse_angles: bool,
    keep_outside: bool,
) -> None:
    """Import particles as picks.

    FILE is .star, .csv, .em (motive list) or .h5 (MemBrain-pick).

    \b
    Example:
      membrain-cloud import picks project/config.json psii.star -r TS_1 --object psii --user expert
    """
    from membrain_cloud.store.projects.import_annotations import import_picks
    from membrain_cloud.store.projects.open import open_project
    from membrain_cloud.store.refs import ObjectRef

    ref = import_picks(
        open_project(config),
        file,
        ObjectRef(target.run, object_name, target.user, target.session),
        voxel_spacing_angstrom=target.voxel_spacing,
        origin_angstrom=origin,
        tomogram=tomogram,
        inverse_angles=inverse_angles,
        keep_outside=keep_outside,
        report=say,
    )
    click.echo(ref.uri)


@import_.command(cls=Command)
@config_argument
@click.argument("files", type=click.Path(exists=True), nargs=-1, required=True)
@takes(AnnotationOptions)
def meshes(target: AnnotationOptions, config: str, files: tuple[str, ...]) -> None:
    """Import meshes of membranes.

    FILES are .glb, .obj or .h5 (MemBrain-pick). Give --voxel-spacing if the files count voxels, as those of
    `membrain_pick convert` do.

    \b
    Example:
      membrain-cloud import meshes project/config.json mb1.h5 mb2.h5 -r TS_1 --user alice --voxel-spacing 10
    """
    from membrain_cloud.store.projects.create import MEMBRANE_OBJECT
    from membrain_cloud.store.projects.import_annotations import import_meshes
    from membrain_cloud.store.projects.open import open_project
    from membrain_cloud.store.refs import ObjectRef

    ref = import_meshes(
        open_project(config),
        list(files),
        ObjectRef(target.run, MEMBRANE_OBJECT[0], target.user, target.session),
        voxel_spacing_angstrom=target.voxel_spacing,
        report=say,
    )
    click.echo(ref.uri)


@option_group
class StatisticsOptions:
    """How a folder of meshes and particles is read."""

    url: str = option("--tables", required=True, metavar="URL", help="Folder or URL for the Parquet tables.")
    dataset: str = option(
        "--dataset", default="local", show_default=True, metavar="NAME", help="The `dataset=` partition of the tables."
    )
    pixel_size_multiplier: float | None = option(
        "--pixel-size-multiplier",
        type=float,
        metavar="A",
        help="Length of one unit of the meshes' coordinates in Å (default: 1).",
    )
    pixel_size_multiplier_positions: float | None = option(
        "--pixel-size-multiplier-positions",
        type=float,
        metavar="A",
        help="Length of one unit of the particles' coordinates in Å (default: the STAR file's pixel size, else 1).",
    )
    particles: str | None = option(
        "--particles",
        type=click.Path(exists=True),
        metavar="FILE",
        help="STAR file with the particles of all membranes (default: one file beside each mesh).",
    )
    object_name: str = option(
        "--object", default="particle", show_default=True, metavar="NAME", help="Object of the particles, e.g. psii."
    )
    classes: tuple[str, ...] = option(
        "--class", multiple=True, metavar="N=NAME", help="Object of the particles of class number N (repeatable)."
    )
    inverse_angles: bool = option(
        "--inverse-angles",
        is_flag=True,
        help="Angles rotate the particle into the tomogram (default: the inverse, as RELION's do).",
    )
    surface: str | None = option(
        "--surface",
        type=click.Choice(["shell", "side", "midsurface"]),
        help="What the meshes are of: closed shells around membranes, one side, or the surface midway (default: told "
        "from each mesh).",
    )

    def folder_options(self) -> FolderOptions:
        """Return the options as the pipeline takes them.

        Raises
        ------
        UsageError
            A class is not of the form N=NAME.
        """
        from membrain_cloud.pipeline.projects.measure_folder import FolderOptions, parse_classes
        from membrain_cloud.store.formats.membrain_stats import Units

        return FolderOptions(
            dataset=self.dataset,
            units=Units(self.pixel_size_multiplier, self.pixel_size_multiplier_positions),
            particles=self.particles,
            object_name=self.object_name,
            objects=parse_classes(self.classes),
            inverse_angles=self.inverse_angles,
            surface=cast("MeshSurface | None", self.surface),
        )


@import_.command("statistics", cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@takes(StatisticsOptions, SettingsOptions)
@json_option
def statistics(options: StatisticsOptions, settings: SettingsOptions, folder: str, *, as_json: bool) -> None:
    """Measure a folder of meshes and particles into tables.

    FOLDER is one that membrain_stats reads: it holds an .h5 or .obj for each membrane, and its particles in
    <stem>_clusters.star (or <stem>.star, or <stem>_surforama.star) beside it, in the .h5 itself, or in one RELION file
    for all (--particles; its rlnTomoName is the part of a mesh's name before _mb1). Coordinates are in Å unless the
    STAR file names its pixel size or a multiplier is given. All statistics of `measure` are computed; membranes already
    measured are skipped.

    \b
    Example:
      membrain-cloud import statistics meshes --tables statistics --pixel-size-multiplier-positions 14.08
    """
    from membrain_cloud.pipeline.projects.measure_folder import measure_folder
    from membrain_cloud.store.tables.parquet_tables import Tables

    results = measure_folder(
        folder, Tables(absolute(options.url)), settings.load(), options.folder_options(), report=_print_run
    )
    if as_json:
        print_json([vars(run) for run in results])
    else:
        click.echo(absolute(options.url))
    if any(run.state == "failed" for run in results):
        exit_failed()


def _print_run(run: MeasuredRun) -> None:
    left_out = f", {run.left_out} particles on no membrane" if run.left_out else ""
    bad = f" ({run.bad_membranes} could not be measured: see `error` in membranes)" if run.bad_membranes else ""
    outcome = run.message or f"{run.membranes} membranes{bad}, {run.particles} particles{left_out}"
    say(f"{run.run}: {run.state} in {run.seconds:.1f} s: {outcome}")
    if run.assumed_shells:
        say(
            f"{run.run}: {run.assumed_shells} closed meshes have no two leaflets and were taken for shells, with half "
            "of their area. If they are single surfaces of vesicles, give --surface midsurface"
        )
