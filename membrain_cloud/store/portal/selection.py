"""Choose tomograms of the CryoET Data Portal, one per run.

A selection is frozen: a manifest that names every tomogram by the portal's id, and a copick config over the same
overlay. A later run takes what was selected, whatever the portal adds meanwhile.
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

import cryoet_data_portal

from membrain_cloud.errors import InputError, UsageError
from membrain_cloud.store.projects.copick_config import COPICK_VERSION, pickable_object
from membrain_cloud.store.refs import clean_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from membrain_cloud.geometry import Zyx
    from membrain_cloud.store.portal.client import Fields, PortalClient

# The beginning of the portal's own URLs.
_PORTAL_BUCKET = "s3://cryoet-data-portal-public"
PROCESSINGS = ("denoised", "filtered", "filtered_even", "filtered_odd", "raw")
"""The portal's names of processings."""
RECONSTRUCTIONS = ("Fourier_Space", "SART", "SIRT", "Unknown", "WBP")
"""The portal's names of reconstruction methods."""
MEMBRANE_IDENTIFIER = "GO:0016020"
"""The identifier of membranes in the Gene Ontology."""

_FIELDS: Fields = (
    *("id", "runId", "depositionId", "sizeX", "sizeY", "sizeZ", "voxelSpacing"),
    *("processing", "processingSoftware", "reconstructionMethod", "ctfCorrected"),
    *("isVisualizationDefault", "isPortalStandard", "isAuthorSubmitted"),
    *("s3OmezarrDir", "httpsOmezarrDir", "fileSizeOmezarr"),
    *("scale0Dimensions", "scale1Dimensions", "scale2Dimensions", "lastModifiedDate"),
    ("run", ("name", "datasetId", ("dataset", ("organismName", "title")))),
)


@dataclass(frozen=True)
class PortalQuery:
    """The filters of a selection. By default, and where empty or None, a filter lets every tomogram through.

    Attributes
    ----------
    datasets, depositions : tuple of int
        The portal's ids.
    organisms : tuple of str
        Parts of names, in upper or lower case.
    runs : tuple of str
        Names or ids of runs.
    voxel_spacing_min_angstrom, voxel_spacing_max_angstrom : float or None
        Limits of the voxel spacing at full resolution, in Å.
    processings : tuple of str
        Of `PROCESSINGS`.
    reconstructions : tuple of str
        Of `RECONSTRUCTIONS`.
    visualization_default : bool
        Whether only tomograms that the portal shows by default are selected.
    unannotated : bool
        Whether only runs without an annotation of membranes are selected.
    membrane_identifier : str
        Identifier of the objects of such annotations. Default: GO:0016020.

    Raises
    ------
    UsageError
        For an unknown processing or reconstruction method, or impossible limits.
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
        _check_terms("processing", self.processings, PROCESSINGS)
        _check_terms("reconstruction method", self.reconstructions, RECONSTRUCTIONS)
        low, high = self.voxel_spacing_min_angstrom, self.voxel_spacing_max_angstrom
        if (low is not None and low <= 0) or (low is not None and high is not None and low > high):
            raise UsageError(f"no voxel spacing is from {low} to {high} Å", "give the smaller one first, above 0")

    def filters(self) -> list[list[Any]]:
        """Return the client's filters of tomograms, each a list of conditions.

        There is one per organism and kind of run name, because the portal has no "or".
        """
        kind = cryoet_data_portal.Tomogram
        low, high = self.voxel_spacing_min_angstrom, self.voxel_spacing_max_angstrom
        base = [
            *([kind.deposition_id._in(list(self.depositions))] if self.depositions else []),
            *([kind.processing._in(list(self.processings))] if self.processings else []),
            *([kind.reconstruction_method._in(list(self.reconstructions))] if self.reconstructions else []),
            *([kind.voxel_spacing >= low] if low is not None else []),
            *([kind.voxel_spacing <= high] if high is not None else []),
            *([kind.is_visualization_default == True] if self.visualization_default else []),  # noqa: E712 (a filter)
        ]
        return [base + run for run in self.run_filters(kind)]

    def run_filters(self, kind: Any) -> list[list[Any]]:
        """Return the filters on the run.

        Parameters
        ----------
        kind : subclass of the client's Model
            The kind of records that are searched; it has a relation `run`.
        """
        common = [kind.run.dataset_id._in(list(self.datasets))] if self.datasets else []
        ids = [int(run) for run in self.runs if run.isdigit()]
        names: list[list[Any]] = [[]]
        if self.runs:
            names = [[kind.run.name._in(list(self.runs))]] + ([[kind.run.id._in(ids)]] if ids else [])
        organisms = [[kind.run.dataset.organism_name.ilike(f"%{name}%")] for name in self.organisms] or [[]]
        return [common + name + organism for name in names for organism in organisms]


@dataclass(frozen=True)
class Tomogram:
    """One tomogram of the portal, at the pyramid level that will be read.

    Attributes
    ----------
    tomogram_id, dataset_id, deposition_id : str
        The portal's ids; the deposition may be None.
    run_name : str
        Name of the run in the project: the portal's id of the run.
    tomogram_type : str
        Copick's type.
    voxel_spacing_angstrom : float
        Voxel spacing of the level in Å.
    shape : tuple of 3 ints
        Voxels of the level, zyx.
    level : str
        Path of the level in the group.
    url : str
        URL of the OME-Zarr group.
    identity : str
        Changes when the portal's record changes.
    bytes : int
        Estimated stored size of the level.
    portal_run_name : str
        The portal's name of the run.
    organism : str or None
        Organism of the dataset.
    full_voxel_spacing_angstrom : float
        Voxel spacing at full resolution, in Å.
    visualization_default : bool
        Whether the portal shows it by default.
    """

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
        """Number of voxels of the level."""
        return math.prod(self.shape)

    def row(self) -> dict[str, Any]:
        """Return the tomogram as a row of a manifest."""
        values = asdict(self)
        z, y, x = values.pop("shape")
        return {**values, "size_z": z, "size_y": y, "size_x": x}


@dataclass(frozen=True)
class Selection:
    """The tomograms that were chosen.

    Attributes
    ----------
    tomograms : tuple of Tomogram
        One per run.
    left_out : Mapping
        Reason to number of tomograms that were left out.
    requests : int
        Number of requests to the portal.
    """

    tomograms: tuple[Tomogram, ...]
    left_out: Mapping[str, int]
    requests: int

    @property
    def voxels(self) -> int:
        """Number of voxels of all tomograms."""
        return sum(tomogram.voxels for tomogram in self.tomograms)

    @property
    def bytes(self) -> int:
        """Estimated stored size of all tomograms."""
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
    """Select tomograms, one per run, at the pyramid level whose spacing is nearest to a given one.

    Of several tomograms of a run, the one that the portal shows by default is preferred, then a portal standard one,
    then a denoised one, then the one nearest in spacing, then the first by id.

    Parameters
    ----------
    client : PortalClient
        The client to ask with.
    query : PortalQuery
        The filters.
    spacing_near_angstrom : float
        The voxel spacing to be near to, in Å.
    bucket : str
        URL that takes the place of the portal's bucket, for mirrors. Default: the portal's.
    over_https : bool
        Whether tomograms are read from the portal's web server rather than from S3. Default: False.
    limit : int, optional
        Number of runs to select at most. Default: all.
    seed : int, optional
        Seed of a random sample of `limit` runs. Default: the first by id.

    Returns
    -------
    Selection
        The tomograms, sorted by run.

    Raises
    ------
    InputError
        If no tomogram is left; the message says what was left out and why.
    ProjectError, TransientError
        As `PortalClient.fetch`.
    """
    records = {
        record["id"]: record
        for filters in query.filters()
        for record in client.fetch(cryoet_data_portal.Tomogram, _FIELDS, filters)
    }
    left_out: Counter[str] = Counter()
    annotated = _annotated_runs(client, query) if query.unannotated else set()
    runs: dict[int, list[tuple[tuple[Any, ...], Tomogram]]] = {}
    for key in sorted(records):
        record = records[key]
        if record["runId"] in annotated:
            left_out["their run has a membrane annotation"] += 1
            continue
        tomogram = _tomogram(record, spacing_near_angstrom, bucket, over_https)
        if tomogram is None:
            left_out["no OME-Zarr, no run or no voxel spacing"] += 1
            continue
        runs.setdefault(record["runId"], []).append((_rank(record, tomogram, spacing_near_angstrom), tomogram))
    left_out["another tomogram of their run was taken"] = sum(len(several) - 1 for several in runs.values())
    tomograms = [min(several, key=lambda pair: pair[0])[1] for _, several in sorted(runs.items())]
    if limit is not None and limit < len(tomograms):
        left_out["above the limit"] = len(tomograms) - limit
        sampled = range(limit) if seed is None else sorted(random.Random(seed).sample(range(len(tomograms)), limit))
        tomograms = [tomograms[i] for i in sampled]
    reasons = {reason: count for reason, count in left_out.items() if count}
    if not tomograms:
        why = ", ".join(f"{count}: {reason}" for reason, count in reasons.items()) or "the portal has none like these"
        raise InputError(f"no tomogram is left ({why})", "ask for more: fewer or wider filters")
    return Selection(tuple(tomograms), reasons, client.requests)


def tomogram_type(record: Mapping[str, Any]) -> str:
    """Return copick's type of a portal tomogram: `{reconstruction}-{processing}[-{software}][-ctfdeconv]`.

    Parameters
    ----------
    record : mapping
        A tomogram as the portal's API returns it.
    """
    software = record.get("processingSoftware")
    parts = [_camel(record["reconstructionMethod"]), _camel(record["processing"])]
    parts += [_camel(software)] if software else []
    parts += ["ctfdeconv"] if record.get("ctfCorrected") else []
    return clean_name("-".join(parts))


def copick_config(selection: Selection, overlay: str, overlay_fs_args: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a config of copick's type `cryoet_data_portal` over the datasets of a selection.

    Parameters
    ----------
    selection : Selection
        The tomograms.
    overlay : str
        Path or URL of the folder that results are written to.
    overlay_fs_args : Mapping
        Arguments of fsspec for the overlay.
    name : str
        Name of the project.
    """
    from copick.impl.cryoet_data_portal import CopickConfigCDP

    membrane = pickable_object([], "membrane", is_particle=False, identifier=MEMBRANE_IDENTIFIER)
    config = CopickConfigCDP(
        config_type="cryoet_data_portal",
        name=name,
        description="selected by membrain_cloud",
        version=COPICK_VERSION,
        pickable_objects=[membrane],
        overlay_root=overlay if "://" in overlay else f"local://{overlay}",
        overlay_fs_args=dict(overlay_fs_args) or ({} if "://" in overlay else {"auto_mkdir": True}),
        dataset_ids=sorted({int(tomogram.dataset_id) for tomogram in selection.tomograms}),
    )
    return dict(config.model_dump(mode="json", exclude_unset=True))


def _annotated_runs(client: PortalClient, query: PortalQuery) -> set[int]:
    """Return the ids of the runs that have an annotation of membranes."""
    runs: set[int] = set()
    kind = cryoet_data_portal.Annotation
    for filters in query.run_filters(kind):
        membranes = [kind.object_id == query.membrane_identifier, *filters]
        # Larger pages: two fields per record, and several records per run.
        runs |= {record["runId"] for record in client.fetch(kind, ("id", "runId"), membranes, 4 * client.page)}
    return runs


def _tomogram(record: Mapping[str, Any], near_angstrom: float, bucket: str, over_https: bool) -> Tomogram | None:
    url = record["httpsOmezarrDir" if over_https else "s3OmezarrDir"]
    spacing, run = record["voxelSpacing"], record["run"]
    if not url or not run or record["runId"] is None or not spacing or spacing <= 0:
        return None
    level, shape = _level(record, near_angstrom)
    stored = record["fileSizeOmezarr"] or 0
    # The share of a level in the bytes of all: each level has an eighth of the one before.
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
    """Return index and shape of the level nearest in spacing, by ratio, among those whose size the portal gives."""
    shapes: dict[int, Zyx] = {0: (record["sizeZ"], record["sizeY"], record["sizeX"])}
    for level in (1, 2):
        shape = _dimensions(record[f"scale{level}Dimensions"])
        if shape is not None:
            shapes[level] = shape
    spacing = record["voxelSpacing"]
    best = min(shapes, key=lambda level: (abs(math.log(spacing * 2**level / near_angstrom)), level))
    return best, shapes[best]


def _dimensions(text: str | None) -> Zyx | None:
    """Parse the portal's `x,y,z` as zyx; None if it is malformed."""
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
    """Return copick's spelling of the portal's terms: `Fourier_Space` -> `fourierSpace`, `cryoCARE` -> `cryocare`."""
    joined = re.sub(r"([_\-])+", " ", text).title().replace(" ", "")
    return joined[:1].lower() + joined[1:]


def _check_terms(what: str, values: Iterable[str], terms: Sequence[str]) -> None:
    """Raise UsageError for a value that is not one of the portal's terms."""
    for value in values:
        if value not in terms:
            raise UsageError(f"the portal has no {what} {value!r}", f"there are: {', '.join(terms)}")
