"""The digest from which sessions and receipts take their names."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(*parts: Any) -> str:
    """Return the sha256 of JSON-able parts as 64 hexadecimal digits.

    Parameters
    ----------
    *parts : Any
        Values that `json.dumps` takes. Order counts; the order of keys in mappings does not.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
