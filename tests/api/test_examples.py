"""The examples in the docstrings of the public API run and print what they show."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import membrain_cloud

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = ["", ".api.arrays", ".api.context", ".api.phantoms", ".api.projects", ".api.tomograms", ".api.volumes"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_print_what_they_show(name: str) -> None:
    module = importlib.import_module(f"membrain_cloud{name}")
    results = doctest.testmod(module, optionflags=OPTIONS)
    assert results.attempted > 0
    assert results.failed == 0


def test_every_public_function_has_an_example() -> None:
    functions = {name: getattr(membrain_cloud, name) for name in membrain_cloud.__all__}
    functions["mesh"] = importlib.import_module("membrain_cloud.api.arrays").mesh
    without = [
        name for name, value in functions.items() if inspect.isfunction(value) and ">>>" not in (value.__doc__ or "")
    ]
    assert without == []
