"""Check that what lies in the store is what the receipts describe, and nothing else.

Sizes and names are compared by bulk listings: one of the tables, and of a project one for each folder of a run that
receipts name (segmentations, meshes, picks), never of its tomograms. Every receipt is read too, and the metadata of
volumes. With `content` every object is read and its checksum computed again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.errors import InputError
from membrain_cloud.pipeline.maintenance.clean import orphaned_outputs
from membrain_cloud.pipeline.planning.receipt_index import CONCURRENT_REQUESTS
from membrain_cloud.pipeline.stages.score_cache import SCORES
from membrain_cloud.pipeline.tasks import ref_from_dict
from membrain_cloud.store.objects.io_meter import checksum
from membrain_cloud.store.run_state.receipts import ReceiptName, Receipts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from membrain_cloud.store.objects.object_info import ObjectInfo
    from membrain_cloud.store.objects.object_store import Files
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.tables.parquet_tables import Tables

State = Literal["ok", "missing", "torn", "changed", "foreign"]

LOST: tuple[State, ...] = ("missing", "torn")
"""States of outputs that must be made again."""

# Listings of folders that are kept: more than the threads can use at once.
_CACHED_FOLDERS = 8 * CONCURRENT_REQUESTS


@dataclass(frozen=True)
class Finding:
    """The state of one output.

    Attributes
    ----------
    receipt : str
        Name of its receipt; empty for a foreign output.
    output : str
        copick URI of the annotation, or what else it is.
    state : str
        ok; missing: no object is there; torn: some objects are absent, or have another size; changed: it was written
        again or has other bytes; foreign: it has no receipt, or there are objects in it that were not written with it.
    detail : str
        What differs.
    """

    receipt: str
    output: str
    state: State
    detail: str = ""


def verify(
    project: Project, tables: Tables, user: str, *, content: bool = False, forget_missing: bool = False
) -> list[Finding]:
    """Check every finished output against its receipt: annotations, stored scores and table rows.

    Parameters
    ----------
    project : Project
        The project.
    tables : Tables
        Its tables.
    user : str
        copick user whose annotations are ours.
    content : bool
        Whether everything is read and checksums are compared. Default: False, names, sizes and what the store says
        of changes.
    forget_missing : bool
        Whether receipts of missing and torn outputs (with `content` also changed ones) are removed, so that the next
        run makes them again. Default: False.

    Returns
    -------
    list of Finding
        One for each output.

    Raises
    ------
    StorageError, TransientError
        If the store does not answer; that is never reported as "missing".
    """
    findings: list[Finding] = []
    for receipts, files, identity_project in (
        (project.receipts, project.files, project if not content else None),
        (tables.receipts, tables.files, None),
    ):
        of_store = list(_check_all(receipts, files, identity_project, content=content))
        findings += of_store
        if forget_missing:
            bad = (*LOST, "changed") if content else LOST
            forget_outputs(receipts, [finding for finding in of_store if finding.state in bad])
    orphans = orphaned_outputs(project, tables, user)
    return [*findings, *(Finding("", orphan.name, "foreign", "it has no receipt") for orphan in orphans)]


def forget_outputs(receipts: Receipts, findings: Sequence[Finding]) -> None:
    """Remove all receipts of some outputs, those of their blocks included: the torn part may be a block's.

    With stored scores the receipts of the masks that were made from them are removed, since that stage makes the
    scores.

    Parameters
    ----------
    receipts : Receipts
        The receipts of a store.
    findings : sequence of Finding
        The outputs.
    """
    addresses = {finding.receipt.rpartition("/")[0] for finding in findings}
    scores = {finding.output for finding in findings if finding.receipt.startswith(f"{SCORES}/")}
    if scores:
        for name, receipt in receipts.read_all(_complete(receipts)):
            if receipt is not None and (receipt.get("counts") or {}).get("kept") in scores:
                addresses.add(name.rpartition("/")[0])
    for address in sorted(addresses):
        receipts.forget(address)


def _complete(receipts: Receipts) -> list[str]:
    """Return the names of the receipts of whole outputs."""
    parsed_names = ((name, ReceiptName.parse(name)) for name in receipts.names())
    return sorted(name for name, parsed in parsed_names if parsed is not None and parsed.part == "complete")


def _check_all(receipts: Receipts, files: Files, project: Project | None, *, content: bool) -> Iterator[Finding]:
    """Check the outputs of one store; `project`: where identities are compared too."""
    listings = _FolderListings(files, whole=receipts.url.startswith(f"{files.url}/_"))

    def check(name: str) -> Finding:
        receipt = receipts.read(name)
        if receipt is None:
            return Finding(name, name, "torn", "the receipt itself cannot be read")
        return _check(name, receipt, listings, project, content=content)

    # Outputs of one run in a row: they lie in the same folders, which are then listed once.
    names = sorted(_complete(receipts), key=lambda name: (name.split("/")[2:3], name))
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        yield from sorted(threads.map(check, names), key=lambda finding: finding.receipt)


class _FolderListings:
    """The objects of a store, listed folder by folder; the last listings are kept.

    Parameters
    ----------
    files : Files
        The store.
    whole : bool
        Whether one listing of everything is made, for a store that has nothing but outputs.
    """

    def __init__(self, files: Files, *, whole: bool) -> None:
        self.files, self._whole = files, whole
        self._cache: OrderedDict[str, tuple[threading.Lock, dict[str, ObjectInfo]]] = OrderedDict()
        self._lock = threading.Lock()

    def objects(self, paths: Iterable[str]) -> dict[str, ObjectInfo]:
        """Return the objects at and below some paths of the store."""
        objects: dict[str, ObjectInfo] = {}
        for path in paths:
            # Stored scores lie beside the tomogram, which may have very many chunks: their folder alone is listed.
            folder = "" if self._whole else path if "/VoxelSpacing" in path else path.rpartition("/")[0]
            listing = self._listing(folder)
            below = f"{path}/"
            if path.endswith(".zarr"):
                objects |= {name: info for name, info in listing.items() if name.startswith(below)}
            elif path in listing:
                objects[path] = listing[path]
        return objects

    def _listing(self, folder: str) -> dict[str, ObjectInfo]:
        with self._lock:
            lock, listing = self._cache.setdefault(folder, (threading.Lock(), {}))
            self._cache.move_to_end(folder)
            while len(self._cache) > _CACHED_FOLDERS:
                self._cache.popitem(last=False)
        with lock:  # the first thread lists the folder, the others wait
            if not listing:
                prefix = f"{folder}/" if folder else ""
                listing.update({prefix + name: info for name, info in self.files.listing(folder).items()})
        return listing


def _check(
    name: str, receipt: Mapping[str, Any], listings: _FolderListings, project: Project | None, *, content: bool
) -> Finding:
    """Check one output against its receipt."""
    output = str((receipt.get("output") or receipt).get("uri") or f"table rows of {receipt.get('run')}")
    written: Mapping[str, Sequence[Any]] = receipt.get("objects") or {}
    if not written:  # rows that were measured outside of a project; `tables check` reads them
        return Finding(name, output, "ok", "its receipt lists no objects")
    stored = listings.objects(receipt.get("paths") or sorted(written))
    state, detail = _compare(written, stored)
    if state == "ok" and content:
        changed = [path for path, (_, expected) in written.items() if _checksum(listings.files, path) != expected]
        if changed:
            state, detail = "changed", f"other bytes: {changed[0]}"
    elif state == "ok" and project is not None and not _is_identical(project, receipt, stored):
        state, detail = "changed", "written again, or copied; comparing the content tells whether the bytes differ"
    return Finding(name, output, state, detail)


def _compare(written: Mapping[str, Sequence[Any]], stored: Mapping[str, ObjectInfo]) -> tuple[State, str]:
    """Compare names and sizes of the objects that a receipt lists with those in the store."""
    missing = [path for path in written if path not in stored]
    if missing:
        state: State = "missing" if len(missing) == len(written) else "torn"
        return state, f"{len(missing)} of {len(written)} objects are not there: {missing[0]}"
    for path, (size, _) in written.items():
        if stored[path].size != size:
            return "torn", f"{path} has {stored[path].size} bytes, {size} were written"
    if extra := sorted(set(stored) - set(written)):
        return "foreign", f"{len(extra)} objects were not written with it: {extra[0]}"
    return "ok", ""


def _checksum(files: Files, path: str) -> str | None:
    try:
        return checksum(files.read(path))
    except FileNotFoundError:
        return None


def _is_identical(project: Project, receipt: Mapping[str, Any], stored: Mapping[str, ObjectInfo]) -> bool:
    """Return whether an output still has the identity that its receipt gives."""
    if receipt.get("output_identity") is None:
        return True
    output = ref_from_dict({key: value for key, value in receipt["output"].items() if key != "uri"})
    try:
        return bool(project.listed_identity(output, stored) == receipt["output_identity"])
    except InputError:
        return False
