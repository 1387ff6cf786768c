"""Suggest what an unknown name was meant to be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def suggest(name: str, valid: Sequence[str]) -> str:
    """Return the valid names nearest to a wrong one as a next step, or all of them where none is near.

    Parameters
    ----------
    name : str
        The wrong name.
    valid : sequence of str
        The valid names.

    Returns
    -------
    str
        The next step of an error.
    """
    matches = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else f"choose one of {', '.join(sorted(valid))}"
