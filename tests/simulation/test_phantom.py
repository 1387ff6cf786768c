"""Phantoms: their truth is true, their imaging is that of a cryo-electron tomogram."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

from membrain_cloud.geometry import Grid
from membrain_cloud.image.ctf import electron_wavelength_angstrom
from membrain_cloud.simulation.builder import SpecimenBuilder
from membrain_cloud.simulation.imaging import (
    Imaging,
    image_density,
    imaging_transfer,
    tilt_sampling,
)
from membrain_cloud.simulation.membrane_shapes import Shape, ellipsoid, torus, tube
from membrain_cloud.simulation.phantom import KINDS, Phantom, PhantomSettings, make_phantom, make_specimen
from membrain_cloud.simulation.proteins import MEMBRANE_PARTICLES, UNNAMED_PARTICLES, Blobs, stamp

SMALL = PhantomSettings(shape=(64, 80, 80), membranes=2)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(3, PhantomSettings(shape=(72, 120, 120), membranes=3, particles_per_um2=(800, 1000)))


def test_the_same_seed_gives_the_same_bytes_and_another_another() -> None:
    first, again, other = make_phantom(5, SMALL), make_phantom(5, SMALL), make_phantom(6, SMALL)
    np.testing.assert_array_equal(first.density, again.density)
    np.testing.assert_array_equal(first.particles.positions, again.particles.positions)
    assert not np.array_equal(first.labels, other.labels)


def test_membranes_do_not_touch_and_each_is_one_instance(phantom: Phantom) -> None:
    numbers = sorted(phantom.membrane_areas_nm2)
    assert numbers
    _, joined = ndimage.label(phantom.labels, np.ones((3, 3, 3)))
    assert joined >= len(numbers)  # a membrane may leave the volume and come back, two never join
    for number in numbers:
        grown = ndimage.binary_dilation(phantom.instances == number, iterations=2)
        assert set(np.unique(phantom.instances[grown])) <= {0, number}


def test_particles_sit_on_the_mid_surface_of_their_membrane(phantom: Phantom) -> None:
    particles = phantom.particles
    assert len(particles) > 5
    assert len(particles) == len(phantom.particle_classes)
    voxels = np.round(phantom.grid.to_voxels(particles.positions)).astype(int)
    assert (phantom.instances[tuple(voxels.T)] == particles.membrane_ids).all()
    inside = ndimage.distance_transform_edt(phantom.labels) * phantom.voxel_spacing_angstrom
    assert inside[tuple(voxels.T)].min() > 12  # the label is at least 24 Å from mid-surface to edge
    assert particles.orientations is not None
    ahead = phantom.grid.to_voxels(particles.positions + 45 * particles.orientations[:, :, 2])
    ahead = np.clip(np.round(ahead).astype(int), 0, np.array(phantom.grid.shape) - 1)
    assert (phantom.instances[tuple(ahead.T)] == 0).mean() > 0.9  # z points out of the slab


def test_particles_keep_their_distance(phantom: Phantom) -> None:
    for number in phantom.membrane_areas_nm2:
        places = phantom.particles.positions[phantom.particles.membrane_ids == number]
        if len(places) > 1:
            apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(places))
            assert apart.min() >= 89


@pytest.mark.parametrize("name", [*MEMBRANE_PARTICLES, *UNNAMED_PARTICLES])
def test_particles_stand_in_the_membrane_and_lean_to_their_side(name: str) -> None:
    make = {**MEMBRANE_PARTICLES, **UNNAMED_PARTICLES}[name]
    made = [make(np.random.default_rng(seed)) for seed in range(20)]
    for blobs in made:
        assert (np.abs(blobs.points[:, 2]) < 22).any()
        assert np.linalg.norm(blobs.points, axis=1).max() < 330
        assert blobs.weights.min() > 0
    heights = [np.average(blobs.points[:, 2], weights=blobs.weights) for blobs in made]
    assert min(heights) > -25
    assert np.mean(heights) > 5
    sizes = {len(blobs.points) for blobs in made}
    assert len(sizes) > 10 if name in UNNAMED_PARTICLES else len(sizes) == 1


def test_the_specimen_continues_beyond_the_tomogram_without_ghosts() -> None:
    """A sheet that leaves through the top must not come back at the bottom."""
    settings = PhantomSettings(
        shape=(48, 64, 64), kinds=("sheet",), membranes=1, particles=(), cytosolic_per_um3=(1.0, 1.1),
        filaments=(0, 0), gold_beads=(0, 0), void_angstrom=(0.0, 0.0), imaging=Imaging(snr=1e6),
    )  # fmt: skip
    for seed in range(40):
        phantom = make_phantom(seed, settings)
        if phantom.labels[-1].any() and not phantom.labels[:12].any():
            break
    else:
        raise AssertionError("no sheet in forty leaves through the top alone")
    ghost = phantom.density[:3].std() / phantom.density[-3:].std()
    assert ghost < 0.5
    wrapped = make_specimen(seed, settings)
    assert wrapped.density.shape == phantom.density.shape == (48, 64, 64)


def test_membranes_are_dark(phantom: Phantom) -> None:
    flat = Imaging(defocus_um=0.0, snr=5.0, tilt_range_degrees=90)
    settings = PhantomSettings(shape=(64, 80, 80), membranes=2, gold_beads=(0, 0), imaging=flat)
    clear = make_phantom(8, settings)
    assert clear.density[clear.labels == 1].mean() < clear.density[clear.labels == 0].mean() - 0.5 * clear.density.std()


def test_two_leaflets_stand_four_nanometres_apart() -> None:
    settings = PhantomSettings(shape=(64, 64, 64), voxel_spacing_angstrom=4.0, leaflet_separation_angstrom=(40.0, 40.0))
    builder = SpecimenBuilder(np.random.default_rng(0), settings, margin=0)
    flat = Shape("sheet", lambda xyz: xyz[2] + 0 * xyz[0] + 0 * xyz[1])
    builder._draw_membrane(1, flat, builder._distance(flat), 40.0, 1.0)
    profile = builder.density[:, 32, 32]
    peaks = [k for k in range(1, 63) if profile[k] > max(profile[k - 1], profile[k + 1])]
    assert [abs(k - 31.5) * 4 for k in peaks] == pytest.approx([20, 20], abs=4)


@pytest.mark.parametrize(
    ("shape", "area_nm2"),
    [
        (ellipsoid(np.zeros(3), np.full(3, 250.0), np.eye(3)), 4 * np.pi * 25**2),
        (torus(np.zeros(3), 220.0, 110.0, np.eye(3)), 4 * np.pi**2 * 22 * 11),
        (tube(np.stack([np.zeros(400), np.zeros(400), np.arange(-1600, 1600, 8.0)], 1), 150.0), 2 * np.pi * 15 * 80),
    ],
)
def test_areas_are_those_of_the_closed_forms(shape: Shape, area_nm2: float) -> None:
    settings = PhantomSettings(shape=(80, 80, 80), void_angstrom=(0.0, 0.0))
    builder = SpecimenBuilder(np.random.default_rng(0), settings, margin=0)
    assert builder._area_nm2(builder._distance(shape)) == pytest.approx(area_nm2, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_membrane_can_be_placed(kind: str) -> None:
    for seed in range(6):
        specimen = make_specimen(seed, PhantomSettings(shape=(72, 96, 96), kinds=(kind,), membranes=1))
        if specimen.membrane_kinds:
            assert 0.005 < specimen.labels.mean() < 0.4
            return
    raise AssertionError(f"no {kind} found room in six volumes")


def test_the_missing_wedge_and_gaps_beyond_crowthers_resolution() -> None:
    density = np.random.default_rng(0).standard_normal((48, 48, 48)).astype(np.float32)
    seen = image_density(density, 10.0, Imaging(tilt_range_degrees=60, background_fraction=0.0), 1)
    power = np.abs(fft.fftn(seen)) ** 2
    kz, _, kx = np.meshgrid(*[np.fft.fftfreq(48)] * 3, indexing="ij")
    angle, radius = np.rad2deg(np.arctan2(np.abs(kz), np.abs(kx))), np.hypot(kz, kx)
    outside = (angle > 68) & (radius > 0.2)  # a plane is one Fourier voxel thick
    assert power[outside].mean() < 1e-4 * power[(angle < 55) & (radius > 0.2)].mean()

    planes = tilt_sampling((96, 96, 96), Imaging(tilt_step_degrees=3.0)).signal[:, 0, :]
    kz, kx = np.meshgrid(np.fft.fftfreq(96), np.fft.rfftfreq(96), indexing="ij")
    angle, radius = np.rad2deg(np.arctan2(np.abs(kz), np.abs(kx))), np.hypot(kz, kx)
    coarse, fine = (angle < 50) & (radius < 0.15) & (radius > 0.02), (angle < 50) & (radius > 0.4)
    assert planes[coarse].min() > 0.5  # below Crowther's resolution 96 voxels deep planes overlap
    assert (planes[fine] == 0).mean() > 0.2
    assert planes[fine].mean() == pytest.approx(1.0, abs=0.1)


def test_the_signal_to_noise_ratio_is_the_chosen_one() -> None:
    density = make_specimen(1, SMALL).density
    clean = image_density(density, 10.0, Imaging(snr=1e9), 1)
    noise = image_density(density, 10.0, Imaging(snr=0.2), 1) - clean
    assert clean.var() / noise.var() == pytest.approx(0.2, rel=0.01)


def test_contrast_transfer_has_its_first_zero_where_theory_says() -> None:
    assert electron_wavelength_angstrom(300) == pytest.approx(0.01969, abs=2e-5)
    imaging = Imaging(defocus_um=4.0, phase_flipped=False, amplitude_contrast=0.0, spherical_aberration_mm=0.0)
    zero = np.sqrt(1 / (0.01969 * 40000))
    values = imaging_transfer(np.array([0.5 * zero, zero, 1.2 * zero], np.float32), imaging)
    assert values[0] > 0.5
    assert abs(values[1]) < 0.01
    assert values[2] < 0
    assert (imaging_transfer(np.array([1.2 * zero], np.float32), Imaging(defocus_um=4.0)) > 0).all()


def test_a_stamped_particle_keeps_its_mass_and_is_cut_at_the_border() -> None:
    volume = np.zeros((40, 44, 48), np.float32)
    blob = Blobs(np.zeros((1, 3)), 15.0, np.ones(1))
    stamp(volume, blob, np.array([200.0, 163.0, 150.0]), np.eye(3), 10.0)
    assert volume.sum() == pytest.approx((2 * np.pi) ** 1.5 * 1.5**3, rel=0.04)
    centre = Grid((40, 44, 48), 10.0).to_angstrom(np.array(ndimage.center_of_mass(volume)))
    np.testing.assert_allclose(centre, [200, 163, 150], atol=0.5)
    stamp(volume, blob, np.array([0.0, 0.0, 395.0]), np.eye(3), 10.0)
    stamp(volume, blob, np.array([-900.0, 0.0, 0.0]), np.eye(3), 10.0)
    assert np.isfinite(volume).all()
