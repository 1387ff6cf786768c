"""`Files`: the objects below one URL of any fsspec file system.

What the rest of the store relies on:

- An absent object raises FileNotFoundError. Every other fault raises an error of this package, so a 403 or a 503 is
  never taken for an absent chunk and filled with zeros.
- A write is seen whole or not at all: a hidden temporary file and a rename on local disks, one PUT on object stores.
- Listings come from the store, never from a cache of an earlier listing.
- A request whose fault may pass (503, 500, a lost connection, a truncated answer) is retried a few times with jitter,
  then raises TransientError. A fault that stays (no permission, no such bucket, a full disk) is raised at once.
"""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from membrain_cloud.errors import TransientError
from membrain_cloud.store.objects import file_system, local_files
from membrain_cloud.store.objects.error_mapping import translated_errors, unless_bucket_absent
from membrain_cloud.store.objects.object_info import ObjectInfo, local_info, remote_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from membrain_cloud.store.objects.io_meter import Meter

# Attempts of one request to a remote store. With the client's own that makes 3 x 2, and about 1 s of waiting.
ATTEMPTS = 3
BACK_OFF_SECONDS = 0.25
_T = TypeVar("_T")


class Files:
    """Objects below one root, addressed by "/"-separated names relative to it. Pickles as URL and options.

    Parameters
    ----------
    url : str
        A local path, or any URL that fsspec can open.
    options : Mapping, optional
        Arguments of the fsspec file system, such as copick's `overlay_fs_args`.
    meter : Meter, optional
        Counts what is read and written.
    opened : tuple, optional
        The fsspec file system, and the root in it, if the URL has been opened before.

    Attributes
    ----------
    url : str
        Path or URL of the root, without a trailing "/".
    root : str
        The root as fsspec names it.
    local : bool
        Whether the root is on a local disk.
    can_list : bool
        Whether the store lists objects. Web servers do not.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        meter: Meter | None = None,
        opened: tuple[Any, str] | None = None,
    ) -> None:
        self.options = file_system.with_defaults(url, options or {})
        self._fs, root = opened or file_system.open_root(url, self.options)
        self.local = file_system.is_local(url)
        self.root = root.rstrip("/")
        self.url = self.root if self.local else url.rstrip("/")
        self.can_list = not file_system.is_web(url)
        self.meter = meter

    def __reduce__(self) -> tuple[Any, ...]:
        return Files, (self.url, self.options)

    # --- other roots -----------------------------------------------------------------------------------------------

    def metered(self, meter: Meter) -> Files:
        """Return the same objects with `meter` counting what is read and written through the result."""
        return Files(self.url, self.options, meter=meter, opened=(self._fs, self.root))

    def below(self, name: str) -> Files:
        """Return the folder `name` as a root of its own, without a meter.

        Parameters
        ----------
        name : str
            Name of the folder relative to this root.
        """
        return Files(f"{self.url}/{name}", self.options)

    def beside(self, name: str) -> Files:
        """Return the folder `name` beside this root as a root of its own, without a meter.

        Parameters
        ----------
        name : str
            Name of the folder, relative to the folder that holds this root.
        """
        url, root = (f"{place.rpartition('/')[0]}/{name}" for place in (self.url, self.root))
        return Files(url, self.options, opened=(self._fs, root))

    @property
    def filesystem(self) -> Any:
        """The fsspec file system, for libraries that read through one; its errors are not translated."""
        return self._fs

    def path(self, name: str) -> str:
        """Return the path of an object in `filesystem`."""
        return f"{self.root}/{name.strip('/')}".rstrip("/")

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the content of an object, or some bytes of it, by one request.

        Parameters
        ----------
        name : str
            Name of the object.
        start : int, optional
            First byte; below 0, counted from the end. Default: the first of the object.
        stop : int, optional
            The byte after the last. Default: up to the end. Fewer bytes are returned if the object ends before.

        Raises
        ------
        FileNotFoundError
            If the object is absent.
        StorageError, TransientError
            For any other fault.
        """

        def request() -> bytes:
            try:
                if self.local:  # fsspec takes ten times as long for a small file
                    return local_files.read_bytes(self.path(name), start, stop)
                return bytes(self._fs.cat_file(self.path(name), start=start, end=stop))
            except (IsADirectoryError, NotADirectoryError) as error:
                raise FileNotFoundError(self.path(name)) from error

        content = self._request(name, "read", request)
        if self.meter is not None:
            self.meter.note_read(len(content))
        return content

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open an object as a binary file that can be read at any position.

        Parameters
        ----------
        name : str
            Name of the object; errors as `read`, on opening and on reading.
        """
        with translated_errors(f"{self.url}/{name}", "read"), self._fs.open(self.path(name), "rb") as handle:
            yield handle

    def copy_out(self, name: str, target: str) -> None:
        """Copy an object of any size to a local file. It is not retried.

        Parameters
        ----------
        name : str
            Name of the object; errors as `read`.
        target : str
            Path of the local file.
        """
        with translated_errors(f"{self.url}/{name}".rstrip("/"), "read"):
            self._fs.get_file(self.path(name), target)

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Write an object atomically.

        Parameters
        ----------
        name : str
            Name of the object.
        content : bytes
            Its content.

        Raises
        ------
        StorageError
            For a full disk, a read-only store or missing permission.
        TransientError
            For a fault that may pass.
        """
        late = self.meter is not None and self.meter.late

        def request() -> None:
            if self.local:
                local_files.replace_file(self.path(name), content, flush=not late)
            else:
                self._fs.pipe_file(self.path(name), content)

        self._request(name, "written", request)
        if self.meter is not None:
            self.meter.note_written(name, content)
            if late and self.local:
                self.meter.note_unflushed(self.path(name))

    def write_from(self, source: str, name: str) -> None:
        """Write a local file of any size as an object, atomically.

        Parameters
        ----------
        source : str
            Path of the local file.
        name : str
            Name of the object; errors as `write`.
        """
        with translated_errors(f"{self.url}/{name}", "written"):
            if self.local:
                with Path(source).open("rb") as content:
                    local_files.replace_file(self.path(name), content)
            else:
                self._fs.put_file(source, self.path(name))

    def create(self, name: str, content: bytes) -> bool:
        """Write an object that must not exist yet.

        On local disks and on S3 only the first of several writers succeeds. On stores without conditional writes, two
        that write at the same instant may both succeed: use it to save time, never for correctness.

        Parameters
        ----------
        name : str
            Name of the object.
        content : bytes
            Its content; errors as `write`.

        Returns
        -------
        bool
            False if the object exists; it is left as it is.
        """
        with translated_errors(f"{self.url}/{name}", "written"):
            if self.local:
                return local_files.create_file(self.path(name), content)
            if self._read_or_none(name) is not None:  # one request; fsspec's `exists` takes two for an absent object
                return False
            try:
                self._fs.pipe_file(self.path(name), content, mode="create")
            except FileExistsError:
                # The client repeats a request whose answer was lost, and then meets its own object.
                return self._read_or_none(name) == content
            except OSError as error:
                if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
                    return self._read_or_none(name) == content
                raise
            return True

    def make_folder(self, name: str = "") -> None:
        """Make a local folder; object stores have none."""
        if self.local:
            with translated_errors(self.path(name), "written"):
                Path(self.path(name)).mkdir(parents=True, exist_ok=True)

    def remove(self, name: str) -> None:
        """Remove an object or everything below a name, if it is there.

        Parameters
        ----------
        name : str
            Name of the object or folder relative to the root.
        """

        def request() -> None:
            with contextlib.suppress(FileNotFoundError):
                if self.local:
                    local_files.remove_path(self.path(name))
                else:
                    self._fs.rm(self.path(name), recursive=True)

        self._remove(name, request)

    def remove_object(self, name: str) -> None:
        """Remove one object by one request, if it is there; for folders use `remove`."""

        def request() -> None:
            with contextlib.suppress(FileNotFoundError):
                if self.local:
                    Path(self.path(name)).unlink()
                else:
                    self._fs.rm_file(self.path(name))

        self._remove(name, request)

    def check_writable(self) -> None:
        """Write a small object and remove it; raise StorageError if that fails."""
        self._probe()

    # --- listing ---------------------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Return whether an object or folder exists."""

        def request() -> bool:
            try:
                self._fs.info(self.path(name))
            except (FileNotFoundError, NotADirectoryError) as error:
                return unless_bucket_absent(error, False)
            return True

        return self._request(name, "looked up", request)

    def find(self, name: str) -> tuple[Files, str] | None:
        """Return this store and the name of an object or folder, or None if it is absent."""
        return (self, name) if self.exists(name) else None

    def info(self, name: str) -> ObjectInfo | None:
        """Return size and tag of one object, or None if it is absent.

        Parameters
        ----------
        name : str
            Name of the object relative to the root.
        """

        def request() -> ObjectInfo | None:
            try:
                if self.local:
                    return local_info(Path(self.path(name)).stat())
                return remote_info(self._fs.info(self.path(name)))
            except (FileNotFoundError, NotADirectoryError) as error:
                return unless_bucket_absent(error, None)

        return self._request(name, "looked up", request)

    def children(self, name: str = "") -> dict[str, bool]:
        """Return the names directly below `name`, sorted, without hidden ones.

        Parameters
        ----------
        name : str
            Name of the folder. Default: the root.

        Returns
        -------
        dict of str to bool
            True for folders, False for objects. Empty if the folder is absent.
        """

        def request() -> list[dict[str, Any]]:
            try:
                return list(self._fs.ls(self.path(name), detail=True))
            except (FileNotFoundError, NotADirectoryError) as error:
                return unless_bucket_absent(error, [])

        names: dict[str, bool] = {}
        for entry in self._request(name, "listed", request):
            path = str(entry["name"]).rstrip("/")
            child = path.rsplit("/", 1)[-1]
            if child and not child.startswith(".") and path != self.path(name):
                is_link = self.local and entry.get("islink", False)
                names[child] = Path(path).is_dir() if is_link else entry["type"] == "directory"
        return dict(sorted(names.items()))

    def listing(self, name: str = "") -> dict[str, ObjectInfo]:
        """Return every object below `name` with size and tag, in one bulk listing.

        Parameters
        ----------
        name : str
            Name of the folder. Default: the root.

        Returns
        -------
        dict of str to ObjectInfo
            By names relative to `name`, sorted, without the temporary files of writes in progress.
        """
        base = self.path(name)

        def request() -> dict[str, ObjectInfo]:
            if not self.local:
                return self._remote_listing(base)
            return {path: local_info(status) for path, status in local_files.walk(base)}

        return dict(sorted(self._request(name, "listed", request).items()))

    def temporaries(self) -> dict[str, ObjectInfo]:
        """Return the hidden files and folders that interrupted writes and removals have left on a local disk."""
        if not self.local:
            return {}
        return {path: local_info(status) for path, status in sorted(local_files.temporaries(self.root))}

    def now(self) -> float:
        """Return the time by the store's own clock: the modification time of an object written for it.

        Ages of objects are measured by this clock alone; those of this and other machines may differ from it.
        """
        info = self._probe()
        return time.time() if info is None or info.modified is None else info.modified

    # --- requests --------------------------------------------------------------------------------------------------

    def _request(self, name: str, done: str, request: Callable[[], _T]) -> _T:
        """Send a request; retry it after a fault that may pass. FileNotFoundError passes unchanged."""
        attempts = 1 if self.local else ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                with translated_errors(f"{self.url}/{name}", done):
                    return request()
            except TransientError:
                if attempt == attempts:
                    raise
            time.sleep(BACK_OFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _remove(self, name: str, request: Callable[[], None]) -> None:
        if self.meter is not None:
            self.meter.note_removed(name)
        self._request(name, "removed", request)

    def _remote_listing(self, base: str) -> dict[str, ObjectInfo]:
        try:
            entries = self._fs.find(base, detail=True)
        except FileNotFoundError as error:
            return unless_bucket_absent(error, {})
        below = f"{base}/"  # not the object `base` itself, nor one whose name only begins with it
        return {path[len(below) :]: remote_info(entry) for path, entry in entries.items() if path.startswith(below)}

    def _read_or_none(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def _probe(self) -> ObjectInfo | None:
        """Write a small object, remove it, and return its size and tag."""
        name = f".probe.{uuid.uuid4().hex[:12]}.tmp"
        self.write(name, b"1")
        try:
            return self.info(name)
        finally:
            self.remove_object(name)  # one request, and repeated as often as others
