"""The choice of one tomogram per run does not depend on where the catalog is stored."""

from __future__ import annotations

import pytest

from membrain_cloud.errors import BadNameError, MembrainCloudError, ProjectError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.catalog import CopickCatalog, choose_tomograms, no_such_run
from membrain_cloud.store.projects.layers import Layers
from membrain_cloud.store.refs import TomogramRef


class MemoryCatalog:
    """A catalog of given tomograms: a third implementation of the protocol."""

    is_frozen = True

    def __init__(self, *tomograms: TomogramRef) -> None:
        self._tomograms = tomograms

    def runs(self) -> list[str]:
        return sorted({ref.run for ref in self._tomograms})

    def bad_runs(self) -> dict[str, MembrainCloudError]:
        return {}

    def check_runs(self, runs: object) -> list[str]:
        return sorted(set(runs))  # type: ignore[call-overload]

    def tomograms(self, run: str) -> list[TomogramRef]:
        return [ref for ref in self._tomograms if ref.run == run]

    def dataset_of(self, run: str) -> None:
        return None

    def tomogram_id(self, run: str) -> None:
        return None


CATALOG = MemoryCatalog(
    TomogramRef("A", "raw", 10.0),
    TomogramRef("A", "wbp", 20.0),
    TomogramRef("A", "wbp", 13.0),
    TomogramRef("B", "raw", 10.0),
    TomogramRef("C", "wbp", 10.0),
    TomogramRef("C", "isonet-denoised", 40.0),
)


def chosen(runs: list[str] | None = None, kind: str | None = None, spacing: float | None = None) -> list[str]:
    return [ref.key for ref in choose_tomograms(CATALOG, runs, kind, spacing)]


def test_denoised_then_wbp_then_the_spacing_near_10_is_preferred() -> None:
    assert chosen() == ["A/wbp@13.000", "B/raw@10.000", "C/isonet-denoised@40.000"]


def test_type_and_spacing_restrict_the_choice() -> None:
    assert chosen(kind="wbp") == ["A/wbp@13.000", "C/wbp@10.000"]
    assert chosen(["C", "A"], spacing=10.0004) == ["A/raw@10.000", "C/wbp@10.000"]
    with pytest.raises(ProjectError, match="of type sirt at any") as caught:
        chosen(kind="sirt")
    assert caught.value.next_step == "there are: isonet-denoised@40, raw@10, wbp@10, wbp@13, wbp@20"


def test_an_absent_run_is_answered_with_its_neighbours() -> None:
    assert no_such_run("p", "TS_1", ["TS_2", "x"], "none").next_step == "near it: TS_2"
    assert no_such_run("p", "TS_1", [], "the project has no runs").next_step == "the project has no runs"


def test_runs_of_the_config_are_only_checked() -> None:
    catalog = CopickCatalog("config.json", Layers(Files("memory://empty-catalog")), ["TS_1", "../x"])
    assert catalog.runs() == []
    assert list(catalog.bad_runs()) == ["../x"]
    with pytest.raises(ProjectError, match=r"config\.json has no run 'TS_1'"):
        catalog.check_runs(["TS_1"])
    with pytest.raises(BadNameError):
        catalog.check_runs(["../x"])
