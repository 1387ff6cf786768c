"""Which kind of volume file a name stands for, and the bytes of compressed files."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from membrain_cloud.errors import TomogramError, storage_error
from membrain_cloud.store.formats.local_input import check_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["mrc", "tiff", "numpy", "nifti", "nrrd", "zarr"]

_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "mrc": (".mrc", ".rec", ".map", ".st", ".ali"),
    "tiff": (".tif", ".tiff"),
    "numpy": (".npy",),
    "nifti": (".nii",),
    "nrrd": (".nrrd",),
    "zarr": (".ome.zarr", ".zarr"),
}
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
_COPY_BYTES = 1 << 24


def split_name(path: str) -> tuple[str, Kind]:
    """Split a volume file's name into its stem and its kind.

    Parameters
    ----------
    path : str
        Path or URL; only its last part is looked at.

    Returns
    -------
    tuple of str
        The name without folder and known endings, and the kind: `TS_1.rec.gz` -> `("TS_1", "mrc")`.

    Raises
    ------
    TomogramError
        If the ending is not one of a volume file.
    """
    name = path.rstrip("/").rpartition("/")[2]
    lowered = name.lower()
    for packed in _COMPRESSED:
        lowered = lowered.removesuffix(packed)
    for kind, endings in _ENDINGS.items():
        for ending in endings:
            if lowered.endswith(ending):
                return name[: len(lowered) - len(ending)], kind
    raise TomogramError(
        f"{path}: the kind of this file is not known",
        "give .mrc, .rec, .map, .nii, .nrrd, .tif, .npy (each also .gz or .bz2) or .zarr",
    )


def file_stem(path: str) -> str:
    """Return a volume file's name without folder and known endings; raises as `split_name`.

    Parameters
    ----------
    path : str
        Path or name of the file.
    """
    return split_name(path)[0]


def is_compressed(path: str) -> bool:
    """Return whether the file as a whole is compressed (.gz, .bz2).

    Parameters
    ----------
    path : str
        Path or name of the file.
    """
    return path.lower().endswith(tuple(_COMPRESSED))


@contextlib.contextmanager
def open_content(path: str) -> Iterator[IO[bytes]]:
    """Open a file for reading its uncompressed content.

    Parameters
    ----------
    path : str
        Local file; .gz and .bz2 are unpacked while they are read.

    Yields
    ------
    binary file

    Raises
    ------
    TomogramError
        If the compressed data are damaged, at any read; or if the file cannot be opened.
    """
    check_regular_file(path, TomogramError)
    opener = next((opener for ending, opener in _COMPRESSED.items() if path.lower().endswith(ending)), Path.open)
    with _damage_is_named(path), opener(Path(path), "rb") as file:
        yield cast("IO[bytes]", file)


def uncompressed_size(path: str) -> int:
    """Return the number of bytes of a file's uncompressed content; a compressed file is read through, and so checked.

    Parameters
    ----------
    path : str
        Local file.

    Returns
    -------
    int

    Raises
    ------
    TomogramError
        If the compressed data are damaged; or if the file cannot be read.
    """
    if not is_compressed(path):
        return check_regular_file(path, TomogramError)
    size = 0
    with open_content(path) as content:
        while part := content.read(_COPY_BYTES):
            size += len(part)
    return size


@contextlib.contextmanager
def unpacked(path: str, scratch: str | None) -> Iterator[str]:
    """Unpack a compressed file, and remove what was unpacked at the end.

    Parameters
    ----------
    path : str
        Local file, .gz or .bz2.
    scratch : str or None
        Folder of the unpacked file; None for the system's temporary folder.

    Yields
    ------
    str
        The unpacked file.

    Raises
    ------
    TomogramError
        If the compressed data are damaged.
    StorageError
        If the folder is missing or has no room.
    """
    with contextlib.ExitStack() as stack:
        content = stack.enter_context(open_content(path))
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked-", dir=scratch))
            target = Path(folder, "volume")
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, _COPY_BYTES)
        except OSError as error:
            if error.errno is None:  # of the data, not of the system
                raise
            raise storage_error(error, f"{path}, unpacked under {scratch or tempfile.gettempdir()}") from error
        yield str(target)


@contextlib.contextmanager
def _damage_is_named(path: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise TomogramError(f"{path}: cannot be read ({error})", "check the path and its permissions") from error
        raise TomogramError(f"{path}: the compressed file is damaged ({error})", "copy it again") from error
