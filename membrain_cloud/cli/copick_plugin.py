"""Commands of this package under copick's own command line: `copick inference membrain-cloud` and others.

copick imports this module at every call, so nothing heavy is imported at the top. The commands take copick's options
(-c or COPICK_CONFIG, -r, -i and -o with URIs, --overwrite) and pass them on to `membrain-cloud run` and `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from membrain_cloud.cli.options import (
    Function,
    PlacementOptions,
    SettingsOptions,
    TablesOptions,
    absolute,
    option,
    option_group,
    takes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Parsed = TypeVar("Parsed")
# Settings of CZII's MemBrain-seg runs on the portal: where they put their results, and how they were made.
PRESETS = {
    "czii": ("output.user=membrain-seg", "output.session=0", "segment.mode=exact", "segment.rescale=false"),
}


@option_group
class ProjectOptions:
    """Which runs of which project are worked on."""

    config: str = option(
        "-c",
        "--config",
        required=True,
        envvar="COPICK_CONFIG",
        show_envvar=True,
        metavar="PATH",
        help="Copick config or manifest, a path or URL.",
    )
    run_names: tuple[str, ...] = option(
        "-r",
        "--run-names",
        multiple=True,
        metavar="RUN",
        help="Only these runs, repeated or with commas (default: all).",
    )
    overwrite: bool = option(
        "--overwrite/--no-overwrite",
        default=False,
        show_default=True,
        help="Repeat what is done already, and replace annotations that membrain-cloud did not make.",
    )

    @property
    def runs(self) -> list[str]:
        """Names of the runs; empty for all."""
        return [name.strip() for text in self.run_names for name in text.split(",") if name.strip()]


@option_group
class RunOptions(PlacementOptions, SettingsOptions):
    """With which settings, and where, stages are executed."""


def _output_option(function: Function) -> Function:
    text = "URI to write to, name:user/session; session `auto` derives one from the settings (default: membrain/auto)."
    return click.option("-o", "--output", metavar="URI", help=text)(function)


def _source_option(
    text: str = "A mask, or with ?instance=true membranes one by one: name:user/session@spacing.",
) -> Callable[[Function], Function]:
    return click.option("-i", "--input", "source", required=True, metavar="URI", help=text)


def _tomogram_option(*names: str) -> Callable[[Function], Function]:
    text = "Tomograms, type@spacing (default: the project's own choice for each run)."
    return click.option(*names, metavar="URI", help=text)


@click.command("membrain-cloud", short_help="Segment membranes with membrain-cloud.")
@takes(ProjectOptions, RunOptions)
@_tomogram_option("-i", "--input", "source")
@_output_option
@click.option("--model", metavar="NAME|PATH|URL", help="Segmentation model (default: membrain-cloud-small).")
@click.option(
    "--mode",
    type=click.Choice(["exact", "fast"]),
    help="exact: as MemBrain-seg voxel for voxel; fast: nearly the same in less time (default: fast).",
)
@click.option("--instances/--no-instances", default=True, show_default=True, help="Also separate the membranes.")
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    help="czii: exact mode, written as CZII's runs on the portal, user membrain-seg, session 0 (default: none).",
)
def inference(
    project: ProjectOptions,
    run: RunOptions,
    *,
    source: str | None,
    output: str | None,
    model: str | None,
    mode: str | None,
    instances: bool,
    preset: str | None,
) -> None:
    """Segment membranes: a mask, and membranes one by one.

    \b
    Examples:
      copick inference membrain-cloud -c config.json -i wbp@10.0
      copick inference membrain-cloud -c config.json -r TS_1 -o membrane:membrain/auto@10.0 --mode exact
    """
    pairs = [*PRESETS.get(preset or "", ()), *_tomogram(source), *_target(output, "membrane")]
    pairs += [f"segment.model={model}"] if model else []
    pairs += [f"segment.mode={mode}"] if mode else []
    _run("segment,separate" if instances else "segment", pairs, project, run)


@click.command("membrain-separate", short_help="Split a mask into membranes with membrain-cloud.")
@takes(ProjectOptions, RunOptions)
@_source_option("A mask, name:user/session@spacing.")
@_output_option
def separate(
    project: ProjectOptions,
    run: RunOptions,
    *,
    source: str,
    output: str | None,
) -> None:
    """Separate the membranes of a mask.

    \b
    Example:
      copick process membrain-separate -c config.json -i membrane:alice/3@10.0
    """
    pairs = [f"separate.segmentation={source}", *_target(output, "membrane")]
    _run("separate", pairs, project, run)


@click.command("membrain-mesh", short_help="Mesh membranes with membrain-cloud.")
@takes(ProjectOptions, RunOptions)
@_source_option()
@_output_option
def mesh(
    project: ProjectOptions,
    run: RunOptions,
    *,
    source: str,
    output: str | None,
) -> None:
    """Make one closed mesh for each membrane.

    \b
    Example:
      copick process membrain-mesh -c config.json -i 'membrane:alice/3@10.0?instance=true'
    """
    pairs = [f"separate.segmentation={source}", *_target(output, "membrane")]
    _run(_stages("mesh", source), pairs, project, run)


@click.command("membrain-pick", short_help="Pick proteins on membranes with membrain-cloud.")
@takes(ProjectOptions, RunOptions)
@_source_option()
@_tomogram_option("-t", "--tomogram")
@click.option("--model", metavar="NAME|PATH|URL", help="Picker (default: membrain-cloud-picker).")
@_output_option
def pick(
    project: ProjectOptions,
    run: RunOptions,
    *,
    source: str,
    tomogram: str | None,
    model: str | None,
    output: str | None,
) -> None:
    """Pick particles on membranes, with their orientations.

    \b
    Example:
      copick process membrain-pick -c config.json -i 'membrane:alice/3@10.0?instance=true' -o psii:membrain/auto
    """
    pairs = [f"separate.segmentation={source}", *_tomogram(tomogram), *_target(output, None)]
    pairs += [f"pick.object={output.partition(':')[0]}"] if output else []
    pairs += [f"pick.model={model}"] if model else []
    _run(_stages("mesh,pick", source), pairs, project, run)


@click.command("membrain-measure", short_help="Measure membranes and particles with membrain-cloud.")
@takes(ProjectOptions, RunOptions, TablesOptions)
@_source_option()
@click.option("--picks", metavar="URI", help="Particles, object:user/session (default: only membranes are measured).")
def measure(
    project: ProjectOptions,
    run: RunOptions,
    tables: TablesOptions,
    *,
    source: str,
    picks: str | None,
) -> None:
    """Measure areas, densities and neighbours along the membranes, as Parquet tables.

    \b
    Example:
      copick process membrain-measure -c config.json -i 'membrane:alice/3@10.0?instance=true' --picks psii:expert/1
    """
    pairs = [f"separate.segmentation={source}", f"measure.picks={picks or 'none'}", *tables.tables_setting()]
    _run(_stages("mesh,measure", source), pairs, project, run)


def _train(name: str, network: str) -> click.Command:
    """Return `membrain-cloud train NETWORK` as copick's command `membrain-NAME`."""

    @click.command(
        f"membrain-{name}",
        short_help=f"Train membrain-cloud's network for {network}.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def train(words: tuple[str, ...]) -> None:
        _call(["train", network, *words])

    return train


train_segmentation = _train("segmentation", "segmentation")
train_picker = _train("picker", "picking")


def _stages(stages: str, source: str) -> str:
    """Return the stages for a source: a mask is separated first, instances are taken as they are."""
    from membrain_cloud.store.projects.resolve import names_instances

    return stages if _parsed(names_instances, source, "-i") else f"separate,{stages}"


def _tomogram(uri: str | None) -> list[str]:
    """Return the URI `type@spacing` or `type` as settings."""
    from membrain_cloud.store.projects.resolve import parse_tomogram_uri

    if not uri:
        return []
    tomogram = _parsed(parse_tomogram_uri, uri, "-i")
    keys = {"input.tomogram_type": tomogram.tomogram_type, "input.voxel_spacing_angstrom": tomogram[1]}
    return [f"{key}={value}" for key, value in keys.items() if value]


def _target(uri: str | None, name: str | None) -> list[str]:
    """Return user and session of an output URI as settings; BadParameter for another name than the one written."""
    from membrain_cloud.store.projects.resolve import parse_target_uri

    if not uri:
        return []
    target = _parsed(parse_target_uri, uri, "-o")
    if name is not None and target.name != name:
        raise click.BadParameter(f"{uri!r}: write {name}:user/session", param_hint="-o")
    return [f"output.user={target.user}", f"output.session={target.session}"]


def _parsed(parse: Callable[[str], Parsed], uri: str, option_name: str) -> Parsed:
    """Return what a parser of URIs returns; BadParameter in place of its error."""
    from membrain_cloud.errors import ProjectError

    try:
        return parse(uri)
    except ProjectError as error:
        raise click.BadParameter(str(error), param_hint=option_name) from None


def _run(
    stages: str,
    pairs: Sequence[str],
    project: ProjectOptions,
    run: RunOptions,
) -> None:
    """Call `membrain-cloud run` with settings `stage.key=value`; those of `--set` replace them."""
    pairs = [*pairs, *run.overrides]
    _prepare(project, stages, run.settings_file, pairs)
    words = ["run", project.config, "--stages", stages]
    words += [word for name in project.runs for word in ("-r", name)]
    words += ["--settings", run.settings_file] if run.settings_file else []
    words += [word for pair in pairs for word in ("--set", pair)]
    words += ["--workers", str(run.workers)] if run.workers else []
    words += ["--in-process"] if run.in_process else []
    words += ["--scheduler", run.scheduler] if run.scheduler else []
    _call(words)


def _prepare(options: ProjectOptions, stages: str, settings_file: str | None, pairs: Sequence[str]) -> None:
    """Forget what is done if it shall be overwritten; else refuse to replace annotations of other programs."""
    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.pipeline.planning.invalidate import foreign_annotations, invalidate_results
    from membrain_cloud.pipeline.planning.plan import plan
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.stages.registry import STAGES
    from membrain_cloud.store.projects.open import open_project

    runs = options.runs or None
    try:
        settings, project = load_settings(settings_file, tuple(pairs)), open_project(absolute(options.config))
        if options.overwrite:
            invalidate_results(project, settings, stages.split(","), runs)
            return
        foreign = foreign_annotations(
            project, settings, plan(project, settings, STAGES, runs=runs, stages=stages.split(","))
        )
    except MembrainCloudError as error:
        raise click.ClickException(str(error)) from None
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise click.ClickException(
            f"{foreign[0]}{more} was not made by membrain-cloud -> choose another session with -o, or add --overwrite"
        )


def _call(words: Sequence[str]) -> None:
    """Call the command line of membrain-cloud, with its messages and exit codes."""
    from membrain_cloud.cli import main

    main.main(args=list(words), prog_name="membrain-cloud")
