"""The digest from which sessions and receipts are named."""

from __future__ import annotations

from membrain_cloud.pipeline.digest import digest_of


def test_the_digest_of_known_values_stays() -> None:
    """Stored receipts carry it in their names: with another value every result would be made again."""
    expected = "b13ebbe72e5e30ee4e07fdc9cae54be93b2befa1"
    assert digest_of("mask", {"threshold": 0.0, "mode": None}, [1, 2])[:40] == expected


def test_order_counts_in_lists_but_not_in_mappings() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of("a", "b") != digest_of("b", "a") != digest_of(["b", "a"])
