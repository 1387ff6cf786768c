"""The group `train`."""

from __future__ import annotations

import click


@click.group()
def train() -> None:
    """Train networks for segmentation and picking."""
