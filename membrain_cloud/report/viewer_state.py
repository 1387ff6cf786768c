"""The state of a Neuroglancer viewer: layers, where their data are, and the first view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid, Picks

# Length of the lines that show the particles' z axes.
NORMAL_LENGTH_ANGSTROM = 100.0
_METRES_PER_ANGSTROM = 1e-10
_PICK_COLOURS = ("#ffd54f", "#4fc3f7", "#ff8a65", "#aed581", "#ba68c8")
_GREY_SHADER = "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }\n"


@dataclass(frozen=True)
class ViewedSegmentation:
    """A segmentation to show.

    Parameters
    ----------
    name : str
        Name of the layer.
    source : str
        URL of the volume.
    labels : sequence of int
        Labels in the volume.
    mesh_source : str or None
        URL of meshes with the same labels; None without meshes.
    shown : bool
        Whether the layer is visible at first.
    """

    name: str
    source: str
    labels: Sequence[int]
    mesh_source: str | None = None
    shown: bool = True


@dataclass(frozen=True)
class View:
    """All layers of one tomogram.

    Parameters
    ----------
    grid : Grid
        Voxel grid of the tomogram.
    tomogram_source : str or None
        URL of the tomogram; None shows none.
    grey_range : tuple of 2 floats
        Densities shown as black and as white.
    segmentations : sequence of ViewedSegmentation
        Segmentations, lowest layer first.
    picks : mapping of str to Picks
        Name of the layer -> particles.
    """

    grid: Grid
    tomogram_source: str | None
    grey_range: tuple[float, float]
    segmentations: Sequence[ViewedSegmentation]
    picks: Mapping[str, Picks]


def viewer_state(view: View) -> dict[str, Any]:
    """Compute the state of the viewer.

    Parameters
    ----------
    view : View
        The layers.

    Returns
    -------
    dict
        The state, ready for JSON. Points and lines are in Å, in the tomogram's own coordinates.
    """
    x, y, z = view.grid.size_angstrom
    dimensions = {axis: [_METRES_PER_ANGSTROM, "m"] for axis in "xyz"}
    layers: list[dict[str, Any]] = []
    if view.tomogram_source is not None:
        low, high = view.grey_range
        layers.append(
            {
                "type": "image",
                "name": "tomogram",
                "source": f"zarr://{view.tomogram_source}",
                "shader": _GREY_SHADER,
                "shaderControls": {"normalized": {"range": [low, high], "window": [low, high]}},
            }
        )
    layers += [_segmentation(segmentation) for segmentation in view.segmentations]
    for number, (name, picks) in enumerate(sorted(view.picks.items())):
        layers.append(_picks(name, picks, dimensions, _PICK_COLOURS[number % len(_PICK_COLOURS)]))
    return {
        "dimensions": dimensions,
        "position": [x / 2, y / 2, z / 2],
        "crossSectionScale": max(x, y) / 450,
        "projectionScale": 1.3 * max(x, y, z),
        "projectionOrientation": [0.35, 0.0, 0.0, 0.94],
        "layers": layers,
        "layout": "4panel",
        "showSlices": False,
        "selectedLayer": {"visible": False},
    }


def _segmentation(segmentation: ViewedSegmentation) -> dict[str, Any]:
    """Return the layer of a segmentation, and of its meshes if it has any."""
    sources: list[Any] = [f"zarr://{segmentation.source}"]
    if segmentation.mesh_source is not None:
        sources.append(f"precomputed://{segmentation.mesh_source}")
    return {
        "type": "segmentation",
        "name": segmentation.name,
        "source": sources,
        "segments": [str(label) for label in segmentation.labels],
        "selectedAlpha": 0.45,
        "visible": segmentation.shown,
    }


def _picks(name: str, picks: Picks, dimensions: Mapping[str, Any], colour: str) -> dict[str, Any]:
    """Return the layer of particles: points, and lines along the z axes if orientations are known."""
    positions = picks.positions.astype(float)
    annotations: list[dict[str, Any]] = [
        {"type": "point", "id": f"{number}", "point": point}
        for number, point in enumerate(np.round(positions, 2).tolist())
    ]
    if picks.orientations is not None:
        ends = np.round(positions + NORMAL_LENGTH_ANGSTROM * picks.orientations[:, :, 2], 2)
        annotations += [
            {"type": "line", "id": f"{number}-axis", "pointA": a["point"], "pointB": end}
            for number, (a, end) in enumerate(zip(list(annotations), ends.tolist(), strict=True))
        ]
    return {
        "type": "annotation",
        "name": name,
        "source": {"url": "local://annotations", "transform": {"outputDimensions": dict(dimensions)}},
        "annotations": annotations,
        "annotationColor": colour,
        "shader": "void main() { setColor(defaultColor()); setPointMarkerSize(7.0); }",
    }
