"""Receipts: one small JSON object for each finished task, the only record of what is done.

The name of a receipt carries the digest of its task, `{address}/{part}-{digest[:16]}`, so that one bulk listing says
what is done and no receipt is read to plan. A later format must also show in the name (`....v2.json`): then a
listing tells it, and nothing that a newer version wrote is overlooked or replaced.
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
_SUFFIX = ".json"
_DIGITS = 16
_READS_AT_ONCE = 16
_NAME = re.compile(rf"(?P<address>.+)/(?P<part>[^/]+)-(?P<digest>[0-9a-f]{{{_DIGITS}}})(\.v(?P<version>\d+))?")


@dataclass(frozen=True)
class ReceiptName:
    """What a receipt's name says: of which output, of which part of the work, with which digest (16 digits)."""

    address: str
    part: str
    digest: str
    version: int

    @classmethod
    def parse(cls, name: str) -> ReceiptName | None:
        """None for a name that is no receipt's."""
        match = _NAME.fullmatch(name)
        return match and cls(match["address"], match["part"], match["digest"], int(match["version"] or RECEIPT_VERSION))


def receipt_name(address: str, part: str, digest: str) -> str:
    return f"{address}/{part}-{digest[:_DIGITS]}"


class Receipts:
    """JSON objects below one URL, by name; a name may have parts separated by "/"."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._files = Files(url, storage_options)
        self.url = self._files.url

    @property
    def files(self) -> Files:
        """The receipts as objects."""
        return self._files

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Names with their receipts, in their order, read side by side."""
        names = list(names)
        with ThreadPoolExecutor(_READS_AT_ONCE) as threads:
            yield from zip(names, threads.map(self.read, names), strict=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """The receipt; None when there is none, or when it is torn (then the task was not finished).

        Raises TransientError or StorageError when the store does not answer: that is never "absent".
        """
        try:
            content = json.loads(self._files.read(_file_name(name)))
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def modified(self) -> dict[str, float | None]:
        """When each receipt was written, by the store's own clock; None where it does not tell."""
        listed = self._files.listing().items()
        return {name.removesuffix(_SUFFIX): info.modified for name, info in listed if name.endswith(_SUFFIX)}

    def has(self, name: str) -> bool:
        """Whether there is such a receipt; one that is torn is none."""
        return self.read(name) is not None

    def beside(self, kind: str) -> Files:
        """Where records of another kind lie: in a folder of that name beside the receipts'."""
        return self._files.beside(self._files.url.rpartition("/")[2].replace("receipts", kind))

    def sibling(self, kind: str) -> Receipts:
        """Such records as an object like this."""
        files = self.beside(kind)
        return Receipts(files.url, files.options)

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write atomically; StorageError when it cannot be written."""
        encode = json.JSONEncoder(sort_keys=True, allow_nan=False, default=_plain).encode
        lines = [f" {encode(key)}: {encode(content[key])}" for key in sorted(content)]  # a line a key, for people
        self._files.write(_file_name(name), ("{\n" + ",\n".join(lines) + "\n}").encode())

    def names(self, below: str = "") -> set[str]:
        """The names of all receipts (below an address), by one bulk listing. Objects without a byte are none."""
        prefix = f"{below}/" if below else ""
        return {
            prefix + name.removesuffix(_SUFFIX)
            for name, info in self._files.listing(below).items()
            if name.endswith(_SUFFIX) and info.size
        }

    def remove(self, name: str) -> None:
        self._files.remove_object(_file_name(name))

    def parts(self, address: str) -> dict[str, dict[str, Any]]:
        """The receipts of one output by part; torn ones are left out."""
        found = {}
        for name in sorted(self._at(address)):
            known, receipt = ReceiptName.parse(name), self.read(name)
            if known is not None and receipt is not None:
                found[known.part] = receipt
        return found

    def forget(self, address: str, part: str | None = None) -> None:
        """Remove the receipts of one output, of whatever digest; with `part` only those of that part of the work.

        StorageError for a receipt that a newer version of this package wrote: its output is not to be replaced.
        """
        for name in sorted(self._at(address)):
            known = ReceiptName.parse(name)
            if known is None or part not in (None, known.part):
                continue
            refuse_newer(name, {"receipt_version": known.version}, self.url)
            refuse_newer(name, self.read(name), self.url)
            self.remove(name)

    def _at(self, address: str) -> list[str]:
        """Directly at an address, those without a byte included."""
        _file_name(address)
        listed = self._files.children(address)
        return [f"{address}/{name.removesuffix(_SUFFIX)}" for name in listed if name.endswith(_SUFFIX)]


def refuse_newer(name: str, receipt: Mapping[str, Any] | None, url: str) -> None:
    """StorageError for a receipt of a version that this package does not know."""
    version = (receipt or {}).get("receipt_version", RECEIPT_VERSION)
    if isinstance(version, int) and version <= RECEIPT_VERSION:
        return
    made_by = ((receipt or {}).get("versions") or {}).get("membrain_cloud")
    by = f" by membrain_cloud {made_by}" if made_by else ""
    raise StorageError(
        f"{url}/{name} was written{by} in format {version}; this version knows formats up to {RECEIPT_VERSION}",
        "update membrain_cloud, or write elsewhere: another output.session, another project",
    )


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot stand in a receipt")


def _file_name(name: str) -> str:
    parts = name.split("/")
    if any(not part or part.startswith(".") or "\\" in part or not part.isprintable() for part in parts):
        raise BadNameError(f"receipt {name!r} must not become a path", "use plain names separated by '/'")
    return name + _SUFFIX
