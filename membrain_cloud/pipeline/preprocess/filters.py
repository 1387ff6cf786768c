"""Preprocessing of single files, as MemBrain-seg offers it, in bounded memory: read, filter, write.

Each function reads a volume file twice (once for its statistics, once for its transform) and writes another one.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import UsageError
from membrain_cloud.image.amplitude_spectrum import (
    EqualizerLimits,
    Spectrum,
    check_spectrum,
    equalizer,
    equalizing_kernel,
)
from membrain_cloud.image.deconvolution import Deconvolution, deconvolution_kernel
from membrain_cloud.image.resampling import resampled_labels, resampled_shape, smooth_border
from membrain_cloud.pipeline.preprocess.volume_filter import OWN_BYTES, Counter, FilterWork, Made, Progress, named
from membrain_cloud.store.formats.spectra import check_spectrum_output, read_spectrum, write_spectrum
from membrain_cloud.store.formats.volume_reader import VolumeFile, open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, check_output
from membrain_cloud.store.volumes.ome_zarr import checked_spacing

if TYPE_CHECKING:
    from membrain_cloud.geometry import Zyx
    from membrain_cloud.pipeline.preprocess.settings import (
        DeconvolutionSettings,
        Means,
        Output,
        PixelSizeSettings,
        SpectrumSettings,
    )

_PLANE_BYTES_OF_COPY = 16


def match_pixel_size(
    path: str,
    output: Output,
    settings: PixelSizeSettings,
    means: Means,
    *,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> Made:
    """Resample a tomogram in Fourier space to the target spacing; its intensities keep their scale.

    (MemBrain-seg's lose it; `normalize` gives its numbers. It also gives a volume one voxel short where an odd axis
    grows; here the shape is the announced one.)
    Raises InputError, UsageError, StorageError for what cannot work, before anything is computed where that can be.
    """
    check_output(output.path, overwrite=output.overwrite)
    with FilterWork.open(path, voxel_spacing_angstrom, means, progress) as work:
        wanted = checked_spacing(settings.target_spacing_angstrom, "the target", "--target-spacing")
        target = resampled_shape(work.shape, work.spacing, wanted)
        work.target = target
        work.expect(work.shape[0] * 2 + target[1] + target[0])
        with work.writer(output, wanted) as writer:
            transform = work.transform()
            smooth = settings.smooth and target != work.shape
            kernel = smooth_border(work.shape, target, memory_bytes=work.memory_bytes // 4) if smooth else None
            work.finish(transform, kernel, writer, normalize=settings.normalize)
        covered = [abs(n * work.spacing / (m * wanted) - 1) for n, m in zip(work.shape, target, strict=True)]
        if target != work.shape and max(covered) > 1e-3:
            work.notes.append(f"even numbers of voxels: the spacing is {wanted:g} Å within {100 * max(covered):.1f} %")
        return work.made(output.path, wanted)


def match_segmentation(path: str, tomogram: str, output: Output, means: Means, *, progress: Progress) -> Made:
    """Resample a segmentation to a tomogram's voxels, by the nearest label, in its own type.

    Raises UsageError where the two do not cover the same extent, and for values that are no labels.
    """
    check_output(output.path, overwrite=output.overwrite)
    with open_volume_file(tomogram, means.scratch) as like:
        shape, spacing = like.shape, like.voxel_spacing_angstrom
    spacing = checked_spacing(spacing, tomogram, "--voxel-spacing of the import, or a right header")
    with open_volume_file(path, means.scratch) as volume:
        _same_extent(volume, shape, spacing)
        plane = max(math.prod(shape[1:]), math.prod(volume.shape[1:]) * math.ceil(volume.shape[0] / shape[0]))
        planes = max(1, int((means.memory_gib * 2**30 - OWN_BYTES) / (plane * _PLANE_BYTES_OF_COPY)))
        count = Counter(progress, shape[0])
        dtype = volume.dtype
        if not output.path.rstrip("/").endswith(".zarr"):  # MRC has neither of them
            dtype = np.dtype({"uint8": "int16", "bool": "int8"}.get(dtype.name, dtype.name))
        writer = VolumeFileWriter(output.path, shape, spacing, dtype, labels=True, overwrite=output.overwrite)
        with writer, named(path):
            for box, labels in resampled_labels(volume.read, volume.shape, shape, planes=planes, advance=count):
                writer.write(box, labels)
        return Made(output.path, shape, spacing, volume.notes)


def extract_spectrum(
    path: str,
    output: str,
    means: Means,
    *,
    overwrite: bool,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> Made:
    """Write the radial amplitude spectrum of a tomogram (.tsv, which MemBrain-seg reads too)."""
    check_spectrum_output(output, overwrite=overwrite)
    with FilterWork.open(path, voxel_spacing_angstrom, means, progress) as work:
        work.expect(work.shape[0] * 2 + work.shape[1])
        spectrum = work.spectrum(work.transform())
        write_spectrum(output, {name: values for name, values in asdict(spectrum).items() if values is not None})
        return work.made(output, work.spacing)


def match_spectrum(
    path: str,
    target: str,
    output: Output,
    settings: SpectrumSettings,
    means: Means,
    *,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> Made:
    """Give a tomogram the radial amplitude spectrum of another one; mean 0 and standard deviation 1.

    target : a .tsv of `extract_spectrum`, or of MemBrain-seg's (then taken for one of the same voxel spacing).
    """
    check_output(output.path, overwrite=output.overwrite)
    columns = read_spectrum(target)
    wanted = check_spectrum(
        Spectrum(columns["intensity"], columns.get("frequency_per_angstrom"), columns.get("amplitude")), target
    )
    with FilterWork.open(path, voxel_spacing_angstrom, means, progress) as work:
        work.expect(work.shape[0] * 3 + work.shape[1] * 2)
        if wanted.frequency_per_angstrom is None:
            work.notes.append(f"{target} names no frequencies: taken as of a cube at {work.spacing:g} Å a voxel")
        with work.writer(output, work.spacing) as writer:
            transform = work.transform()
            factors = equalizer(
                work.spectrum(transform),
                wanted,
                work.shape,
                EqualizerLimits(**asdict(settings)),
                voxel_spacing_angstrom=work.spacing,
            )
            work.finish(transform, equalizing_kernel(work.shape, factors), writer, normalize=True)
        return work.made(output.path, work.spacing)


def deconvolve(
    path: str,
    output: Output,
    settings: DeconvolutionSettings,
    means: Means,
    *,
    voxel_spacing_angstrom: float | None,
    progress: Progress,
) -> Made:
    """Warp's deconvolution. (MemBrain-seg drops a plane where the depth is odd; here all are there.)"""
    check_output(output.path, overwrite=output.overwrite)
    with FilterWork.open(path, voxel_spacing_angstrom, means, progress) as work:
        kernel = deconvolution_kernel(
            work.shape, Deconvolution(**asdict(settings)), voxel_spacing_angstrom=work.spacing
        )
        work.expect(work.shape[0] * 3 + work.shape[1])
        with work.writer(output, work.spacing) as writer:
            work.finish(work.transform(), kernel, writer, normalize=False)
        return work.made(output.path, work.spacing)


def _same_extent(volume: VolumeFile, shape: Zyx, spacing: float) -> None:
    own = volume.voxel_spacing_angstrom
    if own is None:
        return
    for axis, mine, other in zip("zyx", volume.shape, shape, strict=True):
        if abs(mine * own - other * spacing) > max(2 * max(own, spacing), 0.02 * other * spacing):
            raise UsageError(
                f"{volume.path}: along {axis} it covers {mine * own:.0f} Å, the tomogram {other * spacing:.0f} Å",
                "give the tomogram that the segmentation was made of",
            )
