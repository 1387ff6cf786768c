"""`Tables`: Parquet tables with one part per task and dataset, `{table}/dataset={dataset}/{part}.parquet`.

Any reader of hive-partitioned Parquet (DuckDB, pandas, Polars, Spark) opens a table by its folder. Each field carries
its unit and its description in the schema's metadata. Unknown values are NULL, never NaN. `compact/{table}/...` holds
compact copies (see `compaction`); `_receipts` says which parts are finished.
"""

from __future__ import annotations

import functools
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from membrain_cloud.errors import BadNameError, ChunkError, ProjectError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.run_state.receipts import Receipts
from membrain_cloud.store.tables.arrow_rows import PARTITION, arrow_schema, arrow_table, conform, field_metadata
from membrain_cloud.store.tables.compaction import (
    FOLDER,
    CompactFile,
    compact_files,
    compact_name,
    is_current,
    read_compact,
    read_footer,
    write_compact,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from membrain_cloud.statistics.schema.tables import Column
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.objects.object_info import ObjectInfo

    Schemas = Mapping[str, Sequence[Column]]

# Most of the time is spent waiting for the store.
_CONCURRENT_READS = 8


class Tables:
    """The tables below one URL.

    Parameters
    ----------
    url : str
        Local path or fsspec URL.
    storage_options : Mapping, optional
        Arguments of fsspec.
    schemas : Mapping, optional
        Columns of each table. Default: `statistics.schema.tables.ALL_TABLES`.
    meter : Meter, optional
        Counts what is read and written.

    Attributes
    ----------
    url : str
        Path or URL of the folder.
    files : Files
        The folder as a store.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        schemas: Schemas | None = None,
        meter: Meter | None = None,
    ) -> None:
        if schemas is None:
            from membrain_cloud.statistics.schema.tables import ALL_TABLES

            schemas = ALL_TABLES
        self.files = Files(url, storage_options, meter=meter)
        self._schemas = schemas
        self.url = self.files.url

    def check_writable(self) -> None:
        """Raise StorageError if rows cannot be written; asked once, before a run begins."""
        self.files.check_writable()

    def metered(self, meter: Meter) -> Tables:
        """Return the same tables with `meter` counting what is read and written through the result.

        Parameters
        ----------
        meter : Meter
            What counts.
        """
        return Tables(self.url, self.files.options, self._schemas, meter)

    @property
    def receipts(self) -> Receipts:
        """The receipts of finished parts."""
        return Receipts(f"{self.files.url}/_receipts", self.files.options)

    # --- columns ---------------------------------------------------------------------------------------------------

    def schema(self, table: str) -> pa.Schema:
        """Return the schema of a table's files; raise ProjectError for an unknown table.

        Parameters
        ----------
        table : str
            Name of the table.
        """
        if table not in self._schemas:
            raise ProjectError(f"there is no table {table!r}", f"the tables are {', '.join(sorted(self._schemas))}")
        return arrow_schema(self._schemas[table])

    def describe(self, table: str) -> list[tuple[str, str, str, str]]:
        """Return name, type, unit and description of each column of a table.

        Parameters
        ----------
        table : str
            Name of the table.
        """
        return [
            (field.name, str(field.type), field.metadata[b"unit"].decode(), field.metadata[b"description"].decode())
            for field in self.schema(table)
        ]

    # --- listing ---------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the tables that have at least one part, those of other versions included."""
        names = {name.split("/", 1)[0] for name in self.files.listing() if name.endswith(".parquet")}
        return sorted(name for name in names if not name.startswith(("_", ".")) and name != FOLDER)

    def supported_names(self) -> Iterator[str]:
        """Iterate over those of `names` that this version has columns for."""
        return (name for name in self.names() if name in self._schemas)

    def parts(self, table: str) -> list[tuple[str, str]]:
        """Return dataset and part of each part of a table, sorted.

        Parameters
        ----------
        table : str
            Name of the table.
        """
        return [(dataset, part) for dataset, parts in self._parts(table).items() for part in parts]

    def parts_of(self, table: str, folder: str) -> dict[str, ObjectInfo]:
        """Return the parts of one partition with size and tag.

        Parameters
        ----------
        table : str
            Name of the table.
        folder : str
            Folder of the partition, `dataset=...`.
        """
        return self._parts(table).get(unquote(folder.removeprefix(f"{PARTITION}=")), {})

    def count_rows(self, table: str) -> int:
        """Return the number of rows of all parts, from the footers of their files; ChunkError for a torn part.

        Parameters
        ----------
        table : str
            Name of the table.
        """

        def count(name: str) -> int:
            footer = read_footer(self.files, name)
            if footer is None and self.files.exists(name):
                raise ChunkError(
                    f"{self.files.url}/{name} is a truncated or damaged Parquet file", "see `tables check`"
                )
            return 0 if footer is None else int(footer.num_rows)

        with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
            return sum(pool.map(count, [part_name(table, dataset, part) for dataset, part in self.parts(table)]))

    # --- writing ---------------------------------------------------------------------------------------------------

    def write_part(self, table: str, dataset: str, part: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write or replace one part atomically; equal rows give equal bytes.

        Parameters
        ----------
        table : str
            Name of the table.
        dataset : str
            The partition.
        part : str
            Name of the part.
        rows : sequence of Mapping
            Values by column. Absent values, None, NaN and infinities become NULL. Without rows the part is written
            all the same, so "measured, none found" differs from "not measured".

        Raises
        ------
        ValueError
            If a row has an unknown column, or is of another dataset.
        BadNameError
            If dataset or part is not safe as part of a path.
        """
        schema = self.schema(table)
        columns = {*schema.names, PARTITION}
        for row in rows:
            if extra := sorted(set(row) - columns):
                raise ValueError(f"table {table} has no column {', '.join(extra)}")
            if row.get(PARTITION, dataset) != dataset:
                raise ValueError(f"a row of dataset {row[PARTITION]!r} is written to dataset {dataset!r}")
        buffer = io.BytesIO()
        pq.write_table(arrow_table(rows, schema), buffer, compression="zstd")
        self.files.write(part_name(table, dataset, part), buffer.getvalue())

    def compact(self, target: Tables | None = None) -> dict[str, dict[str, int]]:
        """Copy each table and dataset into one file: below `compact/` here, or as the only part below another URL.

        Parts are left as they are, so others may read them and a run may write meanwhile; see `compaction`. A compact
        file that is current is left alone, one whose parts are gone is removed.

        Parameters
        ----------
        target : Tables, optional
            Tables to copy to; they must be empty. Default: `compact/` of these.

        Returns
        -------
        dict
            For each table the number of `parts`, of `rows` written, and of `files` written.

        Raises
        ------
        ProjectError
            If `target` has tables already.
        ChunkError
            If a part is torn.
        """
        if target is not None and target.names():
            raise ProjectError(f"there are tables below {target.url} already", "give a new folder for the compact copy")
        counts = {}
        stale = set() if target is not None else set(compact_files(self.files))
        for table in self.names():
            counts[table] = {"parts": 0, "rows": 0, "files": 0}
            for dataset, parts in self._parts(table).items():
                counts[table]["parts"] += len(parts)
                stale.discard((table, _folder(dataset)))
                files = self.files if target is None else target.files
                name = compact_name(table, _folder(dataset)) if target is None else part_name(table, dataset, "all")
                if target is None and is_current(files, name, parts):
                    continue
                read = functools.partial(self.read_part, table, dataset)
                counts[table]["rows"] += write_compact(read, self.schema(table), parts, files, name)
                counts[table]["files"] += 1
        for table, folder in stale:
            self.files.remove(compact_name(table, folder))
        return counts

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, table: str) -> pa.Table:
        """Return all rows of a table, in the order of dataset and part.

        Each part is read as it was at one moment. Rows come from a compact copy where they are still the part's.

        Parameters
        ----------
        table : str
            Name of the table.

        Returns
        -------
        pyarrow.Table
            The dataset as first column, then this version's columns; NULL where an older version had none.

        Raises
        ------
        ChunkError
            If a part is torn.
        """
        metadata = field_metadata("", "the dataset")
        schema = self.schema(table).insert(0, pa.field(PARTITION, pa.string(), metadata=metadata))
        tables = [schema.empty_table()]
        for dataset, rows in self._all_rows(table):
            label = pa.array([dataset] * rows.num_rows, pa.string())
            tables.append(rows.add_column(0, schema.field(0), label).cast(schema))
        return pa.concat_tables(tables).combine_chunks()

    def read_part(self, table: str, dataset: str, part: str) -> pa.Table | None:
        """Return the rows of one part in this version's columns.

        Parameters
        ----------
        table : str
            Name of the table.
        dataset : str
            The partition.
        part : str
            Name of the part.

        Returns
        -------
        pyarrow.Table or None
            NULL in columns that the part has not; None if there is no such part, or not any more.
        """
        stored = self.read_stored(table, dataset, part)
        return None if stored is None else conform(stored, self.schema(table))

    def read_stored(self, table: str, dataset: str, part: str) -> pa.Table | None:
        """Return one part as stored.

        Parameters
        ----------
        table : str
            Name of the table.
        dataset : str
            The partition.
        part : str
            Name of the part.

        Returns
        -------
        pyarrow.Table or None
            None if there is no such part, or not any more.

        Raises
        ------
        ChunkError
            If the part is torn.
        """
        name = part_name(table, dataset, part)
        try:
            content = self.files.read(name)
        except FileNotFoundError:
            return None
        try:
            return pq.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError) as error:
            raise ChunkError(
                f"{self.files.url}/{name} cannot be read as Parquet ({error})", "remove it and run `measure` again"
            ) from error

    def dataset(self, table: str) -> Any:
        """Return a table as a `pyarrow.dataset.Dataset`, which is read when it is scanned, for large tables.

        DuckDB queries one by its Python name. Of each dataset the compact file is scanned if it is current, else the
        parts. A part that is replaced during the scan may be missing.

        Parameters
        ----------
        table : str
            Name of the table.
        """
        import pyarrow.dataset

        partition = pa.schema([(PARTITION, pa.string())])
        paths = []
        for dataset, parts in self._parts(table).items():
            name = compact_name(table, _folder(dataset))
            names = (
                [name] if is_current(self.files, name, parts) else [part_name(table, dataset, part) for part in parts]
            )
            paths += [self.files.path(name) for name in names]
        return pyarrow.dataset.dataset(
            paths,
            schema=pa.unify_schemas([partition, self.schema(table)]),
            format="parquet",
            filesystem=self.files.filesystem,
            partitioning=pyarrow.dataset.HivePartitioning(partition),
        )

    def _all_rows(self, table: str) -> Iterator[tuple[str, pa.Table]]:
        """Iterate over dataset and rows of each part, in this version's columns."""
        compact, schema = set(compact_files(self.files)), self.schema(table)

        def fetch(dataset: str, copy: CompactFile | None, part: str, info: ObjectInfo) -> pa.Table | None:
            rows = None if copy is None else copy.of(part, info)
            return self.read_part(table, dataset, part) if rows is None else conform(rows, schema)

        with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
            for dataset, parts in self._parts(table).items():
                folder = _folder(dataset)
                copy = read_compact(self.files, compact_name(table, folder)) if (table, folder) in compact else None
                for rows in pool.map(functools.partial(fetch, dataset, copy), parts.keys(), parts.values()):
                    if rows is not None:
                        yield dataset, rows

    def _parts(self, table: str) -> dict[str, dict[str, ObjectInfo]]:
        """Return size and tag of each part by dataset and part, sorted."""
        datasets: dict[str, dict[str, ObjectInfo]] = {}
        for name, info in self.files.listing(table).items():
            folder, _, file = name.rpartition("/")
            if file.endswith(".parquet") and not file.startswith(".") and folder.startswith(f"{PARTITION}="):
                dataset, part = unquote(folder.removeprefix(f"{PARTITION}=")), unquote(file.removesuffix(".parquet"))
                datasets.setdefault(dataset, {})[part] = info
        return {dataset: dict(sorted(parts.items())) for dataset, parts in sorted(datasets.items())}


def part_name(table: str, dataset: str, part: str) -> str:
    """Return the path of a part below the tables' URL.

    Parameters
    ----------
    table : str
        Name of the table.
    dataset : str
        The partition.
    part : str
        Name of the part.

    Raises
    ------
    BadNameError
        If the path would lead out of the table's folder.
    """
    # Percent-encoding keeps every name one part of a path, and readers of hive partitions decode it.
    name = quote(part, safe=" @+,=")
    if any(not word or word.startswith(".") for word in (dataset, name)):
        raise BadNameError(f"part {part!r} of dataset {dataset!r} must not become a path", "use a plain name")
    return f"{table}/{_folder(dataset)}/{name}.parquet"


def _folder(dataset: str) -> str:
    return f"{PARTITION}={quote(dataset, safe=' @+,')}"
