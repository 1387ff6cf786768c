"""What every section of settings has: descriptions for the reference, and no unknown keys."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from membrain_cloud.pipeline.settings import PickSettings
from membrain_cloud.pipeline.settings.load import Settings
from membrain_cloud.pipeline.settings.section import Section, split_list

SECTIONS = {name: type(field.default) for name, field in Settings.model_fields.items()}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_every_setting_has_a_description_of_one_paragraph(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        assert field.description, name
        assert field.description == " ".join(field.description.split()), name
        assert field.description.endswith("."), name
        assert field.default is not None or "Default: " in field.description, name


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
def test_descriptions_do_not_enter_digests(section: type[Section]) -> None:
    digest_settings = section().digest_settings()
    derived = {"skip_void"}
    assert set(digest_settings) - derived == set(section.model_fields) - set(section.excluded_from_digest)
    descriptions = {field.description for field in section.model_fields.values()}
    assert not descriptions & set(map(str, digest_settings.values()))


def test_sections_are_frozen_and_refuse_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        PickSettings(treshold=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        PickSettings().threshold = 3.0  # type: ignore[misc]


def test_lists_are_comma_separated() -> None:
    assert split_list("a:b/1, c:d/2,") == ("a:b/1", "c:d/2")
    assert split_list("none") == ()
