"""Choosing tomograms of the CryoET Data Portal, one a run, and writing the choice down.

A selection is frozen: a manifest that names every tomogram by the portal's id, and a copick config over the same
overlay. What is run later is what was selected, whatever the portal adds meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.store.refs import clean_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from membrain_cloud.geometry import Zyx
    from membrain_cloud.store.portal.client import PortalClient

# What the portal's own URLs start with.
_PORTAL_BUCKET = "s3://cryoet-data-portal-public"
PROCESSINGS = ("denoised", "filtered", "filtered_even", "filtered_odd", "raw")
RECONSTRUCTIONS = ("Fourier_Space", "SART", "SIRT", "Unknown", "WBP")
MEMBRANE_IDENTIFIER = "GO:0016020"

_FIELDS = (
    "id runId depositionId sizeX sizeY sizeZ voxelSpacing processing processingSoftware reconstructionMethod"
    " ctfCorrected isVisualizationDefault isPortalStandard isAuthorSubmitted s3OmezarrDir httpsOmezarrDir"
    " fileSizeOmezarr scale0Dimensions scale1Dimensions scale2Dimensions lastModifiedDate"
    " run { name datasetId dataset { organismName title } }"
)


@dataclass(frozen=True)
class PortalQuery:
    """Which tomograms are asked for; empty and None: any.

    runs : names or ids of runs.  organisms : a part of the name is enough, upper or lower case.
    visualization_default : True: only those the portal shows by default.
    unannotated : only runs without an annotation whose object has `membrane_identifier`.
    """

    datasets: tuple[int, ...] = ()
    depositions: tuple[int, ...] = ()
    organisms: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    voxel_spacing_min_angstrom: float | None = None
    voxel_spacing_max_angstrom: float | None = None
    processings: tuple[str, ...] = ()
    reconstructions: tuple[str, ...] = ()
    visualization_default: bool = False
    unannotated: bool = False
    membrane_identifier: str = MEMBRANE_IDENTIFIER

    def __post_init__(self) -> None:
        _require_known("processing", self.processings, PROCESSINGS)
        _require_known("reconstruction method", self.reconstructions, RECONSTRUCTIONS)
        low, high = self.voxel_spacing_min_angstrom, self.voxel_spacing_max_angstrom
        if (low is not None and low <= 0) or (low is not None and high is not None and low > high):
            raise UsageError(f"no voxel spacing is from {low} to {high} Å", "give the smaller one first, above 0")

    def where(self) -> list[dict[str, Any]]:
        """The portal's filters; one for each organism and kind of run name, since it has no "or"."""
        base: dict[str, Any] = {}
        spacing = {"_gte": self.voxel_spacing_min_angstrom, "_lte": self.voxel_spacing_max_angstrom}
        for field, filters in (
            ("depositionId", {"_in": list(self.depositions)}),
            ("processing", {"_in": list(self.processings)}),
            ("reconstructionMethod", {"_in": list(self.reconstructions)}),
            ("voxelSpacing", spacing),
            ("isVisualizationDefault", {"_eq": True if self.visualization_default else None}),
        ):
            given = {key: value for key, value in filters.items() if value not in (None, [])}
            if given:
                base[field] = given
        return [base | ({"run": run} if run else {}) for run in self.run_filters()]

    def run_filters(self) -> list[dict[str, Any]]:
        """The filters that are about the run."""
        common: dict[str, Any] = {"datasetId": {"_in": list(self.datasets)}} if self.datasets else {}
        ids = [int(run) for run in self.runs if run.isdigit()]
        kinds: list[dict[str, Any]] = [{}]
        if self.runs:
            kinds = [{"name": {"_in": list(self.runs)}}] + ([{"id": {"_in": ids}}] if ids else [])
        organisms: list[dict[str, Any]] = [
            {"dataset": {"organismName": {"_ilike": f"%{name}%"}}} for name in self.organisms
        ] or [{}]
        return [common | kind | organism for kind in kinds for organism in organisms]


@dataclass(frozen=True)
class Tomogram:
    """One tomogram of the portal, at the level that will be read. Sizes are those of the level."""

    tomogram_id: str
    run_name: str
    dataset_id: str
    deposition_id: str | None
    tomogram_type: str
    voxel_spacing_angstrom: float
    shape: Zyx
    level: str
    url: str
    identity: str
    bytes: int
    portal_run_name: str
    organism: str | None
    full_voxel_spacing_angstrom: float
    visualization_default: bool

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    def row(self) -> dict[str, Any]:
        """As a row of a manifest."""
        values = asdict(self)
        z, y, x = values.pop("shape")
        return {**values, "size_z": z, "size_y": y, "size_x": x}


@dataclass(frozen=True)
class Selection:
    """What was chosen, and what was left out: reason -> number of tomograms."""

    tomograms: tuple[Tomogram, ...]
    left_out: Mapping[str, int]
    requests: int

    @property
    def voxels(self) -> int:
        return sum(tomogram.voxels for tomogram in self.tomograms)

    @property
    def bytes(self) -> int:
        return sum(tomogram.bytes for tomogram in self.tomograms)


def select(
    client: PortalClient,
    query: PortalQuery,
    *,
    spacing_near_angstrom: float,
    bucket: str = _PORTAL_BUCKET,
    over_https: bool = False,
    limit: int | None = None,
    seed: int | None = None,
) -> Selection:
    """The tomograms that `query` asks for, one a run, at the pyramid level whose spacing is nearest to the one given.

    Of a run's tomograms the one the portal shows by default is taken, then a portal standard one, then a denoised one,
    then the one nearest to the spacing, then the first by id.

    bucket : takes the place of the portal's own in the URLs.  limit, seed : a random sample of so many runs, the same
    for the same seed; without a seed the first by id.

    Raises InputError when nothing is left, with what was left out and why; else as `PortalClient.fetch`.
    """
    found = {record["id"]: record for where in query.where() for record in client.fetch("tomograms", _FIELDS, where)}
    left_out: Counter[str] = Counter()
    annotated = _annotated_runs(client, query) if query.unannotated else set()
    runs: dict[int, list[tuple[tuple[Any, ...], Tomogram]]] = {}
    for key in sorted(found):
        record = found[key]
        if record["runId"] in annotated:
            left_out["their run has a membrane annotation"] += 1
            continue
        tomogram = _tomogram(record, spacing_near_angstrom, bucket, over_https)
        if tomogram is None:
            left_out["no OME-Zarr, no run or no voxel spacing"] += 1
            continue
        runs.setdefault(record["runId"], []).append((_rank(record, tomogram, spacing_near_angstrom), tomogram))
    left_out["another tomogram of their run was taken"] = sum(len(several) - 1 for several in runs.values())
    chosen = [min(several, key=lambda pair: pair[0])[1] for _, several in sorted(runs.items())]
    if limit is not None and limit < len(chosen):
        left_out["above the limit"] = len(chosen) - limit
        kept = range(limit) if seed is None else sorted(random.Random(seed).sample(range(len(chosen)), limit))
        chosen = [chosen[i] for i in kept]
    reasons = {reason: count for reason, count in left_out.items() if count}
    if not chosen:
        why = ", ".join(f"{count}: {reason}" for reason, count in reasons.items()) or "the portal has none like these"
        raise InputError(f"no tomogram is left ({why})", "ask for more: fewer or wider filters")
    return Selection(tuple(chosen), reasons, client.requests)


def tomogram_type(record: Mapping[str, Any]) -> str:
    """The name that copick gives a portal tomogram: `{reconstruction}-{processing}[-{software}][-ctfdeconv]`."""
    software = record.get("processingSoftware")
    parts = [_camel(record["reconstructionMethod"]), _camel(record["processing"])]
    parts += [_camel(software)] if software else []
    parts += ["ctfdeconv"] if record.get("ctfCorrected") else []
    return clean_name("-".join(parts))


def copick_config(selection: Selection, overlay: str, overlay_fs_args: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A config of copick's type `cryoet_data_portal` over the datasets of a selection."""
    datasets = sorted({int(tomogram.dataset_id) for tomogram in selection.tomograms})
    membrane = {
        "name": "membrane",
        "is_particle": False,
        "identifier": MEMBRANE_IDENTIFIER,
        "label": 1,
        "color": [161, 221, 105, 255],
    }
    return {
        "config_type": "cryoet_data_portal",
        "name": name,
        "description": "selected by membrain_cloud",
        "version": "1.31.0",
        "pickable_objects": [membrane],
        "overlay_root": overlay if "://" in overlay else f"local://{overlay}",
        "overlay_fs_args": dict(overlay_fs_args) or ({} if "://" in overlay else {"auto_mkdir": True}),
        "dataset_ids": datasets,
    }


def _annotated_runs(client: PortalClient, query: PortalQuery) -> set[int]:
    found: set[int] = set()
    for run in query.run_filters():
        where: dict[str, Any] = {"objectId": {"_eq": query.membrane_identifier}} | ({"run": run} if run else {})
        # Two fields a record, and several records a run: so larger pages.
        found |= {record["runId"] for record in client.fetch("annotations", "id runId", where, 4 * client.page)}
    return found


def _tomogram(record: Mapping[str, Any], near_angstrom: float, bucket: str, over_https: bool) -> Tomogram | None:
    url = record["httpsOmezarrDir" if over_https else "s3OmezarrDir"]
    spacing, run = record["voxelSpacing"], record["run"]
    if not url or not run or record["runId"] is None or not spacing or spacing <= 0:
        return None
    level, shape = _level(record, near_angstrom)
    stored = record["fileSizeOmezarr"] or 0
    # What a level holds of the bytes of all: they shrink by eight from each to the next.
    share = 7 / 8 / 8**level
    facts = [record["id"], record["lastModifiedDate"], url, level, shape, spacing, record["fileSizeOmezarr"]]
    return Tomogram(
        tomogram_id=str(record["id"]),
        run_name=str(record["runId"]),
        dataset_id=str(run["datasetId"]),
        deposition_id=None if record["depositionId"] is None else str(record["depositionId"]),
        tomogram_type=tomogram_type(record),
        voxel_spacing_angstrom=round(spacing * 2**level, 3),
        shape=shape,
        level=str(level),
        url=(url.replace(_PORTAL_BUCKET, bucket.rstrip("/"), 1) if url.startswith(_PORTAL_BUCKET) else url).rstrip("/"),
        identity=hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16],
        bytes=int(stored * share),
        portal_run_name=str(run["name"]),
        organism=(run["dataset"] or {}).get("organismName"),
        full_voxel_spacing_angstrom=float(spacing),
        visualization_default=bool(record["isVisualizationDefault"]),
    )


def _level(record: Mapping[str, Any], near_angstrom: float) -> tuple[int, Zyx]:
    """The pyramid level nearest in spacing, by ratio, of those whose size the portal tells; and its size."""
    shapes: dict[int, Zyx] = {0: (record["sizeZ"], record["sizeY"], record["sizeX"])}
    for level in (1, 2):
        shape = _dimensions(record[f"scale{level}Dimensions"])
        if shape is not None:
            shapes[level] = shape
    spacing = record["voxelSpacing"]
    best = min(shapes, key=lambda level: (abs(math.log(spacing * 2**level / near_angstrom)), level))
    return best, shapes[best]


def _dimensions(text: str | None) -> Zyx | None:
    """`x,y,z` as the portal writes it."""
    numbers = re.findall(r"\d+", text or "")
    if len(numbers) != 3:
        return None
    x, y, z = map(int, numbers)
    return (z, y, x) if min(x, y, z) > 0 else None


def _rank(record: Mapping[str, Any], tomogram: Tomogram, near_angstrom: float) -> tuple[Any, ...]:
    return (
        not record["isVisualizationDefault"],
        not record["isPortalStandard"],
        record["processing"] != "denoised",
        abs(math.log(tomogram.voxel_spacing_angstrom / near_angstrom)),
        record["id"],
    )


def _camel(text: str) -> str:
    """As copick turns the portal's words into names: `Fourier_Space` -> `fourierSpace`, `cryoCARE` -> `cryocare`."""
    joined = re.sub(r"([_\-])+", " ", text).title().replace(" ", "")
    return joined[:1].lower() + joined[1:]


def _require_known(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for value in given:
        if value not in known:
            raise UsageError(f"the portal has no {what} {value!r}", f"there are: {', '.join(known)}")
