"""Copick configs: new ones open with copick, and objects are added without loss."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from membrain_cloud.errors import BadNameError, ProjectError
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.projects.copick_config import (
    ensure_object,
    new_config,
    pickable_object,
    read_config,
    read_config_if_any,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_config_opens_with_copick(tmp_path: Path) -> None:
    copick = pytest.importorskip("copick")
    entries = [pickable_object([], "membrane", is_particle=False, identifier="GO:0016020")]
    config = tmp_path / "config.json"
    config.write_bytes(new_config("mine", "a test", Files(str(tmp_path)), objects=entries))
    root = copick.from_file(str(config))
    assert root.get_object("membrane").identifier == "GO:0016020"
    assert read_config(str(config))["overlay_root"] == f"local://{tmp_path}"


def test_labels_and_colours_of_objects_differ() -> None:
    entries: list[dict[str, object]] = [{"name": "other", "label": 2, "color": [0, 0, 0, 255]}]
    for number in range(40):
        entries.append(pickable_object(entries, f"o{number}", is_particle=True, identifier=None))
    assert len({entry["label"] for entry in entries}) == len(entries)
    assert "identifier" not in entries[-1]
    with pytest.raises(BadNameError):
        pickable_object(entries, "a_b", is_particle=True, identifier=None)


def test_objects_of_a_croissant_manifest_are_written_with_the_new_one(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"overlay_root": "x", "kept": 1}))
    inherited = [{"name": "membrane", "is_particle": False, "label": 1}]
    content = ensure_object(str(config), "psii", is_particle=True, identifier=None, inherited=inherited)
    assert [entry["name"] for entry in content["pickable_objects"]] == ["membrane", "psii"]
    assert json.loads(config.read_text()) == content
    assert content["kept"] == 1
    with pytest.raises(ProjectError, match="is a particle"):
        ensure_object(str(config), "psii", is_particle=False, identifier=None)


def test_an_optional_config_may_be_absent_or_malformed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    assert read_config_if_any(None) == {}
    assert read_config_if_any(str(tmp_path / "absent.json")) == {}
    assert read_config_if_any(str(tmp_path / "config.json")) == {}
    with pytest.raises(ProjectError, match="not a copick config"):
        read_config(str(tmp_path / "config.json"))
