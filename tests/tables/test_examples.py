"""The examples in docstrings of the tables give what they say."""

from __future__ import annotations

import doctest

import pytest

from membrain_cloud.tables import analysis, curves, grouping


@pytest.mark.parametrize("module", [analysis, curves, grouping])
def test_examples_of_a_module(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0
