"""What runs that were killed have left behind of leases and attempts, once the work these were about is done.

Who dies between its receipt and the release of its lease leaves a lease that nobody needs: a lease whose receipt is
there is void, whoever holds it. So is a count of attempts at a task that is done. What is not done keeps both: by them
the next one who takes it on knows what it has cost.
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


def remove_stale_leases(stores: Iterable[Receipts]) -> None:
    """Remove void leases, and attempts at tasks that are done: a listing each, and two requests for each one there.

    stores : the receipts of a project and of its tables. One that does not answer is left as it is: nothing rests on
    what is removed here.
    """
    stores = list(stores)
    for receipts in stores:
        with contextlib.suppress(MembrainCloudError):
            files = receipts.beside(LEASES)
            for name in finished_leases(receipts):
                files.remove_object(f"{name}.json")
    with contextlib.suppress(MembrainCloudError):
        attempts = stores[0].sibling(ATTEMPTS)  # of all stages they lie in the project
        for name, record in attempts.read_all(attempts.names()):
            if record is not None and any(_is_done(receipts, name, record) for receipts in stores):
                attempts.remove(name)


def finished_leases(receipts: Receipts) -> list[str]:
    """The names of leases beside `receipts` whose task has its receipt."""
    held = Leases(receipts.beside(LEASES)).all()
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        done = threads.map(lambda name: _is_done(receipts, name, held[name].facts), held)
        return [name for name, is_done in zip(held, done, strict=True) if is_done]


def _is_done(receipts: Receipts, name: str, facts: Mapping[str, object]) -> bool:
    """Whether there is the receipt of the task that a lease or a record of this name is about."""
    address, _, part = name.rpartition("/")
    digest = facts.get("digest")
    if not address or not isinstance(digest, str) or not digest:
        return False
    return receipts.has(receipt_name(address, "complete" if part in ("whole", "finish") else part, digest))
