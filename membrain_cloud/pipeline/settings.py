"""Every setting of a run, and the one place where its default is written.

A settings file is YAML with one mapping a stage; `--set pick.bandwidth_angstrom=75` overrides it. A key nobody knows
and a value out of range are refused with what was probably meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from membrain_cloud.statistics.model.options import Options

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]


def _null(value: Any) -> Any:
    return None if value in ("null", "") else value


def _word(value: Any) -> Any:
    """YAML takes a bare yes or no for a truth value."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else _null(value)


_OrNull = BeforeValidator(_null)
OptionalText = Annotated[str | None, _OrNull]


class Section(BaseModel):
    """One stage's settings: frozen, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    #: Settings that change how a result is computed, but not the result: they are left out of the digest.
    excluded_from_digest: ClassVar[tuple[str, ...]] = ()

    def digest_settings(self) -> dict[str, Any]:
        """The settings that decide the result, JSON-able: what a digest covers."""
        return self.model_dump(mode="json", exclude=set(self.excluded_from_digest))


class InputSettings(Section):
    """Which of a run's tomograms to work on; None: the project's default rule chooses."""

    tomogram_type: OptionalText = None
    voxel_spacing_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, _OrNull] = None


class SegmentSettings(Section):
    """Membrane segmentation by a network in overlapping windows.

    mode : `exact` is MemBrain-seg's way, voxel for voxel: every window in eight mirrors, float32 on a CPU, windows of
        the tomogram's own voxels. `fast` gives nearly the same with an eighth to a quarter of the passes: as few
        mirrors as a window needs, the fastest arithmetic, nothing done in empty windows, windows rescaled where the
        spacing is far from the model's. `mirrors`, `precision`, `rescale` override either.
    window : voxels an axis that the network sees; None: what it was trained with.
    overlap : of neighbouring windows, as a part of the window.
    mirrors : `yes`: all eight; `no`; `adaptive`: one, chosen by place, and further ones while voxels are undecided.
    precision : `float32`, `bfloat16` (a GPU, or a CPU with AMX or AVX-512 BF16), `float16` (a GPU), `int8` (a CPU with
        VNNI), or `auto`: a fast one of the machine's in fast mode, MemBrain-seg's in exact mode.
    rescale : resample windows to the model's voxel spacing. None: in fast mode where the tomogram's differs by more
        than 45 %; in exact mode not.
    output_grid : `tomogram`: results have the tomogram's voxels. `level`: those of the level of its pyramid that is
        nearest to the model's voxel spacing, which is read in place of the finest. `model`: the model's spacing.
    threshold : a voxel is membrane where its logit is greater.
    scores : keep the logits as copick features, `float16`, or their probabilities, `uint8`. Another threshold
        is then applied without the network.
    uncertainty : keep the variance of the probability over the mirrors as copick features (a symmetric network's:
        p (1 - p)); needs `mirrors: yes`.
    batch : windows a forward pass; None: one on a CPU, what fills a GPU on one.
    compilation : of the network, on a GPU: `compile` (torch.compile, a minute at the first window), `graphs`
        (recorded as CUDA graphs), `both`, or `no`.
    block_voxels : a larger volume is cut into blocks, one task each; the result does not depend on it.
    """

    excluded_from_digest = ("mode", "batch", "compilation", "block_voxels", "model")

    model: str = "membrain-cloud-small"
    mode: Literal["exact", "fast"] = "fast"
    window: Annotated[Annotated[int, Field(ge=16, le=512)] | None, _OrNull] = None
    overlap: float = Field(0.5, ge=0.0, le=0.75)
    mirrors: Annotated[Literal["yes", "no", "adaptive"] | None, BeforeValidator(_word)] = None
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    rescale: Annotated[bool | None, _OrNull] = None
    output_grid: Literal["tomogram", "level", "model"] = "tomogram"
    threshold: float = 0.0
    scores: Annotated[Literal["no", "float16", "uint8"], BeforeValidator(_word)] = "no"
    uncertainty: bool = False
    batch: Annotated[Annotated[int, Field(ge=1, le=64)] | None, _OrNull] = None
    compilation: Annotated[Literal["no", "compile", "graphs", "both"], BeforeValidator(_word)] = "no"
    block_voxels: int = Field(1024 * 1024 * 512, ge=1)

    @model_validator(mode="after")
    def _variance_needs_mirrors(self) -> Self:
        if self.uncertainty and self.effective_mirrors != "yes":
            raise PydanticCustomError("mirrors", "uncertainty needs all eight mirrors: set segment.mirrors=yes as well")
        if self.output_grid != "tomogram" and (self.uncertainty or self.scores != "no"):
            # copick keeps features beside the tomogram, on its voxels.
            raise PydanticCustomError(
                "grid", "scores and uncertainty are kept on the tomogram's voxels: set segment.output_grid=tomogram"
            )
        return self

    @property
    def effective_mirrors(self) -> Literal["yes", "no", "adaptive"]:
        return self.mirrors or ("yes" if self.mode == "exact" else "adaptive")

    @property
    def effective_precision(self) -> str:
        """As `networks.checkpoints.load_segmenter` takes it."""
        return self.precision if self.precision != "auto" else {"exact": "faithful", "fast": "auto"}[self.mode]

    @property
    def skip_void(self) -> bool:
        return self.mode == "fast"

    def digest_settings(self) -> dict[str, Any]:
        chosen = {"mirrors": self.effective_mirrors, "precision": self.effective_precision, "skip_void": self.skip_void}
        return super().digest_settings() | chosen | {"rescale": self.rescale if self.rescale is not None else self.mode}


class SeparateSettings(Section):
    """Membranes one by one out of a segmentation.

    min_voxels : smaller ones are left out, and none is split into smaller pieces.
    split : cut where membranes touch or cross, judged by how their mid-surfaces lie; otherwise what touches is one.
    drop_border : leave out membranes that the tomogram's border cuts.
    split_voxels : a component whose bounding box has more voxels is not split: splitting holds the box in memory, about
        14 bytes a voxel. Fewer bound the memory of large tomograms.
    region : only what lies inside: copick URI of a segmentation (`cell:alice/1@10.0`), of closed meshes
        (`cell:alice/1`), or the corners of a box in Å, `x0,y0,z0,x1,y1,z1`.
    segmentation : copick URI of a segmentation to start from in place of ours, `membrane:alice/3@10.0`; with
        `?instance=true` its instances are meshed as they are.
    """

    excluded_from_digest = ("segmentation",)

    min_voxels: int = Field(1000, ge=1)
    split: bool = True
    drop_border: bool = False
    split_voxels: int = Field(2**29, ge=1)
    region: OptionalText = None
    segmentation: OptionalText = None

    @property
    def region_box(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The box's low and high corners, xyz in Å; None where the region is none or a segmentation."""
        if self.region is None or ":" in self.region:
            return None
        numbers = tuple(float(part) for part in self.region.split(","))
        return numbers[:3], numbers[3:]

    @field_validator("region")
    @classmethod
    def _is_region(cls, region: str | None) -> str | None:
        if region is not None and ":" not in region:
            try:
                numbers = [float(part) for part in region.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != 6 or any(a > b for a, b in zip(numbers[:3], numbers[3:], strict=True)):
                raise ValueError("write x0,y0,z0,x1,y1,z1 in Å, or the URI of a segmentation")
        return region

    @property
    def starts_from_instances(self) -> bool:
        return self.segmentation is not None and "instance=true" in self.segmentation.lower()


class MeshSettings(Section):
    """Triangle meshes of the membranes.

    vertex_area_angstrom2, smoothing_angstrom : area for each vertex; sigma of the smoothing of the mask.
    surface : `shell`: closed, around the slab, so that it holds both leaflets (what MemBrain-pick and ours are trained
        on). `side`: one leaflet's part of it. `midsurface`: midway between the leaflets, normals towards one of them.
    seed : a point in Å, `x,y,z`, on the wanted side of the membranes, for `side` and `midsurface`; None: the outer
        side of a closed membrane, the larger one of others.
    thickest_angstrom : no membrane's slab is thicker; for telling the sides apart.
    """

    vertex_area_angstrom2: float = Field(400.0, gt=0)
    smoothing_angstrom: float = Field(10.0, ge=0)
    surface: Literal["shell", "side", "midsurface"] = "shell"
    seed: OptionalText = None
    thickest_angstrom: float = Field(150.0, gt=0)

    @property
    def seed_point(self) -> tuple[float, ...] | None:
        """Xyz in Å."""
        return None if self.seed is None else tuple(float(part) for part in self.seed.split(","))

    @field_validator("seed")
    @classmethod
    def _is_point(cls, seed: str | None) -> str | None:
        if seed is not None:
            try:
                numbers = [float(part) for part in seed.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != 3 or not all(abs(number) < 1e9 for number in numbers):
                raise ValueError("write x,y,z in Å")
        return seed

    @model_validator(mode="after")
    def _seed_has_a_use(self) -> Self:
        if self.seed is not None and self.surface == "shell":
            raise PydanticCustomError(
                "seed", "a shell has both sides: set mesh.surface=side or midsurface with mesh.seed"
            )
        return self


class PickSettings(Section):
    """Particles on the meshes.

    bandwidth_angstrom : reach of the mean shift that gathers vertices into picks; about a particle's radius. None: what
        the picker's file says suits it (`train picking` writes what its validation chose), else 70.
    threshold : vertices of a predicted distance below it (0 at a centre, 10 far away) take part. None: as the
        bandwidth, else 7.
    max_iterations, min_samples : of the mean shift, and of the clusters of what it moved together.
    partition_vertices : a larger mesh is cut into overlapping patches of about so many vertices for the network;
        None: as many as it was trained with.
    average_shifts : score with every position along the normal that the samples allow, and take the mean, as in the
        MemBrain v2 paper; `false` takes the middle one; None: as the picker was made.
    largest_nm2 : what covers more surface is gathered again from lower scores: crowded particles; None: nothing is.
    min_distance_angstrom : of two picks nearer to each other along the membrane the better stays; None: both do.
    least_elongation : a pick's in-plane angle is known where scores around it rise so much slower one way than across.
    center_offset_angstrom : picks are moved so far along the outward normal (negative: into the membrane); None: into
        the middle of the membrane, as thick as its mesh is there.
    refine : move picks along the membrane to where the scores around them are lowest; MemBrain-pick does not.
    cache : a local folder for the operators of surface patches, which most of the time goes into: picking on the same
        meshes with another model finds them there.
    object : name under which the picks are stored.
    """

    excluded_from_digest = ("model", "cache")

    model: str = "membrain-cloud-picker"
    bandwidth_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, _OrNull] = None
    threshold: Annotated[Annotated[float, Field(gt=0, le=10)] | None, _OrNull] = None
    max_iterations: int = Field(150, ge=1)
    min_samples: int = Field(5, ge=1)
    partition_vertices: Annotated[Annotated[int, Field(ge=100)] | None, _OrNull] = None
    average_shifts: Annotated[bool | None, _OrNull] = None
    largest_nm2: Annotated[Annotated[float, Field(gt=0)] | None, _OrNull] = 200.0
    min_distance_angstrom: Annotated[Annotated[float, Field(gt=0)] | None, _OrNull] = 70.0
    least_elongation: float = Field(1.5, ge=1)
    refine: bool = True
    center_offset_angstrom: Annotated[float | None, _OrNull] = None
    cache: OptionalText = None
    object: Name = "membrane-protein"


class MeasureSettings(Section):
    """Statistics of membranes and particles.

    cutoff_nm, bin_width_nm : reach and resolution of neighbours and pair counts, along the membrane.
    n_neighbors : ranks of neighbours to list.
    edge_width_nm : particles so near to where the tomogram's border or a rim ends their membrane are edge particles.
    leaflets : `apart` cuts each membrane's shell in its two leaflets, `joined` lets distances lead around rims.
    simulations : of particles at random on each membrane, for envelopes and p-values; 0: none.
    symmetry : n of the particles' Cn symmetry about their z axes: in-plane angles go up to 180 / n degrees.
    in_plane : `turned`: angles as on a membrane laid flat. `projected`: y axes projected to the membrane's plane, as
        membrain-stats does.
    against : properties by whose bins pairs of particles are also counted apart, a comma between two; `none`: none.
        Distances to the classes of particles always are.
    chains : whether chains of particles are looked for, by the four rules that follow (those for ribosomes in
        polysomes): distance of the centres, in-plane angle, turn of the way, and how many make a chain.
    gap_nm : how far along normals another membrane, and this one's other side, are looked for; 0: not at all.
    contact_nm : membranes that face each other nearer than this are in contact.
    bilayer : whether the tomogram is read, where there is one, for the bilayer's thickness (needs gap_nm).
    reach_nm : given picks farther than this from every membrane are on none, and are left out.
    picks : copick URIs of picks to measure in place of ours, a comma between two classes: `psii:a/1,cytb6f:a/1`; `none`
        measures membranes alone.
    lamella : copick URI of a mask of the lamella, `lamella:alice/1@10.0`, for distances to its surfaces.
    """

    excluded_from_digest = ("picks",)

    cutoff_nm: float = Field(40.0, gt=0)
    bin_width_nm: float = Field(1.0, gt=0)
    n_neighbors: int = Field(3, ge=1)
    edge_width_nm: float = Field(5.0, ge=0)
    leaflets: Literal["apart", "joined"] = "apart"
    simulations: int = Field(99, ge=0, le=9999)
    symmetry: int = Field(1, ge=1, le=360)
    in_plane: Literal["turned", "projected"] = "turned"
    against: str = "distance_to_edge_nm,mean_curvature_per_nm"
    chains: bool = True
    chain_distance_nm: float = Field(40.0, gt=0)
    chain_angle_degrees: float = Field(60.0, ge=0, le=180)
    chain_turn_degrees: float = Field(80.0, ge=0, le=180)
    chain_members: int = Field(3, ge=2)
    gap_nm: float = Field(100.0, ge=0)
    contact_nm: float = Field(30.0, gt=0)
    bilayer: bool = True
    reach_nm: float = Field(15.0, gt=0)
    picks: OptionalText = None
    lamella: OptionalText = None

    @model_validator(mode="after")
    def _check_bins(self) -> Self:
        if self.bin_width_nm > self.cutoff_nm:
            raise PydanticCustomError(
                "bins", f"bin_width_nm {self.bin_width_nm:g} is above cutoff_nm {self.cutoff_nm:g}: no bin fits"
            )
        return self

    @field_validator("against")
    @classmethod
    def _check_against(cls, value: str) -> str:
        from membrain_cloud.statistics.membrane.surface_properties import PROPERTY_NAMES

        for name in _listed(value):
            if name not in PROPERTY_NAMES:
                raise PydanticCustomError("property", f"no property {name}: {_near(name, PROPERTY_NAMES)}")
        return value

    @property
    def membranes_alone(self) -> bool:
        return self.picks == "none"

    @property
    def pick_uris(self) -> tuple[str, ...]:
        """The copick URIs, in their order."""
        return () if self.picks is None else _listed(self.picks)

    def options(self) -> Options:
        """The same, as the science takes it."""
        from membrain_cloud.statistics.model.options import Options
        from membrain_cloud.statistics.spatial.chains import ChainRules

        rules = ChainRules(
            distance_nm=self.chain_distance_nm,
            angle_degrees=self.chain_angle_degrees,
            turn_degrees=self.chain_turn_degrees,
            n_neighbors=self.n_neighbors,
            least_members=self.chain_members,
        )
        return Options(
            cutoff_nm=self.cutoff_nm,
            bin_width_nm=self.bin_width_nm,
            n_neighbors=self.n_neighbors,
            edge_width_nm=self.edge_width_nm,
            leaflets_apart=self.leaflets == "apart",
            n_simulations=self.simulations,
            symmetry=self.symmetry,
            in_plane=self.in_plane,
            against=_listed(self.against),
            chains=rules if self.chains else None,
            gap_nm=self.gap_nm,
            contact_nm=self.contact_nm,
        )


def _listed(value: str) -> tuple[str, ...]:
    """What stands between commas; nothing for `none`."""
    return () if value.strip() == "none" else tuple(part.strip() for part in value.split(",") if part.strip())


class OutputSettings(Section):
    """Under which names results are kept.

    session : copick session of the annotations; `auto` derives one from settings, models and inputs, a stage each.
    replace : where a named session holds results of other settings, replace them; otherwise that is refused.
    dataset : the `dataset=` partition of the tables.
    chunk : voxels an axis of the chunks of segmentations; blocks are made of whole chunks.
    tables : URL of the tables; None: beside the annotations, `{overlay}/membrain-cloud/tables`.
    """

    user: Name = "membrain"
    session: Name = "auto"
    replace: bool = False
    dataset: Name = "local"
    chunk: int = Field(256, ge=8)
    tables: OptionalText = None


class RunSettings(Section):
    """What a run bears before it gives something up. No result depends on it.

    task_hours : a task that takes longer is stopped, with the process that it runs in, and has failed.
    silent_minutes : a worker at work without a heartbeat for so long is replaced.
    lease_minutes : what another run has claimed is taken over when its claim has stood still for so long.
    deaths : so many times a task may be the only one at work in a process that dies; then it is set aside.
    losses : so many times the machine that a task runs on may be lost; then it is set aside too.
    requeues : times that a task whose fault may pass is queued again, after three attempts on its worker.
    """

    task_hours: float = Field(24.0, gt=0)
    silent_minutes: float = Field(10.0, gt=0)
    lease_minutes: float = Field(5.0, gt=0)
    deaths: int = Field(3, ge=1)
    losses: int = Field(6, ge=1)
    requeues: int = Field(2, ge=0)


class PlanSettings(Section):
    """What the estimates of `plan` count with. No result depends on it.

    gpu_workers, cpu_workers : of each kind, for how long the whole takes; without GPU workers CPUs do all.
    gpu_hour_price, cpu_hour_price : of a worker of each kind: on-demand prices of a data centre GPU with its share of a
        machine, and of one core with its memory, as of 2026; put your own.
    currency : of the prices.
    """

    gpu_workers: int = Field(1, ge=0)
    cpu_workers: int = Field(4, ge=1)
    gpu_hour_price: float = Field(3.0, ge=0)
    cpu_hour_price: float = Field(0.05, ge=0)
    currency: Name = "USD"


class PortalSettings(Section):
    """How tomograms of the CryoET Data Portal are found and read; what is selected stands in the manifest.

    endpoint : of its GraphQL.
    bucket : takes the place of `s3://cryoet-data-portal-public` in what is read: a mirror.
    s3_endpoint : of the object store, for a mirror outside AWS; None: AWS.
    https : read through the portal's web address in place of S3.
    spacing_angstrom : of a tomogram's pyramid the level nearest to it is read.
    page : tomograms a request.
    cache_hours : answers of the portal are kept on disk so long; 0: not.
    """

    endpoint: str = "https://graphql.cryoetdataportal.czscience.com/graphql"
    bucket: str = Field("s3://cryoet-data-portal-public", pattern=r"^[a-z0-9]+://.|^/.")
    s3_endpoint: OptionalText = None
    https: bool = False
    spacing_angstrom: float = Field(10.0, gt=0)
    page: int = Field(1000, ge=1, le=10000)
    cache_hours: float = Field(24.0, ge=0)


class Settings(Section):
    """All settings of a run."""

    input: InputSettings = InputSettings()
    segment: SegmentSettings = SegmentSettings()
    separate: SeparateSettings = SeparateSettings()
    mesh: MeshSettings = MeshSettings()
    pick: PickSettings = PickSettings()
    measure: MeasureSettings = MeasureSettings()
    output: OutputSettings = OutputSettings()
    run: RunSettings = RunSettings()
    plan: PlanSettings = PlanSettings()
    portal: PortalSettings = PortalSettings()

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
    if len(first["loc"]) == 1:  # said of a section as a whole
        return UsageError(f"settings of {first['loc'][0]}: {first['msg']}", "see the settings in the docs")
    section, name = str(first["loc"][0]), str(first["loc"][1])
    known = list(Settings.model_fields[section].default.__class__.model_fields)
    if first["type"] == "extra_forbidden":
        everywhere = [f"{s}.{key}" for s, f in Settings.model_fields.items() for key in type(f.default).model_fields]
        elsewhere = [key for key in everywhere if key.endswith(f".{name}")]
        hint = f"did you mean {elsewhere[0]}?" if elsewhere else _near(name, known)
        return UsageError(f"unknown setting {section}.{name}", hint)
    reason = first["msg"][0].lower() + first["msg"][1:]
    return UsageError(f"setting {section}.{name} = {first['input']!r}: {reason}", f"give another {section}.{name}")
