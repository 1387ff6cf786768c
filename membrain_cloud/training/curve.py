"""Write the learning curve of a training as a CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from membrain_cloud.atomic import replace_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class CurveFile:
    """CSV file of a learning curve, replaced atomically with all its rows.

    Attributes
    ----------
    path : Path
        The file. Its folder is created.
    columns : tuple of str
        Names of the columns. Default: every name that any row has, in order of appearance.
    formats : mapping of str to str
        Format specifications of floating-point columns. Default: six significant digits.
    line_end : str
        Line terminator. Default: a line feed.
    """

    path: Path
    columns: tuple[str, ...] = ()
    formats: Mapping[str, str] = field(default_factory=dict)
    line_end: str = "\n"

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the file.

        Parameters
        ----------
        rows : sequence of mappings
            Values by column; absent ones and None become empty cells.
        """
        columns = self.columns or tuple(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator=self.line_end)
        writer.writeheader()
        writer.writerows([{name: self._cell(name, value) for name, value in row.items()} for row in rows])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(self.path, lambda path: path.write_text(text.getvalue(), encoding="utf-8", newline=""))

    def _cell(self, name: str, value: Any) -> Any:
        return format(value, self.formats.get(name, ".6g")) if isinstance(value, float) else value
