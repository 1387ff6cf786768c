"""Colours of plots, on a light or a dark page."""

from __future__ import annotations

from dataclasses import dataclass

#: Of groups in one plot, and of membranes in figures and tables.
SERIES = (
    "#2a9d8f", "#e76f51", "#7b6fd6", "#3d8fd1", "#c2578f", "#7fb03f", "#a9714b", "#35b6c6", "#d1495b", "#8a94a6",
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """Colours of the curves on a light or a dark page."""

    text: str
    faint: str
    fill: str
    line: str
    truth: str


LIGHT = Theme(text="#384152", faint="#d5dae3", fill="#8cc7c0", line="#1d7d72", truth="#b4532f")
DARK = Theme(text="#c3cad6", faint="#3a4352", fill="#2c6f69", line="#5fd0c3", truth="#f0926d")
