"""Options on how files of other programs are read."""

from __future__ import annotations

import click

label_threshold_option = click.option(
    "--label-threshold",
    type=float,
    metavar="T",
    help="Take values above T as membrane, in scores or resampled masks (default: values are labels).",
)

empty_chunks_option = click.option(
    "--empty-chunks",
    type=click.Choice(["refuse", "fill"]),
    default="refuse",
    show_default=True,
    help="Chunks of a Zarr that are not there: refuse them, or take them as the fill value.",
)
