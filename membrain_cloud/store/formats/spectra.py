"""Radial spectra as tab-separated text, as MemBrain-seg reads and writes them, with two columns more."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import InputError, UsageError, storage_error
from membrain_cloud.store.formats.local_input import check_regular_file
from membrain_cloud.store.formats.local_output import write_local_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_COLUMNS = ("intensity", "frequency_per_angstrom", "amplitude")
_NEXT_STEP = "make one with: membrain-cloud preprocess extract-spectrum"


def read_spectrum(path: str) -> dict[str, NDArray[np.float64]]:
    """Read a radial spectrum.

    Parameters
    ----------
    path : str
        Tab-separated text with a header line.

    Returns
    -------
    dict of str to (N,) array of float64
        `intensity`, and `frequency_per_angstrom` and `amplitude` where the file has them, by shell from the centre.

    Raises
    ------
    InputError
        If the file is missing, has no column `intensity`, or a value that is no number.
    """
    try:
        check_regular_file(path, InputError)
    except InputError as error:
        raise InputError(error.message, f"{error.next_step}; {_NEXT_STEP}") from None
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", _NEXT_STEP) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no tab-separated text ({error})", _NEXT_STEP) from None
    if not rows or "intensity" not in rows[0]:
        raise InputError(f"{path}: there is no column `intensity`", _NEXT_STEP)
    columns = {}
    for name in _COLUMNS:
        if name in rows[0]:
            try:
                columns[name] = np.array([float(row[name]) for row in rows], np.float64)
            except (TypeError, ValueError):
                raise InputError(f"{path}: column {name} holds something that is no number", _NEXT_STEP) from None
    return columns


def check_spectrum_output(path: str, *, overwrite: bool) -> None:
    """Refuse an output before anything is computed.

    Parameters
    ----------
    path : str
        The file to write.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    UsageError
        If the file exists and `overwrite` is False.
    """
    if Path(path).exists() and not overwrite:
        raise UsageError(f"{path}: exists already", "give another output, or set overwrite")


def write_spectrum(path: str, columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Write a radial spectrum atomically; equal columns give equal bytes.

    Parameters
    ----------
    path : str
        The file to make or replace; its folder is made where it is missing.
    columns : mapping of str to (N,) array of float64
        Any of `intensity`, `frequency_per_angstrom`, `amplitude`, all of one length. The rows are numbered from 0 under
        `freq`.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    names = [name for name in _COLUMNS if name in columns]
    lines = ["\t".join(["freq", *names])]
    for number, values in enumerate(zip(*(columns[name].tolist() for name in names), strict=True)):
        lines.append("\t".join([str(number), *map(repr, values)]))
    text = "\n".join([*lines, ""])
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    write_local_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
