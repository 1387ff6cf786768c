"""Factors between units, each written once."""

from __future__ import annotations

ANGSTROM_PER_NM = 10.0
"""Ångström in a nanometre."""

GIB = 1024**3
"""Bytes in a gibibyte."""
