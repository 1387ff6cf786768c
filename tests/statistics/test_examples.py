"""The examples in docstrings of the statistics give what they say."""

from __future__ import annotations

import doctest

import pytest

from membrain_cloud.statistics.membrane import surface_properties, weighted


@pytest.mark.parametrize("module", [weighted, surface_properties])
def test_examples_of_a_module(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0
