"""The outcome of one check, and running checks that may fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.extras import missing_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

State = Literal["ok", "warning", "failed", "absent"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes
    ----------
    subject : str
        What was checked, e.g. `GPU 0`.
    state : str
        ok; warning: works, but not as well as it could; failed; absent: optional, and not there.
    detail : str
        What was found.
    cure : str
        What the user can do; empty for `ok`.
    """

    subject: str
    state: State
    detail: str
    cure: str = ""


def run_checks(subject: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield checks as they are done, with an error of theirs as a failed check: the others go on.

    Parameters
    ----------
    subject : str
        What is checked, the subject of the failed check.
    checks : callable
        Returns or yields the checks.

    Yields
    ------
    Check
        The checks, and a failed one where an error ended them.
    """
    try:
        yield from checks()
    except MembrainCloudError as error:
        yield Check(subject, "failed", error.message, error.next_step)
    except ImportError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        yield Check(subject, "failed", missing.message, missing.next_step)
