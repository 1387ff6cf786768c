"""A small synthetic project to draw: vesicles and a sheet with particles, in noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from membrain_cloud.geometry import Grid, Mesh, Picks
from membrain_cloud.report.data import (
    Column,
    Curves,
    Failure,
    MembraneRow,
    Number,
    ReportData,
    SliceView,
    Table,
    TomogramReport,
)


def make_tomogram(name: str, seed: int, shape: tuple[int, int, int] = (48, 96, 96)) -> TomogramReport:
    """Return two vesicles and an undulating sheet (membrane 3), 40 Å thick, with particles on the vesicles."""
    rng = np.random.default_rng(seed)
    grid = Grid(shape, 10.0)
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    scale = shape[2] / 96
    vesicles = [(np.array([22, 34, 30]) * scale, 17 * scale), (np.array([26, 66, 64]) * scale, 20 * scale)]
    depths = [np.abs(np.sqrt((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) - r) for c, r in vesicles]
    depths.append(np.abs(z - (8 + 2 * np.sin(x / 9 / scale) + 1.5 * np.cos(y / 12 / scale)) * scale))
    instances = np.zeros(shape, np.uint16)
    for membrane_id, depth in enumerate(depths, start=1):
        instances[(depth < 2) & (instances == 0)] = membrane_id
    leaflets = np.maximum.reduce([np.exp(-((depth - 2) ** 2)) for depth in depths])
    density = gaussian_filter(rng.normal(size=shape), 0.8) - 0.55 * leaflets
    positions, truth, ids = [], [], []
    for membrane_id, (centre, radius) in enumerate(vesicles, start=1):
        directions = rng.normal(size=(40, 3))
        points = centre + directions / np.linalg.norm(directions, axis=1, keepdims=True) * (radius + 5)
        points = points[((points > 0) & (points < np.array(shape) - 1)).all(1)]
        truth.append(grid.to_angstrom(points))
        positions.append(grid.to_angstrom(points + rng.normal(scale=0.6, size=points.shape))[: int(0.9 * len(points))])
        ids.append(np.full(len(positions[-1]), membrane_id))
    distances = np.abs(rng.normal(9, 2.5, size=sum(map(len, positions))))
    radii = np.arange(1.0, 61.0)
    correlation = 1 - np.exp(-((radii / 6) ** 2)) + 0.5 * np.exp(-(((radii - 9) / 3) ** 2)) + rng.normal(0, 0.04, 60)
    return TomogramReport(
        name=name,
        grid=grid,
        slices=(
            SliceView("xy", shape[0] // 2, density[shape[0] // 2], instances[shape[0] // 2]),
            SliceView("xz", int(34 * scale), density[:, int(34 * scale)], instances[:, int(34 * scale)]),
        ),
        meshes={i: _mesh(instances == i, grid) for i in (1, 2, 3)},
        picks=Picks(np.concatenate(positions), membrane_ids=np.concatenate(ids)),
        truth_picks=Picks(np.concatenate(truth)),
        membranes=(
            MembraneRow(1, 3631.7, True, len(positions[0]), 1e6 * len(positions[0]) / 3631.7, 8.8),
            MembraneRow(2, 5026.5, True, len(positions[1]), 1e6 * len(positions[1]) / 5026.5, 9.4),
            MembraneRow(3, 9471.2, False, 0, 0.0, None),
        ),
        curves=Curves(distances, radii, correlation, np.cumsum(correlation - 1) * 0.05, distances[::2] + 0.4),
    )


def _mesh(mask: np.ndarray, grid: Grid) -> Mesh:
    smooth = gaussian_filter(np.pad(mask, 3).astype(np.float32), 1.0)
    vertices, faces, _, _ = marching_cubes(smooth, 0.5)
    return Mesh(grid.to_angstrom(vertices - 3), faces[:, ::-1].astype(np.int32))


def make_data(names: tuple[str, ...] = ("TS_001", "TS_002"), shape: tuple[int, int, int] = (48, 96, 96)) -> ReportData:
    tomograms = tuple(make_tomogram(name, seed, shape) for seed, name in enumerate(names))
    scores = Table(
        columns=(
            Column("tomogram"),
            Column("Surface-Dice", digits=3, at_least=0.85, help="overlap of skeletons, 1 is perfect"),
            Column("particle F1", "at 63 Å", 3, at_least=0.80),
            Column("membranes found", digits=0),
        ),
        rows=tuple((name, 0.93 - 0.11 * i, 0.87 - 0.02 * i, "3 of 3") for i, name in enumerate(names)),
        footer=("mean", 0.875, 0.86, None),
        note="Synthetic numbers of the test.",
    )
    return ReportData(
        title="membrain_cloud: synthetic project",
        facts=(("config", "demo/project/config.json"), ("made", "2026-01-02 03:04"), ("membrain_cloud", "0.1.0")),
        numbers=(
            Number("tomograms", len(names)),
            Number("membranes", 3 * len(names)),
            Number("membrane area", 0.0725, "µm²", 4),
            Number("particles", 1234),
            Number("density", 2610, "/ µm²"),
            Number("failed tasks", 1),
        ),
        scores=scores,
        failures=(
            Failure("TS_009", "segment", "TS_009: chunk 0/1/2 is truncated", "copy the tomogram again, then run again"),
        ),
        tomograms=tomograms,
        stages=Table(
            (Column("stage"), Column("done", digits=0), Column("seconds", digits=1)), (("segment", 4, 12.34),)
        ),
        settings={"segment": {"model": "membrain-cloud-small", "threshold": 0.0}, "pick": {"bandwidth_angstrom": 75.0}},
    )


@pytest.fixture(scope="session")
def data() -> ReportData:
    """Return two tomograms, the second without meshes, because drawing surfaces takes longest."""
    whole = make_data()
    return dataclasses.replace(
        whole, tomograms=(whole.tomograms[0], dataclasses.replace(whole.tomograms[1], meshes={}))
    )
