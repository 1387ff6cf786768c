"""What a column of a table is, and the key columns that all tables share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """One column. `unit` is empty for what has none."""

    name: str
    kind: Literal["int", "float", "text", "bool"]
    unit: str
    description: str


def text(name: str, description: str) -> Column:
    return Column(name, "text", "", description)


def count(name: str, description: str, unit: str = "") -> Column:
    return Column(name, "int", unit, description)


def number(name: str, unit: str, description: str) -> Column:
    return Column(name, "float", unit, description)


def flag(name: str, description: str) -> Column:
    return Column(name, "bool", "", description)


def each(names: tuple[str, ...], unit: str, description: str) -> tuple[Column, ...]:
    return tuple(number(name, unit, description) for name in names)


TOMOGRAM_KEYS = (
    text("dataset_id", "the dataset the tomogram belongs to"),
    text("run_name", "the run (one tilt series and what was made of it)"),
    text("tomogram_id", "the portal's id, or type@spacing where it has none"),
    number("voxel_spacing_angstrom", "Å", "edge of a voxel of the tomogram"),
    text("segmentation", "URI of the segmentation whose membranes were measured"),
    text("digest", "of the settings, models, inputs and data version that the row hangs on"),
)
MEMBRANE_KEYS = (*TOMOGRAM_KEYS, count("membrane_id", "value of the membrane in the instance segmentation"))

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
