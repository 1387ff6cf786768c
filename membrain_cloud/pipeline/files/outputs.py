"""The files that `segment FILE` makes: whether they are there already, and how new ones come to their names.

Beside the volumes lies a record, `<stem>_segmented.json`: of what they were made, how, and how large they are. Files
that it vouches for are not made again; others are not overwritten unasked.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import StorageError, UsageError, storage_error
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAGING, _LOCK = ".segmenting-", "lock"
# Between making a lock and holding it.
_LOCKED_WITHIN_SECONDS = 10.0


@dataclass(frozen=True)
class SegmentedFile:
    """What was written of one file; None for what was not asked for. `notes` say what was assumed about the input.

    state : "done", or "skipped" where all of it was there already, made with the same settings of the same file.
    """

    file: str
    state: str
    segmented: str
    scores: str | None
    uncertainty_map: str | None
    skeleton: str | None
    membrane_voxels: int
    components: int | None
    notes: tuple[str, ...]

    @property
    def outputs(self) -> list[str]:
        return [path for path in (self.scores, self.segmented, self.uncertainty_map, self.skeleton) if path]


def identity(path: str) -> str:
    """Changes when the file is replaced: size and time; of a folder, those of all that is in it."""
    folder, _, name = path.rstrip("/").rpartition("/")
    files = Files(folder or ("/" if path.startswith("/") else "."))
    listing = files.listing(name) if path.rstrip("/").endswith(".zarr") else {name: files.info(name)}
    lines = [f"{key}\t{info.size}\t{info.tag}" for key, info in sorted(listing.items()) if info is not None]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _record_of(planned: SegmentedFile) -> str:
    return planned.segmented.removesuffix(".mrc") + ".json"


def earlier_outputs(planned: SegmentedFile, recipe: dict[str, Any], *, overwrite: bool) -> SegmentedFile | None:
    """What was made before, where all of it is there and by this recipe; None where the way is clear.

    Raises UsageError where other files are in the way.
    """
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError), open(_record_of(planned), encoding="utf-8") as file:
        record = json.load(file)
    sizes = record.get("outputs", {})
    same = record.get("recipe") == json.loads(json.dumps(recipe))
    there = [name for name in planned.outputs if os.path.exists(name)]
    vouched = same and all(_size(name) == sizes.get(os.path.basename(name)) for name in there)
    if vouched and there == planned.outputs:
        counts = {key: record[key] for key in ("membrane_voxels", "components")}
        return replace(planned, state="skipped", notes=("all of it is there already",), **counts)
    # Made once more with a companion that was not asked for then, or has gone, they are what they were.
    if there and not vouched and not overwrite:
        why = "it was changed since" if same else "it was made otherwise, or of another file"
        raise UsageError(f"{there[0]}: exists already, and {why}", "give another --output, or --overwrite")
    return None


@contextlib.contextmanager
def staging(output: str) -> Iterator[str]:
    """A hidden folder beside the outputs, gone at the end; what killed processes have left there goes too.

    Its owner holds a lock in it as long as it lives, whatever happens to it.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(output, exist_ok=True)
            for left in glob.glob(os.path.join(glob.escape(output), f"{_STAGING}*")):
                _remove_if_left(left)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=_STAGING, dir=output, ignore_cleanup_errors=True)
            )
            lock = stack.enter_context(open(os.path.join(folder, _LOCK), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(f"{output}: {error.strerror}", "give another --output") from None
        yield folder


def _remove_if_left(folder: str) -> None:
    """A folder whose lock nobody holds; one that has none yet may belong to somebody who is about to take it."""
    with contextlib.suppress(OSError), open(os.path.join(folder, _LOCK)) as lock:
        if time.time() - os.fstat(lock.fileno()).st_mtime > _LOCKED_WITHIN_SECONDS:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody holds it
            shutil.rmtree(folder, ignore_errors=True)


def publish(
    made: SegmentedFile, staged: SegmentedFile, planned: SegmentedFile, recipe: dict[str, Any]
) -> SegmentedFile:
    """Give all files their names. The record goes first and comes back last, so it never vouches for a mixture."""
    record = _record_of(planned)
    content = {
        "recipe": recipe,
        "outputs": {os.path.basename(name): _size(name) for name in staged.outputs},
        "membrane_voxels": made.membrane_voxels,
        "components": made.components,
        "notes": made.notes,
        "version": __version__,
    }
    waiting = os.path.join(os.path.dirname(staged.segmented), "record.json")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record)
        for source, target in zip(staged.outputs, planned.outputs, strict=True):
            os.replace(source, target)
        with open(waiting, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        os.replace(waiting, record)
    except OSError as error:
        raise storage_error(error, planned.segmented) from error
    return replace(planned, membrane_voxels=made.membrane_voxels, components=made.components, notes=made.notes)


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None
