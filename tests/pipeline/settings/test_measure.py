"""The section `measure`: its options for the statistics, and its checks."""

from __future__ import annotations

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.settings import load_settings
from membrain_cloud.pipeline.settings.measure import MeasureSettings


def test_options_for_the_statistics() -> None:
    options = MeasureSettings(leaflets="joined", chain_members=4, n_neighbors=5, against="none").options()
    assert not options.leaflets_apart
    assert options.chains is not None
    assert (options.chains.least_members, options.chains.n_neighbors) == (4, 5)
    assert options.against == ()
    assert MeasureSettings(chains=False).options().chains is None


def test_picks_are_listed_in_their_order() -> None:
    assert MeasureSettings(picks="psii:a/1, b6f:a/1").pick_uris == ("psii:a/1", "b6f:a/1")
    assert MeasureSettings(picks="none").pick_uris == MeasureSettings().pick_uris == ()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["measure.bin_width_nm=50"], "bin_width_nm 50 is above cutoff_nm 40"),
        (["measure.against=mean_curvature"], "no property mean_curvature: did you mean mean_curvature_per_nm"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_settings(None, overrides)
