"""Curves over distance as a data set of xarray, with a dimension for each column that they are grouped by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import xarray as xr

DISTANCE = "r_nm"
"""Dimension of distance: the upper ends of the bins."""

# Variable -> its description and unit; envelopes are added to those of `_WITH_ENVELOPES`.
_VARIABLES = {
    "n_pairs": ("ordered pairs as observed", "1"),
    "expected_pairs": ("ordered pairs expected at random on the same surfaces", "1"),
    "g": ("pair correlation, 1 at random", "1"),
    "o_per_um2": ("O-ring statistic: particles per area at that distance", "um-2"),
    "k_nm2": ("Ripley's K", "nm2"),
    "random_k_nm2": ("Ripley's K, mean at random on the same surfaces", "nm2"),
    "l_minus_r_nm": ("sqrt(K / pi) less that at random", "nm"),
}
_ENVELOPES = {"low": "lower envelope of random patterns", "high": "upper envelope of random patterns"}


def curves_as_dataset(frame: pd.DataFrame, names: Sequence[str], level: float) -> xr.Dataset:
    """Return curves over distance as a data set.

    Parameters
    ----------
    frame : DataFrame
        Curves of B bins, one row a bin, as `Analysis.ripley` returns them.
    names : sequence of str
        The columns that the curves are grouped by.
    level : float
        Share of random patterns inside the envelopes.

    Returns
    -------
    Dataset
        Float64 variables with a dimension for each of `names`, and `r_nm`. A combination of groups that has no curve is
        NaN; an unknown value of a group (NULL) is the label "".

    Raises
    ------
    UsageError
        If two curves have different bins.
    """
    import xarray as xr

    if not len(frame):
        return xr.Dataset(
            coords={name: (name, np.empty(0, str)) for name in names} | {DISTANCE: (DISTANCE, np.empty(0))}
        )
    lower = frame.groupby("r_max_nm")["r_min_nm"]
    if (lower.max() - lower.min() > 0).any():
        raise UsageError(
            "the bins differ between curves", "group by digest, or choose the rows of one run with `where`"
        )
    labels = {name: _labels(frame[name]) for name in names}
    distances, place = np.unique(frame["r_max_nm"].to_numpy(float), return_inverse=True)
    index = (*(codes for _, codes in labels.values()), place)
    shape = (*(len(values) for values, _ in labels.values()), len(distances))
    variables = {}
    for column in frame.columns:
        base, _, tail = column.rpartition("_")
        description, unit = _VARIABLES.get(column) or _VARIABLES.get(base, ("", ""))
        if not description:
            continue
        values = np.full(shape, np.nan)
        values[index] = frame[column].to_numpy(float)
        attributes: dict[str, str | float] = {"long_name": description, "units": unit}
        if column not in _VARIABLES:
            attributes |= {"long_name": f"{description}: {_ENVELOPES[tail]}", "level": level}
        variables[column] = ((*names, DISTANCE), values, attributes)
    coordinates = {name: (name, values) for name, (values, _) in labels.items()}
    of_bin = {"units": "nm", "long_name": "upper end of the bin of distance"}
    return xr.Dataset(
        variables,
        coords=coordinates
        | {
            DISTANCE: (DISTANCE, distances, of_bin),
            "r_min_nm": (DISTANCE, lower.min().to_numpy(float), of_bin | {"long_name": "lower end of the bin"}),
        },
    )


def _labels(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted labels of a column of group values, and the index of each row's label."""
    values = column.to_numpy()
    missing = column.isna().to_numpy()
    if missing.any() or values.dtype == object or values.dtype.kind not in "iufb":
        values = np.array(["" if gone else str(value) for value, gone in zip(values, missing, strict=True)], str)
    labels, codes = np.unique(values, return_inverse=True)
    return labels, codes
