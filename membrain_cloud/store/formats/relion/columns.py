"""Columns of tables of particles, whose values are text, as numbers: gaps and words are named and never guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import ProjectError
from membrain_cloud.geometry import Picks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

Report = Callable[[str], None]
"""Takes one sentence on what was assumed."""

SCORES = ("rlnAutopickFigureOfMerit", "rlnLCCmax", "score")
"""Columns of scores, the preferred one first."""
MEMBRANES = ("rlnMembrane", "membrane_id", "instance_id")
"""Columns of membrane numbers, the preferred one first."""
IN_PLANE = "rlnInPlaneKnown"
"""Our own column: 0 where the rotation about the particle's axis is not known."""

_MISSING = frozenset({"", "nan", "na", "<na>", "none", "null", "n/a"})
# Numbers of membranes and classes lie below; larger ones are damage.
_LARGEST_NUMBER = 2**31
_SHOWN = 3


def no_report(sentence: str) -> None:
    """Drop a sentence on what was assumed."""


def required_numbers(table: pd.DataFrame, columns: Sequence[str], path: str) -> NDArray[np.float64]:
    """Return columns of numbers without gaps.

    Parameters
    ----------
    table : pandas.DataFrame
        Values as text.
    columns : sequence of str
        Names of C columns.
    path : str
        The file's name for errors.

    Returns
    -------
    (N, C) array of float64
        Finite.

    Raises
    ------
    ProjectError
        If a value is missing, not finite, or no number.
    """
    values = np.stack([optional_numbers(table, column, path) for column in columns], axis=1)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise ProjectError(
            f"{path}: {', '.join(columns)} have gaps in {bad.sum()} of {len(values)} rows, first in row "
            f"{table.index[first] + 1}",
            "correct or remove the incomplete lines",
        )
    return values


def optional_numbers(table: pd.DataFrame, column: str, path: str) -> NDArray[np.float64]:
    """Return a column of numbers, NaN where the value is missing.

    Parameters
    ----------
    table : pandas.DataFrame
        Values as text.
    column : str
        Name of the column.
    path : str
        The file's name for errors.

    Returns
    -------
    (N,) array of float64

    Raises
    ------
    ProjectError
        If a value is no number.
    """
    import pandas as pd

    texts = table[column].astype(str)
    values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    words = np.isnan(values) & ~texts.str.strip().str.lower().isin(_MISSING).to_numpy(bool)
    if words.any():
        shown = ", ".join(repr(text) for text in dict.fromkeys(texts[words].head(_SHOWN)))
        raise ProjectError(f"{path}: {column} are not numbers ({shown})", "correct the file")
    return values


def whole_numbers(table: pd.DataFrame, column: str, path: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a column of whole numbers, and where they are known.

    Parameters
    ----------
    table : pandas.DataFrame
        Values as text; `1.0` is 1.
    column : str
        Name of the column.
    path : str
        The file's name for errors.

    Returns
    -------
    (N,) array of int64
        0 where the value is missing.
    (N,) array of bool
        Where the value is there.

    Raises
    ------
    ProjectError
        If a value is no whole number, or too large.
    """
    values = optional_numbers(table, column, path)
    known = ~np.isnan(values)
    bad = known & ~((np.abs(values) < _LARGEST_NUMBER) & (values == np.floor(values)))
    if bad.any():
        shown = ", ".join(map(repr, dict.fromkeys(table[column].astype(str)[bad].head(_SHOWN))))
        raise ProjectError(f"{path}: {column} are not whole numbers ({shown})", "correct the file")
    return np.where(known, values, 0.0).astype(np.int64), known


def picks_of_table(
    table: pd.DataFrame,
    positions: NDArray[np.float64],
    orientations: NDArray[np.float64] | None,
    path: str,
    report: Report,
    *,
    rotation_known: bool = True,
) -> Picks:
    """Return particles with the scores, membranes and in-plane marks of a table.

    Parameters
    ----------
    table : pandas.DataFrame
        N rows of text.
    positions : (N, 3) array of float64
        xyz in Å.
    orientations : (N, 3, 3) array of float64 or None
        Orientations.
    path : str
        The file's name for errors.
    report : callable
        Called with one sentence on each assumption.
    rotation_known : bool
        Whether the orientations' rotation about their own z axis is known. Default: True.

    Returns
    -------
    Picks
        Scores that are missing are 1, membranes that are missing or negative 0.

    Raises
    ------
    ProjectError
        If a value is no number.
    """
    count = len(table)
    score = next((c for c in SCORES if c in table.columns), None)
    membrane = next((c for c in MEMBRANES if c in table.columns), None)
    scores = optional_numbers(table, score, path) if score else np.ones(count)
    if np.isinf(scores).any():
        raise ProjectError(f"{path}: {score} are not finite in {np.isinf(scores).sum()} rows", "correct the file")
    unknown = np.isnan(scores)
    if unknown.any():
        report(f"{unknown.sum()} of {count} particles have no {score}: taken as 1")
        scores = np.where(unknown, 1.0, scores)
    numbers = np.zeros(count, np.int64)
    if membrane:
        numbers, known = whole_numbers(table, membrane, path)
        known &= numbers >= 0
        numbers = np.where(known, numbers, 0)
        if not known.all():
            report(f"{(~known).sum()} of {count} particles have no {membrane}: taken as unknown")
    in_plane = None
    if IN_PLANE in table.columns:
        in_plane = np.nan_to_num(optional_numbers(table, IN_PLANE, path)) != 0
    elif orientations is not None and not rotation_known:
        in_plane = np.zeros(count, bool)
    return Picks(positions, orientations, scores, numbers, in_plane)
