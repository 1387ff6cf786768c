"""Meshes of shapes with known areas: closed, outward, even, at the right position."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from membrain_cloud.geometry import Box, Grid, Mesh
from membrain_cloud.mesh.conversion import isosurface
from membrain_cloud.mesh.conversion.mask_to_mesh import border_vertices, mesh_membrane
from membrain_cloud.segmentation.instances import instance_boxes

SPACING = 10.0
SPHERE = (27.3, 27.6, 27.9)
TORUS = (16.6, 34.4, 34.7)


def _axes(shape: tuple[int, int, int], centre: tuple[float, float, float]) -> list[np.ndarray]:
    return [a - c for a, c in zip(np.meshgrid(*map(np.arange, shape), indexing="ij"), centre, strict=True)]


def _sphere(radius: float, thickness: float, shape=(56, 56, 56), centre=SPHERE) -> np.ndarray:  # type: ignore[no-untyped-def]
    z, y, x = _axes(shape, centre)
    return np.abs(np.sqrt(z**2 + y**2 + x**2) - radius) <= thickness / 2


def _torus(large: float, small: float, thickness: float) -> np.ndarray:
    z, y, x = _axes((34, 70, 70), TORUS)
    return np.abs(np.hypot(np.hypot(y, x) - large, z) - small) <= thickness / 2


def _mesh(mask: np.ndarray, *, smoothing: float = 10.0, vertex_area: float = 400.0, spacing: float = SPACING) -> Mesh:
    grid = Grid(mask.shape, spacing)  # type: ignore[arg-type]
    mesh = mesh_membrane(mask, grid.box, grid, smoothing_angstrom=smoothing, vertex_area_angstrom2=vertex_area)
    assert mesh is not None
    _assert_sound(mesh)
    return mesh


def _assert_sound(mesh: Mesh) -> None:
    """Check for closed, consistently wound meshes without degenerate or double faces, unused or shared vertices."""
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == np.int32
    faces = mesh.faces.astype(np.int64)
    assert np.isfinite(mesh.vertices).all()
    assert len(np.unique(faces)) == len(mesh.vertices) == faces.max() + 1
    assert (mesh.face_areas_angstrom2() > 1e-6).all()
    assert len(np.unique(np.sort(faces, axis=1), axis=0)) == len(faces)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = {tuple(e) for e in edges.tolist()}
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    # one fan a vertex: the edges opposite to it form one ring
    ring_of: dict[int, dict[int, int]] = {}
    for a, b, c in faces.tolist():
        for v, p, q in ((a, b, c), (b, c, a), (c, a, b)):
            ring_of.setdefault(v, {})[p] = q
    for ring in ring_of.values():
        start = next(iter(ring))
        at, length = ring[start], 1
        while at != start:
            at, length = ring[at], length + 1
        assert length == len(ring)


def _components(mesh: Mesh) -> tuple[int, np.ndarray]:
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]]])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(mesh.vertices),) * 2)
    return connected_components(graph, directed=False)


def _volume_angstrom3(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def _euler(mesh: Mesh) -> int:
    return len(mesh.vertices) - len(mesh.faces) // 2


@pytest.mark.parametrize(("radius", "tolerance"), [(10, 0.02), (20, 0.01)])
def test_sphere_shell(radius: float, tolerance: float) -> None:
    mesh = _mesh(_sphere(radius, 5))
    expected = 4 * np.pi * ((radius + 2.5) ** 2 + (radius - 2.5) ** 2) * SPACING**2
    assert mesh.area_angstrom2() == pytest.approx(expected, rel=tolerance)
    assert len(mesh.vertices) == pytest.approx(expected / 400, rel=0.04)
    n_components, component = _components(mesh)
    assert n_components == 2  # the outer and the inner surface
    assert _euler(mesh) == 4
    centre = np.array(SPHERE[::-1]) * SPACING
    radial = mesh.vertices - centre
    distance = np.linalg.norm(radial, axis=1) / SPACING
    outside = distance > radius
    assert {len(set(component[outside])), len(set(component[~outside]))} == {1}
    # where the mask's boundary is: within half a voxel, without bias
    off = np.where(outside, distance - radius - 2.5, radius - 2.5 - distance)
    assert np.abs(off).max() < 0.55
    assert abs(off.mean()) < 0.03
    # normals point out of the slab: away from the centre outside, towards it inside
    along = (mesh.vertex_normals() * radial).sum(axis=1) / np.linalg.norm(radial, axis=1)
    assert (along[outside] > 0.9).all()
    assert (along[~outside] < -0.9).all()


def test_torus_shell() -> None:
    mask = _torus(20, 10, 5)
    mesh = _mesh(mask)
    assert mesh.area_angstrom2() == pytest.approx(4 * np.pi**2 * 20 * (12.5 + 7.5) * SPACING**2, rel=0.01)
    assert _volume_angstrom3(mesh) == pytest.approx(mask.sum() * SPACING**3, rel=0.01)
    assert _euler(mesh) == 0
    assert _components(mesh)[0] == 2


def test_triangles_are_even() -> None:
    mesh = _mesh(_torus(20, 10, 5))
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    edges = np.stack([np.linalg.norm(p - q, axis=1) for p, q in ((a, b), (b, c), (c, a))])
    quality = 4 * np.sqrt(3) * mesh.face_areas_angstrom2() / (edges**2).sum(axis=0)  # 1 for equilateral
    assert quality.mean() > 0.95
    assert quality.min() > 0.3
    assert edges.std() / edges.mean() < 0.15


@pytest.mark.parametrize("spacing", [5.0, 14.0])
def test_other_voxel_spacings(spacing: float) -> None:
    mesh = _mesh(_sphere(20, 50 / spacing), spacing=spacing)
    half = 25 / spacing
    expected = 4 * np.pi * ((20 + half) ** 2 + (20 - half) ** 2) * spacing**2
    assert mesh.area_angstrom2() == pytest.approx(expected, rel=0.02)
    assert len(mesh.vertices) == pytest.approx(expected / 400, rel=0.04)


@pytest.mark.parametrize(("thickness", "smoothing"), [(1.0, 5.0), (1.0, 10.0), (1.5, 15.0), (2.0, 10.0)])
def test_thin_masks_stay_whole(thickness: float, smoothing: float) -> None:
    mesh = _mesh(_sphere(20, thickness), smoothing=smoothing)
    assert _euler(mesh) == 4
    assert _components(mesh)[0] == 2
    assert mesh.area_angstrom2() == pytest.approx(4 * np.pi * 2 * 20**2 * SPACING**2, rel=0.03)


def test_a_cut_out_lies_where_the_whole_lies() -> None:
    mask = _sphere(12, 5)
    grid = Grid(mask.shape, SPACING)  # type: ignore[arg-type]
    box = instance_boxes(mask.astype(np.uint8))[1]
    cut = mesh_membrane(mask[box.slices], box, grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
    assert cut is not None
    distance = np.linalg.norm(cut.vertices - np.array(SPHERE[::-1]) * SPACING, axis=1) / SPACING
    assert np.minimum(np.abs(distance - 14.5), np.abs(distance - 9.5)).max() < 0.55


def test_closed_at_the_border_and_the_caps_are_found() -> None:
    mask = np.zeros((30, 60, 70), bool)
    mask[12:17] = True
    mesh = _mesh(mask)
    assert _euler(mesh) == 2
    caps = border_vertices(mesh, Grid((30, 60, 70), SPACING), margin_angstrom=15.0)
    thirds = np.zeros(len(mesh.vertices))
    for k in range(3):
        np.add.at(thirds, mesh.faces[:, k], mesh.face_areas_angstrom2() / 3)
    assert thirds[~caps].sum() == pytest.approx(2 * 60 * 70 * SPACING**2, rel=0.04)
    assert thirds[caps].sum() == pytest.approx(2 * 5 * (60 + 70) * SPACING**2, rel=0.2)
    assert mesh.vertices[:, 2].min() > 100  # the slab's own surfaces stay in place
    assert np.abs(mesh.vertices[~caps][:, 2] - 140).max() < 30


def test_no_caps_away_from_the_border() -> None:
    mesh = _mesh(_sphere(20, 5))
    assert not border_vertices(mesh, Grid((56, 56, 56), SPACING), margin_angstrom=15.0).any()


def test_slabs_give_the_same_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = _sphere(12, 4)
    whole = isosurface.level_surface(isosurface.Field(mask, 1.0))
    monkeypatch.setattr(isosurface, "_SLAB_VOXELS", 40_000)
    field = isosurface.Field(mask, 1.0)
    assert len(field.slabs) > 3
    parts = isosurface.level_surface(field)
    assert len(parts[0]) == len(whole[0])
    assert len(parts[1]) == len(whole[1])
    order = [np.lexsort(np.round(v, 3).T) for v in (whole[0], parts[0])]
    np.testing.assert_allclose(whole[0][order[0]], parts[0][order[1]], atol=1e-3)
    assert field.lost() == pytest.approx(0.0, abs=0.01)
    mesh = _mesh(mask)
    assert mesh.area_angstrom2() == pytest.approx(4 * np.pi * (14**2 + 10**2) * SPACING**2, rel=0.02)


def test_same_bytes_every_time() -> None:
    first, second = (_mesh(_sphere(12, 5)) for _ in range(2))
    assert first.vertices.tobytes() == second.vertices.tobytes()
    assert first.faces.tobytes() == second.faces.tobytes()


def test_a_ragged_mask_still_gives_a_closed_surface() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 40, 40)), 1.5)
    soft = ndimage.gaussian_filter(_sphere(11, 5, (40, 40, 40), (19.3, 19.6, 19.9)).astype(float), 1.0)
    ragged = soft + 0.35 * noise / noise.std() > 0.5
    assert len(_mesh(ragged).vertices) > 300  # _mesh holds it to be closed and without tangles


def test_specks_and_nothing_have_no_mesh() -> None:
    grid = Grid((9, 9, 9), SPACING)
    speck = np.zeros((9, 9, 9), bool)
    assert mesh_membrane(speck, grid.box, grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0) is None
    speck[4:6, 4:6, 4:6] = True
    assert mesh_membrane(speck, grid.box, grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0) is None


def test_small_holes_inside_the_slab_are_no_surface() -> None:
    mask = _sphere(20, 7)
    mask[27, 27, 47:49] = False
    assert _components(_mesh(mask))[0] == 2


def test_mask_must_fill_its_box() -> None:
    grid = Grid((9, 9, 9), SPACING)
    box = Box((0, 0, 0), (3, 3, 3))
    with pytest.raises(ValueError, match="box"):
        mesh_membrane(np.ones((4, 3, 3)), box, grid, smoothing_angstrom=10.0, vertex_area_angstrom2=400.0)
