"""Last step of the image's build: check what is installed, write the bill of materials, remove what is not needed.

Run it with the Python of the environment that becomes the image. Exit code 1 and one line if the image is wrong.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(sys.prefix)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--cyclonedx", required=True, metavar="PROGRAM", help="cyclonedx-py, from outside of the image")
    options = parser.parse_args()
    variant = options.variant
    import torch

    has_cuda = torch.version.cuda is not None
    if has_cuda != (variant == "cuda"):
        kind = f"for CUDA {torch.version.cuda}" if has_cuda else "for the CPU"
        print(f"error: VARIANT={variant}, but pip installed torch {torch.__version__} {kind}", file=sys.stderr)
        print("-> name the package index of that variant in pip.conf (docs/deploy/image.md)", file=sys.stderr)
        return 1
    remove_installer()
    write_bill_of_materials(options.cyclonedx, ENVIRONMENT / "share" / "membrain-cloud")
    remove_tests()
    # Compile here: the image's files are read-only when it runs.
    compileall.compile_dir(str(ENVIRONMENT), quiet=2)
    return 0


def write_bill_of_materials(cyclonedx: str, folder: Path) -> None:
    """Write sbom.cdx.json with cyclonedx-py, and licences.md with `membrain-cloud sbom`, which reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    bill = folder / "sbom.cdx.json"
    subprocess.run(
        [cyclonedx, "environment", "--pyproject", "pyproject.toml", "--output-file", str(bill), sys.executable],
        check=True,
    )
    program = [sys.executable, "-m", "membrain_cloud", "sbom", "--licences"]
    subprocess.run([*program, "--output", str(folder / "licences.md")], check=True)


def remove_installer() -> None:
    """Uninstall pip: nothing is installed into a running image, and an intruder should not find it."""
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "pip"], check=True)


def remove_tests() -> None:
    """Remove tests and headers of the large libraries, about a tenth of the image."""
    packages = next(ENVIRONMENT.glob("lib/python3*/site-packages"))
    for pattern in ("torch/include", "torch/test", "pyarrow/include", "numba/tests", "scipy/**/tests", "pandas/tests"):
        for folder in packages.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
