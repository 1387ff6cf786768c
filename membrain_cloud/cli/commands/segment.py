"""Verbs that turn files into files, without a project: segment, thresholds, components, skeletonize."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import FAILED, Function, Program, Verb, json_option, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from membrain_cloud.pipeline.files.postprocess import Derived


def register(main: Program) -> None:
    for command in (segment, thresholds, components, skeletonize):
        main.add_command(command)


def _files_and_output(function: Function) -> Function:
    options = [
        click.argument("files", metavar="FILE...", nargs=-1, required=True),
        click.option("-o", "--output", default=".", metavar="DIR", help="Where the files are written (default: here)."),
        click.option("--voxel-spacing", type=float, metavar="A", help="Voxel spacing in Å, in place of the header's."),
        click.option("--overwrite", is_flag=True, help="Replace outputs that exist."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


# Of `membrain segment`: what it is here. A value that follows goes with the last word.
_OF_MEMBRAIN_SEG: dict[str, tuple[str, ...]] = {
    "--tomogram-path": (),
    "--ckpt-path": ("--model",),
    "--out-folder": ("--output",),
    "--in-pixel-size": ("--voxel-spacing",),
    "--rescale-patches": ("--rescale", "yes"),
    "--no-rescale-patches": ("--rescale", "no"),
    "--store-probabilities": ("--scores",),
    "--no-store-probabilities": ("--no-scores",),
    "--store-connected-components": ("--components",),
    "--no-store-connected-components": (),
    "--connected-component-thres": ("--min-voxels",),
    "--test-time-augmentation": ("--mirrors", "yes"),
    "--no-test-time-augmentation": ("--no-mirrors",),
    "--store-uncertainty-map": ("--uncertainty",),
    "--no-store-uncertainty-map": (),
    "--segmentation-threshold": ("--threshold",),
    "--sliding-window-size": ("--window",),
}


class _Segment(Verb):
    """Takes the options of `membrain segment` too, under their names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words: list[str] = []
        for word in args:
            name, equals, value = word.partition("=")
            words += [*_OF_MEMBRAIN_SEG[name], *([value] if equals else [])] if name in _OF_MEMBRAIN_SEG else [word]
        return super().parse_args(ctx, words)


@click.command(cls=_Segment)
@_files_and_output
@click.option("--model", metavar="NAME|PATH", help="A built-in model or a file (segment.model).")
@click.option("--threshold", type=float, help="A voxel is membrane where its score is above it (segment.threshold).")
@click.option("--window", type=int, metavar="VOXELS", help="Edge of the network's windows (segment.window).")
@click.option("--mirrors", type=click.Choice(["yes", "no", "adaptive"]), help="Average over mirrors (segment.mirrors).")
@click.option("--no-mirrors", is_flag=True, help="The same as --mirrors no.")
@click.option("--rescale", type=click.Choice(["yes", "no"]), help="Rescale windows to the model (segment.rescale).")
@click.option("--scores/--no-scores", default=None, help="Whether to write <stem>_scores.mrc (default: yes).")
@click.option("--uncertainty", is_flag=True, help="Write <stem>_uncertainty_map.mrc: the variance over all mirrors.")
@click.option("--components", is_flag=True, help="Number the connected membranes in <stem>_segmented.mrc.")
@click.option("--min-voxels", type=click.IntRange(1), help="With --components: drop smaller ones.")
@click.option("--skeleton", is_flag=True, help="Write <stem>_segmented_skel.mrc, the centred sheets.")
@click.option("--settings", "settings_file", metavar="FILE", help="YAML file of settings.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. --set segment.mode=exact.")
@json_option
def segment(files: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Segment the membranes of files: <stem>_scores.mrc and <stem>_segmented.mrc for each FILE or 'pattern'.

    Files that are there already, made with the same settings, are not made again. A bad file does not stop the others.
    The options of `membrain segment` are understood too (--tomogram-path, --ckpt-path, --out-folder ...).

    \b
    Examples:
      membrain-cloud segment tomogram.mrc --output out --set segment.mode=exact
      membrain-cloud segment 'data/*.rec' --output out --components --min-voxels 1000
    """
    from membrain_cloud.errors import UsageError
    from membrain_cloud.pipeline.files.segment_file import FileOptions, expand, segment_file
    from membrain_cloud.pipeline.settings import load_settings
    from membrain_cloud.pipeline.stages.inference import on_gpu

    if chosen["min_voxels"] is not None and not chosen["components"]:
        raise UsageError("--min-voxels drops components", "add --components")
    settings = load_settings(chosen["settings_file"], (*chosen["overrides"], *_as_settings(chosen))).segment
    options = FileOptions(
        output=chosen["output"],
        voxel_spacing_angstrom=chosen["voxel_spacing"],
        scores=chosen["scores"] is not False,
        components=chosen["components"],
        min_voxels=chosen["min_voxels"] or 1,
        skeleton=chosen["skeleton"],
        overwrite=chosen["overwrite"],
    )

    with display.Bars() as bars:

        def work(file: str) -> Any:
            with bars.one(os.path.basename(file)) as update:
                return segment_file(file, settings, options, progress=update)

        # On a GPU one file is read and written while another is looked at.
        _do_all(expand(files), work, as_json, at_once=2 if on_gpu() else 1, bars=bars)


def _as_settings(chosen: dict[str, Any]) -> Iterator[str]:
    """The short options as settings; an uncertainty map takes all mirrors."""
    from membrain_cloud.errors import UsageError

    mirrors = chosen["mirrors"]
    if chosen["no_mirrors"]:
        if mirrors not in (None, "no"):
            raise UsageError(f"--no-mirrors and --mirrors {mirrors} exclude each other", "give one of them")
        mirrors = "no"
    if chosen["uncertainty"]:
        mirrors = mirrors or "yes"
        yield "segment.uncertainty=true"
    for key in ("model", "threshold", "window", "rescale"):
        if chosen[key] is not None:
            yield f"segment.{key}={chosen[key]}"
    if mirrors is not None:
        yield f"segment.mirrors={mirrors}"


@click.command(cls=Verb)
@_files_and_output
@click.option(
    "-t", "--threshold", "--thresholds", "values", type=float, multiple=True, required=True, metavar="T",
    help="A voxel is membrane where its score is above T; repeat for several masks.",
)  # fmt: skip
@json_option
def thresholds(
    files: tuple[str, ...],
    output: str,
    voxel_spacing: float | None,
    overwrite: bool,
    values: tuple[float, ...],
    as_json: bool,
) -> None:
    """Make masks of stored scores, without the network: <stem>_threshold_<T>.mrc for each FILE and T.

    \b
    Example:
      membrain-cloud thresholds out/tomogram_scores.mrc -t -0.5 -t 0.5 --output out
    """
    from membrain_cloud.pipeline.files.postprocess import threshold_file

    def work(file: str) -> Derived:
        return threshold_file(file, values, output=output, voxel_spacing_angstrom=voxel_spacing, overwrite=overwrite)

    _do_all(files, work, as_json)


@click.command(cls=Verb)
@_files_and_output
@click.option("--min-voxels", type=click.IntRange(1), default=1, show_default=True, help="Drop smaller ones.")
@json_option
def components(
    files: tuple[str, ...],
    output: str,
    voxel_spacing: float | None,
    overwrite: bool,
    min_voxels: int,
    as_json: bool,
) -> None:
    """Number the 26-connected components of masks 1 to N: <stem>_components.mrc for each FILE.

    \b
    Example:
      membrain-cloud components out/tomogram_segmented.mrc --min-voxels 1000 --output out
    """
    from membrain_cloud.pipeline.files.postprocess import components_file

    def work(file: str) -> Derived:
        return components_file(
            file, min_voxels=min_voxels, output=output, voxel_spacing_angstrom=voxel_spacing, overwrite=overwrite
        )

    _do_all(files, work, as_json)


@click.command(cls=Verb)
@_files_and_output
@json_option
def skeletonize(
    files: tuple[str, ...], output: str, voxel_spacing: float | None, overwrite: bool, as_json: bool
) -> None:
    """Thin masks to their centred sheets, one voxel thick: <stem>_skel.mrc for each FILE.

    \b
    Example:
      membrain-cloud skeletonize out/tomogram_segmented.mrc --output out
    """
    from membrain_cloud.pipeline.files.postprocess import skeletonize_file

    def work(file: str) -> Derived:
        return skeletonize_file(file, output=output, voxel_spacing_angstrom=voxel_spacing, overwrite=overwrite)

    _do_all(files, work, as_json)


def _do_all(
    files: Sequence[str],
    work: Callable[[str], Any],
    as_json: bool,
    *,
    at_once: int = 1,
    bars: display.Bars | None = None,
) -> None:
    """Files in their order. A single bad one ends as any bad input does; of several, the others are done.

    UsageError, before any is done, where two would write to the same names.
    """
    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.pipeline.files.postprocess import require_own_names

    require_own_names(files)
    rows: list[dict[str, Any]] = []
    with _told_to_stop(), _begun(files, work, at_once) as results:
        for file, result in zip(files, results, strict=True):
            try:
                made = result()
            except MembrainCloudError as error:
                if len(files) == 1:
                    raise
                say(f"error: {error}")
                rows.append({"file": file, "state": "failed", "message": error.message, "next_step": error.next_step})
                continue
            rows.append({"state": "done", **vars(made)})
            with bars.aside() if bars is not None else contextlib.nullcontext():
                for note in made.notes:
                    say(f"{file}: {note}")
                if not as_json:
                    click.echo("\n".join(made.outputs))
    if as_json:
        print_json(rows if len(files) > 1 else rows[0])
    failed = sum(row["state"] == "failed" for row in rows)
    if failed:
        say(f"{failed} of {len(files)} files failed")
        raise click.exceptions.Exit(FAILED)


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: what was begun is put away."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _begun(files: Sequence[str], work: Callable[[str], Any], at_once: int) -> Iterator[list[Callable[[], Any]]]:
    """Calls that give what was made of each file; they are to be made in order."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    if at_once == 1:
        yield [partial(work, file) for file in files]
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield [pool.submit(work, file).result for file in files]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
