"""One volume on its way through a filter in Fourier space, within a bound of memory; files and numbers checked."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import TomogramError, UsageError
from membrain_cloud.geometry import Box, Zyx, iterate_chunks
from membrain_cloud.image.amplitude_spectrum import Spectrum, radial_spectrum
from membrain_cloud.image.fourier import Affine, FourierVolume, Kernel, scratch_shape
from membrain_cloud.image.resampling import SMALLEST_AXIS
from membrain_cloud.segmentation.sliding_window import Statistics, density_statistics
from membrain_cloud.store.formats.volume_reader import VolumeFile, open_volume_file
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter
from membrain_cloud.store.volumes.scratch_array import ScratchSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from membrain_cloud.pipeline.preprocess.settings import Means, Output

Progress = Callable[[int, int], None]
# What Python and the libraries take themselves, and the least to work in beside the scratch array.
OWN_BYTES, _LEAST_BYTES = 256 << 20, 64 << 20


@dataclass(frozen=True)
class Made:
    """What was written. `notes` say what was assumed about the input."""

    path: str
    shape: Zyx
    voxel_spacing_angstrom: float
    notes: tuple[str, ...]


class Counter:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(min(self._done, self._total), self._total)


@dataclass
class FilterWork:
    """One volume on its way: what is known of it, and what may be used."""

    volume: VolumeFile
    spacing: float
    means: Means
    progress: Progress
    space: ScratchSpace
    notes: list[str]
    target: Zyx
    count: Counter
    memory_bytes: int
    statistics: Statistics = field(init=False)
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str, spacing: float | None, means: Means, progress: Progress) -> Iterator[FilterWork]:
        """Refuses what cannot work: no volume, no spacing, an axis too short, a memory that is too small."""
        memory_bytes = int(means.memory_gib * 2**30) - OWN_BYTES
        if memory_bytes < _LEAST_BYTES:
            raise UsageError(f"{means.memory_gib:g} GiB of memory are too few", "give at least --memory-gib 0.5")
        scratch = ScratchSpace(means.scratch, memory_bytes=memory_bytes // 2, moved_by="--scratch")
        with open_volume_file(path, means.scratch) as volume, scratch as space, named(path):
            given = volume.spacing_angstrom(spacing)
            if min(volume.shape) < SMALLEST_AXIS:
                shape = " x ".join(map(str, volume.shape))
                raise TomogramError(f"{shape} voxels are too few", f"give a volume of {SMALLEST_AXIS} on each axis")
            yield cls(
                volume, given, means, progress, space, list(volume.notes), volume.shape, Counter(progress, 1),
                memory_bytes,
            )  # fmt: skip

    @property
    def shape(self) -> Zyx:
        return self.volume.shape

    def expect(self, total: int) -> None:
        self.count = Counter(self.progress, total)

    def writer(self, output: Output, spacing: float) -> VolumeFileWriter:
        return VolumeFileWriter(output.path, self.target, spacing, output.dtype, overwrite=output.overwrite)

    def made(self, path: str, spacing: float) -> Made:
        return Made(path, self.target, spacing, tuple(self.notes))

    def transform(self) -> FourierVolume:
        """The volume's statistics, then its planes' transforms, in scratch."""
        at_start = self.space.memory_bytes
        array = self.space.array(scratch_shape(self.shape, self.target), np.complex64)
        read = self._measured()
        self.memory_bytes -= at_start - self.space.memory_bytes
        transform = FourierVolume(
            self.shape,
            self.target,
            array,
            memory_bytes=self.memory_bytes,
            threads=self.means.threads or len(os.sched_getaffinity(0)),
            advance=self.count,
        )
        transform.load(read, Affine(self.statistics.mean, self.statistics.std))
        return transform

    def spectrum(self, transform: FourierVolume) -> Spectrum:
        return radial_spectrum(
            transform.columns(),
            self.shape,
            voxel_spacing_angstrom=self.spacing,
            lowest=self.lowest,
            highest=self.highest,
            std=self.statistics.std,
        )

    def finish(
        self, transform: FourierVolume, kernel: Kernel | None, writer: VolumeFileWriter, *, normalize: bool
    ) -> None:
        """Filter and write; `normalize` to mean 0 and standard deviation 1."""
        at_zero, std = transform.filter(kernel)
        if normalize and not std > 0:
            raise TomogramError("the filter leaves nothing of the volume", "choose a finer cut-off or target")
        scale = 1 / std if normalize else self.statistics.std
        offset = 0.0 if normalize else self.statistics.mean * at_zero
        for box, values in transform.planes():
            values *= np.float32(scale)
            values += np.float32(offset)
            writer.write(box, values)

    def _measured(self) -> Callable[[Box], NDArray[Any]]:
        """Take the statistics, and give a reader of planes: of a copy where the file is made of thick chunks."""
        volume = self.volume
        plane = math.prod(self.shape[1:]) * volume.dtype.itemsize
        copy = None
        if volume.chunk[0] > 1 and volume.chunk != volume.shape:
            copy = self.space.array(self.shape, volume.dtype)
        step = max(1, self.memory_bytes // 8 // max(1, 16 * plane // volume.dtype.itemsize))
        parts = volume.chunk if copy is not None else (step, *self.shape[1:])

        def values() -> Iterator[NDArray[Any]]:
            for box in iterate_chunks(self.shape, parts):
                part = volume.read(box)
                if copy is not None:
                    copy.write(box, part)
                self.lowest = min(self.lowest, float(part.min()))
                self.highest = max(self.highest, float(part.max()))
                yield from part  # by planes: the statistics make a copy in float64
                if box.stop[1:] == self.shape[1:]:
                    self.count(box.stop[0] - box.start[0])

        try:
            self.statistics = density_statistics(values())
        except TomogramError:
            if self.lowest != self.highest:
                raise
            raise TomogramError(
                f"every voxel has the value {self.lowest:g}", "there is nothing to filter; check how it was written"
            ) from None
        return volume.read if copy is None else copy.read


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Errors of the science do not know the file: say it."""
    try:
        yield
    except (TomogramError, UsageError) as error:
        if path in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", error.next_step) from error
