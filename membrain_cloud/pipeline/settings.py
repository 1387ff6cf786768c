"""Every setting of a run, and the one place where its default is written.

A settings file is YAML with one mapping a stage; `--set pick.bandwidth_angstrom=75` overrides it. A key nobody knows
and a value out of range are refused with what was probably meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from membrain_cloud.errors import UsageError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]


def _null(value: Any) -> Any:
    return None if value in ("null", "") else value


_OrNull = BeforeValidator(_null)
OptionalText = Annotated[str | None, _OrNull]


class Section(BaseModel):
    """One stage's settings: frozen, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    #: Settings that change how a result is computed, but not the result: they are left out of the digest.
    effortless: ClassVar[tuple[str, ...]] = ()

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, JSON-able: what a digest covers."""
        return self.model_dump(mode="json", exclude=set(self.effortless))


class InputSettings(Section):
    """Which of a run's tomograms to work on; None: the project's default rule chooses."""

    tomogram_type: OptionalText = None
    voxel_spacing_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, _OrNull] = None


class SegmentSettings(Section):
    """Membrane segmentation by a network in overlapping windows.

    mode : `fast` takes windows that overlap by a quarter and no mirrors; `exact` is MemBrain-seg's way: windows that
        overlap by half, and eight mirrors. `overlap` and `mirrors` override either.
    window : voxels an axis; None: what the model was trained with.
    threshold : a voxel is membrane where its logit is greater.
    batch : windows a forward pass.
    block_voxels : a larger volume is cut into blocks, one task each; the result does not depend on it.
    """

    effortless = ("mode", "batch", "block_voxels", "model")

    model: str = "membrain-cloud-small"
    mode: Literal["exact", "fast"] = "fast"
    window: Annotated[Annotated[int, Field(ge=16, le=512)] | None, _OrNull] = None
    overlap: Annotated[Annotated[float, Field(ge=0.0, le=0.75)] | None, _OrNull] = None
    mirrors: Annotated[bool | None, _OrNull] = None
    threshold: float = 0.0
    batch: int = Field(1, ge=1, le=64)
    block_voxels: int = Field(1024 * 1024 * 512, ge=1)

    @property
    def window_overlap(self) -> float:
        return self.overlap if self.overlap is not None else {"exact": 0.5, "fast": 0.25}[self.mode]

    @property
    def with_mirrors(self) -> bool:
        return self.mirrors if self.mirrors is not None else self.mode == "exact"

    def decisive(self) -> dict[str, Any]:
        return super().decisive() | {"overlap": self.window_overlap, "mirrors": self.with_mirrors}


class SeparateSettings(Section):
    """Connected membranes out of a segmentation.

    segmentation : copick URI of a segmentation to start from in place of ours, `membrane:alice/3@10.0`; with
        `?instance=true` its instances are meshed as they are.
    """

    effortless = ("segmentation",)

    min_voxels: int = Field(1000, ge=1)
    segmentation: OptionalText = None

    @property
    def given_instances(self) -> bool:
        return self.segmentation is not None and "instance=true" in self.segmentation.lower()


class MeshSettings(Section):
    """Closed triangle meshes around the membranes."""

    vertex_area_angstrom2: float = Field(400.0, gt=0)
    smoothing_angstrom: float = Field(10.0, ge=0)


class PickSettings(Section):
    """Particles on the meshes.

    bandwidth_angstrom : reach of the mean shift that gathers vertices into picks; about a particle's radius.
    threshold : vertices of a predicted distance below it (0 at a centre, 10 far away) take part.
    max_iterations, min_samples : of the mean shift, and of the clusters of what it moved together.
    partition_vertices : a larger mesh is cut into overlapping patches of about so many vertices for the network;
        None: as many as it was trained with.
    center_offset_angstrom : picks are moved so far along the outward normal (negative: into the membrane).
    object : name under which the picks are stored.
    """

    effortless = ("model",)

    model: str = "membrain-cloud-picker"
    bandwidth_angstrom: float = Field(70.0, gt=0)
    threshold: float = Field(7.0, gt=0, le=10)
    max_iterations: int = Field(150, ge=1)
    min_samples: int = Field(5, ge=1)
    partition_vertices: Annotated[Annotated[int, Field(ge=100)] | None, _OrNull] = None
    center_offset_angstrom: float = -26.0
    object: Name = "membrane-protein"


class MeasureSettings(Section):
    """Statistics of membranes and particles.

    cutoff_nm, bin_width_nm : reach and resolution of neighbours and pair counts, along the membrane.
    n_neighbors : ranks of neighbours to list.
    edge_width_nm : particles so near to where the tomogram's border cuts their membrane are marked as edge particles.
    reach_nm : given picks farther than this from every membrane are on none, and are left out.
    picks : copick URI of picks to measure in place of ours, `psii:expert/1`; `none` measures membranes alone.
    """

    effortless = ("picks",)

    cutoff_nm: float = Field(40.0, gt=0)
    bin_width_nm: float = Field(1.0, gt=0)
    n_neighbors: int = Field(3, ge=1)
    edge_width_nm: float = Field(5.0, ge=0)
    reach_nm: float = Field(15.0, gt=0)
    picks: OptionalText = None

    @property
    def membranes_alone(self) -> bool:
        return self.picks == "none"


class OutputSettings(Section):
    """Under which names results are kept.

    session : copick session of the annotations; `auto` derives one from settings, models and inputs, a stage each.
    dataset : the `dataset=` partition of the tables.
    chunk : voxels an axis of the chunks of segmentations; blocks are made of whole chunks.
    tables : URL of the tables; None: beside the annotations, `{overlay}/membrain-cloud/tables`.
    """

    user: Name = "membrain"
    session: Name = "auto"
    dataset: Name = "local"
    chunk: int = Field(256, ge=8)
    tables: OptionalText = None


class Settings(Section):
    """All settings of a run."""

    input: InputSettings = InputSettings()
    segment: SegmentSettings = SegmentSettings()
    separate: SeparateSettings = SeparateSettings()
    mesh: MeshSettings = MeshSettings()
    pick: PickSettings = PickSettings()
    measure: MeasureSettings = MeasureSettings()
    output: OutputSettings = OutputSettings()

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def load_settings(file: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Defaults, then the YAML `file`, then `overrides` of the form `stage.key=value`.

    Raises
    ------
    UsageError : the file cannot be read, a key is unknown (near matches are named) or a value is out of range.
    """
    values = _read_yaml(Path(file)) if file is not None else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot or not name:
            raise UsageError(f"--set {override}: not of the form stage.key=value", "try --set segment.threshold=0.5")
        _require_section(section)
        values.setdefault(section, {})[name] = value.strip()
    return settings_from(values)


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Checked settings out of nested mappings. Raises UsageError as `load_settings` does."""
    for section, content in values.items():
        _require_section(section)
        if not isinstance(content, Mapping):
            raise UsageError(f"setting {section}: expected a mapping of keys, got {content!r}", f"write {section}.key")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _usage_error(error) from None


def _read_yaml(file: Path) -> dict[str, dict[str, Any]]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"settings file {file}: {error.strerror}", "give a readable YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"settings file {file} is not YAML: {' '.join(str(error).split())}", "correct it") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"settings file {file}: expected mappings", "write e.g. `segment: {threshold: 0.5}`")
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _require_section(section: str) -> None:
    if section not in Settings.model_fields:
        raise UsageError(f"unknown setting {section}", _near(str(section), list(Settings.model_fields)))


def _near(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else f"known are {', '.join(sorted(known))}"


def _usage_error(error: ValidationError) -> UsageError:
    """The first complaint of pydantic, in our words."""
    first = error.errors()[0]
    section, name = str(first["loc"][0]), str(first["loc"][1])
    known = list(Settings.model_fields[section].default.__class__.model_fields)
    if first["type"] == "extra_forbidden":
        everywhere = [f"{s}.{key}" for s, f in Settings.model_fields.items() for key in type(f.default).model_fields]
        elsewhere = [key for key in everywhere if key.endswith(f".{name}")]
        hint = f"did you mean {elsewhere[0]}?" if elsewhere else _near(name, known)
        return UsageError(f"unknown setting {section}.{name}", hint)
    reason = first["msg"][0].lower() + first["msg"][1:]
    return UsageError(f"setting {section}.{name} = {first['input']!r}: {reason}", f"give another {section}.{name}")
