"""The data of a report: frozen records, gathered by `pipeline.reporting`, drawn by `figures` and `page`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from membrain_cloud.geometry import Grid, Mesh, Picks


@dataclass(frozen=True, eq=False)
class SliceView:
    """One plane of a tomogram, with the membranes in it. It is drawn with x to the right and y or z up.

    Parameters
    ----------
    plane : {"xy", "xz"}
        Axes of the plane: rows run along y (xy) or z (xz), columns along x.
    index : int
        Voxel index of the plane along its normal (z for xy, y for xz).
    density : (rows, columns) array
        Density of any real dtype; dark is dense.
    instances : (rows, columns) integer array
        Number of the membrane; 0 outside membranes.
    """

    plane: Literal["xy", "xz"]
    index: int
    density: NDArray[Any]
    instances: NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Curves:
    """Distances and correlations of the particles along the membranes, over all membranes of a tomogram.

    Parameters
    ----------
    neighbor_distances_nm : (N,) float64 array
        Geodesic distance of each particle to its nearest neighbour; NaN without one.
    radii_nm : (B,) float64 array
        Distances of `pair_correlation` and `l_difference_nm`; empty with too few particles.
    pair_correlation : (B,) float64 array
        Pair correlation g(r); 1 at random.
    l_difference_nm : (B,) float64 array
        Ripley's L(r) less that at random on the same membranes; on a plane, L(r) - r.
    truth_neighbor_distances_nm : float64 array or None
        Distances between the true particles; None if unknown.
    random_correlation, random_l_difference_nm : (2, B) float64 array or None
        Lower and upper end of the envelope of random patterns; None without simulations.
    p : float or None
        Probability of such a difference from the mean at random; None if unknown.
    """

    neighbor_distances_nm: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    radii_nm: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    pair_correlation: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    l_difference_nm: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    truth_neighbor_distances_nm: NDArray[np.float64] | None = None
    random_correlation: NDArray[np.float64] | None = None
    random_l_difference_nm: NDArray[np.float64] | None = None
    p: float | None = None


@dataclass(frozen=True)
class MembraneRow:
    """One membrane in the table of a tomogram; None is unknown.

    Parameters
    ----------
    membrane_id : int
        Number of the membrane.
    area_nm2 : float or None
        Area of one side, nm².
    closed : bool or None
        Whether the membrane is a closed vesicle.
    particles : int or None
        Number of particles on it.
    particles_per_um2 : float or None
        Particles per one-sided area, 1/µm².
    nearest_neighbor_nm : float or None
        Median geodesic distance to the nearest neighbour, nm.
    bilayer_nm : float or None
        Distance between the leaflets' density peaks, nm.
    """

    membrane_id: int
    area_nm2: float | None
    closed: bool | None
    particles: int | None
    particles_per_um2: float | None
    nearest_neighbor_nm: float | None
    bilayer_nm: float | None = None


@dataclass(frozen=True, eq=False)
class TomogramReport:
    """The page's data of one tomogram. Results that do not exist (yet) are empty.

    Parameters
    ----------
    name : str
        Name of the run.
    grid : Grid
        Voxel grid of the tomogram.
    slices : tuple of SliceView
        Slices to draw.
    meshes : mapping of int to Mesh
        Number of the membrane -> its mesh.
    picks, truth_picks : Picks or None
        Particles, and the true particles.
    membranes : tuple of MembraneRow
        Rows of the table of membranes.
    curves : Curves
        Distances and correlations of the particles.
    notes : tuple of str
        Remarks to show above the figures.
    """

    name: str
    grid: Grid
    slices: tuple[SliceView, ...] = ()
    meshes: Mapping[int, Mesh] = field(default_factory=dict)
    picks: Picks | None = None
    truth_picks: Picks | None = None
    membranes: tuple[MembraneRow, ...] = ()
    curves: Curves = field(default_factory=Curves)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table on the page.

    Parameters
    ----------
    label, unit : str
        Heading and unit.
    digits : int
        Decimals of floating-point numbers.
    help : str
        Tooltip of the heading.
    at_least : float or None
        Smallest acceptable score: lower values are marked. None marks nothing.
    """

    label: str
    unit: str = ""
    digits: int = 2
    help: str = ""
    at_least: float | None = None


@dataclass(frozen=True)
class Table:
    """A table on the page.

    Parameters
    ----------
    columns : tuple of Column
        The columns.
    rows : tuple of tuples
        Cells: text, numbers, booleans or None (unknown).
    footer : tuple or None
        Means or sums; None without a footer.
    note : str
        Text below the table.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    footer: tuple[Any, ...] | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class StatisticsReport:
    """Statistics over all tomograms: frames of `membrain_cloud.tables`. Frames without rows are not drawn.

    Parameters
    ----------
    kinds : Table
        One row a pair of kinds of particles.
    neighbors, ripley : DataFrame
        `nearest_neighbors()` and `ripley()` within kinds.
    curvature : DataFrame
        `histogram()` of the mean curvature, by leaflet.
    thickness : DataFrame
        `density_profile()`.
    gaps : DataFrame
        `histogram()` of the distance to the next membrane.
    """

    kinds: Table
    neighbors: pd.DataFrame
    ripley: pd.DataFrame
    curvature: pd.DataFrame
    thickness: pd.DataFrame
    gaps: pd.DataFrame


@dataclass(frozen=True)
class Failure:
    """A task that failed.

    Parameters
    ----------
    tomogram, stage : str
        The task.
    message : str
        What failed and why.
    next_step : str
        What the user can do; empty if there is nothing.
    """

    tomogram: str
    stage: str
    message: str
    next_step: str


@dataclass(frozen=True)
class Number:
    """One number of the page's header, e.g. Number("particles", 1234).

    Parameters
    ----------
    label : str
        Name below the number.
    value : float, int, str or None
        The number; None is unknown.
    unit : str
        Its unit.
    digits : int
        Decimals of a floating-point number.
    """

    label: str
    value: float | int | str | None
    unit: str = ""
    digits: int = 1


@dataclass(frozen=True, eq=False)
class ReportData:
    """The data of the whole page. The page is drawn from it alone: no clock is read.

    Parameters
    ----------
    title : str
        Heading of the page.
    facts : tuple of (str, str)
        Lines of provenance: config, time, versions.
    numbers : tuple of Number
        Numbers of the header.
    stages, scores : Table or None
        Progress of the stages; scores against the ground truth.
    statistics : StatisticsReport or None
        Statistics over all tomograms.
    failures : sequence of Failure
        Tasks that failed.
    tomograms : sequence of TomogramReport
        The tomograms.
    settings : mapping of str to mapping
        Section -> its settings.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    numbers: tuple[Number, ...] = ()
    stages: Table | None = None
    scores: Table | None = None
    statistics: StatisticsReport | None = None
    failures: Sequence[Failure] = ()
    tomograms: Sequence[TomogramReport] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
