"""Names of things in a copick project, checked where they enter, and the URIs people write for them.

A reference that exists is safe to turn into a path: its constructor refuses every name that could leave its folder.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import BadNameError, ProjectError, VoxelSpacingError

if TYPE_CHECKING:
    from collections.abc import Mapping

# What copick replaces in object, user and session names; in run names it lets them pass, so "a/b" would nest.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\s]')
_URI = re.compile(
    r"(?P<name>[^:@/?]+):(?P<user>[^:@/?]+)/(?P<session>[^:@/?]+)"
    r"(@(?P<spacing>[^@?]+))?(\?(?P<flag>\w+)=(?P<value>\w+))?"
)


def is_safe_name(name: object) -> bool:
    """Whether a name may be one part of a path: no separator, no "..", no white space, not hidden."""
    return isinstance(name, str) and bool(name) and name[0] != "." and ".." not in name and not _FORBIDDEN.search(name)


def check_name(name: str, what: str) -> str:
    """`name` itself when it is safe as one part of a path; BadNameError otherwise."""
    if not is_safe_name(name):
        raise BadNameError(
            f"{what} {name!r} must not become a path",
            'rename it: letters, digits, "-", "_" and single dots' + _proposal(str(name)),
        )
    return name


def check_object_name(name: str, what: str) -> str:
    """Like `check_name`, and without "_", which separates user, session and object in copick's file names."""
    if "_" in check_name(name, what):
        raise BadNameError(
            f'{what} {name!r} contains "_", which separates names in copick', f"use {name.replace('_', '-')!r}"
        )
    return name


def clean_name(name: str) -> str:
    """A safe run name made of one from outside (a file stem); BadNameError when nothing is left of it."""
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
    """Voxel spacings are addressed by three decimals in copick."""
    if not math.isfinite(value) or value <= 0:
        raise VoxelSpacingError(f"{value} is no voxel spacing", "give a number of ångström above 0")
    return round(float(value), 3)


@dataclass(frozen=True, order=True)
class TomogramRef:
    """A tomogram of a project: `ExperimentRuns/{run}/VoxelSpacing{spacing:.3f}/{tomogram_type}.zarr`."""

    run: str
    tomogram_type: str
    voxel_spacing_angstrom: float

    def __post_init__(self) -> None:
        check_name(self.run, "run")
        check_name(self.tomogram_type, "tomogram type")
        object.__setattr__(self, "voxel_spacing_angstrom", _spacing(self.voxel_spacing_angstrom))

    @property
    def key(self) -> str:
        return f"{self.run}/{self.tomogram_type}@{self.voxel_spacing_angstrom:.3f}"

    @property
    def path(self) -> str:
        return f"ExperimentRuns/{self.run}/VoxelSpacing{self.voxel_spacing_angstrom:.3f}/{self.tomogram_type}.zarr"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TomogramRef:
        return cls(**values)


@dataclass(frozen=True, order=True)
class FeaturesRef:
    """A map computed on a tomogram, such as membrane scores: copick's features, beside the tomogram."""

    run: str
    tomogram_type: str
    voxel_spacing_angstrom: float
    feature_type: str

    def __post_init__(self) -> None:
        TomogramRef(self.run, self.tomogram_type, self.voxel_spacing_angstrom)
        # copick tells `wbp_a` of tomogram `b` from `wbp` of `a_b` by nothing: so features have no "_"
        check_object_name(self.feature_type, "feature")
        object.__setattr__(self, "voxel_spacing_angstrom", _spacing(self.voxel_spacing_angstrom))

    @property
    def tomogram(self) -> TomogramRef:
        return TomogramRef(self.run, self.tomogram_type, self.voxel_spacing_angstrom)

    @property
    def key(self) -> str:
        return f"{self.tomogram.key}:{self.feature_type}"

    @property
    def path(self) -> str:
        return f"{self.tomogram.path.removesuffix('.zarr')}_{self.feature_type}_features.zarr"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeaturesRef:
        return cls(**values)


@dataclass(frozen=True, order=True)
class SegmentationRef:
    """A volume of labels; `instance` tells membranes numbered 1..N from a yes/no mask."""

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
        query = "?instance=true" if self.instance else ""
        return f"{self.name}:{self.user}/{self.session}@{self.voxel_spacing_angstrom:.3f}{query}"

    @property
    def key(self) -> str:
        return f"{self.run}/{self.uri}"

    @property
    def path(self) -> str:
        folder = "InstanceSegmentations" if self.instance else "Segmentations"
        file = f"{self.voxel_spacing_angstrom:.3f}_{self.user}_{self.session}_{self.name}.zarr"
        return f"ExperimentRuns/{self.run}/{folder}/{file}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegmentationRef:
        return cls(**values)


@dataclass(frozen=True, order=True)
class ObjectRef:
    """Meshes or picks of one object by one user in one session."""

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
        return f"{self.name}:{self.user}/{self.session}"

    @property
    def key(self) -> str:
        return f"{self.run}/{self.uri}"

    @property
    def mesh_path(self) -> str:
        return f"ExperimentRuns/{self.run}/Meshes/{self.user}_{self.session}_{self.name}.glb"

    @property
    def picks_path(self) -> str:
        return f"ExperimentRuns/{self.run}/Picks/{self.user}_{self.session}_{self.name}.json"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ObjectRef:
        return cls(**values)


VolumeRef = TomogramRef | FeaturesRef | SegmentationRef


@dataclass(frozen=True)
class ParsedUri:
    """A copick URI taken apart; the spacing is None where it was left out."""

    name: str
    user: str
    session: str
    voxel_spacing_angstrom: float | None
    instance: bool


def parse_uri(uri: str) -> ParsedUri:
    """`name:user/session[@spacing][?instance=true]`; ProjectError for anything else (patterns, other types)."""
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
    """The reference that a store name in (Instance)Segmentations/ stands for; None for a foreign one.

    multilabel : whether those of several labels are meant, or those of one.
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
    """The reference that a file name in Meshes/ or Picks/ stands for; None for a foreign file."""
    parts = file.removesuffix(suffix).split("_", 2)
    if not file.endswith(suffix) or len(parts) != 3:
        return None
    try:
        return ObjectRef(run, parts[2], parts[0], parts[1])
    except BadNameError:
        return None
