"""Render meshes and spheres with numpy alone: no display, no GPU, the same pixels on every machine.

Triangles are rasterised many at a time. The nearest fragment of each pixel wins (a depth buffer), and light is computed
once, on the finished buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from membrain_cloud.geometry import Mesh

Rgb = tuple[float, float, float]
"""Red, green, blue, 0 to 1."""

Floats = NDArray[np.float64]

_SUPERSAMPLING = 2
_FRAGMENTS_AT_ONCE = 4_000_000
# Unit vectors (right, up, to the viewer): direction of the light, and halfway between the light and the viewer.
_LIGHT = np.array([-0.451, 0.551, 0.702])
_HALFWAY = np.array([-0.244, 0.299, 0.922])


@dataclass(frozen=True)
class Camera:
    """An orthographic camera that shows a whole box from one direction.

    Parameters
    ----------
    lower, upper : tuple of 3 floats
        Corners of the box, xyz in Å.
    azimuth_degrees : float
        Direction of the viewer in the xy plane, counted from the x axis.
    elevation_degrees : float
        Angle of the viewer above the xy plane.
    width : int
        Width of the image in pixels; the height follows.
    margin : float
        Fraction of the width that is left free at each side.
    """

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    azimuth_degrees: float
    elevation_degrees: float
    width: int
    margin: float = 0.045

    @property
    def axes(self) -> Floats:
        """Unit vectors to the right, up and to the viewer, (3, 3), as rows in xyz."""
        azimuth, elevation = np.radians([self.azimuth_degrees, self.elevation_degrees])
        viewer = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        return np.stack([right, np.cross(viewer, right), viewer])

    @property
    def _frame(self) -> tuple[Floats, Floats]:
        """Lower and upper corner of the projected box, (2,) each, in Å of the image plane."""
        projected = self.corners() @ self.axes[:2].T
        return projected.min(0), projected.max(0)

    def corners(self) -> Floats:
        """Return the (8, 3) corners of the box; corner i has the upper x, y, z if bits 0, 1, 2 of i are set."""
        box = np.array([self.lower, self.upper])
        return np.array([[box[i & 1, 0], box[i >> 1 & 1, 1], box[i >> 2 & 1, 2]] for i in range(8)])

    @property
    def pixels_per_angstrom(self) -> float:
        """Scale of the image."""
        lower, upper = self._frame
        return float(self.width * (1 - 2 * self.margin) / (upper - lower)[0])

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        lower, upper = self._frame
        return round(float((upper - lower)[1]) * self.pixels_per_angstrom + 2 * self.margin * self.width)

    def project(self, points_xyz_angstrom: Floats) -> Floats:
        """Project points into the image.

        Parameters
        ----------
        points_xyz_angstrom : (N, 3) float64 array
            Points, Å.

        Returns
        -------
        (N, 3) float64 array
            Column, row, and nearness to the viewer, all in pixels.
        """
        lower, upper = self._frame
        scale = self.pixels_per_angstrom
        right, up, near = (np.asarray(points_xyz_angstrom, np.float64) @ self.axes.T).T
        column = self.margin * self.width + (right - lower[0]) * scale
        row = self.margin * self.width + (upper[1] - up) * scale
        return np.stack([column, row, near * scale], axis=1)


class _Buffers:
    """Depth, normal and colour of the nearest fragment of each pixel of an image."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.near = np.full(width * height, -np.inf)
        self.normal = np.zeros((width * height, 3), np.float32)
        self.colour = np.zeros((width * height, 3), np.float32)

    def write(
        self,
        column: NDArray[np.integer],
        row: NDArray[np.integer],
        near: NDArray[np.floating],
        normal: NDArray[np.floating],
        colour: Rgb | Floats,
    ) -> None:
        """Write F fragments where they are nearer than those already there.

        Parameters
        ----------
        column, row : (F,) integer array
            Pixels.
        near : (F,) floating array
            Nearness to the viewer.
        normal : (F, 3) floating array
            Normals in the camera's axes.
        colour : Rgb or (F, 3) float64 array
            One colour for all, or one each.
        """
        pixel = row * self.width + column
        order = np.argsort(
            near, kind="stable"
        )  # of several fragments in a pixel the last one written stays: the nearest
        pixel, near, normal = pixel[order], near[order], normal[order]
        nearer = near > self.near[pixel]
        pixel = pixel[nearer]
        self.near[pixel] = near[nearer]
        self.normal[pixel] = normal[nearer]
        self.colour[pixel] = colour[order][nearer] if isinstance(colour, np.ndarray) else colour

    def inside(self, column: NDArray[np.integer], row: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which pixels (any shape) lie inside the image."""
        return (column >= 0) & (row >= 0) & (column < self.width) & (row < self.height)


def render(
    meshes: Sequence[tuple[Mesh, Rgb | Floats]],
    spheres: Sequence[tuple[Floats, float, Rgb]],
    camera: Camera,
) -> NDArray[np.float32]:
    """Render meshes and spheres.

    Parameters
    ----------
    meshes : sequence of (Mesh, Rgb or (V, 3) float64 array)
        Each mesh with one colour, or with the colours of its V vertices; red, green, blue from 0 to 1.
    spheres : sequence of ((N, 3) float64 array, float, Rgb)
        Centres in Å, with one radius in Å and one colour.
    camera : Camera
        The view.

    Returns
    -------
    (height, width, 4) float32 array
        Red, green, blue (not multiplied by alpha) and alpha, 0 to 1; alpha is 0 outside all objects.
    """
    buffers = _Buffers(camera.width * _SUPERSAMPLING, camera.height * _SUPERSAMPLING)
    for mesh, colour in meshes:
        _draw_mesh(buffers, mesh, colour, camera)
    for centres, radius_angstrom, colour in spheres:
        _draw_spheres(buffers, centres, radius_angstrom, colour, camera)
    return _reduce(_light(buffers))


def _draw_mesh(buffers: _Buffers, mesh: Mesh, colour: Rgb | Floats, camera: Camera) -> None:
    """Rasterise a mesh, in groups of triangles that fit into squares of equal size."""
    points = camera.project(mesh.vertices) * _SUPERSAMPLING
    normals = (mesh.vertex_normals() @ camera.axes.T).astype(np.float32)
    corners = points[mesh.faces]
    extent = np.ceil(np.ptp(corners[:, :, :2], axis=1).max(axis=1)).astype(int) + 1
    for size in np.unique(extent):
        faces = np.flatnonzero(extent == size)
        step = max(1, _FRAGMENTS_AT_ONCE // int(size) ** 2)
        for start in range(0, len(faces), step):
            part = faces[start : start + step]
            painted = colour[mesh.faces[part]] if isinstance(colour, np.ndarray) else colour
            _draw_triangles(buffers, corners[part], normals[mesh.faces[part]], int(size), painted)


def _draw_triangles(
    buffers: _Buffers, corners: Floats, normals: NDArray[np.float32], size: int, colour: Rgb | Floats
) -> None:
    """Rasterise T triangles, each tested on a square of size x size pixels that holds it.

    `corners` and `normals` are (T, 3, 3), and so is `colour` unless it is one for all.
    """
    origin = np.floor(corners[:, :, :2].min(axis=1)).astype(int)
    (ax, ay), (bx, by), (cx, cy) = (corners[:, k, :2].T - origin.T for k in range(3))
    doubled_area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    doubled_area[np.abs(doubled_area) < 1e-9] = np.inf  # seen edge-on: all weights are 0, so no pixel is covered
    steps = np.arange(size, dtype=np.float32)

    def weights_of(x0: Floats, y0: Floats, x1: Floats, y1: Floats) -> NDArray[np.float32]:
        """Return the barycentric weight of the corner opposite the edge 0-1 in each pixel, (T, size, size)."""
        per_column, per_row = (y0 - y1) / doubled_area, (x1 - x0) / doubled_area
        constant = ((y1 - y0) * x0 - (x1 - x0) * y0) / doubled_area
        along_row = (per_column[:, None] * steps + constant[:, None]).astype(np.float32)
        return np.asarray(along_row[:, None, :] + (per_row[:, None] * steps).astype(np.float32)[:, :, None])

    of_a, of_b = weights_of(bx, by, cx, cy), weights_of(cx, cy, ax, ay)
    of_c = weights_of(ax, ay, bx, by)
    hit = (of_a > -1e-4) & (of_b > -1e-4) & (of_c > -1e-4) & (of_a + of_b + of_c > 0.5)
    triangle, row, column = np.nonzero(hit)
    row, column = row + origin[triangle, 1], column + origin[triangle, 0]
    inside = buffers.inside(column, row)
    triangle, row, column = triangle[inside], row[inside], column[inside]
    weights = np.stack([of_a[hit], of_b[hit], of_c[hit]], axis=1)[inside]
    near = (weights * corners[triangle, :, 2]).sum(1)
    normal = np.einsum("fk,fkd->fd", weights, normals[triangle])
    if isinstance(colour, np.ndarray):
        colour = np.einsum("fk,fkd->fd", weights, colour[triangle])
    buffers.write(column, row, near, normal, colour)


def _draw_spheres(buffers: _Buffers, centres: Floats, radius_angstrom: float, colour: Rgb, camera: Camera) -> None:
    """Rasterise spheres of one radius and colour."""
    if not len(centres):
        return
    points = camera.project(centres) * _SUPERSAMPLING
    radius = radius_angstrom * camera.pixels_per_angstrom * _SUPERSAMPLING
    reach = int(np.ceil(radius)) + 1
    offset = np.arange(-reach, reach + 1)
    base = np.round(points[:, :2]).astype(int)
    columns = (base[:, 0, None, None] + offset[None, None, :]).repeat(len(offset), axis=1)
    rows = (base[:, 1, None, None] + offset[None, :, None]).repeat(len(offset), axis=2)
    dx, dy = columns - points[:, 0, None, None], rows - points[:, 1, None, None]
    hit = (dx**2 + dy**2 < radius**2) & buffers.inside(columns, rows)
    sphere, dx, dy = np.nonzero(hit)[0], dx[hit], dy[hit]
    height = np.sqrt(radius**2 - dx**2 - dy**2)
    normal = np.stack([dx, -dy, height], axis=1) / radius
    buffers.write(columns[hit], rows[hit], points[sphere, 2] + height, normal, colour)


def _light(buffers: _Buffers) -> NDArray[np.float32]:
    """Shade the buffers: diffuse light from the upper left, a soft highlight, darker creases and outlines.

    Returns (height, width, 4) float32.
    """
    shape = (buffers.height, buffers.width)
    covered = np.isfinite(buffers.near).reshape(shape)
    if not covered.any():
        return np.zeros((*shape, 4), np.float32)
    normal = buffers.normal / np.maximum(np.linalg.norm(buffers.normal, axis=1, keepdims=True), 1e-6)
    inner = normal[:, 2] < 0  # the far side of a surface that is cut open
    normal[inner] *= -1
    diffuse = np.clip(normal @ _LIGHT, 0, 1)
    highlight = np.clip(normal @ _HALFWAY, 0, 1) ** 40
    near = buffers.near.reshape(shape)
    depth = np.where(covered, near, near[covered].min())
    lowest, highest = depth[covered].min(), depth[covered].max()
    cue = 0.82 + 0.18 * (depth - lowest) / max(highest - lowest, 1e-9)
    strength = (
        (0.64 + 0.58 * diffuse).reshape(shape) * cue * _crease_shade(depth, covered) * _outline_shade(near, covered)
    )
    strength *= np.where(inner.reshape(shape), 0.72, 1.0)
    colour = buffers.colour.reshape(*shape, 3) * strength[..., None] + 0.16 * highlight.reshape(shape)[..., None]
    return np.dstack([np.clip(colour, 0, 1), covered]).astype(np.float32)


def _crease_shade(depth: Floats, covered: NDArray[np.bool_]) -> Floats:
    """Return factors below 1 for pixels whose surroundings are nearer to the viewer: ambient occlusion."""
    step = 4  # the surroundings are smooth: every fourth pixel is enough
    coarse = covered[::step, ::step]
    sigma = max(depth.shape) / 90
    weight = np.maximum(gaussian_filter(coarse.astype(float), sigma / step), 1e-6)
    around = gaussian_filter(np.where(coarse, depth[::step, ::step], 0.0), sigma / step) / weight
    around = around.repeat(step, axis=0).repeat(step, axis=1)[: depth.shape[0], : depth.shape[1]]
    return np.asarray(1 - 0.45 * np.clip((around - depth) / (4 * sigma), 0, 1))


def _outline_shade(near: Floats, covered: NDArray[np.bool_]) -> Floats:
    """Return factors below 1 along jumps of depth: a thin dark line between membranes that overlap."""
    jump = 12.0 * _SUPERSAMPLING
    filled = np.where(covered, near, -1e9)
    edge = np.zeros(near.shape, bool)
    for axis in (0, 1):
        for shift in (-1, 1):
            edge |= np.roll(filled, shift, axis) - filled > jump
    return np.where(edge, 0.45, 1.0)


def _reduce(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average squares of pixels; colours are weighted by their alpha."""
    height, width = (n // _SUPERSAMPLING for n in image.shape[:2])
    squares = image.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, 4)
    alpha = squares[..., 3:].mean(axis=(1, 3))
    colour = (squares[..., :3] * squares[..., 3:]).mean(axis=(1, 3)) / np.maximum(alpha, 1e-6)
    return np.concatenate([colour, alpha], axis=2).astype(np.float32)
