"""Whether what lies in the store is what the receipts vouch for, and nothing else.

Sizes and names are compared by bulk listings: of the tables one, of a project one for each folder of a run that
receipts name (segmentations, meshes, picks), never of its tomograms. Beside them every receipt is read, and of volumes
the metadata. With `content` every object is read and its checksum taken again.
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

    from membrain_cloud.store.objects.object_store import Files, ObjectInfo
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.tables.parquet_tables import Tables

State = Literal["ok", "missing", "torn", "changed", "foreign"]
# Outputs in these states are not what a receipt vouches for.
LOST: tuple[State, ...] = ("missing", "torn")


# Folders of a project that are kept listed: more than the threads can be at.
_FOLDERS_KEPT = 8 * CONCURRENT_REQUESTS


@dataclass(frozen=True)
class Finding:
    """What was found about one output.

    state : ok; missing: none of it is there; torn: some objects are not there, or have another size; changed since it
    was written; foreign: nobody's receipt vouches for it (receipt is empty then), or something lies in it that was not
    written with it.
    """

    receipt: str
    output: str
    state: State
    detail: str = ""


def verify(
    project: Project, tables: Tables, user: str, *, content: bool = False, forget_missing: bool = False
) -> list[Finding]:
    """Check every finished output against its receipt: annotations, kept scores and table rows.

    content : read everything and compare checksums; otherwise names, sizes and what the store says of changes.
    forget_missing : forget outputs that are missing or torn (with `content`, changed ones too), so that the next run
    makes them again.

    Raises StorageError or TransientError where the store does not answer: that is never "missing".
    """
    findings: list[Finding] = []
    for receipts, files, identify in (
        (project.receipts, project.files, project if not content else None),
        (tables.receipts, tables.files, None),
    ):
        found = list(_verified(receipts, files, identify, content=content))
        findings += found
        if forget_missing:
            bad = (*LOST, "changed") if content else LOST
            forget(receipts, [finding for finding in found if finding.state in bad])
    litter = orphaned_outputs(project, tables, user)
    return [*findings, *(Finding("", item.name, "foreign", "no receipt vouches for it") for item in litter)]


def forget(receipts: Receipts, lost: Sequence[Finding]) -> None:
    """Remove all receipts of these outputs, those of their parts included: what a block wrote may be the torn part.

    With kept scores go the receipts of the masks that were made with them: scores are made by that stage.
    """
    addresses = {finding.receipt.rpartition("/")[0] for finding in lost}
    scores = {finding.output for finding in lost if finding.receipt.startswith(f"{SCORES}/")}
    if scores:
        for name, receipt in receipts.read_all(_complete(receipts)):
            if receipt is not None and (receipt.get("counts") or {}).get("kept") in scores:
                addresses.add(name.rpartition("/")[0])
    for address in sorted(addresses):
        receipts.forget(address)


def _complete(receipts: Receipts) -> list[str]:
    """Names of the receipts of whole outputs."""
    found = ((name, ReceiptName.parse(name)) for name in receipts.names())
    return sorted(name for name, known in found if known is not None and known.part == "complete")


def _verified(receipts: Receipts, files: Files, project: Project | None, *, content: bool) -> Iterator[Finding]:
    """Project : where identities are compared too."""
    listed = _Listed(files, whole=receipts.url.startswith(f"{files.url}/_"))

    def check(name: str) -> Finding:
        receipt = receipts.read(name)
        if receipt is None:
            return Finding(name, name, "torn", "the receipt itself cannot be read")
        return _check(name, receipt, listed, project, content=content)

    # Those of one run one after the other: they lie in the same folders, and these are then listed once.
    names = sorted(_complete(receipts), key=lambda name: (name.split("/")[2:3], name))
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        found = threads.map(check, names)
        yield from sorted(found, key=lambda finding: finding.receipt)


class _Listed:
    """What lies in a store, listed folder by folder, the last ones kept.

    whole : one listing of everything, for a store that holds nothing but what receipts vouch for.
    """

    def __init__(self, files: Files, *, whole: bool) -> None:
        self.files, self._whole = files, whole
        self._kept: OrderedDict[str, tuple[threading.Lock, dict[str, ObjectInfo]]] = OrderedDict()
        self._lock = threading.Lock()

    def there(self, paths: Iterable[str]) -> dict[str, ObjectInfo]:
        """The objects at and below some paths, relative to the store."""
        found: dict[str, ObjectInfo] = {}
        for path in paths:
            # Kept scores lie beside the tomogram, which may have very many chunks.
            folder = "" if self._whole else path if "/VoxelSpacing" in path else path.rpartition("/")[0]
            listing = self._listing(folder)
            below = f"{path}/"
            if path.endswith(".zarr"):
                found |= {name: info for name, info in listing.items() if name.startswith(below)}
            elif path in listing:
                found[path] = listing[path]
        return found

    def _listing(self, folder: str) -> dict[str, ObjectInfo]:
        with self._lock:
            lock, listing = self._kept.setdefault(folder, (threading.Lock(), {}))
            self._kept.move_to_end(folder)
            while len(self._kept) > _FOLDERS_KEPT:
                self._kept.popitem(last=False)
        with lock:  # whoever comes first lists it, the others wait
            if not listing:
                prefix = f"{folder}/" if folder else ""
                listing.update({prefix + name: info for name, info in self.files.listing(folder).items()})
        return listing


def _check(
    name: str, receipt: Mapping[str, Any], listed: _Listed, project: Project | None, *, content: bool
) -> Finding:
    told = str((receipt.get("output") or receipt).get("uri") or f"table rows of {receipt.get('run')}")
    objects: Mapping[str, Sequence[Any]] = receipt.get("objects") or {}
    if not objects:  # rows that were measured outside of a project; `tables check` reads them
        return Finding(name, told, "ok", "its receipt lists no objects")
    there = listed.there(receipt.get("paths") or sorted(objects))
    missing = [path for path in objects if path not in there]
    if missing:
        state: State = "missing" if len(missing) == len(objects) else "torn"
        return Finding(name, told, state, f"{len(missing)} of {len(objects)} objects are not there: {missing[0]}")
    for path, (size, _) in objects.items():
        if there[path].size != size:
            return Finding(name, told, "torn", f"{path} has {there[path].size} bytes, {size} were written")
    if extra := sorted(set(there) - set(objects)):
        return Finding(name, told, "foreign", f"{len(extra)} objects were not written with it: {extra[0]}")
    if content:
        changed = [path for path, (_, summed) in objects.items() if _checksum(listed.files, path) != summed]
        return Finding(name, told, "changed", f"other bytes: {changed[0]}") if changed else Finding(name, told, "ok")
    if project is not None and not _is_identical(project, receipt, there):
        return Finding(name, told, "changed", "written anew, or copied; --content tells whether the bytes differ")
    return Finding(name, told, "ok")


def _checksum(files: Files, path: str) -> str | None:
    try:
        return checksum(files.read(path))
    except FileNotFoundError:
        return None


def _is_identical(project: Project, receipt: Mapping[str, Any], there: Mapping[str, ObjectInfo]) -> bool:
    if receipt.get("output_identity") is None:
        return True
    output = ref_from_dict({key: value for key, value in receipt["output"].items() if key != "uri"})
    try:
        return bool(project.listed_identity(output, there) == receipt["output_identity"])
    except InputError:
        return False
