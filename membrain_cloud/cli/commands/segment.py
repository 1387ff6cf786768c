"""Commands that turn files into files, without a project: segment, thresholds, components, skeletonize."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import FAILED, Command, error_line, print_json, say
from membrain_cloud.cli.options import SettingsOptions, json_option, option, option_group, takes
from membrain_cloud.cli.read_options import label_threshold_option
from membrain_cloud.errors import InputError, MembrainCloudError, UsageError

if TYPE_CHECKING:
    from membrain_cloud.pipeline.files.postprocess import Derived
    from membrain_cloud.pipeline.files.segment_file import FileOptions

# Processes one file; returns a dataclass with `notes` and `outputs`.
Process = Callable[[str], Any]

files_argument = click.argument("files", metavar="FILE...", nargs=-1, required=True)


@option_group
class OutputOptions:
    """Where files are written, and how their voxels are read."""

    output: str = option(
        "-o", "--output", default=".", metavar="DIR", help="Folder of the written files (default: the current one)."
    )
    voxel_spacing: float | None = option(
        "--voxel-spacing",
        type=float,
        metavar="A",
        help="Voxel spacing of the files in Å (default: from their headers).",
    )
    overwrite: bool = option("--overwrite", is_flag=True, help="Replace outputs that exist.")


@option_group
class SegmentOptions:
    """What is segmented how, and which files are written."""

    model: str | None = option(
        "--model",
        metavar="NAME|PATH",
        help="Built-in model or model file; sets segment.model (default: membrain-cloud-small).",
    )
    threshold: float | None = option(
        "--threshold",
        type=float,
        metavar="T",
        help="Score above which a voxel is membrane; sets segment.threshold (default: 0).",
    )
    window: int | None = option(
        "--window",
        type=int,
        metavar="VOXELS",
        help="Edge of the sliding windows in voxels; sets segment.window (default: the model's).",
    )
    mirrors: str | None = option(
        "--mirrors",
        type=click.Choice(["yes", "no", "adaptive"]),
        help="Average over mirrored windows; sets segment.mirrors (default: adaptive, in exact mode yes).",
    )
    no_mirrors: bool = option("--no-mirrors", is_flag=True, help="The same as --mirrors no.")
    rescale: str | None = option(
        "--rescale",
        type=click.Choice(["yes", "no"]),
        help="Resample windows to the model's voxel spacing; sets segment.rescale (default: if it differs by more "
        "than 45 %; in exact mode no).",
    )
    scores: bool | None = option(
        "--scores/--no-scores", default=None, help="Write <stem>_scores.mrc, the network's scores (default: yes)."
    )
    uncertainty: bool = option(
        "--uncertainty",
        is_flag=True,
        help="Write <stem>_uncertainty_map.mrc, the variance over all mirrors; sets segment.uncertainty.",
    )
    components: bool = option(
        "--components",
        is_flag=True,
        help="Number the connected components in <stem>_segmented.mrc (default: values 0 and 1).",
    )
    min_voxels: int | None = option(
        "--min-voxels",
        type=click.IntRange(1),
        metavar="N",
        help="With --components: smallest component to keep, in voxels (default: 1).",
    )
    skeleton: bool = option(
        "--skeleton", is_flag=True, help="Write <stem>_segmented_skel.mrc, the centred sheets of the membranes."
    )

    def settings(self) -> Iterator[str]:
        """Yield the given options as settings `segment.key=value`; an uncertainty map needs all mirrors.

        Raises
        ------
        UsageError
            `--no-mirrors` contradicts `--mirrors`.
        """
        mirrors = self.mirrors
        if self.no_mirrors:
            if mirrors not in (None, "no"):
                raise UsageError(f"--no-mirrors and --mirrors {mirrors} exclude each other", "give one of them")
            mirrors = "no"
        if self.uncertainty:
            mirrors = mirrors or "yes"
            yield "segment.uncertainty=true"
        values = {"model": self.model, "threshold": self.threshold, "window": self.window, "rescale": self.rescale}
        for key, value in {**values, "mirrors": mirrors}.items():
            if value is not None:
                yield f"segment.{key}={value}"

    def file_options(self, output: OutputOptions) -> FileOptions:
        """Return the options as the pipeline takes them.

        Parameters
        ----------
        output : OutputOptions
            Where the files are written.

        Raises
        ------
        UsageError
            `--min-voxels` comes without `--components`.
        """
        from membrain_cloud.pipeline.files.segment_file import FileOptions

        if self.min_voxels is not None and not self.components:
            raise UsageError("--min-voxels drops components", "add --components")
        return FileOptions(
            output=output.output,
            voxel_spacing_angstrom=output.voxel_spacing,
            scores=self.scores is not False,
            components=self.components,
            min_voxels=self.min_voxels or 1,
            skeleton=self.skeleton,
            overwrite=output.overwrite,
        )


# Options of `membrain segment` as options of this command. A value that follows belongs to the last word.
_MEMBRAIN_SEG_OPTIONS: dict[str, tuple[str, ...]] = {
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


class _SegmentCommand(Command):
    """Take the options of `membrain segment` too, under their names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replace MemBrain-seg's options by this command's, and parse them.

        Parameters
        ----------
        ctx : click.Context
            The command's context.
        args : list of str
            Words of the command line.

        Returns
        -------
        list of str
            Words that are left over.
        """
        words: list[str] = []
        for word in args:
            name, equals, value = word.partition("=")
            if name in _MEMBRAIN_SEG_OPTIONS:
                words += [*_MEMBRAIN_SEG_OPTIONS[name], *([value] if equals else [])]
            else:
                words.append(word)
        return super().parse_args(ctx, words)


@click.command(cls=_SegmentCommand)
@files_argument
@takes(OutputOptions, SegmentOptions, SettingsOptions)
@json_option
def segment(
    output: OutputOptions,
    options: SegmentOptions,
    settings_options: SettingsOptions,
    files: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Segment the membranes in tomogram files.

    This writes <stem>_scores.mrc and <stem>_segmented.mrc for each FILE or 'pattern'. Outputs that exist and were made
    with the same settings are kept. A bad file does not stop the others. The options of `membrain segment` are accepted
    too (--tomogram-path, --ckpt-path, --out-folder ...).

    \b
    Examples:
      membrain-cloud segment tomogram.mrc --output out --set segment.mode=exact
      membrain-cloud segment 'data/*.rec' --output out --components --min-voxels 1000
    """
    from membrain_cloud.pipeline.files.segment_file import expand, segment_file
    from membrain_cloud.pipeline.stages.inference import on_gpu

    file_options = options.file_options(output)
    settings = settings_options.load(*options.settings()).segment

    with display.Bars() as bars:

        def process(file: str) -> Any:
            with bars.bar(Path(file).name) as update:
                return segment_file(file, settings, file_options, progress=update)

        # On a GPU one file is read and written while another is segmented.
        process_files(expand(files), process, as_json, at_once=2 if on_gpu() else 1, bars=bars)


@click.command(cls=Command)
@files_argument
@takes(OutputOptions)
@click.option(
    "-t",
    "--threshold",
    "--thresholds",
    "values",
    type=float,
    multiple=True,
    required=True,
    metavar="T",
    help="Score above which a voxel is membrane (repeatable, for several masks).",
)
@json_option
def thresholds(output: OutputOptions, files: tuple[str, ...], *, values: tuple[float, ...], as_json: bool) -> None:
    """Make masks from stored scores, without the network.

    This writes <stem>_threshold_<T>.mrc for each FILE and T.

    \b
    Example:
      membrain-cloud thresholds out/tomogram_scores.mrc -t -0.5 -t 0.5 --output out
    """
    from membrain_cloud.pipeline.files.postprocess import threshold_file

    def process(file: str) -> Derived:
        return threshold_file(
            file,
            values,
            output=output.output,
            voxel_spacing_angstrom=output.voxel_spacing,
            overwrite=output.overwrite,
        )

    process_files(files, process, as_json)


@click.command(cls=Command)
@files_argument
@takes(OutputOptions)
@click.option(
    "--min-voxels",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Smallest component to keep, in voxels.",
)
@label_threshold_option
@json_option
def components(
    output: OutputOptions,
    files: tuple[str, ...],
    *,
    min_voxels: int,
    label_threshold: float | None,
    as_json: bool,
) -> None:
    """Label the connected components of masks.

    This writes <stem>_components.mrc for each FILE, with the 26-connected components numbered 1 to N.

    \b
    Example:
      membrain-cloud components out/tomogram_segmented.mrc --min-voxels 1000 --output out
    """
    from membrain_cloud.pipeline.files.postprocess import components_file

    def process(file: str) -> Derived:
        return components_file(
            file,
            min_voxels=min_voxels,
            output=output.output,
            voxel_spacing_angstrom=output.voxel_spacing,
            overwrite=output.overwrite,
            label_threshold=label_threshold,
        )

    process_files(files, process, as_json)


@click.command(cls=Command)
@files_argument
@takes(OutputOptions)
@label_threshold_option
@json_option
def skeletonize(output: OutputOptions, files: tuple[str, ...], *, label_threshold: float | None, as_json: bool) -> None:
    """Thin masks to centred sheets, one voxel thick.

    This writes <stem>_skel.mrc for each FILE.

    \b
    Example:
      membrain-cloud skeletonize out/tomogram_segmented.mrc --output out
    """
    from membrain_cloud.pipeline.files.postprocess import skeletonize_file

    def process(file: str) -> Derived:
        return skeletonize_file(
            file,
            output=output.output,
            voxel_spacing_angstrom=output.voxel_spacing,
            overwrite=output.overwrite,
            label_threshold=label_threshold,
        )

    process_files(files, process, as_json)


def process_files(
    files: Sequence[str],
    process: Process,
    as_json: bool,
    *,
    at_once: int = 1,
    bars: display.Bars | None = None,
) -> None:
    """Process files and print what was made of each, in their order; a bad file does not stop the others.

    Parameters
    ----------
    files : sequence of str
        The files.
    process : callable
        Processes one file; returns an object with `notes` and `outputs`.
    as_json : bool
        Print JSON: an object for one file, a list for several.
    at_once : int
        Number of files processed at the same time.
    bars : Bars, optional
        Progress bars, which are hidden while something is printed.

    Raises
    ------
    UsageError
        Two files would write to the same names; raised before any is processed.
    MembrainCloudError
        The only file failed.
    click.exceptions.Exit
        Some of several files failed; exit code 1.
    """
    from membrain_cloud.pipeline.files.postprocess import require_own_names
    from membrain_cloud.store.formats.local_input import unreadable

    require_own_names(files)
    rows: list[dict[str, Any]] = []
    failures: list[tuple[str, MembrainCloudError]] = []
    with _interrupt_on_sigterm(), _started(files, process, at_once) as results:
        for file, result in zip(files, results, strict=True):
            try:
                derived = result()
            except (MembrainCloudError, OSError) as cause:
                if len(files) == 1:
                    raise
                error = cause if isinstance(cause, MembrainCloudError) else InputError(unreadable(file, cause))
                say(f"error: {error_line(error)}")
                failures.append((file, error))
                rows.append({"file": file, "state": "failed", "message": error.message, "next_step": error.next_step})
                continue
            rows.append({"state": "done", **vars(derived)})
            with bars.paused() if bars is not None else contextlib.nullcontext():
                for note in derived.notes:
                    say(f"{file}: {note}")
                if not as_json:
                    click.echo("\n".join(derived.outputs))
    if as_json:
        print_json(rows if len(files) > 1 else rows[0])
    failed = sum(row["state"] == "failed" for row in rows)
    if failed:
        display.show_failed_files(failures, len(files))
        raise click.exceptions.Exit(FAILED)


@contextlib.contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that temporary files are removed."""

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
def _started(files: Sequence[str], process: Process, at_once: int) -> Iterator[list[Callable[[], Any]]]:
    """Yield a function for each file that returns its result; call them in order."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    if at_once == 1:
        yield [partial(process, file) for file in files]
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield [pool.submit(process, file).result for file in files]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
