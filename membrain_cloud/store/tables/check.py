"""What is wrong with stored tables: all that would make a sum over them, or a join of two, come out wrong.

A part of a table and its like in the other tables are looked at together, one tomogram after the other, so that memory
grows with a tomogram and not with the tables.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.errors import ChunkError
from membrain_cloud.statistics.schema.tables import MEMBRANE_KEYS, PARENTS, ROW_KEYS, TOMOGRAM_KEYS
from membrain_cloud.store.run_state.receipts import ReceiptName
from membrain_cloud.store.tables.compaction import compact_files, compact_name, is_current, read_footer
from membrain_cloud.store.tables.parquet_tables import Tables, part_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

AGAIN = "run `measure` again"
_TOMOGRAM = [column.name for column in TOMOGRAM_KEYS]
_MEMBRANE = [column.name for column in MEMBRANE_KEYS]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. A note is worth knowing, but no result is wrong for it."""

    level: Literal["error", "note"]
    where: str
    what: str
    next_step: str

    def line(self) -> str:
        return f"{'note: ' if self.level == 'note' else ''}{self.where}: {self.what} -> {self.next_step}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class _Seen:
    """What is known of all parts: digests of each dataset, and the part that each tomogram stands in."""

    digests: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    places: dict[tuple[Any, ...], list[str]] = field(default_factory=lambda: defaultdict(list))


def check_tables(tables: Tables) -> list[Problem]:
    """Read every part whole; empty where nothing is wrong.

    Errors: torn parts; columns of another type or unit; rows written twice, within a part or in two; rows of other
    settings in one dataset; rows whose membrane, tomogram, particle or chain has none; numbers of membranes and
    particles that are not those of the rows; parts that are missing in one table, or that no receipt vouches for.
    Notes: columns of another version, and compact copies older than their parts.
    """
    names = tables.names()
    known = list(tables.known())
    problems = [Problem("note", name, "no table of this version", "leave it, or remove it") for name in names]
    problems = [problem for problem in problems if problem.where not in known]
    receipts, seen = [ReceiptName.parse(name) for name in tables.receipts.names("measure")], _Seen()
    vouched = {receipt.address for receipt in receipts if receipt is not None and receipt.part == "complete"}
    parts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for table in known:
        for place in tables.parts(table):
            parts[place].append(table)
    for (dataset, part), present in sorted(parts.items()):
        where = f"dataset={dataset}, {part}"
        if absent := [table for table in known if table not in present]:
            problems.append(Problem("error", where, f"no part in {', '.join(absent)}", AGAIN))
        if vouched and f"measure/{dataset}/{part}" not in vouched:
            problems.append(Problem("error", where, "no receipt vouches for it: it may be half written", AGAIN))
        problems += _check_part_set(tables, dataset, part, present, seen)
    return [*problems, *_check_over_parts(seen), *_check_compact(tables)]


def _check_part_set(tables: Tables, dataset: str, part: str, names: Sequence[str], seen: _Seen) -> Iterator[Problem]:
    """The parts of one tomogram in all tables."""
    frames: dict[str, pd.DataFrame] = {}
    for table in names:
        where = part_name(table, dataset, part)
        try:
            stored = tables.read_stored(table, dataset, part)
        except ChunkError as error:
            yield Problem("error", where, error.message.split(" cannot be read")[-1].strip(), error.next_step)
            continue
        if stored is None:  # removed since it was listed
            continue
        faults = list(_check_columns(where, stored, tables.schema(table)))
        yield from faults
        if any(fault.level == "error" for fault in faults):
            continue
        frame = stored.select([name for name in stored.column_names if name in tables.schema(table).names])
        frames[table] = frame.to_pandas()
        yield from _check_rows(where, table, dataset, frames[table])
    for table, frame in frames.items():
        yield from _check_orphans(part_name(table, dataset, part), table, frame, frames)
    yield from _check_counts(dataset, part, frames)
    if "tomograms" in frames and set(_TOMOGRAM) <= set(frames["tomograms"].columns):
        for row in frames["tomograms"][_TOMOGRAM].drop_duplicates().itertuples(index=False):
            seen.digests[dataset][str(row.digest)] += 1
            seen.places[(dataset, row.run_name, row.tomogram_id)].append(part)


def _check_columns(where: str, stored: pa.Table, schema: pa.Schema) -> Iterator[Problem]:
    missing = [name for name in schema.names if name not in stored.column_names]
    extra = [name for name in stored.column_names if name not in schema.names]
    if missing:
        what = f"no column {', '.join(missing)}: of an older version, read as NULL"
        yield Problem("note", where, what, f"{AGAIN} to fill in")
    if extra:
        what = f"column {', '.join(extra)} is of another version, and not read"
        yield Problem("note", where, what, "read it with the version that wrote it")
    for wanted in schema:
        if wanted.name in missing:
            continue
        found = stored.schema.field(wanted.name)
        if found.type != wanted.type:
            yield Problem("error", where, f"column {wanted.name} is {found.type}, not {wanted.type}", AGAIN)
        unit = (found.metadata or {}).get(b"unit")
        if unit is not None and unit != wanted.metadata[b"unit"]:
            what = f"column {wanted.name} is in {unit.decode() or 'no unit'}, not {wanted.metadata[b'unit'].decode()}"
            yield Problem("error", where, what, AGAIN)


def _check_rows(where: str, table: str, dataset: str, frame: pd.DataFrame) -> Iterator[Problem]:
    keys = [*(_TOMOGRAM if table == "tomograms" else _MEMBRANE), *ROW_KEYS.get(table, ())]
    # Of a table that is not ours, only rows that agree in everything are told to be the same.
    shared = [name for name in keys if name in frame.columns] if table in ROW_KEYS else list(frame.columns)
    twice = frame[frame.duplicated(shared)] if shared else frame.iloc[:0]
    if len(twice):
        example = _example(twice, [name for name in shared if name not in _TOMOGRAM]) or "all columns"
        yield Problem("error", where, f"has {len(twice)} rows twice ({example})", AGAIN)
    if "dataset_id" in frame and (wrong := sorted(set(frame["dataset_id"].dropna()) - {dataset})):
        yield Problem("error", where, f"has rows of dataset {', '.join(wrong)}", "move or remove the file")


def _check_orphans(
    where: str, table: str, frame: pd.DataFrame, frames: Mapping[str, pd.DataFrame]
) -> Iterator[Problem]:
    """Rows that a join with the table they belong to would lose."""
    parents = [] if table == "tomograms" else [("tomograms", _TOMOGRAM)]
    if table not in ("tomograms", "membranes"):
        parents.append(("membranes", _MEMBRANE))
    if table in PARENTS:
        parents.append((PARENTS[table][0], [*_MEMBRANE, *PARENTS[table][1]]))
    for parent, keys in parents:
        other = frames.get(parent)
        if other is None or not set(keys) <= set(frame.columns) & set(other.columns):
            continue
        rows = frame[keys].drop_duplicates()
        joined = rows.merge(other[keys].drop_duplicates(), on=keys, how="left", indicator=True)
        lost = joined[joined["_merge"] == "left_only"]
        if len(lost):
            example = _example(lost, [name for name in keys if name not in _TOMOGRAM] or ["digest"])
            yield Problem("error", where, f"has rows with none in {parent} ({example})", AGAIN)


def _example(rows: pd.DataFrame, names: Sequence[str]) -> str:
    """What the first of the rows says."""
    first = rows.iloc[0]
    values = ((name, first[name]) for name in names)
    return ", ".join(
        f"{name} {'NULL' if value is None or value != value else f'{value:g}' if isinstance(value, float) else value}"
        for name, value in values
    )


def _check_counts(dataset: str, part: str, frames: Mapping[str, pd.DataFrame]) -> Iterator[Problem]:
    """The numbers that rows give of others."""
    for table, count, of, keys in (
        ("tomograms", "n_membranes", "membranes", _TOMOGRAM),
        ("membranes", "n_particles", "particles", _MEMBRANE),
    ):
        if table not in frames or of not in frames or not {*keys, count} <= set(frames[table].columns):
            continue
        if not set(keys) <= set(frames[of].columns):
            continue
        rows = frames[table][[*keys, count]].dropna(subset=[count])
        found = frames[of].groupby(keys, dropna=False).size().rename("_found").reset_index()
        both = rows.merge(found, on=keys, how="left").fillna({"_found": 0})
        wrong = both[both[count] != both["_found"]]
        if len(wrong):
            first = wrong.iloc[0]
            what = f"{count} is {first[count]:g}, but there are {first['_found']:g} rows in {of}"
            yield Problem("error", part_name(table, dataset, part), what, AGAIN)


def _check_over_parts(seen: _Seen) -> Iterator[Problem]:
    for (dataset, run, tomogram), parts in seen.places.items():
        if len(parts) > 1:
            what = f"tomogram {tomogram} of run {run} stands in {len(parts)} parts: {', '.join(parts)}"
            yield Problem("error", f"dataset={dataset}", what, "remove all but one of them from every table")
    for dataset, digests in sorted(seen.digests.items()):
        if len(digests) > 1:
            numbers = ", ".join(f"{digest} ({count} tomograms)" for digest, count in digests.most_common())
            what = f"has rows of {len(digests)} settings, by digest: {numbers}"
            yield Problem("error", f"dataset={dataset}", what, f"{AGAIN} on all of it, or group by digest")


def _check_compact(tables: Tables) -> Iterator[Problem]:
    for table, folder in compact_files(tables.files):
        name = compact_name(table, folder)
        if read_footer(tables.files, name) is None:
            yield Problem("error", name, "is no whole Parquet file", "run `tables compact` again")
            continue
        if not is_current(tables.files, name, tables.parts_of(table, folder)):
            yield Problem("note", name, "parts have changed since", "run `tables compact` again")
