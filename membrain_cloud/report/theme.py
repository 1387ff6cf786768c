"""Colours of plots on a light or a dark page."""

from __future__ import annotations

from dataclasses import dataclass

SERIES = (
    "#2a9d8f", "#e76f51", "#7b6fd6", "#3d8fd1", "#c2578f", "#7fb03f", "#a9714b", "#35b6c6", "#d1495b", "#8a94a6",
)  # fmt: skip
"""Colours of the groups in one plot, and of membranes in figures and tables."""


@dataclass(frozen=True)
class Theme:
    """Colours of curves, as hexadecimal RGB.

    Parameters
    ----------
    text : str
        Labels and reference lines.
    faint : str
        Frames of axes.
    fill, line : str
        Histograms and curves of observed values.
    truth : str
        Histograms of the ground truth.
    """

    text: str
    faint: str
    fill: str
    line: str
    truth: str


LIGHT = Theme(text="#384152", faint="#d5dae3", fill="#8cc7c0", line="#1d7d72", truth="#b4532f")
DARK = Theme(text="#c3cad6", faint="#3a4352", fill="#2c6f69", line="#5fd0c3", truth="#f0926d")
