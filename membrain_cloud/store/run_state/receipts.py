"""Receipts: one small JSON object per finished task, the only record of what is done.

The name of a receipt carries the digest of its task, `{address}/{part}-{digest[:16]}`. One bulk listing therefore says
what is done, and no receipt is read to plan. A later format must also show in the name (`....v2.json`): the listing
shows it then, and nothing that a newer version wrote is overlooked or replaced.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import BadNameError, StorageError
from membrain_cloud.store.objects.object_store import Files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RECEIPT_VERSION = 1
"""The newest format of receipts that this version of the package reads and writes."""
_SUFFIX = ".json"
_DIGITS = 16
_CONCURRENT_READS = 16
_NAME = re.compile(rf"(?P<address>.+)/(?P<part>[^/]+)-(?P<digest>[0-9a-f]{{{_DIGITS}}})(\.v(?P<version>\d+))?")


@dataclass(frozen=True)
class ReceiptName:
    """The parts of a receipt's name.

    Attributes
    ----------
    address : str
        The output of the task.
    part : str
        The part of the work, such as a block, or `complete`.
    digest : str
        The first 16 hexadecimal digits of the task's digest.
    version : int
        Format of the receipt.
    """

    address: str
    part: str
    digest: str
    version: int

    @classmethod
    def parse(cls, name: str) -> ReceiptName | None:
        """Split the name of a receipt; return None for other names.

        Parameters
        ----------
        name : str
            Name of an object among the receipts.
        """
        match = _NAME.fullmatch(name)
        return match and cls(match["address"], match["part"], match["digest"], int(match["version"] or RECEIPT_VERSION))


def receipt_name(address: str, part: str, digest: str) -> str:
    """Return the name of a receipt.

    Parameters
    ----------
    address : str
        The output of the task.
    part : str
        The part of the work.
    digest : str
        The task's digest, in hexadecimal digits.
    """
    return f"{address}/{part}-{digest[:_DIGITS]}"


class Receipts:
    """JSON objects below one URL, by name; a name may have parts separated by "/".

    Parameters
    ----------
    url : str
        Path or URL of the folder.
    storage_options : Mapping, optional
        Arguments of fsspec.

    Attributes
    ----------
    url : str
        Path or URL of the folder.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._files = Files(url, storage_options)
        self.url = self._files.url

    @property
    def files(self) -> Files:
        """The receipts as objects."""
        return self._files

    def beside(self, kind: str) -> Files:
        """Return the folder of another kind of records, beside that of the receipts.

        Parameters
        ----------
        kind : str
            What takes the place of "receipts" in the folder's name.
        """
        return self._files.beside(self._files.url.rpartition("/")[2].replace("receipts", kind))

    def sibling(self, kind: str) -> Receipts:
        """Return the records of another kind, beside the receipts.

        Parameters
        ----------
        kind : str
            What takes the place of "receipts" in the folder's name.
        """
        files = self.beside(kind)
        return Receipts(files.url, files.options)

    def names(self, below: str = "") -> set[str]:
        """Return the names of all receipts by one bulk listing, without empty objects.

        Parameters
        ----------
        below : str
            Only receipts below this address. Default: all.
        """
        prefix = f"{below}/" if below else ""
        return {
            prefix + name.removesuffix(_SUFFIX)
            for name, info in self._files.listing(below).items()
            if name.endswith(_SUFFIX) and info.size
        }

    def modified(self) -> dict[str, float | None]:
        """Return when each receipt was written, by the store's own clock; None if it does not say."""
        listing = self._files.listing().items()
        return {name.removesuffix(_SUFFIX): info.modified for name, info in listing if name.endswith(_SUFFIX)}

    def has(self, name: str) -> bool:
        """Return whether a receipt exists and is not torn.

        Parameters
        ----------
        name : str
            Name of the receipt.
        """
        return self.read(name) is not None

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a receipt.

        Parameters
        ----------
        name : str
            Name of the receipt.

        Returns
        -------
        dict or None
            None if it is absent, or torn: then the task was not finished.

        Raises
        ------
        TransientError, StorageError
            If the store does not answer; that is never "absent".
        """
        try:
            content = json.loads(self._files.read(_file_name(name)))
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Iterate over names and their receipts, in the order of the names; several are read at the same time.

        Parameters
        ----------
        names : iterable of str
            Names of receipts.
        """
        names = list(names)
        with ThreadPoolExecutor(_CONCURRENT_READS) as threads:
            yield from zip(names, threads.map(self.read, names), strict=True)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a receipt atomically, one line per key.

        Parameters
        ----------
        name : str
            Name of the receipt.
        content : Mapping
            JSON values or NumPy scalars by key.

        Raises
        ------
        ValueError, TypeError
            If a value is NaN, infinite or not JSON; nothing is written.
        StorageError
            If it cannot be written.
        """
        encode = json.JSONEncoder(sort_keys=True, allow_nan=False, default=_plain).encode
        lines = [f" {encode(key)}: {encode(content[key])}" for key in sorted(content)]
        self._files.write(_file_name(name), ("{\n" + ",\n".join(lines) + "\n}").encode())

    def remove(self, name: str) -> None:
        """Remove a receipt, if it exists.

        Parameters
        ----------
        name : str
            Name of the receipt.
        """
        self._files.remove_object(_file_name(name))

    def parts(self, address: str) -> dict[str, dict[str, Any]]:
        """Return the receipts of one output by part, without torn ones.

        Parameters
        ----------
        address : str
            The output of the tasks.
        """
        receipts = {}
        for name in sorted(self._at(address)):
            parsed, receipt = ReceiptName.parse(name), self.read(name)
            if parsed is not None and receipt is not None:
                receipts[parsed.part] = receipt
        return receipts

    def forget(self, address: str, part: str | None = None) -> None:
        """Remove the receipts of one output, whatever their digest.

        Parameters
        ----------
        address : str
            The output.
        part : str, optional
            Only receipts of this part of the work. Default: all.

        Raises
        ------
        StorageError
            If a newer version of this package wrote one: its output is not to be replaced.
        """
        for name in sorted(self._at(address)):
            parsed = ReceiptName.parse(name)
            if parsed is None or part not in (None, parsed.part):
                continue
            check_version(name, {"receipt_version": parsed.version}, self.url)
            check_version(name, self.read(name), self.url)
            self.remove(name)

    def _at(self, address: str) -> list[str]:
        """Return the names directly at an address, those of empty objects included."""
        _file_name(address)
        children = self._files.children(address)
        return [f"{address}/{name.removesuffix(_SUFFIX)}" for name in children if name.endswith(_SUFFIX)]


def check_version(name: str, receipt: Mapping[str, Any] | None, url: str) -> None:
    """Raise StorageError for a receipt of a format that this version of the package does not read.

    Parameters
    ----------
    name : str
        Name of the receipt.
    receipt : Mapping or None
        Its content; None passes.
    url : str
        URL of the receipts, for the message.
    """
    version = (receipt or {}).get("receipt_version", RECEIPT_VERSION)
    if isinstance(version, int) and version <= RECEIPT_VERSION:
        return
    made_by = ((receipt or {}).get("versions") or {}).get("membrain_cloud")
    by = f" by membrain_cloud {made_by}" if made_by else ""
    raise StorageError(
        f"{url}/{name} was written{by} in format {version}; this version reads formats up to {RECEIPT_VERSION}",
        "update membrain_cloud, or write elsewhere: another output.session, another project",
    )


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be part of a receipt")


def _file_name(name: str) -> str:
    """Return the name of a receipt's object; raise BadNameError if it would lead out of the folder."""
    parts = name.split("/")
    if any(not part or part.startswith(".") or "\\" in part or not part.isprintable() for part in parts):
        raise BadNameError(f"receipt {name!r} must not become a path", "use plain names separated by '/'")
    return name + _SUFFIX
