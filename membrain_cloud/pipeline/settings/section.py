"""The base class of all sections of settings, and the types that their fields share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]


def _null(value: Any) -> Any:
    return None if value in ("null", "") else value


def _yes_no_as_text(value: Any) -> Any:
    """Undo YAML's reading of a bare yes or no as a truth value."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else _null(value)


OrNull = BeforeValidator(_null)
YesNo = BeforeValidator(_yes_no_as_text)
OptionalText = Annotated[str | None, OrNull]


class Section(BaseModel):
    """The settings of one stage: frozen, without unknown keys, without NaN and infinity.

    Attributes
    ----------
    excluded_from_digest : tuple of str
        Names of settings that do not affect results, or that enter the digest in another way (the model by its
        sha256, a given annotation by its URI).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    excluded_from_digest: ClassVar[tuple[str, ...]] = ()

    def digest_settings(self) -> dict[str, Any]:
        """Return the settings that a digest covers, as values for JSON."""
        return self.model_dump(mode="json", exclude=set(self.excluded_from_digest))


def split_list(value: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated text; none for the text `none`.

    Parameters
    ----------
    value : str
        The text.

    Returns
    -------
    tuple of str
        The parts, without spaces around them and without empty ones.
    """
    return () if value.strip() == "none" else tuple(part.strip() for part in value.split(",") if part.strip())
