"""Draw docs/overview.jpg: a simulated tomogram with its true membranes and particles, as in a report.

python docs/picture.py
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from membrain_cloud.mesh.conversion.mask_to_mesh import mesh_membrane
from membrain_cloud.report.data import SliceView
from membrain_cloud.report.figures import density_figure, slice_figure, surface_figure
from membrain_cloud.segmentation.instances import instance_boxes
from membrain_cloud.simulation.phantom import Phantom, PhantomSettings, make_phantom

if TYPE_CHECKING:
    from membrain_cloud.geometry import Mesh

SEED, WIDTH, GAP = 5, 640, 20


def main() -> None:
    phantom = make_phantom(SEED, PhantomSettings())
    index = int(np.argmax((phantom.instances > 0).sum(axis=(1, 2))))
    view = SliceView("xy", index, phantom.density[index], phantom.instances[index])
    plain = opened(density_figure(view)).resize((WIDTH, WIDTH), Image.Resampling.BICUBIC)
    marked = plain.copy()
    marked.alpha_composite(opened(slice_figure(view, phantom.grid, phantom.particles, None, width=WIDTH)))
    surfaces = opened(surface_figure(meshes(phantom), phantom.particles, phantom.grid, width=WIDTH))
    picture = Image.new("RGBA", (3 * WIDTH + 2 * GAP, WIDTH), "white")
    for column, image in enumerate((plain, marked, surfaces)):
        picture.alpha_composite(image, (column * (WIDTH + GAP), (WIDTH - image.height) // 2))
    picture.convert("RGB").save(Path(__file__).with_name("overview.jpg"), quality=84, optimize=True)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGBA")


def meshes(phantom: Phantom) -> dict[int, Mesh]:
    by_number = {}
    for number, box in instance_boxes(phantom.instances).items():
        mask = phantom.instances[box.slices] == number
        mesh = mesh_membrane(mask, box, phantom.grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
        if mesh is not None:
            by_number[number] = mesh
    return by_number


if __name__ == "__main__":
    main()
