"""What a listing says of an object: size, tag and time of modification."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_TAGS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of one object.

    Attributes
    ----------
    size : int
        Size in bytes.
    tag : str
        Changes when the content is replaced: the ETag, or the modification time in ns on local disks.
    modified : float or None
        Seconds since 1970 by the store's own clock, or None if unknown. Only comparable with `Files.now`.
    """

    size: int
    tag: str
    modified: float | None = field(default=None, compare=False)


def local_info(status: os.stat_result) -> ObjectInfo:
    """Return the info of a file on a local disk.

    Parameters
    ----------
    status : os.stat_result
        What `os.stat` returned for the file.
    """
    return ObjectInfo(status.st_size, str(status.st_mtime_ns), status.st_mtime)


def remote_info(entry: Mapping[str, Any]) -> ObjectInfo:
    """Return the info of an object from fsspec's entry, whose keys depend on the store.

    Parameters
    ----------
    entry : mapping
        An entry of fsspec's `info` or of a listing with details.
    """
    tag = next((entry[key] for key in _TAGS if key in entry), "")
    modified = entry.get("LastModified") or entry.get("last_modified") or entry.get("mtime") or entry.get("created")
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else modified
    return ObjectInfo(
        int(entry.get("size") or 0),
        str(tag).strip('"'),
        float(seconds) if isinstance(seconds, int | float) else None,
    )


def listing_digest(listing: Mapping[str, ObjectInfo], extra: str = "") -> str:
    """Return a hash that changes when one of the listed objects is replaced, added or removed.

    Parameters
    ----------
    listing : mapping of str to ObjectInfo
        Objects by name.
    extra : str
        Further text that the hash covers. Default: empty.

    Returns
    -------
    str
        The first 16 hexadecimal digits of a SHA-256.
    """
    lines = [f"{name}\t{info.size}\t{info.tag}" for name, info in sorted(listing.items())]
    return hashlib.sha256("\n".join([extra, *lines]).encode()).hexdigest()[:16]
