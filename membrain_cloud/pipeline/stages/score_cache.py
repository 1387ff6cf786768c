"""Scores that `segment` stores as copick features, so that another threshold needs no network.

They have a receipt of their own. Its digest covers all that affects the scores: the settings but the threshold, the
model, the tomogram. Its first eight digits are part of the features' names, so scores of different settings lie side
by side.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from membrain_cloud.geometry import Box, Grid
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.stages.inference import sliding_window
from membrain_cloud.segmentation.score_encoding import encode_scores
from membrain_cloud.store.refs import FeaturesRef
from membrain_cloud.store.run_state.receipts import RECEIPT_VERSION, receipt_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from membrain_cloud.pipeline.stages.base import TaskContext

Array = NDArray[Any]

SCORES = "scores"
"""Stage name in the receipts of stored scores."""


@dataclass(frozen=True)
class ScoreCache:
    """The scores that a task of `segment` stores, or finds stored.

    Attributes
    ----------
    digest : str
        Digest of all that affects the scores.
    dtype : str
        "float16" for logits, "uint8" for probabilities, "no" where none are stored.
    scores : FeaturesRef or None
        Where the scores lie; None where none are stored.
    variance : FeaturesRef or None
        Where their variance lies; None where none is stored.
    """

    digest: str
    dtype: str
    scores: FeaturesRef | None
    variance: FeaturesRef | None

    @classmethod
    def for_task(cls, context: TaskContext, data_version: int) -> ScoreCache:
        """Return the cache that belongs to a task.

        Parameters
        ----------
        context : TaskContext
            The task, with the tomogram as its input "density".
        data_version : int
            Data version of the stage.

        Returns
        -------
        ScoreCache
            The cache. Nothing is read or written yet.
        """
        settings, density = context.settings.segment, context.tomogram("density")
        digest_settings = {key: value for key, value in settings.digest_settings().items() if key != "threshold"}
        windows = sliding_window(settings, context.project.grid(density).voxel_spacing_angstrom)
        digest = digest_of(
            "scores",
            digest_settings,
            [windows.window, windows.tiling.reach, windows.tiling.stride],
            context.task.model_sha256,
            data_version,
            density.key,
            context.project.identity(density),
        )

        def features(kind: str) -> FeaturesRef:
            name = f"membrane-{kind}-{digest[:8]}"
            return FeaturesRef(density.run, density.tomogram_type, density.voxel_spacing_angstrom, name)

        return cls(
            digest,
            settings.scores,
            features("score") if settings.scores != "no" else None,
            features("uncertainty") if settings.uncertainty else None,
        )

    @property
    def first(self) -> FeaturesRef | None:
        """The features after which the receipt is named: the scores, or the variance where no scores are stored."""
        return self.scores or self.variance

    def encode_scores(self, logits: NDArray[np.float32]) -> Array:
        """Return logits as they are stored, unchanged where none are stored.

        Masks are made of encoded scores, so that they are the same when made from stored ones.

        Parameters
        ----------
        logits : (z, Y, X) float32 array
            Logits.

        Returns
        -------
        (z, Y, X) float32, float16 or uint8 array
            Scores.
        """
        return logits if self.scores is None else encode_scores(logits, self.dtype)

    def encode_variance(self, variance: NDArray[np.float32] | None) -> Array | None:
        """Return a variance as it is stored.

        Parameters
        ----------
        variance : (z, Y, X) float32 array or None
            Variance of the probability.

        Returns
        -------
        (z, Y, X) float16 array or None
            The same, at half precision.
        """
        return None if variance is None else variance.astype(np.float16)

    def is_complete(self, context: TaskContext) -> bool:
        """Return whether an earlier run has stored exactly these scores, whole.

        Parameters
        ----------
        context : TaskContext
            The task.

        Returns
        -------
        bool
            False too where no scores are stored, but only their variance.
        """
        if self.scores is None:
            return False
        receipt = context.receipts.read(self._receipt)
        refs = [ref for ref in (self.scores, self.variance) if ref is not None]
        return (
            receipt is not None
            and receipt.get("digest") == self.digest
            and all(context.project.is_complete(ref) for ref in refs)
            and receipt.get("identity") == context.project.identity(self.scores)
        )

    def create(self, context: TaskContext, grid: Grid) -> None:
        """Create the empty features and remove earlier receipts of them.

        Parameters
        ----------
        context : TaskContext
            The task.
        grid : Grid
            Grid of the features.
        """
        if self.first is not None:
            context.receipts.forget(self._address)
        output = context.settings.output
        if self.scores is not None:
            context.project.create_features(self.scores, grid, self.dtype, output.chunk, output.format)
        if self.variance is not None:
            context.project.create_features(self.variance, grid, "float16", output.chunk, output.format)

    def finish(self, context: TaskContext, parts: Sequence[Mapping[str, Any]]) -> None:
        """Add the pyramids, and the receipt last.

        Parameters
        ----------
        context : TaskContext
            The task.
        parts : sequence of mappings
            Receipts of the tasks that wrote blocks, if any.
        """
        refs = [ref for ref in (self.scores, self.variance) if ref is not None]
        for ref in refs:
            context.project.finish_features(ref)
        if self.first is None:
            return
        written: dict[str, Any] = {}
        for objects in (*(part.get("objects", {}) for part in parts), context.meter.objects):
            written |= objects
        folders = tuple(f"{ref.path}/" for ref in refs)
        receipt = {
            "receipt_version": RECEIPT_VERSION,
            "digest": self.digest,
            "stage": SCORES,
            "run": self.first.run,
            "part": "complete",
            "identity": context.project.identity(self.first),
            "uri": self.first.key,
            "paths": [ref.path for ref in refs],
            "objects": {name: entry for name, entry in sorted(written.items()) if name.startswith(folders)},
        }
        context.meter.flush()
        context.receipts.write(self._receipt, receipt)

    def read(self, context: TaskContext, core: Box) -> Iterator[Array]:
        """Read the stored scores of a block, a row of chunks at a time.

        Parameters
        ----------
        context : TaskContext
            The task.
        core : Box
            The block.

        Yields
        ------
        (z, y, x) float16 or uint8 array
            Scores of consecutive planes.
        """
        assert self.scores is not None
        depth = context.project.stored_chunk(self.scores)[0]
        for start in range(core.start[0], core.stop[0], depth):
            stop = min(start + depth, core.stop[0])
            box = Box((start, *core.start[1:]), (stop, *core.stop[1:]))
            yield context.project.read_features(self.scores, box)

    @property
    def _address(self) -> str:
        assert self.first is not None
        place = self.first.tomogram.key.rpartition("/")[2]
        return f"{SCORES}/{self.first.run}/{place}/{self.first.feature_type}"

    @property
    def _receipt(self) -> str:
        return receipt_name(self._address, "complete", self.digest)


class ChunkRowWriter:
    """Gather planes into rows of whole chunks, and write each row in a second thread while the next is made.

    Parameters
    ----------
    core : Box
        The block that is written.
    depth : int
        Depth of a chunk, in planes.
    writers : mapping of str to callable
        Name of an array -> function that writes a box of it.
    """

    def __init__(self, core: Box, depth: int, writers: Mapping[str, Callable[[Box, Array], None]]) -> None:
        self._core, self._depth, self._writers = core, depth, writers
        self._first_plane = core.start[0]
        self._pending: dict[str, list[Array]] = {name: [] for name in writers}
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and self._written is not None:
                self._written.result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def add(self, planes: Mapping[str, Array | None]) -> None:
        """Take the next planes of all arrays.

        Parameters
        ----------
        planes : mapping of str to (z, y, x) array or None
            The planes by the arrays' names, all of one depth. Those without a writer are ignored.
        """
        arrays = {name: array for name, array in planes.items() if name in self._writers and array is not None}
        count = len(next(iter(arrays.values())))
        done = 0
        while done < count:
            row_end = min((self._first_plane // self._depth + 1) * self._depth, self._core.stop[0])
            taken = min(row_end - self._next_plane(), count - done)
            for name, pending in self._pending.items():
                pending.append(arrays[name][done : done + taken])
            done += taken
            if self._next_plane() == row_end:
                self._write(row_end)

    def _next_plane(self) -> int:
        return self._first_plane + sum(len(part) for part in next(iter(self._pending.values())))

    def _write(self, row_end: int) -> None:
        box = Box((self._first_plane, *self._core.start[1:]), (row_end, *self._core.stop[1:]))
        rows = {name: np.concatenate(parts) for name, parts in self._pending.items()}
        if self._written is not None:
            self._written.result()  # one row at a time, so that memory stays bounded
        self._written = self._thread.submit(self._write_all, box, rows)
        self._first_plane, self._pending = row_end, {name: [] for name in self._writers}

    def _write_all(self, box: Box, rows: Mapping[str, Array]) -> None:
        for name, array in rows.items():
            self._writers[name](box, array)
