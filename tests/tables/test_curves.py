"""Curves of summed pair counts, their envelopes and p-values, on made-up counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.tables.curves import Curve, RandomCurves, share_at_least, significance


def rows(n_pairs: list[int], expected: float = 100.0) -> pd.DataFrame:
    """Return pair counts of one membrane in bins of 1 nm."""
    bins = np.arange(len(n_pairs))
    return pd.DataFrame(
        {
            "bin": bins,
            "r_min_nm": bins.astype(float),
            "r_max_nm": bins + 1.0,
            "n_pairs": n_pairs,
            "area_sum_nm2": 1000.0,
            "expected_pairs": expected,
            "n_start": 10,
        }
    )


def random_rows(counts: np.ndarray) -> pd.DataFrame:
    """Return (simulations, bins) counts as rows; bins without pairs have none."""
    simulation, number = np.nonzero(counts)
    return pd.DataFrame({"simulation": simulation, "bin": number, "n_pairs": counts[simulation, number]})


def test_a_curve_pools_membranes_by_sums() -> None:
    curve = Curve(pd.concat([rows([100, 300]), rows([300, 100])]))
    np.testing.assert_allclose(curve.g, [2.0, 2.0])
    np.testing.assert_allclose(curve.o, 400 / 2000.0)
    np.testing.assert_allclose(np.cumsum(curve.counted) * curve.per_k, curve.k)
    frame = curve.frame()
    assert frame["n_pairs"].tolist() == [400, 400]
    np.testing.assert_allclose(frame["o_per_um2"], 0.2e6)


def test_different_bins_are_refused() -> None:
    other = rows([1, 2])
    other["r_max_nm"] *= 2.0
    with pytest.raises(UsageError, match="different bins") as caught:
        Curve(pd.concat([rows([1, 2]), other]))
    assert "digest" in caught.value.next_step


def test_envelopes_hold_the_level_and_are_nan_without_simulations() -> None:
    curve = Curve(rows([100]))
    simulated = RandomCurves(curve, random_rows(np.arange(1, 20)[:, None] * 10))
    limits = simulated.envelopes(0.9)
    # the ranks 1 and 19 of 19 simulations
    assert limits["g_low"] == pytest.approx([0.1])
    assert limits["g_high"] == pytest.approx([1.9])
    assert np.isnan(RandomCurves(curve, None).envelopes(0.9)["k_nm2_low"])


def test_a_curve_above_all_simulations_is_clustered() -> None:
    rng = np.random.default_rng(0)
    random = random_rows(rng.poisson(100.0, (39, 5)))
    clustered = Curve(rows([100, 300, 100, 100, 100]))
    outcome = significance(clustered, RandomCurves(clustered, random), 0.0, np.inf)
    assert (outcome["p"], outcome["direction"], outcome["n_simulations"]) == (1 / 40, "clustered", 39)
    assert outcome["r_nm"] == 2.0
    spaced = Curve(rows([10, 10, 100, 100, 100]))
    assert significance(spaced, RandomCurves(spaced, random), 0.0, np.inf)["direction"] == "spaced"
    nothing = significance(clustered, RandomCurves(clustered, None), 0.0, np.inf)
    assert np.isnan(nothing["p"])
    assert nothing["direction"] is None


def test_p_counts_the_observation_as_a_simulation() -> None:
    assert share_at_least(5.0, np.arange(9.0)) == 0.5
    assert share_at_least(10.0, np.arange(9.0)) == 0.1
    assert np.isnan(share_at_least(1.0, []))
