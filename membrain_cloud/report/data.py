"""What a report is made of: plain frozen data, gathered by the pipeline, drawn by `figures` and `page`."""

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
    """One plane cut out of a tomogram, with the membranes found in it.

    plane : "xy" (rows run along y, columns along x) or "xz" (rows along z, columns along x). Drawn with x to the right
        and y or z up, as the surfaces are.
    index : the plane's voxel index along the axis it is normal to (z for xy, y for xz).
    density : (rows, columns), any real dtype; dark is dense.
    instances : (rows, columns) integer, the membrane's id; 0 where there is none.
    """

    plane: Literal["xy", "xz"]
    index: int
    density: NDArray[Any]
    instances: NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Curves:
    """How particles lie to each other along the membranes, over all membranes of a tomogram.

    neighbor_distances_nm : (N,) geodesic distance of each particle to its nearest neighbour; NaN where it has none.
    radii_nm : (B,) radii of `pair_correlation` and `l_difference_nm`; empty where there are too few particles.
    pair_correlation : (B,) g(r); 1 for particles at random.
    l_difference_nm : (B,) Ripley's L(r) less that of particles at random on the same membranes (on a plane, L(r) - r).
    truth_neighbor_distances_nm : the same distances between the true particles, where known.
    random_correlation, random_l_difference_nm : (2, B) between which most of what is random on the same membranes lies;
        None: not simulated.  p : of so large a difference at random; None: not known.
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
    """One membrane in the table of a tomogram; None is unknown. `area_nm2` is that of one side, `bilayer_nm` the
    distance between the leaflets' density peaks.
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
    """All that the page shows of one tomogram. What a run has not made (yet) is empty."""

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
    """A column of a table. `at_least` is the value a score should reach: lower ones are marked."""

    label: str
    unit: str = ""
    digits: int = 2
    help: str = ""
    at_least: float | None = None


@dataclass(frozen=True)
class Table:
    """A table to show: cells are text, numbers, booleans or None (unknown). `footer` holds means or sums."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    footer: tuple[Any, ...] | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class StatisticsReport:
    """What particles and membranes show over all tomograms: frames as `membrain_cloud.tables` makes them.

    kinds : a row a pair of kinds of particles.  neighbors, ripley : of `nearest_neighbors()` and `ripley()`, within
    kinds.  curvature : of `histogram()`, by leaflet.  thickness : of `density_profile()`.  gaps : of `histogram()`, to
    the next membrane. Frames without rows are not drawn.
    """

    kinds: Table
    neighbors: pd.DataFrame
    ripley: pd.DataFrame
    curvature: pd.DataFrame
    thickness: pd.DataFrame
    gaps: pd.DataFrame


@dataclass(frozen=True)
class Failure:
    """A task that failed: what, why and what to do about it."""

    tomogram: str
    stage: str
    message: str
    next_step: str


@dataclass(frozen=True)
class Number:
    """One number of the header, e.g. Number("particles", 1234)."""

    label: str
    value: float | int | str | None
    unit: str = ""
    digits: int = 1


@dataclass(frozen=True, eq=False)
class ReportData:
    """The whole page. `facts` are lines of provenance: config, time, versions. No clock is read to draw it."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    numbers: tuple[Number, ...] = ()
    stages: Table | None = None
    scores: Table | None = None
    statistics: StatisticsReport | None = None
    failures: Sequence[Failure] = ()
    tomograms: Sequence[TomogramReport] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
