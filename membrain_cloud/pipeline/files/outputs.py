"""The files that `segment_file` makes: whether they exist already, and how new ones get their names.

A record, `<stem>_segmented.json`, lies beside the volumes. It says which input and settings they were made of, and
their sizes. Files that match their record are not made again; others are not overwritten without being asked to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import StorageError, UsageError, storage_error
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAGING, _LOCK = ".segmenting-", "lock"
# Between making a lock file and locking it.
_LOCKED_WITHIN_SECONDS = 10.0


@dataclass(frozen=True)
class SegmentedFile:
    """The files that are made of one volume file.

    Attributes
    ----------
    file : str
        The volume file.
    state : str
        "done", or "skipped" where all of them existed, made of the same file with the same settings.
    segmented : str
        The mask, or the numbered components.
    scores, uncertainty_map, skeleton : str or None
        None where they were not asked for.
    membrane_voxels : int
        Voxels of the mask.
    components : int or None
        Number of components; None where they were not asked for.
    notes : tuple of str
        What was assumed about the input, as sentences.
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
        """All files, the scores first."""
        return [path for path in (self.scores, self.segmented, self.uncertainty_map, self.skeleton) if path]


def file_identity(path: str) -> str:
    """Return a digest that changes when a file is replaced.

    Parameters
    ----------
    path : str
        Path or URL of a file, or of a Zarr folder.

    Returns
    -------
    str
        16 hexadecimal digits, of the sizes and times of the file, or of all files in the folder.
    """
    folder, _, name = path.rstrip("/").rpartition("/")
    files = Files(folder or ("/" if path.startswith("/") else "."))
    listing = files.listing(name) if path.rstrip("/").endswith(".zarr") else {name: files.info(name)}
    lines = [f"{key}\t{info.size}\t{info.tag}" for key, info in sorted(listing.items()) if info is not None]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _record_path(planned: SegmentedFile) -> Path:
    return Path(planned.segmented.removesuffix(".mrc") + ".json")


def earlier_outputs(planned: SegmentedFile, recipe: dict[str, Any], *, overwrite: bool) -> SegmentedFile | None:
    """Return the outputs of an earlier call, if they are complete and were made by the same recipe.

    Parameters
    ----------
    planned : SegmentedFile
        The files to make.
    recipe : dict
        Input and settings that determine the outputs, JSON-able.
    overwrite : bool
        Whether other files of these names may be replaced.

    Returns
    -------
    SegmentedFile or None
        With state "skipped"; None where files are missing and may be made.

    Raises
    ------
    UsageError
        If files of these names exist that differ from their record or were made by another recipe, and `overwrite` is
        False.
    """
    record: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(_record_path(planned).read_text(encoding="utf-8"))
    sizes = record.get("outputs", {})
    same_recipe = record.get("recipe") == json.loads(json.dumps(recipe))
    existing = [name for name in planned.outputs if Path(name).exists()]
    recorded = same_recipe and all(_size(name) == sizes.get(Path(name).name) for name in existing)
    if recorded and existing == planned.outputs:
        counts = {key: record[key] for key in ("membrane_voxels", "components")}
        return replace(planned, state="skipped", notes=("all of it is there already",), **counts)
    # Recorded files whose companion is missing are made again together with it, with the same content.
    if existing and not recorded and not overwrite:
        why = "it was changed since" if same_recipe else "it was made otherwise, or of another file"
        raise UsageError(f"{existing[0]}: exists already, and {why}", "give another output, or set overwrite")
    return None


@contextlib.contextmanager
def staging(output: str) -> Iterator[str]:
    """Make a hidden folder beside the outputs, and remove it at the end.

    A lock in the folder is held as long as the process lives, however it ends. Folders that killed processes have left
    behind are removed.

    Parameters
    ----------
    output : str
        Folder of the outputs; it is made where it is missing.

    Yields
    ------
    str
        The hidden folder.

    Raises
    ------
    StorageError
        If the output folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            Path(output).mkdir(parents=True, exist_ok=True)
            for left in Path(output).glob(f"{_STAGING}*"):
                _remove_if_abandoned(left)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=_STAGING, dir=output, ignore_cleanup_errors=True)
            )
            lock = stack.enter_context(Path(folder, _LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(f"{output}: {error.strerror}", "give another output") from None
        yield folder


def _remove_if_abandoned(folder: Path) -> None:
    """Delete a staging folder unless its lock is held, or so new that its owner may be about to lock it."""
    with contextlib.suppress(OSError), (folder / _LOCK).open() as lock:
        if time.time() - (folder / _LOCK).stat().st_mtime > _LOCKED_WITHIN_SECONDS:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held
            shutil.rmtree(folder, ignore_errors=True)


def publish(
    finished: SegmentedFile, staged: SegmentedFile, planned: SegmentedFile, recipe: dict[str, Any]
) -> SegmentedFile:
    """Give all files their names.

    The record is removed first and written last, so that it never describes a mixture of old and new files.

    Parameters
    ----------
    finished : SegmentedFile
        Counts and notes.
    staged : SegmentedFile
        The files as they are.
    planned : SegmentedFile
        The names to give them.
    recipe : dict
        Input and settings that determine the outputs, JSON-able.

    Returns
    -------
    SegmentedFile
        The planned names with the finished counts and notes.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    record = _record_path(planned)
    content = {
        "recipe": recipe,
        "outputs": {Path(name).name: _size(name) for name in staged.outputs},
        "membrane_voxels": finished.membrane_voxels,
        "components": finished.components,
        "notes": finished.notes,
        "version": __version__,
    }
    text = json.dumps(content, indent=1, sort_keys=True)
    try:
        record.unlink(missing_ok=True)
        for source, target in zip(staged.outputs, planned.outputs, strict=True):
            Path(source).replace(target)
        replace_atomically(record, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise storage_error(error, planned.segmented) from error
    return replace(
        planned, membrane_voxels=finished.membrane_voxels, components=finished.components, notes=finished.notes
    )


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None
