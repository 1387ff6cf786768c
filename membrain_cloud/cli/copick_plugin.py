"""Commands of this package under copick's own command line: `copick inference membrain-cloud` and others.

copick imports this module at every call, so nothing heavy is imported at the top. The commands speak copick's words
(-c or COPICK_CONFIG, -r, -i and -o with URIs, --overwrite) and pass them on to `membrain-cloud run` and `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli.app import Function, absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

# Where CZII's runs of MemBrain-seg on the portal put their results, and how they were made.
PRESETS = {
    "czii": ("output.user=membrain-seg", "output.session=0", "segment.mode=exact", "segment.rescale=false"),
}


def _common_options(function: Function) -> Function:
    options = [
        click.option(
            "-c",
            "--config",
            required=True,
            envvar="COPICK_CONFIG",
            show_envvar=True,
            metavar="PATH",
            help="Copick config or manifest: a path or URL.",
        ),
        click.option(
            "-r", "--run-names", multiple=True, metavar="RUN", help="Runs; repeat, or use commas (default: all)."
        ),
        click.option("--settings", metavar="FILE", help="YAML file of membrain-cloud's settings."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. pick.threshold=7."),
        click.option("--workers", type=click.IntRange(1), metavar="N", help="Local processes."),
        click.option("--in-process", is_flag=True, help="One task after the other, in this process."),
        click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, e.g. tcp://host:8786."),
        click.option(
            "--overwrite/--no-overwrite", default=False, show_default=True, help="Do again what is there already."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _output_option(function: Function) -> Function:
    text = "URI name:user/session to write to; session `auto` derives one from the settings."
    return click.option("-o", "--output", metavar="URI", help=text)(function)


def _preset_option(function: Function) -> Function:
    text = "czii: write where CZII's runs on the portal wrote (user membrain-seg, session 0), made in exact mode."
    return click.option("--preset", type=click.Choice(sorted(PRESETS)), help=text)(function)


@click.command("membrain-cloud", short_help="Segment membranes with membrain-cloud.")
@_common_options
@click.option("-i", "--input", "source", metavar="URI", help="Tomograms, type@spacing (default: one a run is chosen).")
@_output_option
@click.option("--model", metavar="NAME|PATH|URL", help="The network (default: the one that ships).")
@click.option("--mode", type=click.Choice(["exact", "fast"]), help="As MemBrain-seg voxel for voxel, or faster.")
@click.option("--instances/--no-instances", default=True, show_default=True, help="Also membranes one by one.")
@_preset_option
def inference(
    source: str | None, output: str | None, model: str | None, mode: str | None, instances: bool, **common: Any
) -> None:
    """Segment membranes: a mask, and membranes one by one.

    \b
    Examples:
      copick inference membrain-cloud -c config.json -i wbp@10.0
      copick inference membrain-cloud -c config.json -r TS_1 -o membrane:membrain/auto@10.0 --mode exact
    """
    chosen = [*_tomogram(source), *_target(output, "membrane")]
    chosen += [f"segment.model={model}"] if model else []
    chosen += [f"segment.mode={mode}"] if mode else []
    _run("segment,separate" if instances else "segment", chosen, **common)


@click.command("membrain-separate", short_help="Split a mask into membranes with membrain-cloud.")
@_common_options
@click.option("-i", "--input", "source", required=True, metavar="URI", help="A mask, name:user/session@spacing.")
@_output_option
def separate(source: str, output: str | None, **common: Any) -> None:
    """Membranes one by one out of somebody's mask.

    \b
    Example:
      copick process membrain-separate -c config.json -i membrane:alice/3@10.0
    """
    _run("separate", [f"separate.segmentation={source}", *_target(output, "membrane")], **common)


@click.command("membrain-mesh", short_help="Mesh membranes with membrain-cloud.")
@_common_options
@click.option("-i", "--input", "source", required=True, metavar="URI", help="A mask or (?instance=true) instances.")
@_output_option
def mesh(source: str, output: str | None, **common: Any) -> None:
    """One closed mesh a membrane.

    \b
    Example:
      copick process membrain-mesh -c config.json -i 'membrane:alice/3@10.0?instance=true'
    """
    stages = "mesh" if "instance=true" in source.lower() else "separate,mesh"
    _run(stages, [f"separate.segmentation={source}", *_target(output, "membrane")], **common)


@click.command("membrain-pick", short_help="Pick proteins on membranes with membrain-cloud.")
@_common_options
@click.option("-i", "--input", "source", required=True, metavar="URI", help="A mask or (?instance=true) instances.")
@click.option("-t", "--tomogram", metavar="URI", help="Tomograms, type@spacing (default: one a run is chosen).")
@click.option("--model", metavar="NAME|PATH|URL", help="The picker (default: the one that ships).")
@_output_option
def pick(source: str, tomogram: str | None, model: str | None, output: str | None, **common: Any) -> None:
    """Particles on membranes, with their orientations.

    \b
    Example:
      copick process membrain-pick -c config.json -i 'membrane:alice/3@10.0?instance=true' -o psii:membrain/auto
    """
    stages = "mesh,pick" if "instance=true" in source.lower() else "separate,mesh,pick"
    chosen = [f"separate.segmentation={source}", *_tomogram(tomogram), *_target(output, None)]
    chosen += [f"pick.object={output.partition(':')[0]}"] if output else []
    chosen += [f"pick.model={model}"] if model else []
    _run(stages, chosen, **common)


@click.command("membrain-measure", short_help="Measure membranes and particles with membrain-cloud.")
@_common_options
@click.option("-i", "--input", "source", required=True, metavar="URI", help="A mask or (?instance=true) instances.")
@click.option("--picks", metavar="URI", help="Particles, object:user/session; without them membranes are measured.")
@click.option("--tables", metavar="URL", help="Where the Parquet tables are kept (default: the project's).")
def measure(source: str, picks: str | None, tables: str | None, **common: Any) -> None:
    """Areas, densities and neighbours along the membranes, as Parquet tables.

    \b
    Example:
      copick process membrain-measure -c config.json -i 'membrane:alice/3@10.0?instance=true' --picks psii:expert/1
    """
    stages = "mesh,measure" if "instance=true" in source.lower() else "separate,mesh,measure"
    chosen = [f"separate.segmentation={source}", f"measure.picks={picks or 'none'}"]
    chosen += [f"output.tables={absolute(tables)}"] if tables else []
    _run(stages, chosen, **common)


def _train(what: str) -> click.Command:
    """`membrain-cloud train WHAT` itself, under copick's name for it."""

    @click.command(
        f"membrain-{what}",
        short_help=f"Train membrain-cloud's network for {'picking' if what == 'picker' else what}.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def train(words: tuple[str, ...]) -> None:
        _call(["train", "picking" if what == "picker" else what, *words])

    return train


train_segmentation = _train("segmentation")
train_picker = _train("picker")


def _tomogram(uri: str | None) -> list[str]:
    """`type@spacing` or `type` as settings."""
    if not uri:
        return []
    kind, _, spacing = uri.partition("@")
    chosen = [f"input.tomogram_type={kind}"] if kind not in ("", "*") else []
    return chosen + ([f"input.voxel_spacing_angstrom={spacing}"] if spacing else [])


def _target(uri: str | None, name: str | None) -> list[str]:
    """User and session of an output URI as settings; UsageError for a name that is not the one we write."""
    if not uri:
        return []
    called, _, rest = uri.partition(":")
    user, slash, session = rest.partition("@")[0].partition("/")
    if not called or not user or not slash or not session or (name is not None and called != name):
        raise click.BadParameter(f"{uri!r}: write {name or 'object'}:user/session", param_hint="-o")
    return [f"output.user={user}", f"output.session={session}"]


def _run(
    stages: str,
    chosen: Sequence[str],
    *,
    config: str,
    run_names: Sequence[str],
    settings: str | None,
    overrides: Sequence[str],
    workers: int | None,
    in_process: bool,
    scheduler: str | None,
    overwrite: bool,
    preset: str | None = None,
) -> None:
    pairs = [*PRESETS.get(preset or "", ()), *chosen, *overrides]
    runs = [name.strip() for text in run_names for name in text.split(",") if name.strip()]
    _guard(config, runs, stages, settings, pairs, overwrite)
    words = ["run", config, "--stages", stages]
    words += [word for name in runs for word in ("-r", name)]
    words += ["--settings", settings] if settings else []
    words += [word for pair in pairs for word in ("--set", pair)]
    words += ["--workers", str(workers)] if workers else []
    words += ["--in-process"] if in_process else []
    words += ["--scheduler", scheduler] if scheduler else []
    _call(words)


def _guard(
    config: str, runs: Sequence[str], stages: str, settings_file: str | None, pairs: Sequence[str], overwrite: bool
) -> None:
    """With `overwrite`, what is done is forgotten; without it, what somebody else made is not touched."""
    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.pipeline.planning.invalidate import foreign_annotations, invalidate_results
    from membrain_cloud.pipeline.planning.plan import plan
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.stages.registry import STAGES
    from membrain_cloud.store.projects.open import open_project

    try:
        settings, project = load_settings(settings_file, tuple(pairs)), open_project(absolute(config))
        if overwrite:
            invalidate_results(project, settings, stages.split(","), list(runs) or None)
            return
        made = plan(project, settings, STAGES, runs=list(runs) or None, stages=stages.split(","))
        foreign = foreign_annotations(project, settings, made)
    except MembrainCloudError as error:
        raise click.ClickException(str(error)) from None
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise click.ClickException(
            f"{foreign[0]}{more} was not made by membrain-cloud -> choose another session with -o, or say --overwrite"
        )


def _call(words: Sequence[str]) -> None:
    """Our own command line, with its messages and exit codes."""
    from membrain_cloud.cli import main

    main.main(args=list(words), prog_name="membrain-cloud")
