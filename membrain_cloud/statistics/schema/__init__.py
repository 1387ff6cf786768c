"""Define the tables of the statistics: their columns, and the keys that identify a row.

Imports the standard library alone, so that `store` can check tables without loading the science.

Modules: `column` (a column, and the columns that tables share), `membranes`, `particles` and `context` (columns of each
table), `tables` (the tables put together, with the keys of their rows).
"""

__all__ = ["column", "context", "membranes", "particles", "tables"]
