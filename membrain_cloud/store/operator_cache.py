"""A cache of the operators of surface patches: one file per patch in a folder, named by a hash of its content.

A prediction on the same meshes (with another checkpoint, or other clustering settings) reads them from there. Torn and
foreign files count as absent. Nothing else depends on the folder, which may be removed at any time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from membrain_cloud.atomic import replace_atomically
from membrain_cloud.errors import storage_error
from membrain_cloud.mesh.spectral.operators import Operators

if TYPE_CHECKING:
    import os

_PARTS = ("data", "indices", "indptr")


class OperatorFiles(MutableMapping[str, Operators]):
    """A mapping from content keys to operators, kept in a folder.

    Parameters
    ----------
    folder : path-like
        The folder; it is made if it is absent.

    Raises
    ------
    StorageError, TransientError
        If the folder cannot be made, or a file cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, str(folder)) from error

    def __getitem__(self, key: str) -> Operators:
        try:
            with self._file(key).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                gradients = [
                    scipy.sparse.csr_matrix(
                        tuple(stored[f"{axis}_{part}"] for part in _PARTS), shape=(len(stored["mass"]),) * 2
                    )
                    for axis in "xy"
                ]
                return Operators(stored["mass"], stored["eigenvalues"], stored["eigenvectors"], *gradients)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Operators) -> None:
        gradients = {
            f"{axis}_{part}": getattr(matrix, part)
            for axis, matrix in (("x", value.gradient_x.tocsr()), ("y", value.gradient_y.tocsr()))
            for part in _PARTS
        }

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # `savez` would append .npz to a path
                np.savez(
                    file,
                    mass=value.mass,
                    eigenvalues=value.eigenvalues,
                    eigenvectors=value.eigenvectors,
                    **gradients,
                )

        try:
            replace_atomically(self._file(key), write, flush=False)  # a torn file counts as absent
        except OSError as error:
            raise storage_error(error, str(self._folder)) from error

    def __contains__(self, key: object) -> bool:
        try:
            self[str(key)]
        except KeyError:
            return False
        return True

    def __delitem__(self, key: str) -> None:
        try:
            self._file(key).unlink()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(file.stem for file in self._folder.glob("*.npz")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.npz"
