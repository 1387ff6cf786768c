"""References to the volumes and annotations of a copick project, and copick's URIs of them.

Names are checked when a reference is made: its constructor refuses every name that could lead out of its folder, so a
reference is always safe to turn into a path.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import BadNameError, ProjectError, VoxelSpacingError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Copick replaces these in the names of objects, users and sessions, but not in those of runs: "a/b" would nest.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\s]')
_URI = re.compile(
    r"(?P<name>[^:@/?]+):(?P<user>[^:@/?]+)/(?P<session>[^:@/?]+)"
    r"(@(?P<spacing>[^@?]+))?(\?(?P<flag>\w+)=(?P<value>\w+))?"
)


def is_safe_name(name: object) -> bool:
    """Return whether a name may be one part of a path: no separator, no "..", no white space, not hidden."""
    return isinstance(name, str) and bool(name) and name[0] != "." and ".." not in name and not _FORBIDDEN.search(name)


def check_name(name: str, what: str) -> str:
    """Return a name if it is safe as one part of a path.

    Parameters
    ----------
    name : str
        The name.
    what : str
        What it names, for the message: run, dataset.

    Raises
    ------
    BadNameError
        If it is not safe.
    """
    if not is_safe_name(name):
        raise BadNameError(
            f"{what} {name!r} must not become a path",
            'rename it: letters, digits, "-", "_" and single dots' + _proposal(str(name)),
        )
    return name


def check_object_name(name: str, what: str) -> str:
    """Return a name if it is safe in copick's file names, where "_" separates user, session and object.

    Parameters
    ----------
    name : str
        The name.
    what : str
        What it names, for the message: name, user, session.

    Raises
    ------
    BadNameError
        If it is not safe as part of a path, or contains "_".
    """
    if "_" in check_name(name, what):
        raise BadNameError(
            f'{what} {name!r} contains "_", which separates names in copick', f"use {name.replace('_', '-')!r}"
        )
    return name


def clean_name(name: str) -> str:
    """Return a safe run name made of a file stem; raise BadNameError if nothing is left of it.

    Parameters
    ----------
    name : str
        Stem of a file's name.
    """
    cleaned = re.sub(r"\.{2,}", "-", _FORBIDDEN.sub("-", name)).strip("-. ")
    if not cleaned:
        raise BadNameError(f"no run name can be made of {name!r}", "rename the file: letters, digits, '-' and '_'")
    return cleaned


def _proposal(name: str) -> str:
    try:
        return f"; for example {clean_name(name)!r}"
    except BadNameError:
        return ""


def _spacing(value: float) -> float:
    """Return a voxel spacing in Å to three decimals, as copick addresses it."""
    if not math.isfinite(value) or value <= 0:
        raise VoxelSpacingError(f"{value} is no voxel spacing", "give a number of ångström above 0")
    return round(float(value), 3)


@dataclass(frozen=True, order=True)
class TomogramRef:
    """A tomogram of a project.

    Attributes
    ----------
    run : str
        Name of the run.
    tomogram_type : str
        Copick's type, such as wbp or denoised.
    voxel_spacing_angstrom : float
        Voxel spacing in Å, to three decimals.
    """

    run: str
    tomogram_type: str
    voxel_spacing_angstrom: float

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        check_name(self.tomogram_type, "tomogram type")
        object.__setattr__(self, "voxel_spacing_angstrom", _spacing(self.voxel_spacing_angstrom))

    @property
    def key(self) -> str:
        """Run and name, unique in a project; for messages and logs."""
        return f"{self.run}/{self.tomogram_type}@{self.voxel_spacing_angstrom:.3f}"

    @property
    def path(self) -> str:
        """Path of the volume below copick's roots."""
        return f"ExperimentRuns/{self.run}/VoxelSpacing{self.voxel_spacing_angstrom:.3f}/{self.tomogram_type}.zarr"

    def as_dict(self) -> dict[str, Any]:
        """Return the reference as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TomogramRef:
        """Make a reference of what `as_dict` returned.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned, also after a round trip through JSON.
        """
        return cls(**values)


@dataclass(frozen=True, order=True)
class FeaturesRef:
    """A map computed on a tomogram, such as membrane scores, and stored beside it: copick's features.

    Attributes
    ----------
    run, tomogram_type, voxel_spacing_angstrom
        Those of the tomogram; see `TomogramRef`.
    feature_type : str
        What the map is; without "_".
    """

    run: str
    tomogram_type: str
    voxel_spacing_angstrom: float
    feature_type: str

    def __post_init__(self) -> None:
        TomogramRef(self.run, self.tomogram_type, self.voxel_spacing_angstrom)
        # In copick's file names, feature `b` of tomogram `wbp_a` looks like feature `a_b` of `wbp`: hence no "_".
        check_object_name(self.feature_type, "feature")
        object.__setattr__(self, "voxel_spacing_angstrom", _spacing(self.voxel_spacing_angstrom))

    @property
    def tomogram(self) -> TomogramRef:
        """The tomogram that the map was computed on."""
        return TomogramRef(self.run, self.tomogram_type, self.voxel_spacing_angstrom)

    @property
    def key(self) -> str:
        """Run and name, unique in a project; for messages and logs."""
        return f"{self.tomogram.key}:{self.feature_type}"

    @property
    def path(self) -> str:
        """Path of the volume below copick's roots."""
        return f"{self.tomogram.path.removesuffix('.zarr')}_{self.feature_type}_features.zarr"

    def as_dict(self) -> dict[str, Any]:
        """Return the reference as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeaturesRef:
        """Make a reference of what `as_dict` returned.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned, also after a round trip through JSON.
        """
        return cls(**values)


@dataclass(frozen=True, order=True)
class SegmentationRef:
    """A volume of labels.

    Attributes
    ----------
    run : str
        Name of the run.
    name : str
        Name of the object, such as membrane.
    user, session : str
        Who made it, and in which session.
    voxel_spacing_angstrom : float
        Voxel spacing in Å, to three decimals.
    instance : bool
        Whether the labels are membranes numbered from 1, or a mask. Default: False.
    """

    run: str
    name: str
    user: str
    session: str
    voxel_spacing_angstrom: float
    instance: bool = False

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        for part in ("name", "user", "session"):
            check_object_name(getattr(self, part), part)
        object.__setattr__(self, "voxel_spacing_angstrom", _spacing(self.voxel_spacing_angstrom))

    @property
    def uri(self) -> str:
        """Copick's URI, which names it within its run."""
        query = "?instance=true" if self.instance else ""
        return f"{self.name}:{self.user}/{self.session}@{self.voxel_spacing_angstrom:.3f}{query}"

    @property
    def key(self) -> str:
        """Run and name, unique in a project; for messages and logs."""
        return f"{self.run}/{self.uri}"

    @property
    def path(self) -> str:
        """Path of the volume below copick's roots."""
        folder = "InstanceSegmentations" if self.instance else "Segmentations"
        file = f"{self.voxel_spacing_angstrom:.3f}_{self.user}_{self.session}_{self.name}.zarr"
        return f"ExperimentRuns/{self.run}/{folder}/{file}"

    def as_dict(self) -> dict[str, Any]:
        """Return the reference as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegmentationRef:
        """Make a reference of what `as_dict` returned.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned, also after a round trip through JSON.
        """
        return cls(**values)


@dataclass(frozen=True, order=True)
class ObjectRef:
    """Meshes or picks of one object by one user in one session.

    Attributes
    ----------
    run : str
        Name of the run.
    name : str
        Name of the object, such as membrane.
    user, session : str
        Who made them, and in which session.
    """

    run: str
    name: str
    user: str
    session: str

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        for part in ("name", "user", "session"):
            check_object_name(getattr(self, part), part)

    @property
    def uri(self) -> str:
        """Copick's URI, which names it within its run."""
        return f"{self.name}:{self.user}/{self.session}"

    @property
    def key(self) -> str:
        """Run and name, unique in a project; for messages and logs."""
        return f"{self.run}/{self.uri}"

    @property
    def mesh_path(self) -> str:
        """Path of the mesh file below copick's roots."""
        return f"ExperimentRuns/{self.run}/Meshes/{self.user}_{self.session}_{self.name}.glb"

    @property
    def picks_path(self) -> str:
        """Path of the picks file below copick's roots."""
        return f"ExperimentRuns/{self.run}/Picks/{self.user}_{self.session}_{self.name}.json"

    def as_dict(self) -> dict[str, Any]:
        """Return the reference as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ObjectRef:
        """Make a reference of what `as_dict` returned.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned, also after a round trip through JSON.
        """
        return cls(**values)


VolumeRef = TomogramRef | FeaturesRef | SegmentationRef
"""A reference to a volume."""


@dataclass(frozen=True)
class ParsedUri:
    """The parts of a copick URI.

    Attributes
    ----------
    name, user, session : str
        Object, user and session.
    voxel_spacing_angstrom : float or None
        Voxel spacing in Å, or None if it was left out.
    instance : bool
        Whether `?instance=true` was given.
    """

    name: str
    user: str
    session: str
    voxel_spacing_angstrom: float | None
    instance: bool


def parse_uri(uri: str) -> ParsedUri:
    """Parse `name:user/session[@spacing][?instance=true]`.

    Parameters
    ----------
    uri : str
        The URI.

    Returns
    -------
    ParsedUri
        Its parts.

    Raises
    ------
    ProjectError
        For anything else, such as copick's patterns and the URIs of other types.
    """
    match = _URI.fullmatch(uri.strip())
    if match is None or (match["flag"] not in (None, "instance")):
        raise ProjectError(
            f"{uri!r} does not name one annotation",
            "write name:user/session for meshes and picks, name:user/session@spacing for a mask, "
            "name:user/session@spacing?instance=true for instances",
        )
    spacing: float | None = None
    if match["spacing"] is not None:
        try:
            spacing = _spacing(float(match["spacing"]))
        except ValueError as error:
            raise ProjectError(
                f"{uri!r}: {match['spacing']!r} is no voxel spacing", "write for example @10.0"
            ) from error
    instance = (match["value"] or "").lower() in ("true", "1", "yes")
    return ParsedUri(match["name"], match["user"], match["session"], spacing, instance)


def parse_segmentation_file(run: str, file: str, *, instance: bool, multilabel: bool = False) -> SegmentationRef | None:
    """Return the reference of a volume in a run's segmentation folder.

    Parameters
    ----------
    run : str
        Name of the run.
    file : str
        Name of the volume's folder.
    instance : bool
        Whether it is in `InstanceSegmentations` or in `Segmentations`.
    multilabel : bool
        Whether volumes with several labels are meant, whose names end in `-multilabel`, or all others. Default: False.

    Returns
    -------
    SegmentationRef or None
        None for a foreign name, or a volume of the other kind.
    """
    if not file.endswith(".zarr") or file.endswith("-multilabel.zarr") != multilabel:
        return None
    parts = file.removesuffix(".zarr").split("_", 3)
    if len(parts) != 4:
        return None
    try:
        ref = SegmentationRef(run, parts[3], parts[1], parts[2], float(parts[0]), instance)
    except (ValueError, BadNameError, VoxelSpacingError):
        return None
    return ref if ref.path.endswith(f"/{file}") else None


def parse_object_file(run: str, file: str, suffix: str) -> ObjectRef | None:
    """Return the reference of a file in a run's folder of meshes or picks.

    Parameters
    ----------
    run : str
        Name of the run.
    file : str
        Name of the file.
    suffix : str
        Ending of the files, `.glb` or `.json`.

    Returns
    -------
    ObjectRef or None
        None for a foreign name.
    """
    parts = file.removesuffix(suffix).split("_", 2)
    if not file.endswith(suffix) or len(parts) != 3:
        return None
    try:
        return ObjectRef(run, parts[2], parts[0], parts[1])
    except BadNameError:
        return None
