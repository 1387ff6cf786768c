"""The membranes around the particles of a STAR file or of copick picks: into the tables, and back as columns.

A STAR file's particles are first stored as picks of the runs that its tomograms name. The stage `context` then
describes them, on any runner. Its rows are brought back into the order of the file.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import InputError, ProjectError, UsageError
from membrain_cloud.geometry import Picks
from membrain_cloud.pipeline.settings import settings_from
from membrain_cloud.pipeline.stages.context import CONTEXT, TABLE
from membrain_cloud.statistics.schema.context import PARTICLE_CONTEXT
from membrain_cloud.statistics.schema.tables import ALL_TABLES
from membrain_cloud.store.formats.star import picks_of_particles, star_text
from membrain_cloud.store.formats.star_particles import StarParticles, read_star_particles, write_with_columns
from membrain_cloud.store.refs import ObjectRef, check_object_name, parse_uri
from membrain_cloud.store.tables.row_export import write_bytes, write_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Outcome
    from membrain_cloud.statistics.schema.column import Row
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.tables.parquet_tables import Tables

PREFIX = "mbc_"
"""What the names of our columns in STAR files begin with; behind it they are the names of the table's columns."""

NO_RUN, FAILED = "no_run", "failed"
"""Values of `status` beside those of the table: the tomogram is no run of the project; the run failed."""

_NOT_IN_STAR = ("picks", "particle_id", "object_name", "x_angstrom", "y_angstrom", "z_angstrom")
STAR_COLUMNS = ("membrane_id", *(c.name for c in PARTICLE_CONTEXT if c.name not in _NOT_IN_STAR))
"""Columns of `particle_context` that a STAR file gets, each behind `PREFIX`."""

# Endings that programs add to the names of tomograms: Warp's and RELION's pixel size, files of volumes and tilt series.
_ENDINGS = re.compile(r"(_\d+(\.\d+)?Apx|\.(mrc|rec|tomostar|mrcs|st|ali|zarr|hdf|map|xml))$", re.IGNORECASE)


@dataclass(frozen=True)
class StarOptions:
    """How a STAR file is read, and as which picks its particles are stored.

    Attributes
    ----------
    voxel_spacing_angstrom : float or None
        Å, of the pixels that coordinates count; None: what the file says.
    origin_angstrom : tuple of float
        xyz in Å, subtracted from all positions.
    inverse_angles : bool
        Whether the angles turn the particle into the tomogram, the inverse of RELION's convention.
    run_of : mapping of str to str
        Name of a tomogram in the file -> the run that it is, where the names differ.
    object_name : str or None
        Object of the picks; None: made of the file's name.
    user : str
        User of the picks.
    """

    voxel_spacing_angstrom: float | None = None
    origin_angstrom: tuple[float, float, float] = (0.0, 0.0, 0.0)
    inverse_angles: bool = False
    run_of: Mapping[str, str] = field(default_factory=dict)
    object_name: str | None = None
    user: str = "imported"


@dataclass(frozen=True, eq=False)
class ParticleList:
    """Particles of one or many runs, stored as picks.

    Attributes
    ----------
    uri : str
        URI of the picks, the same in every run.
    runs : tuple of str
        The runs that have some, sorted.
    places : tuple of (run, particle_id) or None
        For each particle its picks and its place in them; None for one of no run.
    star : StarParticles or None
        The file that they come from; None for picks.
    without_run : mapping of str to int
        Name of each tomogram that is no run -> its particles.
    """

    uri: str
    runs: tuple[str, ...]
    places: tuple[tuple[str, int] | None, ...]
    star: StarParticles | None = None
    without_run: Mapping[str, int] = field(default_factory=dict)

    def settings(self, settings: Settings) -> Settings:
        """Return settings with which the stage `context` describes these particles.

        Parameters
        ----------
        settings : Settings
            The other settings.

        Returns
        -------
        Settings
            The same with `context.picks`.
        """
        values = settings.as_dict()
        return settings_from({**values, "context": {**values["context"], "picks": self.uri}})


def run_of_tomogram(name: str, runs: Iterable[str], given: Mapping[str, str]) -> str | None:
    """Return the run that a STAR file's name of a tomogram means.

    It is the run given for it, the run of that name, or else the one run whose name is left when the folder and the
    endings that programs add (.mrc, .tomostar, _10.00Apx and others) are taken off.

    Parameters
    ----------
    name : str
        The name in the file.
    runs : iterable of str
        Names of the project's runs.
    given : mapping of str to str
        Runs of names that the caller knows.

    Returns
    -------
    str or None
        The run; None if there is no such run.

    Examples
    --------
    >>> run_of_tomogram("tomostar/TS_01.mrc.tomostar", ["TS_01", "TS_02"], {})
    'TS_01'
    >>> run_of_tomogram("TS_1_10.00Apx.mrc", ["TS_01"], {}) is None
    True
    """
    existing = set(runs)
    if name in given:
        return given[name]
    while name not in existing:
        shorter = _ENDINGS.sub("", name.replace("\\", "/").rpartition("/")[2])
        if shorter == name:
            return None
        name = shorter
    return name


def store_star(project: Project, path: str, options: StarOptions, runs: Sequence[str] | None = None) -> ParticleList:
    """Store the particles of a STAR file as picks of the runs that its tomograms name.

    The session of the picks is a digest of the file and of how it is read, so that other files are kept beside it.

    Parameters
    ----------
    project : Project
        The project.
    path : str
        The STAR file.
    options : StarOptions
        How it is read.
    runs : sequence of str, optional
        Only particles of these runs. Default: all.

    Returns
    -------
    ParticleList
        The particles in the file's order.

    Raises
    ------
    ProjectError
        If the file is no particle file, or a run does not exist.
    InputError
        If it holds no particles, or no tomogram of it is a run.
    UsageError
        If it names no tomograms and the project has several runs.
    """
    star = read_star_particles(path)
    if not len(star):
        raise InputError(f"{path} holds no particles", "give a file with particles")
    existing = project.runs()
    chosen = _chosen_runs(existing, runs, options)
    run_of = _runs_of_tomograms(star, existing, options)
    if star.tomograms[0] == "" and len(set(star.tomograms)) == 1:
        if len(chosen) != 1:
            raise UsageError(f"{path} names no tomograms, and the project has {len(chosen)} runs", "choose one run")
        run_of = {"": chosen[0]}
    places: list[tuple[str, int] | None] = [None] * len(star)
    uri = _picks_name(path, options)
    parts: dict[str, Picks] = {}
    for run in sorted({run for run in run_of.values() if run in chosen}):
        rows = np.concatenate([star.rows_of(name) for name, of_run in run_of.items() if of_run == run])
        rows.sort()
        parts[run] = picks_of_particles(
            star.table.iloc[rows],
            path,
            voxel_spacing_angstrom=options.voxel_spacing_angstrom,
            origin_angstrom=options.origin_angstrom,
            grid=_tomogram_grid(project, run),
            inverse_angles=options.inverse_angles,
        )
        for index, row in enumerate(rows.tolist()):
            places[row] = run, index
    lost = Counter(name for name, place in zip(star.tomograms, places, strict=True) if place is None)
    if not parts:
        raise InputError(
            f"{path}: none of its {len(set(star.tomograms))} tomograms ({_some(star.tomograms)}) is a run of "
            f"{project.config}",
            f"give run_of for each of them; the project's runs are {_some(existing)}",
        )
    project.ensure_object(parse_uri(uri).name, is_particle=True, identifier=None)
    for run, picks in parts.items():
        _write_picks(project, _ref(run, uri), picks)
    return ParticleList(uri, tuple(parts), tuple(places), star, dict(lost))


def list_picks(project: Project, uri: str, runs: Sequence[str] | None = None) -> ParticleList:
    """List copick picks of many runs; runs without them are left out.

    Parameters
    ----------
    project : Project
        The project.
    uri : str
        `name:user/session`.
    runs : sequence of str, optional
        Only these runs. Default: all that have the picks.

    Returns
    -------
    ParticleList
        The particles by run, in their order.

    Raises
    ------
    ProjectError
        If no run has the picks, or the URI is none of picks.
    """
    parsed = parse_uri(uri)
    names = list(runs) if runs else project.runs()
    having = [run for run in names if ObjectRef(run, parsed.name, parsed.user, parsed.session) in project.picks(run)]
    if not having:
        others = sorted({ref.uri for run in names for ref in project.picks(run)})
        raise ProjectError(
            f"none of {len(names)} runs has picks {uri!r}", f"there are: {_some(others)}" if others else "import some"
        )
    places = [(run, k) for run in sorted(having) for k in range(len(project.read_picks(_ref(run, uri))))]
    return ParticleList(_ref(having[0], uri).uri, tuple(sorted(having)), tuple(places))


def context_rows(
    project: Project, tables: Tables, settings: Settings, particles: ParticleList, outcomes: Sequence[Outcome]
) -> list[Row]:
    """Return the rows of particles in their order.

    Parameters
    ----------
    project : Project
        The project.
    tables : Tables
        Its tables.
    settings : Settings
        The settings of the run of the stage `context`.
    particles : ParticleList
        The particles.
    outcomes : sequence of Outcome
        Of that run: particles of runs that failed get the status `failed`.

    Returns
    -------
    list of dict
        One row a particle, with all columns of the table; NULL but for the status where there is no row.
    """
    failed = {outcome.run for outcome in outcomes if outcome.state not in ("done", "skipped")}
    unknown: Row = dict.fromkeys(tables.schema(TABLE).names)
    parts = {run: [] if run in failed else _rows_of_run(project, tables, settings, run) for run in particles.runs}
    rows: list[Row] = []
    for place in particles.places:
        if place is None:
            rows.append({**unknown, "status": NO_RUN})
        elif place[1] < len(parts[place[0]]):
            rows.append(parts[place[0]][place[1]])
        else:
            rows.append({**unknown, "run_name": place[0], "particle_id": place[1], "status": FAILED})
    return rows


def write_context(target: str, project: Project, particles: ParticleList, rows: Sequence[Row]) -> None:
    """Write the rows of particles as a file: STAR, Parquet or CSV by its ending.

    A STAR file is a copy of the one that the particles come from, or, of picks, one with the columns of RELION's
    coordinates and angles. Its further columns are `STAR_COLUMNS` behind `PREFIX`.

    Parameters
    ----------
    target : str
        Path of the file to make or replace: .star, .parquet or .csv.
    project : Project
        The project of the particles.
    particles : ParticleList
        The particles.
    rows : sequence of dict
        What `context_rows` returned.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    if not target.lower().endswith(".star"):
        write_rows(target, rows)
        return
    columns = {f"{PREFIX}{name}": [row[name] for row in rows] for name in STAR_COLUMNS}
    if particles.star is not None:
        write_with_columns(particles.star, target, columns, prefix=PREFIX)
        return
    write_bytes(target, _star_of_picks(project, particles).encode())
    write_with_columns(read_star_particles(target), target, columns, prefix=PREFIX)


def rows_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows of `particle_context` as a frame.

    Parameters
    ----------
    rows : sequence of dict
        What `context_rows` returned.

    Returns
    -------
    DataFrame
        All columns of the table; unknown is NaN in columns of floats, else NA or None.
    """
    import pandas as pd

    kinds = {"int": "Int64", "float": "float64", "text": "object", "bool": "boolean"}
    return pd.DataFrame(
        {c.name: pd.Series([row[c.name] for row in rows], dtype=kinds[c.kind]) for c in ALL_TABLES[TABLE]}
    )


def check_target(target: str, source: str) -> None:
    """Raise UsageError for a file that the rows cannot be written to.

    Parameters
    ----------
    target : str
        The file to make.
    source : str
        The file or URI of the particles.
    """
    if not target.lower().endswith((".star", ".parquet", ".csv")):
        raise UsageError(f"{target}: the kind of this file is not known", "give .star, .parquet or .csv")
    if Path(source).exists() and Path(target).resolve() == Path(source).resolve():
        raise UsageError(f"{target} is the file of the particles", "give another name for the copy")


def _star_of_picks(project: Project, particles: ParticleList) -> str:
    """Return picks of many runs as the text of one STAR file, in pixels of the first run's tomogram."""
    parts = {run: project.read_picks(_ref(run, particles.uri)) for run in particles.runs}
    spacing = next((refs[0].voxel_spacing_angstrom for run in parts if (refs := project.all_tomograms(run))), 1.0)
    names = [run for run, picks in parts.items() for _ in range(len(picks))]
    return star_text(Picks.concatenate(list(parts.values())), voxel_spacing_angstrom=spacing, tomogram=names)


def _rows_of_run(project: Project, tables: Tables, settings: Settings, run: str) -> list[Row]:
    """Return the rows of one run, in the order of its picks; none if there are none."""
    dataset = project.dataset_of(run) or settings.output.dataset
    parts = [
        part
        for of_dataset, part in tables.parts(TABLE)
        if of_dataset == dataset and part.startswith(f"{run}/") and part.endswith(f"/{CONTEXT.rows_name(settings)}")
    ]
    if len(parts) > 1:  # several tomograms of the run
        tomograms = project.tomograms([run], settings.input.tomogram_type, settings.input.voxel_spacing_angstrom)
        places = [f"{ref.tomogram_type}@{ref.voxel_spacing_angstrom:.3f}" for ref in tomograms]
        parts = [part for part in parts if part.split("/")[1] in places]
    stored = tables.read_part(TABLE, dataset, parts[0]) if parts else None
    return [] if stored is None else sorted(stored.to_pylist(), key=lambda row: row["particle_id"])


def _chosen_runs(existing: Sequence[str], runs: Sequence[str] | None, options: StarOptions) -> list[str]:
    for run in (*(runs or ()), *options.run_of.values()):
        if run not in existing:
            raise ProjectError(f"the project has no run {run!r}", f"its runs are {_some(existing)}")
    return sorted(set(runs)) if runs else list(existing)


def _runs_of_tomograms(star: StarParticles, existing: Sequence[str], options: StarOptions) -> dict[str, str]:
    names = dict.fromkeys(star.tomograms)
    if unused := sorted(set(options.run_of) - set(names)):
        raise UsageError(f"{star.path} has no tomogram {unused[0]!r}", f"it has: {_some(names)}")
    found = {name: run_of_tomogram(name, existing, options.run_of) for name in names}
    return {name: run for name, run in found.items() if run is not None}


def _picks_name(path: str, options: StarOptions) -> str:
    """Return the URI under which a file's particles are stored."""
    name = options.object_name or re.sub(r"[^A-Za-z0-9.]+", "-", Path(path).stem).strip("-.").lower() or "particle"
    read = (
        options.voxel_spacing_angstrom,
        options.origin_angstrom,
        options.inverse_angles,
        sorted(options.run_of.items()),
    )
    session = sha256(Path(path).read_bytes() + repr(read).encode()).hexdigest()[:8]
    return f"{check_object_name(name, 'object')}:{check_object_name(options.user, 'user')}/{session}"


def _write_picks(project: Project, ref: ObjectRef, picks: Picks) -> None:
    """Write picks unless they are there, so that what depends on them stays done."""
    if ref in project.picks(ref.run):
        stored = project.read_picks(ref)
        if len(stored) == len(picks) and np.allclose(
            np.column_stack([stored.positions, stored.frames().reshape(-1, 9)]),
            np.column_stack([picks.positions, picks.frames().reshape(-1, 9)]),
            rtol=0.0,
            atol=1e-6,
        ):
            return
    project.write_picks(ref, picks)


def _ref(run: str, uri: str) -> ObjectRef:
    parsed = parse_uri(uri)
    return ObjectRef(run, parsed.name, parsed.user, parsed.session)


def _tomogram_grid(project: Project, run: str) -> Grid | None:
    tomograms = project.tomograms([run], None, None)
    return project.grid(tomograms[0]) if tomograms else None


def _some(names: Iterable[Any], at_most: int = 5) -> str:
    distinct = list(dict.fromkeys(map(str, names)))
    return ", ".join(distinct[:at_most]) + (f" and {len(distinct) - at_most} more" if len(distinct) > at_most else "")
