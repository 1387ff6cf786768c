"""Remove what killed runs have left of leases and crash records, once the tasks are done.

A process that dies between its receipt and the release of its lease leaves the lease behind. A lease whose task has its
receipt is stale, whoever holds it, and so is a crash record of a task that is done. Tasks that are not done keep both:
the next run takes the lease over and goes on counting.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from membrain_cloud.errors import MembrainCloudError
from membrain_cloud.pipeline.planning.receipt_index import CONCURRENT_REQUESTS
from membrain_cloud.store.run_state.leases import Leases
from membrain_cloud.store.run_state.receipts import Receipts, receipt_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LEASES, ATTEMPTS = "leases", "attempts"
"""Folders of the leases and of the crash records, beside the receipts."""


def remove_stale_leases(stores: Iterable[Receipts]) -> None:
    """Remove leases and crash records of finished tasks: one listing each, and two requests for each one there.

    A store that does not answer is left as it is: nothing depends on what is removed here.

    Parameters
    ----------
    stores : iterable of Receipts
        The receipts of the project and of its tables, in this order.
    """
    stores = list(stores)
    for receipts in stores:
        with contextlib.suppress(MembrainCloudError):
            files = receipts.beside(LEASES)
            for name in finished_leases(receipts):
                files.remove_object(f"{name}.json")
    with contextlib.suppress(MembrainCloudError):
        attempts = stores[0].sibling(ATTEMPTS)  # the crash records of all stages lie in the project
        for name, record in attempts.read_all(attempts.names()):
            if record is not None and any(_is_done(receipts, name, record) for receipts in stores):
                attempts.remove(name)


def finished_leases(receipts: Receipts) -> list[str]:
    """Return the names of leases beside the receipts whose task has its receipt.

    Parameters
    ----------
    receipts : Receipts
        The receipts of a store.

    Returns
    -------
    list of str
        Names of leases, without the ending .json.
    """
    holders = Leases(receipts.beside(LEASES)).all()
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        done = threads.map(lambda name: _is_done(receipts, name, holders[name].facts), holders)
        return [name for name, is_done in zip(holders, done, strict=True) if is_done]


def _is_done(receipts: Receipts, name: str, facts: Mapping[str, object]) -> bool:
    """Return whether the task of a lease or crash record has its receipt."""
    address, _, part = name.rpartition("/")
    digest = facts.get("digest")
    if not address or not isinstance(digest, str) or not digest:
        return False
    return receipts.has(receipt_name(address, "complete" if part in ("whole", "finish") else part, digest))
