"""Meshes and spheres drawn into an image with numpy alone: no display, no GPU, the same pixels everywhere.

Triangles are turned into fragments many at a time, the nearest fragment of each pixel wins (a depth buffer), and
light is computed once, on the finished buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from membrain_cloud.geometry import Mesh

Rgb = tuple[float, float, float]

_SUPERSAMPLING = 2
_FRAGMENTS_AT_ONCE = 4_000_000
# Unit vectors (right, up, to the viewer): where the light is, and halfway between it and the viewer.
_LIGHT = np.array([-0.451, 0.551, 0.702])
_HALFWAY = np.array([-0.244, 0.299, 0.922])


@dataclass(frozen=True)
class Camera:
    """An orthographic camera that looks from a direction onto a box and shows all of it.

    lower, upper : corners of the box, xyz in Å.  width, height : of the image in pixels.  margin : fraction left free.
    """

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    azimuth_degrees: float
    elevation_degrees: float
    width: int
    margin: float = 0.045

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3): the image's right, its up, and the direction to the viewer, as rows in xyz."""
        azimuth, elevation = np.radians([self.azimuth_degrees, self.elevation_degrees])
        viewer = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        return np.stack([right, np.cross(viewer, right), viewer])

    @property
    def _frame(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper corner of the projected box, in Å of the image plane."""
        projected = self.corners() @ self.axes[:2].T
        return projected.min(0), projected.max(0)

    def corners(self) -> NDArray[np.float64]:
        """(8, 3) corners of the box; corner i has the upper x, y, z where bits 0, 1, 2 of i are set."""
        box = np.array([self.lower, self.upper])
        return np.array([[box[i & 1, 0], box[i >> 1 & 1, 1], box[i >> 2 & 1, 2]] for i in range(8)])

    @property
    def pixels_per_angstrom(self) -> float:
        lower, upper = self._frame
        return float(self.width * (1 - 2 * self.margin) / (upper - lower)[0])

    @property
    def height(self) -> int:
        lower, upper = self._frame
        return round((upper - lower)[1] * self.pixels_per_angstrom + 2 * self.margin * self.width)

    def project(self, points_xyz_angstrom: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 3) xyz in Å -> (N, 3): column and row in pixels, and nearness to the viewer in pixels."""
        lower, upper = self._frame
        scale = self.pixels_per_angstrom
        right, up, near = (np.asarray(points_xyz_angstrom, np.float64) @ self.axes.T).T
        column = self.margin * self.width + (right - lower[0]) * scale
        row = self.margin * self.width + (upper[1] - up) * scale
        return np.stack([column, row, near * scale], axis=1)


class _Buffers:
    """Depth, normal and colour of the nearest fragment of each pixel."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.near = np.full(width * height, -np.inf)
        self.normal = np.zeros((width * height, 3), np.float32)
        self.colour = np.zeros((width * height, 3), np.float32)

    def write(
        self, column: NDArray, row: NDArray, near: NDArray, normal: NDArray, colour: Rgb | NDArray[np.float64]
    ) -> None:
        pixel = row * self.width + column
        order = np.argsort(near, kind="stable")  # of equal pixels the last one written, the nearest, stays
        pixel, near, normal = pixel[order], near[order], normal[order]
        nearer = near > self.near[pixel]
        pixel = pixel[nearer]
        self.near[pixel] = near[nearer]
        self.normal[pixel] = normal[nearer]
        self.colour[pixel] = colour[order][nearer] if isinstance(colour, np.ndarray) else colour

    def inside(self, column: NDArray, row: NDArray) -> NDArray[np.bool_]:
        return (column >= 0) & (row >= 0) & (column < self.width) & (row < self.height)


def render(
    meshes: Sequence[tuple[Mesh, Rgb | NDArray[np.float64]]],
    spheres: Sequence[tuple[NDArray[np.float64], float, Rgb]],
    camera: Camera,
) -> NDArray[np.float32]:
    """Draw meshes and spheres as the camera sees them.

    Parameters
    ----------
    meshes : each with its colour (r, g, b in 0...1), or (V, 3), one a vertex.
    spheres : each (N, 3) centres in Å, one radius in Å, one colour.

    Returns
    -------
    (height, width, 4) float32 in 0...1: red, green, blue (not multiplied by alpha), and alpha, 0 where nothing is.
    """
    buffers = _Buffers(camera.width * _SUPERSAMPLING, camera.height * _SUPERSAMPLING)
    for mesh, colour in meshes:
        _draw_mesh(buffers, mesh, colour, camera)
    for centres, radius_angstrom, colour in spheres:
        _draw_spheres(buffers, centres, radius_angstrom, colour, camera)
    return _reduce(_light(buffers))


def _draw_mesh(buffers: _Buffers, mesh: Mesh, colour: Rgb | NDArray[np.float64], camera: Camera) -> None:
    points = camera.project(mesh.vertices) * _SUPERSAMPLING
    normals = (mesh.vertex_normals() @ camera.axes.T).astype(np.float32)
    corners = points[mesh.faces]
    extent = np.ceil(np.ptp(corners[:, :, :2], axis=1).max(axis=1)).astype(int) + 1
    for size in np.unique(extent):
        faces = np.flatnonzero(extent == size)
        step = max(1, _FRAGMENTS_AT_ONCE // int(size) ** 2)
        for start in range(0, len(faces), step):
            chosen = faces[start : start + step]
            painted = colour[mesh.faces[chosen]] if isinstance(colour, np.ndarray) else colour
            _draw_triangles(buffers, corners[chosen], normals[mesh.faces[chosen]], int(size), painted)


def _draw_triangles(
    buffers: _Buffers, corners: NDArray, normals: NDArray, size: int, colour: Rgb | NDArray[np.float64]
) -> None:
    """corners, normals : (T, 3, 3), and the colour, if not one for all.

    Each triangle is tested on a square of size x size pixels that holds it.
    """
    origin = np.floor(corners[:, :, :2].min(axis=1)).astype(int)
    (ax, ay), (bx, by), (cx, cy) = (corners[:, k, :2].T - origin.T for k in range(3))
    doubled_area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    doubled_area[np.abs(doubled_area) < 1e-9] = np.inf  # seen edge-on: its shares are all zero, it hits nothing
    steps = np.arange(size, dtype=np.float32)

    def share(x0: NDArray, y0: NDArray, x1: NDArray, y1: NDArray) -> NDArray:
        """How much of the corner opposite of the edge 0-1 is in each pixel: linear in column and row."""
        per_column, per_row = (y0 - y1) / doubled_area, (x1 - x0) / doubled_area
        constant = ((y1 - y0) * x0 - (x1 - x0) * y0) / doubled_area
        along_row = (per_column[:, None] * steps + constant[:, None]).astype(np.float32)
        return along_row[:, None, :] + (per_row[:, None] * steps).astype(np.float32)[:, :, None]

    of_a, of_b = share(bx, by, cx, cy), share(cx, cy, ax, ay)
    of_c = share(ax, ay, bx, by)
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


def _draw_spheres(
    buffers: _Buffers, centres: NDArray[np.float64], radius_angstrom: float, colour: Rgb, camera: Camera
) -> None:
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
    """Buffers -> (height, width, 4): diffuse light from the upper left, a soft highlight, creases and outlines."""
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


def _crease_shade(depth: NDArray, covered: NDArray[np.bool_]) -> NDArray:
    """Darker where the surroundings are nearer to the viewer: what ambient light does not reach."""
    step = 4  # the surroundings are smooth, every fourth pixel tells them
    coarse = covered[::step, ::step]
    sigma = max(depth.shape) / 90
    weight = np.maximum(gaussian_filter(coarse.astype(float), sigma / step), 1e-6)
    around = gaussian_filter(np.where(coarse, depth[::step, ::step], 0.0), sigma / step) / weight
    around = around.repeat(step, axis=0).repeat(step, axis=1)[: depth.shape[0], : depth.shape[1]]
    return 1 - 0.45 * np.clip((around - depth) / (4 * sigma), 0, 1)


def _outline_shade(near: NDArray, covered: NDArray[np.bool_]) -> NDArray:
    """A thin dark line where depth jumps: it keeps touching membranes apart."""
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
