"""Radial spectra as tab-separated text, as MemBrain-seg reads and writes them, with two columns more."""

from __future__ import annotations

import csv
import os
import uuid
from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import InputError, UsageError, storage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_COLUMNS = ("intensity", "frequency_per_angstrom", "amplitude")


def read_spectrum(path: str) -> dict[str, NDArray[np.float64]]:
    """The columns intensity, and frequency_per_angstrom and amplitude where they are there; float64.

    Raises InputError for a file that is absent, has no column `intensity`, or a value that is no number.
    """
    cure = "make one with: membrain-cloud preprocess extract-spectrum"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", cure) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no tab-separated text ({error})", cure) from None
    if not rows or "intensity" not in rows[0]:
        raise InputError(f"{path}: there is no column `intensity`", cure)
    found = {}
    for name in _COLUMNS:
        if name in rows[0]:
            try:
                found[name] = np.array([float(row[name]) for row in rows], np.float64)
            except (TypeError, ValueError):
                raise InputError(f"{path}: column {name} holds something that is no number", cure) from None
    return found


def check_spectrum_output(path: str, *, overwrite: bool) -> None:
    """UsageError for a file that exists, unless `overwrite`."""
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"{path}: exists already", "give another --output, or --overwrite")


def write_spectrum(path: str, columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Write the columns, numbered from 0 under `freq`, atomically; equal columns give equal bytes."""
    names = [name for name in _COLUMNS if name in columns]
    lines = ["\t".join(["freq", *names])]
    for number, values in enumerate(zip(*(columns[name].tolist() for name in names), strict=True)):
        lines.append("\t".join([str(number), *map(repr, values)]))
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("\n".join([*lines, ""]))
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, path) from error
