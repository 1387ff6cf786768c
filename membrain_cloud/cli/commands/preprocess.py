"""Commands that prepare tomograms: pixel size, amplitude spectrum, deconvolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from membrain_cloud.cli import display
from membrain_cloud.cli.app import Command, print_json, say
from membrain_cloud.cli.options import Function, json_option, option, option_group, takes
from membrain_cloud.pipeline.preprocess.settings import (
    DeconvolutionSettings,
    Output,
    PixelSizeSettings,
    Resources,
    SpectrumSettings,
)

if TYPE_CHECKING:
    from membrain_cloud.pipeline.preprocess.volume_filter import FilteredFile


@click.group()
def preprocess() -> None:
    """Match pixel sizes and amplitude spectra, deconvolve.

    These commands filter files of any size in bounded memory.
    """


file_argument = click.argument("file", metavar="FILE")


@option_group
class ResourceOptions:
    """What a command may use of the machine."""

    memory_gib: float = option(
        "--memory-gib",
        type=click.FloatRange(min=0, min_open=True),
        default=Resources.memory_gib,
        show_default=True,
        metavar="GIB",
        help="Largest memory to use, in GiB.",
    )
    scratch: str | None = option(
        "--scratch", metavar="DIR", help="Folder of temporary files, 4 bytes a voxel (default: the system's)."
    )
    threads: int | None = option(
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        help="Threads of the Fourier transforms (default: one a core).",
    )

    def limits(self) -> Resources:
        """Return the limits as the filters take them."""
        return Resources(self.memory_gib, self.scratch, self.threads)


@option_group
class OutputOptions:
    """The volume to write."""

    output: str = option("-o", "--output", required=True, metavar="FILE.mrc|.zarr", help="The file to write.")
    overwrite: bool = option("--overwrite", is_flag=True, help="Replace the output if it exists.")

    def file(self) -> Output:
        """Return the file to write as the filters take it."""
        return Output(self.output, self.overwrite)


@option_group
class DensityOutputOptions(OutputOptions):
    """The tomogram to write."""

    dtype: str = option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        default=Output.dtype,
        show_default=True,
        help="Data type of the voxels.",
    )

    def file(self) -> Output:
        """Return the file to write as the filters take it."""
        return Output(self.output, self.overwrite, self.dtype)


def _spacing_option(function: Function) -> Function:
    text = "Voxel spacing of FILE in Å (default: from its header)."
    return click.option("--voxel-spacing", type=float, metavar="A", help=text)(function)


def _print_result(file: str, result: FilteredFile, as_json: bool) -> None:
    for note in result.notes:
        say(f"{file}: {note}")
    if as_json:
        print_json(vars(result))
    else:
        click.echo(result.path)


@option_group
class PixelSizeOptions:
    """The voxel spacing to reach."""

    target_spacing: float = option(
        "--target-spacing",
        type=float,
        metavar="A",
        default=PixelSizeSettings.target_spacing_angstrom,
        show_default=True,
        help="Voxel spacing of the output in Å.",
    )
    no_smooth: bool = option(
        "--no-smooth", is_flag=True, help="Cut the spectrum off sharply (default: let it fade towards the cut-off)."
    )
    normalize: bool = option(
        "--normalize",
        is_flag=True,
        help="Scale intensities to mean 0 and standard deviation 1, as MemBrain-seg does (default: keep their scale).",
    )

    def settings(self) -> PixelSizeSettings:
        """Return the settings of the filter."""
        return PixelSizeSettings(self.target_spacing, not self.no_smooth, self.normalize)


@preprocess.command("match-pixel-size", cls=Command)
@file_argument
@takes(DensityOutputOptions, ResourceOptions, PixelSizeOptions)
@_spacing_option
@json_option
def match_pixel_size(
    output: DensityOutputOptions,
    resources: ResourceOptions,
    options: PixelSizeOptions,
    file: str,
    *,
    voxel_spacing: float | None,
    as_json: bool,
) -> None:
    """Resample a tomogram to another voxel spacing.

    It is resampled in Fourier space, and intensities keep their scale.

    \b
    Example:
      membrain-cloud preprocess match-pixel-size tomogram.mrc --output matched.mrc --target-spacing 10
    """
    from membrain_cloud.pipeline.preprocess import filters

    with display.Bar("resample") as bar:
        result = filters.match_pixel_size(
            file,
            output.file(),
            options.settings(),
            resources.limits(),
            voxel_spacing_angstrom=voxel_spacing,
            progress=bar.update,
        )
    _print_result(file, result, as_json)


@preprocess.command("match-segmentation", cls=Command)
@file_argument
@takes(OutputOptions, ResourceOptions)
@click.option("--tomogram", required=True, metavar="FILE", help="The tomogram whose voxels the output shall have.")
@json_option
def match_segmentation(
    output: OutputOptions, resources: ResourceOptions, file: str, *, tomogram: str, as_json: bool
) -> None:
    """Resample a segmentation to the voxels of a tomogram.

    Both cover the same extent; each voxel takes the nearest label.

    \b
    Example:
      membrain-cloud preprocess match-segmentation segmented.mrc --tomogram tomogram.mrc --output labels.mrc
    """
    from membrain_cloud.pipeline.preprocess import filters

    with display.Bar("resample") as bar:
        result = filters.match_segmentation(file, tomogram, output.file(), resources.limits(), progress=bar.update)
    _print_result(file, result, as_json)


@preprocess.command("extract-spectrum", cls=Command)
@file_argument
@click.option("-o", "--output", required=True, metavar="FILE.tsv", help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@takes(ResourceOptions)
@_spacing_option
@json_option
def extract_spectrum(
    resources: ResourceOptions,
    file: str,
    *,
    output: str,
    overwrite: bool,
    voxel_spacing: float | None,
    as_json: bool,
) -> None:
    """Write the radial amplitude spectrum of a tomogram.

    It is a target for match-spectrum.

    \b
    Example:
      membrain-cloud preprocess extract-spectrum good.mrc --output target.tsv
    """
    from membrain_cloud.pipeline.preprocess import filters

    with display.Bar("spectrum") as bar:
        result = filters.extract_spectrum(
            file,
            output,
            resources.limits(),
            overwrite=overwrite,
            voxel_spacing_angstrom=voxel_spacing,
            progress=bar.update,
        )
    _print_result(file, result, as_json)


@option_group
class SpectrumOptions:
    """The amplitude spectrum to reach."""

    target: str = option(
        "--target", required=True, metavar="FILE.tsv", help="Spectrum to reach, of extract-spectrum or MemBrain-seg."
    )
    cutoff_angstrom: float | None = option(
        "--cutoff-angstrom",
        type=click.FloatRange(min=0, min_open=True),
        metavar="A",
        help="Remove details finer than this, in Å (default: keep them).",
    )
    largest_factor: float = option(
        "--largest-factor",
        type=click.FloatRange(min=0, min_open=True),
        default=SpectrumSettings.largest_factor,
        show_default=True,
        metavar="N",
        help="Largest factor by which a frequency is amplified.",
    )
    keep_almost_zero: bool = option(
        "--keep-almost-zero",
        is_flag=True,
        help="Keep frequencies where either spectrum is almost zero (default: remove them).",
    )
    smoothen_bins: float = option(
        "--smoothen-bins",
        type=click.FloatRange(min=0),
        default=SpectrumSettings.smoothen_bins,
        show_default=True,
        metavar="N",
        help="Width of the decline before a cut-off, in bins of the spectrum.",
    )

    def settings(self) -> SpectrumSettings:
        """Return the settings of the filter."""
        return SpectrumSettings(
            self.cutoff_angstrom, self.smoothen_bins, not self.keep_almost_zero, self.largest_factor
        )


@preprocess.command("match-spectrum", cls=Command)
@file_argument
@takes(DensityOutputOptions, ResourceOptions, SpectrumOptions)
@_spacing_option
@json_option
def match_spectrum(
    output: DensityOutputOptions,
    resources: ResourceOptions,
    options: SpectrumOptions,
    file: str,
    *,
    voxel_spacing: float | None,
    as_json: bool,
) -> None:
    """Give a tomogram the amplitude spectrum of another one.

    The spectrum is radial. The output has mean 0 and standard deviation 1.

    \b
    Example:
      membrain-cloud preprocess match-spectrum tomogram.mrc --target target.tsv --output matched.mrc
    """
    from membrain_cloud.pipeline.preprocess import filters

    with display.Bar("match") as bar:
        result = filters.match_spectrum(
            file,
            options.target,
            output.file(),
            options.settings(),
            resources.limits(),
            voxel_spacing_angstrom=voxel_spacing,
            progress=bar.update,
        )
    _print_result(file, result, as_json)


def _number(name: str, default: float, metavar: str, text: str) -> Any:
    """Declare an option for a number that has a default."""
    return option(name, type=float, default=default, show_default=True, metavar=metavar, help=text)


@option_group
class DeconvolutionOptions:
    """The contrast transfer function and the assumed signal-to-noise ratio."""

    defocus_angstrom: float = _number(
        "--defocus-angstrom",
        DeconvolutionSettings.defocus_angstrom,
        "A",
        "Defocus at zero tilt in Å; underfocus is positive.",
    )
    amplitude_contrast: float = _number(
        "--amplitude-contrast", DeconvolutionSettings.amplitude_contrast, "N", "Amplitude contrast, from 0 to 1."
    )
    spherical_aberration_mm: float = _number(
        "--spherical-aberration-mm",
        DeconvolutionSettings.spherical_aberration_mm,
        "MM",
        "Spherical aberration of the objective lens in mm.",
    )
    voltage_kv: float = _number(
        "--voltage-kv", DeconvolutionSettings.voltage_kv, "KV", "Acceleration voltage of the microscope in kV."
    )
    strength: float = _number(
        "--strength",
        DeconvolutionSettings.strength,
        "N",
        "Strength: the assumed signal-to-noise ratio at low frequencies is 10^(3 N).",
    )
    falloff: float = _number(
        "--falloff",
        DeconvolutionSettings.falloff,
        "N",
        "Decline of the signal-to-noise ratio with the frequency f in 1/Å: exp(-100 N f).",
    )
    highpass: float = _number(
        "--highpass",
        DeconvolutionSettings.highpass_cycles_per_voxel,
        "N",
        "Frequency below which the signal-to-noise ratio falls to 0, in cycles a voxel (MemBrain-seg's hp-fraction).",
    )
    no_lowpass: bool = option(
        "--no-lowpass", is_flag=True, help="Keep frequencies beyond the first zero of the CTF (default: remove them)."
    )
    membrain_seg_radii: bool = option(
        "--membrain-seg-radii",
        is_flag=True,
        help="Measure frequencies as MemBrain-seg does (wrong along z in flat volumes), to get exactly its numbers.",
    )

    def settings(self) -> DeconvolutionSettings:
        """Return the settings of the filter."""
        return DeconvolutionSettings(
            defocus_angstrom=self.defocus_angstrom,
            amplitude_contrast=self.amplitude_contrast,
            spherical_aberration_mm=self.spherical_aberration_mm,
            voltage_kv=self.voltage_kv,
            strength=self.strength,
            falloff=self.falloff,
            highpass_cycles_per_voxel=self.highpass,
            lowpass=not self.no_lowpass,
            membrain_seg_radii=self.membrain_seg_radii,
        )


@preprocess.command(cls=Command)
@file_argument
@takes(DensityOutputOptions, ResourceOptions, DeconvolutionOptions)
@_spacing_option
@json_option
def deconvolve(
    output: DensityOutputOptions,
    resources: ResourceOptions,
    options: DeconvolutionOptions,
    file: str,
    *,
    voxel_spacing: float | None,
    as_json: bool,
) -> None:
    """Increase the contrast of a tomogram by deconvolution.

    The filter is Warp's, of the contrast transfer function (CTF).

    \b
    Example:
      membrain-cloud preprocess deconvolve tomogram.mrc --output deconvolved.mrc --defocus-angstrom 45000
    """
    from membrain_cloud.pipeline.preprocess import filters

    with display.Bar("deconvolve") as bar:
        result = filters.deconvolve(
            file,
            output.file(),
            options.settings(),
            resources.limits(),
            voxel_spacing_angstrom=voxel_spacing,
            progress=bar.update,
        )
    _print_result(file, result, as_json)
