"""The operators of surface patches in a folder, one file a patch, named by a hash of its content.

Whoever predicts on the same meshes again (another checkpoint, other settings of the clustering) finds them there. Torn
or foreign files are as good as absent; nothing else hangs on the folder, and it may be removed at any time.
"""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np
import scipy.sparse

from membrain_cloud.errors import storage_error
from membrain_cloud.mesh.spectral.operators import Operators

_PARTS = ("data", "indices", "indptr")


class OperatorFiles(MutableMapping[str, Operators]):
    """A mapping from content keys to operators, kept in `folder` (made if needed)."""

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
        temporary = self._folder / f".{key}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    mass=value.mass,
                    eigenvalues=value.eigenvalues,
                    eigenvectors=value.eigenvectors,
                    **gradients,
                )
            os.replace(temporary, self._file(key))
        except OSError as error:
            raise storage_error(error, str(self._folder)) from error
        finally:
            temporary.unlink(missing_ok=True)

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
