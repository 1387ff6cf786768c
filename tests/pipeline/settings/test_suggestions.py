"""Suggestions for unknown names."""

from __future__ import annotations

from membrain_cloud.pipeline.settings.suggestions import suggest


def test_near_names_are_suggested_and_otherwise_all() -> None:
    assert suggest("treshold", ["threshold", "mode"]) == "did you mean threshold?"
    assert suggest("xyz", ["threshold", "mode"]) == "choose one of mode, threshold"
