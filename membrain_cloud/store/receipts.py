"""Receipts: one small JSON object for each finished task, the only record of what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from membrain_cloud.errors import BadNameError
from membrain_cloud.store.files import Files

_SUFFIX = ".json"


class Receipts:
    """JSON objects below one URL, by name; a name may have parts separated by "/"."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._files = Files(url, storage_options)

    def read(self, name: str) -> dict[str, Any] | None:
        """The receipt; None when there is none, or when it is torn (then the task was not finished).

        Raises TransientError or StorageError when the store does not answer: that is never "absent".
        """
        try:
            content = json.loads(self._files.read(_file_name(name)))
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write atomically; StorageError when it cannot be written."""
        text = json.dumps(dict(content), indent=1, sort_keys=True, allow_nan=False, default=_plain)
        self._files.write(_file_name(name), text.encode())

    def names(self) -> set[str]:
        """The names of all receipts, by one bulk listing; torn ones included."""
        return {name.removesuffix(_SUFFIX) for name in self._files.listing() if name.endswith(_SUFFIX)}

    def remove(self, name: str) -> None:
        self._files.remove(_file_name(name))


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
