"""Organelles of membranes on phantoms: a mitochondrion with cristae, sheets of ER, a vesicle that touches both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from standins.shapes import Shapes

from membrain_cloud.geometry import Grid, Mesh
from membrain_cloud.statistics.context.organelles import (
    ENCLOSURE,
    OVERLAP,
    LabelVolume,
    OrganelleRules,
    assign_organelles,
)
from membrain_cloud.statistics.model.prepare import Membrane

RULES = OrganelleRules(reach_nm=8.0, least_share=0.5, least_margin=0.2, least_enclosed=0.9)
MITO, CRISTA, ER, TOUCHING, FAR = 1, 2, 3, 4, 5
CENTRE = np.array([900.0, 900.0, 900.0])


def membrane(mesh: Mesh) -> Membrane:
    return Membrane(mesh, None, np.zeros(len(mesh.vertices), bool), "")


@pytest.fixture(scope="module")
def membranes() -> dict[int, Membrane]:
    """Return a mitochondrion's outer membrane, a crista, a sheet of ER, a vesicle 2 nm off, and one far off."""
    sheet, _ = Shapes().slab(600.0, 40.0, 20.0)
    return {
        MITO: membrane(Shapes().vesicle(520.0, 480.0, tuple(CENTRE), (1500, 1300))),
        CRISTA: membrane(Shapes().vesicle(170.0, 130.0, tuple(CENTRE + 100.0))),
        ER: membrane(Mesh(sheet.vertices + np.array([600.0, 600.0, 1070.0]), sheet.faces)),
        TOUCHING: membrane(Shapes().vesicle(120.0, 80.0, tuple(CENTRE - np.array([660.0, 0, 0])))),
        FAR: membrane(Shapes().vesicle(120.0, 80.0, (200.0, 200.0, 1700.0))),
    }


def volume(spacing: float, names: dict[int, str], *, kind: str = "filled") -> LabelVolume:
    """Labels 1 (mitochondrion: filled, its membrane alone, or its lumen) and 2 (ER) on voxels of a spacing."""
    n = round(1900.0 / spacing)
    z, y, x = (axis * spacing for axis in np.indices((n, n, n)))
    radius = np.sqrt((x - 900) ** 2 + (y - 900) ** 2 + (z - 900) ** 2)
    parts = {"filled": radius < 520, "membrane": abs(radius - 500) < 40, "lumen": radius < 480}
    labels = np.zeros((n, n, n), np.uint8)
    labels[parts[kind]] = 1
    labels[(abs(z - 1570) < 30) & (x > 590) & (x < 1210) & (y > 590) & (y < 1210)] = 2
    return LabelVolume(labels, Grid((n, n, n), spacing), names)


def assigned(membranes: dict[int, Membrane], *volumes: LabelVolume, rules: OrganelleRules = RULES) -> Any:
    rows, shares = assign_organelles(membranes, volumes, rules)
    return {row["membrane_id"]: row for row in rows}, shares


BOTH = {1: "mitochondrion", 2: "er"}


@pytest.mark.parametrize("spacing", [9.0, 20.0, 40.0])
def test_filled_organelles_of_any_voxel_size(membranes: dict[int, Membrane], spacing: float) -> None:
    rows, shares = assigned(membranes, volume(spacing, BOTH))
    assert [rows[k]["organelle"] for k in rows] == ["mitochondrion", "mitochondrion", "er", None, None]
    assert [rows[k]["rule"] for k in rows] == [OVERLAP, OVERLAP, OVERLAP, None, None]
    assert rows[CRISTA]["share"] == 1.0
    assert rows[ER]["share"] > 0.9
    assert rows[FAR]["share"] == 0.0
    assert not rows[TOUCHING]["is_ambiguous"]
    # the vesicle faces the mitochondrion with a small part of its area
    touching = [share for share in shares if share["membrane_id"] == TOUCHING]
    assert [share["organelle"] for share in touching] == ["mitochondrion"]
    assert 0.0 < touching[0]["share"] < 0.2
    assert rows[MITO]["area_nm2"] == pytest.approx(4 * np.pi * (52.0**2 + 48.0**2), rel=0.01)


def test_masks_of_the_membrane_alone_enclose_what_is_inside(membranes: dict[int, Membrane]) -> None:
    rows, shares = assigned(membranes, volume(20.0, BOTH, kind="membrane"))
    assert (rows[MITO]["organelle"], rows[MITO]["rule"]) == ("mitochondrion", OVERLAP)
    assert (rows[CRISTA]["organelle"], rows[CRISTA]["rule"]) == ("mitochondrion", ENCLOSURE)
    assert rows[CRISTA]["enclosed_share"] == 1.0
    assert [rows[k]["organelle"] for k in (TOUCHING, FAR)] == [None, None]
    (inside,) = (s for s in shares if s["membrane_id"] == CRISTA)
    assert (inside["share"], inside["enclosed_share"]) == (0.0, 1.0)


def test_masks_that_end_at_the_lumen(membranes: dict[int, Membrane]) -> None:
    rows, _ = assigned(membranes, volume(20.0, BOTH, kind="lumen"))
    assert [rows[k]["organelle"] for k in (MITO, CRISTA, ER)] == ["mitochondrion", "mitochondrion", "er"]


def test_one_volume_each_equals_one_with_two_labels(membranes: dict[int, Membrane]) -> None:
    together = assigned(membranes, volume(20.0, BOTH))
    apart = assigned(membranes, volume(20.0, {1: "mitochondrion"}), volume(20.0, {2: "er"}))
    assert apart == together


def test_numbered_objects_are_told_apart() -> None:
    n, spacing = 60, 20.0
    labels = np.zeros((n, n, n), np.uint16)
    centres = {4: (300.0, 600.0, 600.0), 7: (860.0, 600.0, 600.0)}
    z, y, x = (axis * spacing for axis in np.indices((n, n, n)))
    for value, centre in centres.items():
        labels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 220**2] = value
    numbered = LabelVolume(
        labels, Grid((n, n, n), spacing), dict.fromkeys(centres, "mitochondrion"), objects_apart=True
    )
    rows, _ = assigned({k: membrane(Shapes().vesicle(200.0, 160.0, c)) for k, c in centres.items()}, numbered)
    assert {k: (row["organelle"], row["organelle_number"]) for k, row in rows.items()} == {
        4: ("mitochondrion", 4), 7: ("mitochondrion", 7),
    }  # fmt: skip


def test_a_membrane_between_two_organelles_is_ambiguous(membranes: dict[int, Membrane]) -> None:
    """Two organelles claim one membrane to nearly equal parts: none gets it, both shares are kept."""
    n, spacing = 95, 20.0
    labels = np.zeros((n, n, n), np.uint8)
    labels[:, :, : int(910 / spacing)], labels[:, :, int(910 / spacing) :] = 1, 2
    rows, shares = assigned({MITO: membranes[MITO]}, LabelVolume(labels, Grid((n, n, n), spacing), BOTH))
    row = rows[MITO]
    assert (row["organelle"], row["rule"], row["is_ambiguous"]) == (None, None, True)
    assert {share["organelle"] for share in shares} == {"er", "mitochondrion"}
    assert sum(share["share"] for share in shares) == pytest.approx(1.0)
    assert row["share"] - row["second_share"] < RULES.least_margin
    lenient = OrganelleRules(8.0, 0.5, 0.0, 0.9)
    decided, _ = assigned({MITO: membranes[MITO]}, LabelVolume(labels, Grid((n, n, n), spacing), BOTH), rules=lenient)
    assert decided[MITO]["organelle"] == decided[MITO]["second_organelle"] or decided[MITO]["share"] >= 0.5


def test_caps_at_the_border_and_bad_meshes_do_not_count() -> None:
    labels = LabelVolume(np.ones((10, 10, 10), np.uint8), Grid((10, 10, 10), 10.0), {1: "er"})
    plane = Shapes().plane(4, 10.0)
    all_caps = Membrane(plane, None, np.ones(len(plane.vertices), bool), "")
    bad = membrane(Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]], np.int32)))
    rows, shares = assigned({1: all_caps, 2: bad}, labels)
    assert [(row["organelle"], row["share"], row["area_nm2"]) for row in rows.values()] == [(None, None, 0.0)] * 2
    assert shares == []
    outside = labels.at(np.array([[-6.0, 0, 0], [94.0, 94, 94], [96.0, 0, 0]]))
    assert outside.tolist() == [0, 1, 0]
