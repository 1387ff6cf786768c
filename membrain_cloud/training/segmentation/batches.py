"""Batches of patches for the training loop, reproducible from any step on."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from membrain_cloud.training.augmentation.gpu import all_supported, collate_specimens
from membrain_cloud.training.segmentation.simulated_patches import SpecimenPatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from membrain_cloud.training.segmentation.config import SegmentationTraining
    from membrain_cloud.training.segmentation.labelled_patches import PatchSource
    from membrain_cloud.training.segmentation.trainer import Batch

_CPU = torch.device("cpu")
# Patches that are imaged in one launch on a GPU, whose kernels are short.
_IMAGED_TOGETHER = 32
# Size of the buffer of batches that may be shown again: 256 patches of 64³ voxels, or 16 of 160³.
_KEPT_VOXELS = 2**26

Item = TypeVar("Item")


class _NumberedDataset(Dataset[Item]):
    """Items number `first` to `first + count - 1`; `make(seed, number)` is pickled for other processes."""

    def __init__(self, make: Callable[[int, int], Item], seed: int, first: int, count: int) -> None:
        self.make, self.seed, self.first, self.count = make, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return self.make(self.seed, self.first + index)


def _tensors(source: PatchSource, seed: int, n: int) -> Batch:
    patch = source.patch(seed, n)
    return torch.from_numpy(patch.image)[None], torch.from_numpy(patch.label)[None]


def training_batches(
    source: PatchSource, settings: SegmentationTraining, step: int, device: torch.device = _CPU
) -> Iterator[Batch]:
    """Yield the batches of the training's steps from number `step` on.

    If patches are shown `settings.views` times, only one of so many batches is new; the others are drawn from a buffer
    of the newest ones. The draw depends on the seed and the step alone, so a resumed training refills its buffer and
    sees the same batches.

    Parameters
    ----------
    source : PatchSource
        Patches to train on.
    settings : SegmentationTraining
        Seed, batch size, number of steps and views.
    step : int
        Number of steps already done.
    device : torch.device
        Where simulated specimens are imaged. Default: the CPU.

    Yields
    ------
    batch : Batch
        Images (B, 1, w, w, w) float32 and labels (B, 1, w, w, w) uint8.
    """
    views = settings.views
    buffer_length = max(1, _KEPT_VOXELS // (settings.batch * settings.window**3)) if views > 1 else 1
    first = max(0, step // views + 1 - buffer_length)
    count = -(-settings.steps // views) - first
    buffer: deque[Batch] = deque(maxlen=buffer_length)
    new_batches = batches(source, settings, settings.seed, first * settings.batch, count * settings.batch, device)
    for group, batch in enumerate(new_batches, first):
        buffer.append(batch)
        for shown in range(max(step, group * views), min(settings.steps, (group + 1) * views)):
            if shown == group * views:
                yield batch
            else:
                yield buffer[int(np.random.default_rng((settings.seed, shown)).integers(len(buffer)))]


def batches(
    source: PatchSource,
    settings: SegmentationTraining,
    seed: int,
    first: int,
    count: int,
    device: torch.device = _CPU,
) -> Iterator[Batch]:
    """Return batches of patches number `first` to `first + count - 1`.

    Simulated specimens are imaged on a GPU if there is one, because CPU cores cannot image enough of them for its
    network.

    Parameters
    ----------
    source : PatchSource
        Where the patches come from.
    settings : SegmentationTraining
        Batch size, and processes that prepare patches.
    seed : int
        Seed of the sequence of patches.
    first, count : int
        Number of the first patch, and how many there are; the last batch may be smaller.
    device : torch.device
        Where simulated specimens are imaged. Default: the CPU.

    Returns
    -------
    batches : iterator of Batch
        Images (B, 1, w, w, w) float32 and labels (B, 1, w, w, w) uint8.
    """
    count, batch = max(count, 0), settings.batch
    if device.type != "cpu" and isinstance(source, SpecimenPatches) and all_supported(source.augmentations):
        return _batches_on_device(source, settings, _NumberedDataset(source.unimaged, seed, first, count), device)
    return _loader(_NumberedDataset(partial(_tensors, source), seed, first, count), settings, batch)


def _batches_on_device(
    source: SpecimenPatches, settings: SegmentationTraining, specimens: Dataset[Any], device: torch.device
) -> Iterator[Batch]:
    """Image several batches per launch, to amortise the overhead of short kernels."""
    several = settings.batch * max(1, _IMAGED_TOGETHER // settings.batch)
    for unimaged in _loader(specimens, settings, several, collate_fn=collate_specimens):
        images, labels = source.image(unimaged, device, settings.batch)
        yield from zip(torch.split(images, settings.batch), torch.split(labels, settings.batch), strict=True)


def _loader(data: Dataset[Any], settings: SegmentationTraining, batch: int, **options: Any) -> Iterator[Any]:
    workers = min(settings.workers, len(data))  # type: ignore[arg-type]
    return iter(
        DataLoader(
            data,
            batch,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
            # Otherwise every start of the loader would draw from the training's random numbers.
            generator=torch.Generator().manual_seed(0),
            **options,
        )
    )
