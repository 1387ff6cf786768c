"""Tables of STAR files, with every value as text.

The blocks are split here and the rows are read by pandas. The package starfile converts values as it reads: `00255`
becomes 255, `nan` a gap, and what follows a `#` in a file's name is lost. Names of tomograms must stay as written.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from membrain_cloud.errors import ProjectError
from membrain_cloud.store.formats.local_input import read_file

if TYPE_CHECKING:
    import pandas as pd

_SINGLE_QUOTED = re.compile(r"(?<!\S)'([^'\"\n]*)'(?!\S)")
_VALUES = re.compile(r'"[^"\n]*"(?!\S)|\'[^\'\n]*\'(?!\S)|\S+')
_NEXT_STEP = "give a STAR file of particles, as RELION writes it"
# Bytes in which a text file has a NUL only by damage.
_BEGINNING_BYTES = 4096


@dataclass
class _Block:
    """The lines of one data block."""

    name: str
    labels: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    loop: bool = False


def read_star_tables(path: str) -> list[tuple[str, pd.DataFrame]]:
    """Read all tables of a STAR file.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    list of (str, pandas.DataFrame)
        Names of the blocks without `data_`, in the file's order; a name may occur twice. All values are text as
        written, without quotes. A block of single values has one row. A block without columns is left out.

    Raises
    ------
    ProjectError
        If the file cannot be read, or a row has another number of values than the table has columns.
    """
    content = read_file(path)
    if b"\0" in content[:_BEGINNING_BYTES]:
        raise ProjectError(f"{path} cannot be read as STAR (it is no text)", _NEXT_STEP)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    blocks = _blocks(text)
    if not blocks:
        what = "it is empty" if not content.strip() else "it has no line `data_`"
        raise ProjectError(f"{path} cannot be read as STAR ({what})", _NEXT_STEP)
    return [(block.name, _table(block, path)) for block in blocks if block.labels]


def without_comment(line: str) -> str:
    """Return a line without its comment, which begins with a `#` at the beginning of a value.

    Parameters
    ----------
    line : str
        A line of a STAR file.

    Returns
    -------
    str
        The same text up to the comment.
    """
    if "#" not in line:
        return line
    return next((line[: match.start()] for match in _VALUES.finditer(line) if match[0].startswith("#")), line)


def _blocks(text: str) -> list[_Block]:
    """Split a STAR file into its blocks; several loops of one block become blocks of one name."""
    blocks: list[_Block] = []
    for raw in text.split("\n"):
        line = without_comment(raw).strip()
        block = blocks[-1] if blocks else None
        if not line:
            continue
        rows_begun = block is not None and block.loop and bool(block.rows)
        if line.startswith("data_") and len(line.split()) == 1:
            blocks.append(_Block(line.removeprefix("data_")))
        elif block is None:
            pass  # before the first block
        elif line == "loop_" or line.startswith("loop_ "):
            if block.labels:
                blocks.append(_Block(block.name, loop=True))
            block = blocks[-1]
            block.loop = True
        elif line.startswith("_") and not rows_begun:
            label, *value = line[1:].split(None, 1) or [""]
            block.labels.append(label)
            if not block.loop:
                block.rows.append(value[0] if value else '""')
        elif block.loop:
            block.rows.append(line)
    return blocks


def _table(block: _Block, path: str) -> pd.DataFrame:
    import pandas as pd

    name = f"data_{block.name}"
    twice = sorted({label for label in block.labels if block.labels.count(label) > 1})
    if twice:
        raise ProjectError(f"{path}: {name} has the column {twice[0]} twice", "remove one of them")
    rows = block.rows if block.loop else [" ".join(block.rows)]
    if not rows:
        return pd.DataFrame({label: pd.Series([], dtype=str) for label in block.labels})
    text = "\n".join(rows)
    if "'" in text:
        text = _SINGLE_QUOTED.sub(r'"\1"', text)
    _check_widths(text.split("\n"), len(block.labels), f"{path}: ", name)
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep=r"\s+",
            header=None,
            names=range(len(block.labels)),
            index_col=False,
            dtype=str,
            na_filter=False,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ProjectError(f"{path}: {name} cannot be read ({' '.join(str(error).split())})", _NEXT_STEP) from error
    table.columns = pd.Index(block.labels)
    return table


def _check_widths(rows: list[str], width: int, where: str, name: str) -> None:
    """Refuse rows of another number of values, which pandas would fill or cut in silence."""
    for number, row in enumerate(rows, start=1):
        count = len(_VALUES.findall(row)) if '"' in row else len(row.split())
        if count != width:
            raise ProjectError(
                f"{where}row {number} of {name} has {count} values for {width} columns",
                "correct or remove the incomplete lines",
            )
