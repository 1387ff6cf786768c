"""The preprocessing filters from file to file: against whole-volume transforms, in little memory, with bad input."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import mrcfile
import numpy as np
import pytest
import scipy.fft
from click.testing import CliRunner, Result

from membrain_cloud.cli import main
from membrain_cloud.geometry import Box, Grid, Zyx, iterate_chunks
from membrain_cloud.image.deconvolution import Deconvolution, deconvolution_kernel
from membrain_cloud.image.resampling import smooth_border
from membrain_cloud.pipeline.preprocess import filters, volume_filter
from membrain_cloud.pipeline.preprocess.settings import DeconvolutionSettings, Output, Resources
from membrain_cloud.store.formats.volume_reader import read_volume
from membrain_cloud.store.formats.volume_writer import VolumeFileWriter, write_mrc
from membrain_cloud.store.objects.object_store import Files
from membrain_cloud.store.volumes.ome_zarr import create_volume
from membrain_cloud.store.volumes.scratch_array import RawArray, ScratchSpace

if TYPE_CHECKING:
    from pathlib import Path

SHAPE: Zyx = (33, 40, 51)


def call(verb: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["preprocess", verb, *map(str, arguments)])


def done(verb: str, *arguments: str | Path) -> Any:
    result = call(verb, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def density() -> np.ndarray:
    rough = np.random.default_rng(0).normal(size=SHAPE)
    spectrum = scipy.fft.rfftn(rough)
    spectrum[6:-6], spectrum[:, 8:-8] = 0, 0
    return (500 + 20 * rough + 400 * scipy.fft.irfftn(spectrum, SHAPE)).astype(np.float32)


@pytest.fixture
def tomogram(tmp_path: Path, density: np.ndarray) -> Path:
    write_mrc(str(tmp_path / "tomogram.mrc"), density, 7.84)
    return tmp_path / "tomogram.mrc"


def deconvolved(density: np.ndarray, **settings: Any) -> np.ndarray:
    parameters = DeconvolutionSettings(**settings)
    kernel = deconvolution_kernel(SHAPE, Deconvolution(**vars(parameters)), voxel_spacing_angstrom=7.84)
    return scipy.fft.irfftn(scipy.fft.rfftn(density.astype(np.float64)) * kernel(range(SHAPE[1])), SHAPE)


def test_deconvolution_filters_whole_volumes_and_keeps_planes(tomogram: Path, density: np.ndarray) -> None:
    output = tomogram.parent / "new folder" / "out.mrc"
    made = done("deconvolve", tomogram, "--output", output)
    values, header = read_volume(str(output))
    assert values.shape == SHAPE == tuple(made["shape"])
    assert values.dtype == np.float32
    assert header.voxel_spacing_angstrom == 7.84
    expected = deconvolved(density)
    np.testing.assert_allclose(values, expected, atol=2e-5 * expected.std())
    done("deconvolve", tomogram, "--output", output, "--overwrite", "--no-lowpass", "--defocus-angstrom", "30000",
         "--membrain-seg-radii")  # fmt: skip
    other = deconvolved(density, lowpass=False, defocus_angstrom=30000.0, membrain_seg_radii=True)
    np.testing.assert_allclose(read_volume(str(output))[0], other, atol=2e-5 * other.std())


@pytest.mark.parametrize("kind", ["mrc.gz", "rec", "zarr", "int16.mrc", "uint16.mrc"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, density: np.ndarray, kind: str) -> None:
    path = tmp_path / f"tomogram.{kind}"
    given = np.round(density)
    if kind == "mrc.gz":
        write_mrc(str(tmp_path / "plain.mrc"), given, 7.84)
        path.write_bytes(gzip.compress((tmp_path / "plain.mrc").read_bytes()))
    else:
        dtype = kind.split(".", maxsplit=1)[0] if "int16" in kind else "float32"
        given = np.clip(given, 0, 30000) if "uint16" in kind else given
        with VolumeFileWriter(str(path), SHAPE, 7.84, dtype) as writer:
            writer.write(Box((0, 0, 0), SHAPE), given.astype(dtype))
    done("deconvolve", path, "--output", tmp_path / "out.zarr")
    expected = deconvolved(given)
    np.testing.assert_allclose(read_volume(str(tmp_path / "out.zarr"))[0], expected, atol=2e-5 * expected.std())


def test_a_zarr_of_small_chunks_gives_the_same(tmp_path: Path, density: np.ndarray) -> None:
    files = Files(str(tmp_path / "t.zarr"))
    array = create_volume(files, "", Grid(SHAPE, 7.84), "float32", chunk=16)
    for box in iterate_chunks(SHAPE, (16, 16, 16)):
        array.write(box, density[box.slices])
    done("deconvolve", tmp_path / "t.zarr", "--output", tmp_path / "out.mrc")
    expected = deconvolved(density)
    np.testing.assert_allclose(read_volume(str(tmp_path / "out.mrc"))[0], expected, atol=2e-5 * expected.std())


def test_little_memory_takes_the_disk_and_gives_the_same(
    tomogram: Path, density: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, tight = tomogram.parent / "roomy.mrc", tomogram.parent / "tight.mrc"
    done("deconvolve", tomogram, "--output", roomy)
    monkeypatch.setattr(volume_filter, "OWN_BYTES", int(0.5 * 2**30) - 200_000)
    monkeypatch.setattr(volume_filter, "_LEAST_BYTES", 0)
    kinds = []
    array = ScratchSpace.array
    monkeypatch.setattr(ScratchSpace, "array", lambda *a: kinds.append(array(*a)) or kinds[-1])
    done("deconvolve", tomogram, "--output", tight, "--memory-gib", "0.5", "--scratch", tomogram.parent)
    assert [type(kind) for kind in kinds] == [RawArray]
    np.testing.assert_allclose(read_volume(str(tight))[0], read_volume(str(roomy))[0], atol=1e-5 * density.std())
    result = call("deconvolve", tomogram, "--output", tight, "--overwrite", "--memory-gib", "0.49985")
    assert result.exit_code == 2
    assert "--memory-gib" in result.stderr


def test_pixel_size_matching_keeps_place_and_intensity(tmp_path: Path) -> None:
    """A wave of 157 Å in 500 grey values is the same wave at another spacing."""
    z, y, x = (2 * np.pi * np.arange(n) / n for n in (48, 56, 64))
    wave = 500 + 30 * np.cos(2 * z)[:, None, None] * np.cos(3 * y)[:, None] + 10 * np.sin(4 * x)
    write_mrc(str(tmp_path / "wave.mrc"), wave.astype(np.float32), 7.84)
    for target in (10, 5):
        made = done("match-pixel-size", tmp_path / "wave.mrc", "--output", tmp_path / f"{target}.mrc",
                    "--target-spacing", str(target))  # fmt: skip
        values, header = read_volume(str(tmp_path / f"{target}.mrc"))
        z, y, x = (2 * np.pi * np.arange(n) / n for n in values.shape)
        expected = 500 + 30 * np.cos(2 * z)[:, None, None] * np.cos(3 * y)[:, None] + 10 * np.sin(4 * x)
        np.testing.assert_allclose(values, expected, atol=1e-3)
        assert header.voxel_spacing_angstrom == target
        assert tuple(made["shape"]) == values.shape
        assert all(n % 2 == 0 for n in values.shape)


def test_pixel_size_matching_normalized_is_the_direct_crop(tomogram: Path, density: np.ndarray) -> None:
    """MemBrain-seg's own steps, on the whole volume; the highest frequencies fade, so that they need no sharing."""
    output = tomogram.parent / "out.mrc"
    done("match-pixel-size", tomogram, "--output", output, "--target-spacing", "9", "--normalize")
    target = (30, 36, 44)  # 28.7, 34.8 and 44.4 rounded, then made even
    spectrum = np.fft.fftshift(scipy.fft.fftn((density - density.mean()) / density.std()))
    starts = [(n - m) // 2 for n, m in zip(SHAPE, target, strict=True)]
    spectrum = spectrum[tuple(slice(s, s + m) for s, m in zip(starts, target, strict=True))]
    border = smooth_border(SHAPE, target, memory_bytes=1 << 30)(range(target[1]))
    whole = np.empty(target)
    whole[..., : target[2] // 2 + 1] = border
    whole[..., target[2] // 2 + 1 :] = border[..., 1 : target[2] // 2][..., ::-1]
    expected = scipy.fft.ifftn(np.fft.ifftshift(spectrum) * whole).real
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(read_volume(str(output))[0], expected, atol=2e-2)
    assert np.corrcoef(read_volume(str(output))[0].ravel(), expected.ravel())[0, 1] > 0.99999


def test_equal_spacing_leaves_the_volume_as_it_is(tomogram: Path, density: np.ndarray) -> None:
    done("match-pixel-size", tomogram, "--output", tomogram.parent / "same.mrc", "--target-spacing", "7.84")
    values, _ = read_volume(str(tomogram.parent / "same.mrc"))
    np.testing.assert_allclose(values, density, atol=1e-5 * density.std())


def test_a_segmentation_goes_to_the_model_spacing_and_back(tmp_path: Path, tomogram: Path) -> None:
    labels = np.zeros((26, 32, 40), np.int16)
    labels[5:12, 8:20, 10:30] = 700
    write_mrc(str(tmp_path / "labels.mrc"), labels, 10.0)
    made = done("match-segmentation", tmp_path / "labels.mrc", "--tomogram", tomogram, "--output", tmp_path / "o.mrc")
    values, header = read_volume(str(tmp_path / "o.mrc"))
    assert values.shape == SHAPE == tuple(made["shape"])
    assert values.dtype == np.int16
    assert set(np.unique(values)) == {0, 700}
    assert header.voxel_spacing_angstrom == 7.84
    z = np.flatnonzero(values.any(axis=(1, 2)))
    assert (z[0] - 0.5, z[-1] + 0.5) == pytest.approx((4.5 * 33 / 26, 11.5 * 33 / 26), abs=1)
    write_mrc(str(tmp_path / "other.mrc"), labels[:, :20], 10.0)
    result = call("match-segmentation", tmp_path / "other.mrc", "--tomogram", tomogram, "--output", tmp_path / "p.mrc")
    assert result.exit_code == 2
    assert "along y" in result.stderr
    result = call("match-segmentation", tomogram, "--tomogram", tomogram, "--output", tmp_path / "p.mrc")
    assert "tomogram.mrc: the values are no labels" in result.stderr
    assert not (tmp_path / "p.mrc").exists()


def test_a_spectrum_is_extracted_and_matched(tmp_path: Path, tomogram: Path) -> None:
    goal = np.random.default_rng(5).normal(size=(44, 44, 44)).astype(np.float32)
    write_mrc(str(tmp_path / "goal.mrc"), goal, 6.0)
    done("extract-spectrum", tmp_path / "goal.mrc", "--output", tmp_path / "goal.tsv")
    done("match-spectrum", tomogram, "--target", tmp_path / "goal.tsv", "--output", tmp_path / "white.mrc")
    values, _ = read_volume(str(tmp_path / "white.mrc"))
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-5)
    done("extract-spectrum", tmp_path / "white.mrc", "--output", tmp_path / "white.tsv")
    amplitude = np.loadtxt(tmp_path / "white.tsv", skiprows=1)[:, -1]
    np.testing.assert_allclose(amplitude[1:-2] / np.median(amplitude), 1, rtol=0.1)


def with_values(density: np.ndarray, value: float, *, everywhere: bool) -> np.ndarray:
    changed = density.copy()
    changed[slice(None) if everywhere else (3, 4, slice(5, 7))] = value
    return changed


@pytest.mark.parametrize("verb", ["deconvolve", "match-pixel-size", "extract-spectrum", "match-spectrum"])
@pytest.mark.parametrize("fault", ["absent", "spacing 0", "spacing 1", "nan", "inf", "constant", "thin", "exists"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, density: np.ndarray, verb: str, fault: str) -> None:
    path, output = tmp_path / "tomogram.mrc", tmp_path / ("out.tsv" if verb == "extract-spectrum" else "out.mrc")
    array, spacing = density, 7.84
    if fault.startswith("spacing"):
        spacing = float(fault[-1])
    elif fault in ("nan", "inf", "constant"):
        array = with_values(density, {"nan": np.nan, "inf": np.inf, "constant": 3.0}[fault], everywhere=fault[0] == "c")
    elif fault == "thin":
        array = density[:5]
    if fault != "absent":
        with mrcfile.new(str(path)) as file:
            file.set_data(np.zeros_like(array))
            file.data[:] = array
            file.voxel_size = spacing
    if fault == "exists":
        output.write_bytes(b"precious")
    arguments: list[str | Path] = [path, "--output", output]
    if verb == "match-spectrum":
        target = tmp_path / "target.tsv"
        target.write_text("freq\tintensity\n" + "".join(f"{n}\t{100 - n}\n" for n in range(25)))
        arguments += ["--target", target]
    result = call(verb, *arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    message, _, cure = line.partition(" -> ")
    assert message.startswith(f"error: {output if fault == 'exists' else path}")
    expected = {
        "absent": "check",
        "spacing 0": "--voxel-spacing",
        "spacing 1": "--voxel-spacing",
        "nan": "repair",
        "inf": "repair",
        "constant": "nothing to filter",
        "thin": "16",
        "exists": "--overwrite",
    }
    assert expected[fault] in cure
    left = {p.name for p in tmp_path.iterdir()} - {"tomogram.mrc", "target.tsv"}
    assert left == ({output.name} if fault == "exists" else set())
    if fault.startswith("spacing"):
        assert call(verb, *arguments, "--voxel-spacing", "7.84").exit_code == 0


@pytest.mark.parametrize(
    ("verb", "arguments", "what"),
    [
        ("match-pixel-size", ["--target-spacing", "40"], "voxels"),
        ("match-pixel-size", ["--target-spacing", "0.1"], "absurd"),
        ("match-pixel-size", ["--voxel-spacing", "0.01"], "absurd"),
        ("deconvolve", ["--defocus-angstrom", "5"], "50000"),
        ("deconvolve", ["--memory-gib", "0.1"], "--memory-gib"),
        ("match-spectrum", ["--target", "absent.tsv"], "extract-spectrum"),
    ],
)
def test_settings_that_cannot_work_are_refused(tomogram: Path, verb: str, arguments: list[str], what: str) -> None:
    result = call(verb, tomogram, "--output", tomogram.parent / "out.mrc", *arguments)
    assert result.exit_code == 2, result.output
    assert what in result.stderr.splitlines()[-1]
    assert [p.name for p in tomogram.parent.iterdir()] == ["tomogram.mrc"]


def test_float16_is_written_where_asked(tomogram: Path) -> None:
    done("deconvolve", tomogram, "--output", tomogram.parent / "half.mrc", "--dtype", "float16")
    assert read_volume(str(tomogram.parent / "half.mrc"))[0].dtype == np.float16


def test_the_same_input_gives_the_same_bytes(tomogram: Path) -> None:
    for name in ("a.mrc", "b.mrc"):
        done("match-pixel-size", tomogram, "--output", tomogram.parent / name)
    assert (tomogram.parent / "a.mrc").read_bytes() == (tomogram.parent / "b.mrc").read_bytes()


def test_progress_ends_at_its_end(tomogram: Path) -> None:
    calls: list[tuple[int, int]] = []
    filters.deconvolve(
        str(tomogram),
        Output(str(tomogram.parent / "out.mrc")),
        DeconvolutionSettings(),
        Resources(),
        voxel_spacing_angstrom=None,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is read from /proc")
def test_the_memory_is_bounded(tmp_path: Path) -> None:
    """276 MB within half a GiB, interpreter and libraries included; MemBrain-seg would take 4.5 GiB."""
    shape = (90, 1024, 750)
    with VolumeFileWriter(str(tmp_path / "large.mrc"), shape, 7.84, "float32") as writer:
        for z in range(shape[0]):
            plane = np.random.default_rng(z).standard_normal((1, *shape[1:]), np.float32)
            writer.write(Box((z, 0, 0), (z + 1, *shape[1:])), plane)
    arguments = ["preprocess", "deconvolve", str(tmp_path / "large.mrc"), "--output", str(tmp_path / "out.mrc")]
    arguments += ["--memory-gib", "0.5", "--scratch", str(tmp_path), "--threads", "1"]
    code = (
        "import sys; from membrain_cloud.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout.split()[-1]) * 1024 < 2**29
