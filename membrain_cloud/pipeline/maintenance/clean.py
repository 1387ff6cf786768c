"""What lies in the store and nothing vouches for: left by killed runs, or by hand under our name.

Owners are told by the receipts' names, which one bulk listing gives: `{stage}/{user}_{session}/{run}/{name}` for
annotations, `scores/{run}/{tomogram}/{name}` for kept scores, `measure/{dataset}/{run}/{tomogram}` for table rows.
What a lease says to be in work is left alone, and so is everybody else's. Ages are told by the store's own clock.
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
Owner = tuple[str, str, str]

# A lease that is held is renewed several times a minute.
LEASE_MINUTES = 10.0
_OUR_FEATURES = re.compile(r"membrane-(score|uncertainty)-(?P<digest>[0-9a-f]{8})")
# As receipts were named before they carried their digest.
_OLD_RECEIPT = re.compile(r"[^/]+/[^/]+/[^/]+/[^/]+/(complete|prepare|finish|block-\d+)")


@dataclass(frozen=True)
class Orphan:
    """One thing that nothing vouches for.

    store : "project" or "tables".  name : of the object or folder in it.  key : of an annotation, as people name it.
    """

    kind: Kind
    store: str
    name: str
    key: str = ""


def find_orphans(project: Project, tables: Tables, user: str, *, hours: float = 1.0) -> list[Orphan]:
    """All of it, by kind and name.

    hours : hidden temporary files younger than this may be writes in progress.
    """
    found = [*orphaned_outputs(project, tables, user), *_bad_receipts(project, tables), *_left_leases(project, tables)]
    for store, files in (("project", project.files), ("tables", tables.files)):
        left = files.temporaries()
        if left:
            now = files.now()
            old = [name for name, info in left.items() if now - (info.modified or now) >= 3600 * hours]
            found += [Orphan("temporary file", store, name) for name in old]
    if tables.files.local and tables.files.root.startswith(f"{project.files.root}/"):  # seen from the project already
        found = [item for item in found if (item.kind, item.store) != ("temporary file", "tables")]
    return sorted(found, key=lambda item: (item.kind, item.store, item.name))


def remove_orphans(project: Project, tables: Tables, found: Iterable[Orphan]) -> None:
    """Remove it; what is gone already is no error."""
    for item in found:
        (project if item.store == "project" else tables).files.remove(item.name)


def orphaned_outputs(project: Project, tables: Tables, user: str) -> list[Orphan]:
    """Annotations of `user`, kept scores and table parts that no receipt vouches for and no run is at work on."""
    owners = _Owners(project.receipts)
    runs = [name for name, is_folder in project.files.children("ExperimentRuns").items() if is_folder]
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        looked = threads.map(
            lambda run: [*_annotations(project, user, run, owners), *_features(project, run, owners)], runs
        )
        found = [item for of_run in looked for item in of_run]
    return [*found, *_table_parts(tables)]


class _Owners:
    """What the receipts' names vouch for, and what leases say is in work."""

    def __init__(self, receipts: Receipts) -> None:
        self.receipts = receipts
        names = {name: known for name in receipts.names() if (known := ReceiptName.parse(name)) is not None}
        busy = _in_work(receipts)
        self.addresses: dict[str, list[str]] = {address: [] for address in busy}
        for name, known in names.items():
            self.addresses.setdefault(known.address, []).append(name)
        self.busy_runs = {address.split("/")[2] for address in busy}
        self._annotations: dict[Owner, list[str]] = {}
        self._scores: set[Owner] = set()
        for address in self.addresses:
            stage, *rest = address.split("/")
            if len(rest) != 3:
                continue
            if stage != SCORES:
                self._annotations.setdefault((rest[0], rest[1], rest[2]), []).append(address)
            elif match := _OUR_FEATURES.fullmatch(rest[2]):
                self._scores.add((rest[0], rest[1], match["digest"]))

    def unowned(self, owner: Owner, paths: Sequence[str]) -> list[str]:
        """Which of the annotations that share a name (a mask and its instances, meshes and picks) nobody owns.

        Names tell, but for a named session in which one of several has no receipt: then the receipts are read.
        """
        addresses = self._annotations.get(owner, [])
        if not addresses:
            beside = self._kinds_beside(owner)
            return [path for path in paths if path not in beside]
        if len(paths) <= len(addresses):
            return []
        owned: set[str] = set()
        for address in addresses:
            if not self.addresses[address]:
                return []  # in work, and no telling which
            for _, receipt in self.receipts.read_all(self.addresses[address]):
                output = (receipt or {}).get("output")
                owned |= set(output_paths(_ref(output)) if output else ())
        return [path for path in paths if path not in owned]

    def _kinds_beside(self, owner: Owner) -> set[str]:
        """Paths of the picks of single kinds of particles that lie beside all picks of the same session and run."""
        found: set[str] = set()
        for (session, run, _), addresses in self._annotations.items():
            if (session, run) != owner[:2]:
                continue
            for address in addresses:
                if address.startswith("pick/"):
                    for _, receipt in self.receipts.read_all(self.addresses[address]):
                        found |= set((receipt or {}).get("paths", ()))
        return found

    def owns_scores(self, run: str, place: str, digest: str) -> bool:
        return run in self.busy_runs or (run, place, digest) in self._scores


def _annotations(project: Project, user: str, run: str, owners: _Owners) -> Iterator[Orphan]:
    by_owner: dict[Owner, dict[str, str]] = {}
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
            if project.files.exists(path):  # what lies in a static root is not ours to judge
                yield Orphan("annotation", "project", path, paths[path])


def _features(project: Project, run: str, owners: _Owners) -> Iterator[Orphan]:
    """Kept scores. Their names have no user, but a digest that only we write."""
    for folder, is_folder in project.files.children(f"ExperimentRuns/{run}").items():
        if not is_folder or not folder.startswith("VoxelSpacing"):
            continue
        for name in project.files.children(f"ExperimentRuns/{run}/{folder}"):
            kind, _, feature = name.removesuffix("_features.zarr").rpartition("_")
            match = _OUR_FEATURES.fullmatch(feature)
            if not name.endswith("_features.zarr") or match is None:
                continue
            place = f"{kind}@{folder.removeprefix('VoxelSpacing')}"
            if not owners.owns_scores(run, place, match["digest"]):
                yield Orphan("features", "project", f"ExperimentRuns/{run}/{folder}/{name}")


def _table_parts(tables: Tables) -> Iterator[Orphan]:
    """Parts without a receipt. Tables without any receipt are somebody's copy, and are left alone."""
    names = tables.receipts.names()
    addresses = {known.address for name in names if (known := ReceiptName.parse(name)) is not None}
    if not addresses:
        return
    vouched = {tuple(address.split("/", 2)[1:]) for address in addresses | _in_work(tables.receipts)}
    for table in tables.names():
        for dataset, part in tables.parts(table):
            if (dataset, part) not in vouched:
                yield Orphan("table part", "tables", part_name(table, dataset, part))


def _bad_receipts(project: Project, tables: Tables) -> Iterator[Orphan]:
    """Receipts without a byte, and those of a time when their names carried no digest: they vouch for nothing."""
    for store, files, receipts in (
        ("project", project.files, project.receipts),
        ("tables", tables.files, tables.receipts),
    ):
        below = receipts.url.removeprefix(f"{files.url}/")
        for name, info in receipts.files.listing().items():
            if name.endswith(".json") and (not info.size or _OLD_RECEIPT.fullmatch(name.removesuffix(".json"))):
                yield Orphan("receipt", store, f"{below}/{name}")


def _left_leases(project: Project, tables: Tables) -> Iterator[Orphan]:
    """Leases that nobody keeps up, and those whose work is done."""
    for store, files, receipts in (
        ("project", project.files, project.receipts),
        ("tables", tables.files, tables.receipts),
    ):
        leases, (_, left) = receipts.beside(LEASES), _leases(receipts)
        below = leases.url.removeprefix(f"{files.url}/")
        for name in sorted(left | set(finished_leases(receipts))):
            yield Orphan("lease", store, f"{below}/{name}.json")


def _in_work(receipts: Receipts) -> set[str]:
    """Addresses that leases beside the receipts name, as far as these are kept up."""
    return {name.rpartition("/")[0] for name in _leases(receipts)[0]}


def _leases(receipts: Receipts) -> tuple[set[str], set[str]]:
    """Names of leases beside the receipts: those that are kept up, by the store's own clock, and those that are not."""
    leases = receipts.beside(LEASES)
    found = {name.removesuffix(".json"): info for name, info in leases.listing().items() if name.endswith(".json")}
    if not found:
        return set(), set()
    now = leases.now()
    kept = {name for name, info in found.items() if now - (info.modified or now) < 60 * LEASE_MINUTES}
    return kept, found.keys() - kept


def _ref(output: Mapping[str, Any]) -> Ref:
    return ref_from_dict({key: value for key, value in output.items() if key != "uri"})
