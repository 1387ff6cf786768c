"""Remove keys from URLs before they are written to messages, logs, receipts or tracebacks.

Other secrets are read from the environment or from files and are never printed.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

# scheme://user:password@host; the password may hold anything but what ends a URL's authority.
_USER = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s'\"<>@]*(?:@[^/\s'\"<>@]*)*@")
# name=value in a query, where the name says that it is a key: of signed URLs of all clouds, and of common servers.
_KEY = re.compile(
    r"(?P<name>[?&;](?:[\w.-]*(?:signature|credential|token|secret|password|passwd|api[_-]?key|access[_-]?key[\w-]*)|sig|key)=)"
    r"[^&;#\s'\"<>]+",
    re.IGNORECASE,
)


def without_keys(text: str) -> str:
    """Replace users, passwords and signatures of URLs in a text by `***`.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The text without keys; all else as it was.
    """
    if "://" not in text and "=" not in text:
        return text
    return _KEY.sub(rf"\g<name>{HIDDEN}", _USER.sub(rf"\g<scheme>{HIDDEN}@", text))


def all_without_keys(value: Any) -> Any:
    """Replace keys in every text of nested dictionaries and lists.

    Parameters
    ----------
    value : Any
        Dictionaries, lists, tuples, texts and other values.

    Returns
    -------
    Any
        The same structure; tuples become lists.
    """
    if isinstance(value, str):
        return without_keys(value)
    if isinstance(value, dict):
        return {name: all_without_keys(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [all_without_keys(part) for part in value]
    return value
