"""One folder of objects on any fsspec file system, with atomic writes and faults that are never silent.

The only module of the package that talks to fsspec. What it promises the rest of the store:

- an object that is not there raises `FileNotFoundError`; every other fault raises one of our errors, so a 403 or a
  503 can never be taken for "absent" and be filled with zeros;
- a write is seen whole or not at all: a hidden temporary file and a rename on local disks, one PUT on object stores;
- listings come from the store, never from a cache of an earlier listing;
- a request whose fault may pass (503, 500, a lost connection, half an answer) is repeated a few times, with jitter, and
  then raises TransientError; what stays (no permission, no such bucket, a full disk) is said at once.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import shutil
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec

from membrain_cloud.atomic import TEMPORARY, hidden_sibling
from membrain_cloud.errors import TransientError, UsageError
from membrain_cloud.store.objects.error_mapping import faults, lacks_bucket
from membrain_cloud.store.objects.local_files import create_file, replace_file, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.store.objects.io_meter import Meter

_LOCAL_PROTOCOLS = {"file", "local"}
_S3_PROTOCOLS = {"s3", "s3a"}
# Of one request to a remote store. With what its client does by itself that is 3 x 2, and about a second of waiting.
ATTEMPTS = 3
BACK_OFF_SECONDS = 0.25
_CLIENT_ATTEMPTS = 2
_T = TypeVar("_T")
_WEB_PROTOCOLS = {"http", "https"}


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of one object: its size in bytes and a tag that changes when the content is replaced.

    modified : seconds since 1970 by the store's own clock, to be compared with `Files.now` alone; None: not known.
    """

    size: int
    tag: str
    modified: float | None = field(default=None, compare=False)


class Files:
    """Objects under one root, addressed by "/"-separated names relative to it.

    Parameters
    ----------
    url : a local path or any URL fsspec knows.
    options : arguments of the fsspec file system (copick's `overlay_fs_args`).
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        options = dict(options or {})
        protocol = fsspec.core.split_protocol(url)[0] or "file"
        if protocol not in _LOCAL_PROTOCOLS:
            options.setdefault("use_listings_cache", False)
        if protocol in _S3_PROTOCOLS:
            if "@" in url.partition("://")[2].partition("/")[0]:
                raise UsageError(f"{url}: a bucket's URL with a user or a key", "give keys by the environment")
            # More than one makes s3fs ask for the size first: two requests a chunk.
            options.setdefault("max_concurrency", 1)
            # botocore would try each of s3fs's attempts five times again: 40 s of silence for one 503.
            options["config_kwargs"] = {"retries": {"total_max_attempts": 1}} | dict(options.get("config_kwargs") or {})
        with faults(url, "opened"):
            self._fs, root = _local(url, options) if _is_plain(url) else fsspec.core.url_to_fs(url, **options)
        if protocol in _S3_PROTOCOLS and hasattr(self._fs, "retries"):
            self._fs.retries = _CLIENT_ATTEMPTS
        self.local = protocol in _LOCAL_PROTOCOLS
        self.root = str(root).rstrip("/")
        self.url = self.root if self.local else url.rstrip("/")
        self.options = options
        self.meter: Meter | None = None
        # Web servers give objects by name only: what is not there can be told from what is, but nothing is listed.
        self.can_list = protocol not in _WEB_PROTOCOLS

    def __reduce__(self) -> tuple[Any, ...]:
        return Files, (self.url, self.options)

    def _ask(self, what: str, done: str, request: Callable[[], _T]) -> _T:
        """Do a request; repeat it where its fault may pass. `FileNotFoundError` goes through."""
        attempts = 1 if self.local else ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                with faults(what, done):
                    return request()
            except TransientError:
                if attempt == attempts:
                    raise
            time.sleep(BACK_OFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def metered(self, meter: Meter) -> Files:
        """The same objects; what goes through the result is counted by `meter`."""
        other = self._twin()
        other.meter = meter
        return other

    def _twin(self) -> Files:
        """The same, without asking fsspec again."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def path(self, name: str) -> str:
        return f"{self.root}/{name.strip('/')}".rstrip("/")

    def below(self, name: str) -> Files:
        """The folder `name` as a root of its own."""
        return Files(f"{self.url}/{name}", self.options)

    def beside(self, name: str) -> Files:
        """The folder `name` beside this one as a root of its own, without a meter."""
        other = self._twin()
        other.root, other.url = (f"{place.rpartition('/')[0]}/{name}" for place in (self.root, self.url))
        other.meter = None
        return other

    def read(self, name: str) -> bytes:
        """The whole object; `FileNotFoundError` when it is not there, TransientError or StorageError otherwise."""

        def request() -> bytes:
            try:
                if self.local:  # fsspec's own way to a small file takes ten times as long
                    with open(self.path(name), "rb") as handle:
                        return handle.read()
                return bytes(self._fs.cat_file(self.path(name)))
            except (IsADirectoryError, NotADirectoryError) as error:
                raise FileNotFoundError(self.path(name)) from error

        content = self._ask(f"{self.url}/{name}", "read", request)
        if self.meter is not None:
            self.meter.note_read(len(content))
        return content

    def copy_out(self, name: str, target: str) -> None:
        """Copy an object, however large, to the local path `target`; errors as `read`'s, and of the local disk."""
        with faults(f"{self.url}/{name}".rstrip("/"), "read"):  # large: whoever asks says whether to try again
            self._fs.get_file(self.path(name), target)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """The object as a file that can be read from anywhere in it; errors as `read`'s, when it is opened or read."""
        with faults(f"{self.url}/{name}", "read"), self._fs.open(self.path(name), "rb") as handle:
            yield handle

    @property
    def filesystem(self) -> Any:
        """The fsspec file system, for libraries that read through one; what it raises is not translated."""
        return self._fs

    def exists(self, name: str) -> bool:
        def request() -> bool:
            try:
                self._fs.info(self.path(name))
            except (FileNotFoundError, NotADirectoryError) as error:
                return self._absent(error, False)
            return True

        return self._ask(f"{self.url}/{name}", "looked up", request)

    def find(self, name: str) -> tuple[Files, str] | None:
        """The store and the name there of an object or folder; None where it is not there."""
        return (self, name) if self.exists(name) else None

    def write(self, name: str, content: bytes) -> None:
        """Write atomically; StorageError for a full disk, a read-only store or missing permission."""
        late = self.meter is not None and self.meter.late

        def request() -> None:
            if self.local:
                replace_file(self.path(name), content, flush=not late)
            else:
                self._fs.pipe_file(self.path(name), content)

        self._ask(f"{self.url}/{name}", "written", request)
        if self.meter is not None:
            self.meter.note_written(name, content)
            if late and self.local:
                self.meter.note_unflushed(self.path(name))

    def write_from(self, source: str, name: str) -> None:
        """Write the local file `source` as an object, atomically, however large; errors as `write`'s."""
        with faults(f"{self.url}/{name}", "written"):
            if self.local:
                with open(source, "rb") as content:
                    replace_file(self.path(name), content)
            else:
                self._fs.put_file(source, self.path(name))

    def create(self, name: str, content: bytes) -> bool:
        """Write an object that is not there yet; False when it is. Errors as `write`'s.

        On local disks and on S3 whoever comes second is told. Where a store does not know conditional writes, two
        who come at the same instant may both be told True: nothing may rest on it but time saved.
        """
        what = f"{self.url}/{name}"
        with faults(what, "written"):
            if self.local:
                return create_file(self.path(name), content)
            if self._is_there(name):
                return False
            try:
                self._fs.pipe_file(self.path(name), content, mode="create")
            except FileExistsError:
                return self._holds(name, content)
            except OSError as error:
                if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
                    return self._holds(name, content)
                raise
            return True

    def _is_there(self, name: str) -> bool:
        """Whether a small object is there, by reading it: an object store is asked twice for what is not there."""
        try:
            self.read(name)
        except FileNotFoundError:
            return False
        return True

    def _holds(self, name: str, content: bytes) -> bool:
        """Whether an object is what we wrote: the client asks again after an answer that was lost, and meets itself."""
        try:
            return self.read(name) == content
        except FileNotFoundError:
            return False

    def make_folder(self, name: str = "") -> None:
        """Create a local folder; object stores have none."""
        if self.local:
            with faults(self.path(name), "written"):
                os.makedirs(self.path(name), exist_ok=True)

    def remove(self, name: str) -> None:
        """Remove an object or everything below a name; nothing happens when it is not there."""
        if self.meter is not None:
            self.meter.note_removed(name)

        def request() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._remove(name)

        self._ask(f"{self.url}/{name}", "removed", request)

    def remove_object(self, name: str) -> None:
        """Remove one object by one request; nothing happens when it is not there. Folders: `remove`."""
        if self.meter is not None:
            self.meter.note_removed(name)

        def request() -> None:
            with contextlib.suppress(FileNotFoundError):
                if self.local:
                    os.unlink(self.path(name))
                else:
                    self._fs.rm_file(self.path(name))

        self._ask(f"{self.url}/{name}", "removed", request)

    def _remove(self, name: str) -> None:
        if not self.local:
            self._fs.rm(self.path(name), recursive=True)
        elif os.path.isdir(self.path(name)) and not os.path.islink(self.path(name)):
            # Out of sight first, so that a removal cut short never leaves half a volume that looks whole.
            doomed = hidden_sibling(self.path(name))
            os.rename(self.path(name), doomed)
            shutil.rmtree(doomed)
        else:
            os.unlink(self.path(name))

    def children(self, name: str = "") -> dict[str, bool]:
        """Names directly below `name`, sorted, hidden ones left out; True for folders. Empty when absent."""

        def request() -> list[dict[str, Any]]:
            try:
                return list(self._fs.ls(self.path(name), detail=True))
            except (FileNotFoundError, NotADirectoryError) as error:
                return self._absent(error, [])

        entries = self._ask(f"{self.url}/{name}", "listed", request)
        found: dict[str, bool] = {}
        for entry in entries:
            path = str(entry["name"]).rstrip("/")
            child = path.rsplit("/", 1)[-1]
            if child and not child.startswith(".") and path != self.path(name):
                is_link = self.local and entry.get("islink", False)
                found[child] = os.path.isdir(path) if is_link else entry["type"] == "directory"
        return dict(sorted(found.items()))

    def listing(self, name: str = "") -> dict[str, ObjectInfo]:
        """Every object below `name` (relative names, sorted) with size and tag, in one bulk listing.

        Temporary files of writes in progress are left out. Empty when there is nothing.
        """
        base = self.path(name)

        def request() -> dict[str, ObjectInfo]:
            if not self.local:
                return self._remote_listing(base)
            return {
                name: ObjectInfo(status.st_size, str(status.st_mtime_ns), status.st_mtime)
                for name, status in walk(base)
            }

        found = self._ask(f"{self.url}/{name}", "listed", request)
        return dict(sorted(found.items()))

    def _remote_listing(self, base: str) -> dict[str, ObjectInfo]:
        try:
            entries = self._fs.find(base, detail=True)
        except FileNotFoundError as error:
            return self._absent(error, {})
        found = {}
        for path, entry in entries.items():
            if not path.startswith(base + "/"):  # the object `base` itself, or one that only shares its first letters
                continue
            found[path[len(base) + 1 :]] = _remote_info(entry)
        return found

    def info(self, name: str) -> ObjectInfo | None:
        """Size and tag of one object; None when it is not there."""

        def request() -> ObjectInfo | None:
            try:
                if self.local:
                    status = os.stat(self.path(name))
                    return ObjectInfo(status.st_size, str(status.st_mtime_ns), status.st_mtime)
                return _remote_info(self._fs.info(self.path(name)))
            except (FileNotFoundError, NotADirectoryError) as error:
                return self._absent(error, None)

        return self._ask(f"{self.url}/{name}", "looked up", request)

    def _absent(self, error: OSError, answer: _T) -> _T:
        """`answer`, unless it is the bucket that is not there."""
        if lacks_bucket(error):
            raise error
        return answer

    def check_writable(self) -> None:
        """Write a small object and remove it again. StorageError, with the cure, where that cannot be done."""
        self._probed()

    def now(self) -> float:
        """The time by the store's own clock, as the modification time of an object written for it.

        Ages of what lies there are told by it alone: the clocks of this machine and of others may differ from it.
        """
        info = self._probed()
        return time.time() if info is None or info.modified is None else info.modified

    def _probed(self) -> ObjectInfo | None:
        name = f".probe.{uuid.uuid4().hex[:12]}.tmp"
        self.write(name, b"1")
        try:
            return self.info(name)
        finally:
            self.remove(name)

    def temporaries(self) -> dict[str, ObjectInfo]:
        """What writes and removals that were cut short have left on a local disk: hidden files and folders of ours."""
        found: dict[str, ObjectInfo] = {}
        for folder, folders, names in os.walk(self.root) if self.local else ():
            ours = [name for name in (*folders, *names) if TEMPORARY.fullmatch(name)]
            folders[:] = [name for name in folders if name not in ours]
            for name in ours:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    info = ObjectInfo(status.st_size, str(status.st_mtime_ns), status.st_mtime)
                    found[os.path.relpath(path, self.root)] = info
        return dict(sorted(found.items()))


def _is_plain(url: str) -> bool:
    """Whether it is an absolute path on this machine and nothing more: most that a worker opens, often."""
    return url.startswith("/") and "::" not in url and "://" not in url


def _local(path: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """As `fsspec.core.url_to_fs`, which takes ten times as long."""
    fs = fsspec.filesystem("file", **options)
    return fs, str(fs._strip_protocol(path))


def _remote_info(entry: Mapping[str, Any]) -> ObjectInfo:
    tag = next(
        (entry[key] for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created") if key in entry), ""
    )
    modified = entry.get("LastModified") or entry.get("last_modified") or entry.get("mtime") or entry.get("created")
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else modified
    known = float(seconds) if isinstance(seconds, int | float) else None
    return ObjectInfo(int(entry.get("size") or 0), str(tag).strip('"'), known)
