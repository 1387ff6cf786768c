"""Scores that `segment` keeps as copick features, so that another threshold needs no network.

They have a receipt of their own. Its digest covers all that decides the scores: settings but the threshold, model,
tomogram. The first eight digits stand in the features' names, so scores of different settings lie beside each other.
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
# Where their receipts lie.
SCORES = "scores"


@dataclass(frozen=True)
class ScoreCache:
    """What one task keeps: `scores` and `variance` are None where they are not asked for."""

    digest: str
    dtype: str
    scores: FeaturesRef | None
    variance: FeaturesRef | None

    @classmethod
    def of(cls, context: TaskContext, data_version: int) -> ScoreCache:
        chosen, density = context.settings.segment, context.tomogram("density")
        digest_settings = {key: value for key, value in chosen.digest_settings().items() if key != "threshold"}
        look = sliding_window(chosen, context.project.grid(density).voxel_spacing_angstrom)
        windows = [look.window, look.tiling.reach, look.tiling.stride]
        identity = context.project.identity(density)
        digest = digest_of(
            "scores", digest_settings, windows, context.task.model_sha256, data_version, density.key, identity
        )

        def features(kind: str) -> FeaturesRef:
            name = f"membrane-{kind}-{digest[:8]}"
            return FeaturesRef(density.run, density.tomogram_type, density.voxel_spacing_angstrom, name)

        return cls(
            digest,
            chosen.scores,
            features("score") if chosen.scores != "no" else None,
            features("uncertainty") if chosen.uncertainty else None,
        )

    @property
    def first(self) -> FeaturesRef | None:
        """What the receipt is named after: the scores, or the variance where no scores are kept."""
        return self.scores or self.variance

    def encoded(self, logits: NDArray[np.float32]) -> Array:
        """The logits as they are kept: masks are made of these, so that they are the same when made again."""
        return logits if self.scores is None else encode_scores(logits, self.dtype)

    def halved(self, variance: NDArray[np.float32] | None) -> Array | None:
        """A variance as it is kept."""
        return None if variance is None else variance.astype(np.float16)

    def are_stored(self, context: TaskContext) -> bool:
        """Whether an earlier run has kept just these scores, whole."""
        if self.scores is None:
            return False
        receipt = context.receipts.read(self._receipt)
        wanted = [ref for ref in (self.scores, self.variance) if ref is not None]
        return (
            receipt is not None
            and receipt.get("digest") == self.digest
            and all(context.project.is_complete(ref) for ref in wanted)
            and receipt.get("identity") == context.project.identity(self.scores)
        )

    def create(self, context: TaskContext, grid: Grid) -> None:
        if self.first is not None:
            context.receipts.forget(self._address)
        if self.scores is not None:
            context.project.create_features(self.scores, grid, self.dtype, context.settings.output.chunk)
        if self.variance is not None:
            context.project.create_features(self.variance, grid, "float16", context.settings.output.chunk)

    def finish(self, context: TaskContext, parts: Sequence[Mapping[str, Any]]) -> None:
        """Add the pyramids, and the receipt last. `parts` : receipts of the tasks that wrote blocks, if any."""
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
        """Stored scores of a core, a row of chunks at a time."""
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
    """Gathers slabs into rows of whole chunks and writes these in a second thread, while the next are made.

    writers : what writes a box, by the name of what is gathered.
    """

    def __init__(self, core: Box, depth: int, writers: Mapping[str, Callable[[Box, Array], None]]) -> None:
        self.core, self.depth, self.writers = core, depth, writers
        self.first = core.start[0]
        self.waiting: dict[str, list[Array]] = {name: [] for name in writers}
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and self.written is not None:
                self.written.result()
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def add(self, planes: Mapping[str, Array | None]) -> None:
        """The next planes of all that is gathered, all of one depth; what nobody writes is passed over."""
        taken_in = {name: array for name, array in planes.items() if name in self.writers and array is not None}
        count = len(next(iter(taken_in.values())))
        done = 0
        while done < count:
            last = min((self.first // self.depth + 1) * self.depth, self.core.stop[0])
            taken = min(last - self._reached(), count - done)
            for name, waiting in self.waiting.items():
                waiting.append(taken_in[name][done : done + taken])
            done += taken
            if self._reached() == last:
                self._write(last)

    def _reached(self) -> int:
        return self.first + sum(len(piece) for piece in next(iter(self.waiting.values())))

    def _write(self, last: int) -> None:
        box = Box((self.first, *self.core.start[1:]), (last, *self.core.stop[1:]))
        rows = {name: np.concatenate(pieces) for name, pieces in self.waiting.items()}
        if self.written is not None:
            self.written.result()  # one row at a time, so that memory stays bounded
        self.written = self.pool.submit(self._write_all, box, rows)
        self.first, self.waiting = last, {name: [] for name in self.writers}

    def _write_all(self, box: Box, rows: Mapping[str, Array]) -> None:
        for name, array in rows.items():
            self.writers[name](box, array)
