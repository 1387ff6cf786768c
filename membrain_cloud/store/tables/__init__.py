"""Parquet tables: the rows that `measure` writes, their compact copies, and checks of both.

Imports `statistics.schema` (the columns), and of the store `run_state` and `objects`; `open` also knows the protocol
`projects.project.Project`.

- `open` : open the tables of a project
- `parquet_tables` : `Tables`, the tables below one URL
- `arrow_rows` : rows and columns as pyarrow's tables and schemas
- `compaction` : compact copies, one file per table and dataset
- `check` : find what would make sums or joins come out wrong
- `row_export` : rows as one Parquet or CSV file
"""

__all__ = ["arrow_rows", "check", "compaction", "open", "parquet_tables", "row_export"]
