"""Verbs that prepare tomograms: pixel size, amplitude spectrum, deconvolution."""

from __future__ import annotations

from typing import Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Function, Program, Verb, json_option, print_json, say
from membrain_cloud.pipeline.preprocess.settings import (
    DeconvolutionSettings,
    Means,
    Output,
    PixelSizeSettings,
    SpectrumSettings,
)


def register(main: Program) -> None:
    main.add_command(preprocess)


@click.group()
def preprocess() -> None:
    """Prepare tomograms: match pixel sizes and amplitude spectra, deconvolve; files of any size in bounded memory."""


def _file_options(*, output: str, spacing: bool = True, dtype: bool = True) -> Any:
    """FILE, --output, --overwrite, and what the verb may use; --voxel-spacing and --dtype where asked for."""

    def decorate(function: Function) -> Function:
        options = [
            click.argument("file", metavar="FILE"),
            click.option("-o", "--output", required=True, metavar=output, help="The file to write."),
            click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        ]
        if spacing:
            text = "Voxel spacing of FILE in Å, in place of its header's."
            options.append(click.option("--voxel-spacing", type=float, metavar="A", help=text))
        if dtype:
            kinds = click.Choice(["float32", "float16"])
            options.append(click.option("--dtype", type=kinds, default=Output.dtype, show_default=True))
        options += [
            click.option("--memory-gib", type=click.FloatRange(min=0, min_open=True), default=Means.memory_gib,
                         show_default=True, help="Memory to use at most."),
            click.option("--scratch", metavar="DIR", help="Folder of temporary files (default: the system's)."),
            click.option("--threads", type=click.IntRange(1), help="Threads of the transforms (default: one a core)."),
            json_option,
        ]  # fmt: skip
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _means(chosen: dict[str, Any]) -> Means:
    return Means(chosen["memory_gib"], chosen["scratch"], chosen["threads"])


def _output(chosen: dict[str, Any], dtype: str = Output.dtype) -> Output:
    return Output(chosen["output"], chosen["overwrite"], chosen.get("dtype", dtype))


def _tell(file: str, made: Any, as_json: bool) -> None:
    for note in made.notes:
        say(f"{file}: {note}")
    if as_json:
        print_json(vars(made))
    else:
        click.echo(made.path)


@preprocess.command("match-pixel-size", cls=Verb)
@_file_options(output="FILE.mrc|.zarr")
@click.option(
    "--target-spacing",
    type=float,
    metavar="A",
    default=PixelSizeSettings.target_spacing_angstrom,
    show_default=True,
    help="Voxel spacing to reach, in Å.",
)
@click.option("--no-smooth", is_flag=True, help="Cut the spectrum sharply instead of letting it fade.")
@click.option("--normalize", is_flag=True, help="To mean 0 and standard deviation 1, as MemBrain-seg does.")
def match_pixel_size(file: str, target_spacing: float, no_smooth: bool, normalize: bool, **chosen: Any) -> None:
    """Resample a tomogram to another voxel spacing, in Fourier space. Intensities keep their scale.

    \b
    Example:
      membrain-cloud preprocess match-pixel-size tomogram.mrc --output matched.mrc --target-spacing 10
    """
    from membrain_cloud.pipeline.preprocess import filters as preprocessing

    settings = PixelSizeSettings(target_spacing, not no_smooth, normalize)
    with display.Bar("resample") as bar:
        made = preprocessing.match_pixel_size(
            file,
            _output(chosen),
            settings,
            _means(chosen),
            voxel_spacing_angstrom=chosen["voxel_spacing"],
            progress=bar.update,
        )
    _tell(file, made, chosen["as_json"])


@preprocess.command("match-segmentation", cls=Verb)
@_file_options(output="FILE.mrc|.zarr", spacing=False, dtype=False)
@click.option("--tomogram", required=True, metavar="FILE", help="The tomogram whose voxels it shall have.")
def match_segmentation(file: str, tomogram: str, **chosen: Any) -> None:
    """Resample a segmentation to a tomogram's voxels: each takes the nearest label. Both cover the same extent.

    \b
    Example:
      membrain-cloud preprocess match-segmentation segmented.mrc --tomogram tomogram.mrc --output labels.mrc
    """
    from membrain_cloud.pipeline.preprocess import filters as preprocessing

    with display.Bar("resample") as bar:
        made = preprocessing.match_segmentation(file, tomogram, _output(chosen), _means(chosen), progress=bar.update)
    _tell(file, made, chosen["as_json"])


@preprocess.command("extract-spectrum", cls=Verb)
@_file_options(output="FILE.tsv", dtype=False)
def extract_spectrum(file: str, **chosen: Any) -> None:
    """Write the radial amplitude spectrum of a tomogram, as a target for match-spectrum.

    \b
    Example:
      membrain-cloud preprocess extract-spectrum good.mrc --output target.tsv
    """
    from membrain_cloud.pipeline.preprocess import filters as preprocessing

    with display.Bar("spectrum") as bar:
        made = preprocessing.extract_spectrum(
            file,
            chosen["output"],
            _means(chosen),
            overwrite=chosen["overwrite"],
            voxel_spacing_angstrom=chosen["voxel_spacing"],
            progress=bar.update,
        )
    _tell(file, made, chosen["as_json"])


@preprocess.command("match-spectrum", cls=Verb)
@_file_options(output="FILE.mrc|.zarr")
@click.option("--target", required=True, metavar="FILE.tsv", help="Spectrum of extract-spectrum or of MemBrain-seg.")
@click.option(
    "--cutoff-angstrom",
    type=click.FloatRange(min=0, min_open=True),
    metavar="A",
    help="Remove details finer than this.",
)
@click.option(
    "--largest-factor",
    type=click.FloatRange(min=0, min_open=True),
    show_default=True,
    default=SpectrumSettings.largest_factor,
    help="Frequencies are raised by at most this.",
)
@click.option("--keep-almost-zero", is_flag=True, help="Do not cut off where a spectrum has fallen to nothing.")
@click.option(
    "--smoothen-bins",
    type=click.FloatRange(min=0),
    default=SpectrumSettings.smoothen_bins,
    show_default=True,
    help="Width of the fall before a cut-off, in bins of the spectrum.",
)
def match_spectrum(
    file: str,
    target: str,
    cutoff_angstrom: float | None,
    largest_factor: float,
    keep_almost_zero: bool,
    smoothen_bins: float,
    **chosen: Any,
) -> None:
    """Give a tomogram the radial amplitude spectrum of another one; to mean 0 and standard deviation 1.

    \b
    Example:
      membrain-cloud preprocess match-spectrum tomogram.mrc --target target.tsv --output matched.mrc
    """
    from membrain_cloud.pipeline.preprocess import filters as preprocessing

    settings = SpectrumSettings(cutoff_angstrom, smoothen_bins, not keep_almost_zero, largest_factor)
    with display.Bar("match") as bar:
        made = preprocessing.match_spectrum(
            file,
            target,
            _output(chosen),
            settings,
            _means(chosen),
            voxel_spacing_angstrom=chosen["voxel_spacing"],
            progress=bar.update,
        )
    _tell(file, made, chosen["as_json"])


def _number(name: str, default: float, metavar: str, text: str) -> Any:
    return click.option(name, type=float, default=default, show_default=True, metavar=metavar, help=text)


@preprocess.command(cls=Verb)
@_file_options(output="FILE.mrc|.zarr")
@_number("--defocus-angstrom", DeconvolutionSettings.defocus_angstrom, "A", "Of the zero tilt; underfocus is positive.")
@_number("--amplitude-contrast", DeconvolutionSettings.amplitude_contrast, "N", "Fraction from 0 to 1.")
@_number("--spherical-aberration-mm", DeconvolutionSettings.spherical_aberration_mm, "MM", "Of the objective lens.")
@_number("--voltage-kv", DeconvolutionSettings.voltage_kv, "KV", "Of the microscope.")
@_number("--strength", DeconvolutionSettings.strength, "N", "The assumed signal-to-noise ratio is 10^(3 N).")
@_number("--falloff", DeconvolutionSettings.falloff, "N", "How fast it falls with the frequency.")
@_number(
    "--highpass",
    DeconvolutionSettings.highpass_cycles_per_voxel,
    "N",
    "Lower frequencies are not raised, in cycles a voxel (MemBrain-seg's hp-fraction).",
)
@click.option("--no-lowpass", is_flag=True, help="Keep what lies beyond the first zero of the CTF.")
@click.option(
    "--membrain-seg-radii",
    is_flag=True,
    help="Measure frequencies as MemBrain-seg does (wrong along z in flat volumes), for its very numbers.",
)
def deconvolve(
    file: str,
    defocus_angstrom: float,
    amplitude_contrast: float,
    spherical_aberration_mm: float,
    voltage_kv: float,
    strength: float,
    falloff: float,
    highpass: float,
    no_lowpass: bool,
    membrain_seg_radii: bool,
    **chosen: Any,
) -> None:
    """Raise the contrast of a tomogram by Warp's deconvolution of the CTF.

    \b
    Example:
      membrain-cloud preprocess deconvolve tomogram.mrc --output deconvolved.mrc --defocus-angstrom 45000
    """
    from membrain_cloud.pipeline.preprocess import filters as preprocessing

    settings = DeconvolutionSettings(
        defocus_angstrom,
        amplitude_contrast,
        spherical_aberration_mm,
        voltage_kv,
        strength,
        falloff,
        highpass,
        not no_lowpass,
        membrain_seg_radii,
    )
    with display.Bar("deconvolve") as bar:
        made = preprocessing.deconvolve(
            file,
            _output(chosen),
            settings,
            _means(chosen),
            voxel_spacing_angstrom=chosen["voxel_spacing"],
            progress=bar.update,
        )
    _tell(file, made, chosen["as_json"])
