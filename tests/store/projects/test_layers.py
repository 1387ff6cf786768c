"""The overlay hides the static root, and both are listed as one tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from membrain_cloud.store.objects.io_meter import Meter
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.layers import Layers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    overlay, static = Files(str(tmp_path / "overlay")), Files(str(tmp_path / "static"))
    overlay.write("runs/A/x.json", b"new")
    static.write("runs/A/x.json", b"old")
    static.write("runs/B/y.json", b"static")
    static.write("runs/notes.txt", b"")
    return Layers(overlay, static)


def test_both_layers_are_listed_once(layers: Layers) -> None:
    assert layers.folders("runs") == ["A", "B"]
    assert layers.files("runs") == ["notes.txt"]
    assert layers.files("runs/C") == []
    assert layers.exists("runs/B")
    assert not layers.exists("runs/C")


def test_the_overlay_comes_first(layers: Layers) -> None:
    assert layers.read("runs/A/x.json") == b"new"
    assert layers.read("runs/B/y.json") == b"static"
    assert layers.find("runs/A/x.json") == (layers.overlay, "runs/A/x.json")
    assert layers.find("runs/B/y.json") == (layers.static, "runs/B/y.json")
    assert layers.find("runs/C") is None
    with pytest.raises(FileNotFoundError):
        layers.read("runs/A/z.json")
    with pytest.raises(FileNotFoundError):
        Layers(layers.overlay).read("runs/B/y.json")


def test_reads_of_both_layers_are_counted(layers: Layers) -> None:
    meter = Meter()
    metered = layers.metered(meter)
    metered.read("runs/A/x.json")
    metered.read("runs/B/y.json")
    assert meter.bytes_read == len(b"new") + len(b"static")
    assert layers.overlay.meter is None
