"""A particle STAR file of many tomograms: its rows by tomogram, and a copy of it with further columns.

The copy is made line by line: blocks, comments and the text of all values stay as they are, and so does the order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.formats.local_output import write_local_file
from membrain_cloud.store.formats.relion.particles import has_coordinates, particle_rows, tomogram_names
from membrain_cloud.store.formats.relion.tables import without_comment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

_TOKEN = re.compile(r'"[^"]*"|\'[^\']*\'|\S+')
UNKNOWN_NUMBER, UNKNOWN_TEXT = "nan", "<NA>"
"""What stands for unknown values; starfile reads both as NaN."""


@dataclass(frozen=True, eq=False)
class StarParticles:
    """The particles of a STAR file.

    Attributes
    ----------
    path : str
        The file.
    table : pandas.DataFrame
        Its N particles with all their columns, and those of their optics groups.
    tomograms : tuple of N str
        Name of each particle's tomogram; empty texts where the file names none.
    """

    path: str
    table: pd.DataFrame
    tomograms: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    def rows_of(self, tomogram: str) -> NDArray[np.int64]:
        """Return the places of a tomogram's particles in the file, (M,) int64, rising."""
        return np.flatnonzero(np.array([name == tomogram for name in self.tomograms], bool))


def read_star_particles(path: str) -> StarParticles:
    """Read a particle file.

    Parameters
    ----------
    path : str
        The STAR file.

    Returns
    -------
    StarParticles
        All its particles in the file's order.

    Raises
    ------
    ProjectError
        If the file is no particle file.
    """
    table = particle_rows(path)
    return StarParticles(path, table, tuple(tomogram_names(table) or [""] * len(table)))


def write_with_columns(
    source: StarParticles, target: str, columns: Mapping[str, Sequence[Any]], *, prefix: str
) -> None:
    """Write a copy of a particle file with further columns, atomically.

    Parameters
    ----------
    source : StarParticles
        The file.
    target : str
        The file to make or replace.
    columns : mapping of str to sequence of N values
        Columns by name, in their order. None is unknown: `UNKNOWN_TEXT` in a column with a text, else `UNKNOWN_NUMBER`.
    prefix : str
        Columns of the source whose names begin so are left out: those of an earlier copy.

    Raises
    ------
    ProjectError
        If the lines of the file are not those of its particles.
    StorageError
        If the file cannot be written.
    """
    texts = [_texts(values) for values in columns.values()]
    lines = list(_copied(source, list(columns), list(zip(*texts, strict=True)), prefix))
    write_local_file(target, lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8"))


def _texts(values: Sequence[Any]) -> list[str]:
    unknown = UNKNOWN_TEXT if any(isinstance(value, str) for value in values) else UNKNOWN_NUMBER
    return [unknown if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.9g}"
    text = str(value)
    return f'"{text}"' if re.search(r"\s", text) or not text else text


def _copied(
    source: StarParticles, names: Sequence[str], values: Sequence[tuple[str, ...]], prefix: str
) -> Iterator[str]:
    """Yield the lines of the copy."""
    lines = Path(source.path).read_text(encoding="utf-8").splitlines()
    first, rows, end = _particle_lines(lines)
    header = [line.split()[0][1:] for line in lines[first:rows]]
    kept = [k for k, name in enumerate(header) if not name.startswith(prefix)]
    contents = [without_comment(line).strip() for line in lines[rows:end]]
    if sum(map(bool, contents)) != len(values):
        raise ProjectError(
            f"{source.path}: {sum(map(bool, contents))} lines for {len(values)} particles",
            "write the file anew with one line a particle, e.g. with starfile",
        )
    yield from lines[:first]
    yield from (f"_{name} #{k}" for k, name in enumerate([*(header[k] for k in kept), *names], 1))
    further = iter(values)
    for line, content in zip(lines[rows:end], contents, strict=True):
        if not content:
            yield line
            continue
        tokens = _TOKEN.findall(content) if len(kept) < len(header) else []
        own = "\t".join(tokens[k] for k in kept) if tokens else without_comment(line).rstrip()
        yield "\t".join([own, *next(further)])
    yield from lines[end:]


def _particle_lines(lines: Sequence[str]) -> tuple[int, int, int]:
    """Return the first line of the particles' columns, the line behind them, and the line behind the particles."""
    for start, line in enumerate(lines):
        if line.strip().startswith("loop_"):
            first = rows = start + 1
            while rows < len(lines) and lines[rows].strip().startswith("_"):
                rows += 1
            if has_coordinates([text.split()[0][1:] for text in lines[first:rows]]):
                ends = (k for k in range(rows, len(lines)) if lines[k].strip().startswith("data_"))
                return first, rows, next(ends, len(lines))
    return 0, 0, 0
