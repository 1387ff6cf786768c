"""Find and remove orphans: what killed runs, or users under our name, have left in the store without a receipt.

Owners follow from the receipts' names, which one bulk listing gives: `{stage}/{user}_{session}/{run}/{name}` for
annotations, `scores/{run}/{tomogram}/{name}` for stored scores, `measure/{dataset}/{run}/{tomogram}` for table rows.
Whatever a renewed lease covers is left alone, and so are other users' annotations. Ages are measured by the store's own
clock.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.pipeline.execution.provenance import output_paths
from membrain_cloud.pipeline.execution.stale_leases import LEASES, finished_leases
from membrain_cloud.pipeline.planning.receipt_index import CONCURRENT_REQUESTS
from membrain_cloud.pipeline.stages.score_cache import SCORES
from membrain_cloud.pipeline.tasks import Ref, ref_from_dict
from membrain_cloud.store.run_state.receipts import ReceiptName, Receipts
from membrain_cloud.store.tables.parquet_tables import Tables, part_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from membrain_cloud.store.projects.project import Project

Kind = Literal["annotation", "features", "table part", "receipt", "lease", "temporary file"]

# user_session, run, name of the annotations that share a name: a mask and its instances, meshes and picks.
_Owner = tuple[str, str, str]

LEASE_MINUTES = 10.0
"""Leases without a renewal for this time are stale; a lease that is held is renewed several times a minute."""

_OUR_FEATURES = re.compile(r"membrane-(score|uncertainty)-(?P<digest>[0-9a-f]{8})")
# Receipts' names before they carried a digest.
_OLD_RECEIPT = re.compile(r"[^/]+/[^/]+/[^/]+/[^/]+/(complete|prepare|finish|block-\d+)")


@dataclass(frozen=True)
class Orphan:
    """One thing in the store that no receipt covers.

    Attributes
    ----------
    kind : str
        What it is.
    store : str
        "project" or "tables".
    name : str
        The object or folder in that store.
    key : str
        copick URI of an annotation; empty for other kinds.
    """

    kind: Kind
    store: str
    name: str
    key: str = ""


def find_orphans(project: Project, tables: Tables, user: str, *, hours: float = 1.0) -> list[Orphan]:
    """Find everything that no receipt covers.

    Parameters
    ----------
    project : Project
        The project.
    tables : Tables
        Its tables.
    user : str
        copick user whose annotations are ours.
    hours : float
        Minimum age of temporary files; younger ones may be writes in progress. Default: 1.

    Returns
    -------
    list of Orphan
        By kind, store and name.
    """
    orphans = [*orphaned_outputs(project, tables, user), *_bad_receipts(project, tables), *_stale(project, tables)]
    for store, files in (("project", project.files), ("tables", tables.files)):
        temporaries = files.temporaries()
        if temporaries:
            now = files.now()
            old = [name for name, info in temporaries.items() if now - (info.modified or now) >= 3600 * hours]
            orphans += [Orphan("temporary file", store, name) for name in old]
    if tables.files.local and tables.files.root.startswith(f"{project.files.root}/"):
        # The project's listing has found those of the tables already.
        orphans = [orphan for orphan in orphans if (orphan.kind, orphan.store) != ("temporary file", "tables")]
    return sorted(orphans, key=lambda orphan: (orphan.kind, orphan.store, orphan.name))


def remove_orphans(project: Project, tables: Tables, orphans: Iterable[Orphan]) -> None:
    """Remove orphans; what is gone already is no error.

    Parameters
    ----------
    project : Project
        The project.
    tables : Tables
        Its tables.
    orphans : iterable of Orphan
        What `find_orphans` has found.
    """
    for orphan in orphans:
        (project if orphan.store == "project" else tables).files.remove(orphan.name)


def orphaned_outputs(project: Project, tables: Tables, user: str) -> list[Orphan]:
    """Find annotations, stored scores and table parts that no receipt covers and no run is writing.

    Parameters
    ----------
    project : Project
        The project.
    tables : Tables
        Its tables.
    user : str
        copick user whose annotations are ours.

    Returns
    -------
    list of Orphan
        The outputs.
    """
    owners = _Owners(project.receipts)
    runs = [name for name, is_folder in project.files.children("ExperimentRuns").items() if is_folder]

    def orphans_of(run: str) -> list[Orphan]:
        return [*_annotations(project, user, run, owners), *_features(project, run, owners)]

    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        orphans = [orphan for of_run in threads.map(orphans_of, runs) for orphan in of_run]
    return [*orphans, *_table_parts(tables)]


class _Owners:
    """What the receipts' names cover, and what renewed leases say is being written."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts
        names = {name: parsed for name in receipts.names() if (parsed := ReceiptName.parse(name)) is not None}
        busy = _addresses_in_work(receipts)
        self._names_at: dict[str, list[str]] = {address: [] for address in busy}
        for name, parsed in names.items():
            self._names_at.setdefault(parsed.address, []).append(name)
        self._busy_runs = {address.split("/")[2] for address in busy}
        self._annotations: dict[_Owner, list[str]] = {}
        self._scores: set[_Owner] = set()
        for address in self._names_at:
            stage, *rest = address.split("/")
            if len(rest) != 3:
                continue
            if stage != SCORES:
                self._annotations.setdefault((rest[0], rest[1], rest[2]), []).append(address)
            elif match := _OUR_FEATURES.fullmatch(rest[2]):
                self._scores.add((rest[0], rest[1], match["digest"]))

    def unowned(self, owner: _Owner, paths: Sequence[str]) -> list[str]:
        """Return which of the annotations that share a name have no receipt.

        The names of receipts decide, except in a named session where one of several annotations has no receipt: then
        the receipts are read.
        """
        addresses = self._annotations.get(owner, [])
        if not addresses:
            class_picks = self._class_picks(owner)
            return [path for path in paths if path not in class_picks]
        if len(paths) <= len(addresses):
            return []
        owned: set[str] = set()
        for address in addresses:
            if not self._names_at[address]:
                return []  # one of them is being written, and its lease does not say which
            for _, receipt in self._receipts.read_all(self._names_at[address]):
                output = (receipt or {}).get("output")
                owned |= set(output_paths(_ref(output)) if output else ())
        return [path for path in paths if path not in owned]

    def _class_picks(self, owner: _Owner) -> set[str]:
        """Return the paths of the picks of single classes, which the receipt of all picks of their run covers."""
        paths: set[str] = set()
        for (session, run, _), addresses in self._annotations.items():
            if (session, run) != owner[:2]:
                continue
            for address in addresses:
                if address.startswith("pick/"):
                    for _, receipt in self._receipts.read_all(self._names_at[address]):
                        paths |= set((receipt or {}).get("paths", ()))
        return paths

    def owns_scores(self, run: str, place: str, digest: str) -> bool:
        """Return whether stored scores have a receipt, or a task of their run is at work."""
        return run in self._busy_runs or (run, place, digest) in self._scores


def _annotations(project: Project, user: str, run: str, owners: _Owners) -> Iterator[Orphan]:
    """Yield the user's annotations of a run without a receipt."""
    by_owner: dict[_Owner, dict[str, str]] = {}
    for labels in project.segmentations(run):
        if labels.user == user:
            name = f"{labels.name}@{labels.voxel_spacing_angstrom:.3f}"
            by_owner.setdefault((f"{user}_{labels.session}", run, name), {})[labels.path] = labels.key
    for ref, path in (
        *((ref, ref.mesh_path) for ref in project.meshes(run)),
        *((ref, ref.picks_path) for ref in project.picks(run)),
    ):
        if ref.user == user:
            by_owner.setdefault((f"{user}_{ref.session}", run, ref.name), {})[path] = ref.key
    for owner, paths in by_owner.items():
        for path in owners.unowned(owner, list(paths)):
            if project.files.exists(path):  # a static root is read-only: its annotations are not ours
                yield Orphan("annotation", "project", path, paths[path])


def _features(project: Project, run: str, owners: _Owners) -> Iterator[Orphan]:
    """Yield stored scores of a run without a receipt. Their names have no user, but a digest that only we write."""
    for folder, is_folder in project.files.children(f"ExperimentRuns/{run}").items():
        if not is_folder or not folder.startswith("VoxelSpacing"):
            continue
        for name in project.files.children(f"ExperimentRuns/{run}/{folder}"):
            tomogram_type, _, feature = name.removesuffix("_features.zarr").rpartition("_")
            match = _OUR_FEATURES.fullmatch(feature)
            if not name.endswith("_features.zarr") or match is None:
                continue
            place = f"{tomogram_type}@{folder.removeprefix('VoxelSpacing')}"
            if not owners.owns_scores(run, place, match["digest"]):
                yield Orphan("features", "project", f"ExperimentRuns/{run}/{folder}/{name}")


def _table_parts(tables: Tables) -> Iterator[Orphan]:
    """Yield parts of tables without a receipt. Tables without any receipt are a copy, and are left alone."""
    names = tables.receipts.names()
    addresses = {parsed.address for name in names if (parsed := ReceiptName.parse(name)) is not None}
    if not addresses:
        return
    owned = {tuple(address.split("/", 2)[1:]) for address in addresses | _addresses_in_work(tables.receipts)}
    for table in tables.names():
        for dataset, part in tables.parts(table):
            if (dataset, part) not in owned:
                yield Orphan("table part", "tables", part_name(table, dataset, part))


def _bad_receipts(project: Project, tables: Tables) -> Iterator[Orphan]:
    """Yield empty receipts, and those of versions whose names had no digest: they cover nothing."""
    for store, files, receipts in (
        ("project", project.files, project.receipts),
        ("tables", tables.files, tables.receipts),
    ):
        below = receipts.url.removeprefix(f"{files.url}/")
        for name, info in receipts.files.listing().items():
            if name.endswith(".json") and (not info.size or _OLD_RECEIPT.fullmatch(name.removesuffix(".json"))):
                yield Orphan("receipt", store, f"{below}/{name}")


def _stale(project: Project, tables: Tables) -> Iterator[Orphan]:
    """Yield leases that are not renewed, and those whose task is done."""
    for store, files, receipts in (
        ("project", project.files, project.receipts),
        ("tables", tables.files, tables.receipts),
    ):
        leases, (_, abandoned) = receipts.beside(LEASES), _leases(receipts)
        below = leases.url.removeprefix(f"{files.url}/")
        for name in sorted(abandoned | set(finished_leases(receipts))):
            yield Orphan("lease", store, f"{below}/{name}.json")


def _addresses_in_work(receipts: Receipts) -> set[str]:
    """Return the addresses of tasks whose lease beside the receipts is renewed."""
    return {name.rpartition("/")[0] for name in _leases(receipts)[0]}


def _leases(receipts: Receipts) -> tuple[set[str], set[str]]:
    """Return the names of leases beside the receipts that are renewed, by the store's own clock, and of the others."""
    leases = receipts.beside(LEASES)
    infos = {name.removesuffix(".json"): info for name, info in leases.listing().items() if name.endswith(".json")}
    if not infos:
        return set(), set()
    now = leases.now()
    renewed = {name for name, info in infos.items() if now - (info.modified or now) < 60 * LEASE_MINUTES}
    return renewed, infos.keys() - renewed


def _ref(output: Mapping[str, Any]) -> Ref:
    return ref_from_dict({key: value for key, value in output.items() if key != "uri"})
