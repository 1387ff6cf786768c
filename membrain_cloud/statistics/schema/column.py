"""Columns and rows of tables, and the columns that several tables share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = dict[str, Any]
"""One row of a table: column name -> value. An unknown value is None (NULL in the file)."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str
        Name in the file. It ends with the unit where there is one, e.g. `area_nm2`.
    kind : {"int", "float", "text", "bool"}
        Type of the values; every column may hold NULL.
    unit : str
        Symbol of the unit, e.g. "nm²"; empty where there is none.
    description : str
        Meaning of the values. It is stored in the file, and makes the reference of tables in the documentation.
    """

    name: str
    kind: Literal["int", "float", "text", "bool"]
    unit: str
    description: str


def text(name: str, description: str) -> Column:
    """Return a text column.

    Parameters
    ----------
    name : str
        Name of the column.
    description : str
        Meaning of the values.

    Returns
    -------
    Column
        The column.
    """
    return Column(name, "text", "", description)


def count(name: str, description: str, unit: str = "") -> Column:
    """Return an integer column: a count, a number or an id.

    Parameters
    ----------
    name : str
        Name of the column.
    description : str
        Meaning of the values.
    unit : str
        Symbol of the unit, e.g. "voxel"; empty by default.

    Returns
    -------
    Column
        The column.
    """
    return Column(name, "int", unit, description)


def number(name: str, unit: str, description: str) -> Column:
    """Return a column of floating-point numbers.

    Parameters
    ----------
    name : str
        Name of the column.
    unit : str
        Symbol of the unit; empty where there is none.
    description : str
        Meaning of the values.

    Returns
    -------
    Column
        The column.
    """
    return Column(name, "float", unit, description)


def flag(name: str, description: str) -> Column:
    """Return a boolean column.

    Parameters
    ----------
    name : str
        Name of the column.
    description : str
        Meaning of true.

    Returns
    -------
    Column
        The column.
    """
    return Column(name, "bool", "", description)


def numbers(names: tuple[str, ...], unit: str, description: str) -> tuple[Column, ...]:
    """Return several columns of floating-point numbers with the same unit and description.

    Parameters
    ----------
    names : tuple of str
        Names of the columns.
    unit : str
        Symbol of the unit; empty where there is none.
    description : str
        Meaning of the values of all columns.

    Returns
    -------
    tuple of Column
        One column a name.
    """
    return tuple(number(name, unit, description) for name in names)


def finite_or_none(values: NDArray[np.float64]) -> list[float | None]:
    """Return values as a list in which None (NULL) stands for infinity and NaN.

    Parameters
    ----------
    values : (N,) float64 array
        Values of one column.

    Returns
    -------
    list of float or None
        The N values in the same order.
    """
    return [value if math.isfinite(value) else None for value in values.tolist()]


TOMOGRAM_KEYS = (
    text("dataset_id", "the dataset the tomogram belongs to"),
    text("run_name", "the run (one tilt series and what was made of it)"),
    text("tomogram_id", "the portal's id, or type@spacing where it has none"),
    number("voxel_spacing_angstrom", "Å", "edge of a voxel of the tomogram"),
    text("segmentation", "URI of the segmentation whose membranes were measured"),
    text("digest", "of the settings, models, inputs and data version that the row hangs on"),
)
"""Key columns of every table: they identify the tomogram and the settings that a row belongs to."""

MEMBRANE_KEYS = (*TOMOGRAM_KEYS, count("membrane_id", "value of the membrane in the instance segmentation"))
"""Key columns of every table but `tomograms`: they identify the membrane that a row belongs to."""

COMPONENT = count(
    "component_id", "connected part of the membrane's surface without border caps, cut at rims, largest first, from 0"
)
LEAFLET = count("leaflet", "0: the larger leaflet (a vesicle's outer one), 1: the other; NULL where not told apart")
BIN = (
    text("property", "what is binned; its unit is in the name"),
    count("bin", "number of the bin, from 0; the first and the last also hold what lies beyond them"),
    number("bin_min", "of the property", "lower end of the bin, included"),
    number("bin_max", "of the property", "upper end of the bin, not included"),
)
