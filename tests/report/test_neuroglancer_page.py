"""Neuroglancer's package gets the state and the address; without it the error says how to install it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from membrain_cloud.errors import UsageError
from membrain_cloud.report.neuroglancer_page import NeuroglancerPage

if TYPE_CHECKING:
    from collections.abc import Mapping


def test_the_viewer_gets_the_state_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Viewer:
        def set_state(self, state: Mapping[str, Any]) -> None:
            calls.append(state)

        def get_viewer_url(self) -> str:
            return "http://127.0.0.1:9/v/1/"

    package = SimpleNamespace(set_server_bind_address=lambda bind, port: calls.append((bind, port)), Viewer=Viewer)
    monkeypatch.setitem(sys.modules, "neuroglancer", package)  # type: ignore[arg-type]
    page = NeuroglancerPage({"layout": "4panel"}, bind="127.0.0.1", port=9)
    assert page.url == "http://127.0.0.1:9/v/1/"
    assert calls == [("127.0.0.1", 9), {"layout": "4panel"}]


def test_an_absent_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neuroglancer", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not installed") as caught:
        NeuroglancerPage({}, bind="127.0.0.1", port=0)
    assert "membrain_cloud[view]" in caught.value.next_step
