"""The folders of a copick project: the overlay that results are written to, over an optional static root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.objects.object_store import Files


class Layer(Protocol):
    """One tree of copick's folders that can be read: a store, or the tree that a Croissant manifest lists."""

    def find(self, path: str, /) -> tuple[Files, str] | None:
        """Return the store and the path there of an object or folder, or None if it is absent.

        Parameters
        ----------
        path : str
            Path of the object or folder below the root.
        """

    def exists(self, path: str, /) -> bool:
        """Return whether an object or folder exists.

        Parameters
        ----------
        path : str
            Path of the object or folder below the root.
        """

    def children(self, path: str, /) -> dict[str, bool]:
        """Return the names directly below a folder, sorted; True marks folders. Empty if the folder is absent.

        Parameters
        ----------
        path : str
            Path of the folder below the root.
        """

    def read(self, path: str, /) -> bytes:
        """Return the content of an object.

        Parameters
        ----------
        path : str
            Path of the object below the root.

        Raises
        ------
        FileNotFoundError
            If it is absent.
        """

    def metered(self, meter: Meter, /) -> Layer:
        """Return the same tree with `meter` counting what is read through it.

        Parameters
        ----------
        meter : Meter
            What counts.
        """


class Layers:
    """The overlay and the static root as one tree. The overlay hides what the static root has under the same path.

    Parameters
    ----------
    overlay : Files
        The store that results are written to.
    static : Layer, optional
        A tree that is only read.
    """

    def __init__(self, overlay: Files, static: Layer | None = None) -> None:
        self.overlay = overlay
        self.static = static

    def metered(self, meter: Meter) -> Layers:
        """Return the same tree with `meter` counting what is read and written through it.

        Parameters
        ----------
        meter : Meter
            What counts.
        """
        return Layers(self.overlay.metered(meter), None if self.static is None else self.static.metered(meter))

    def find(self, path: str) -> tuple[Files, str] | None:
        """Return the store and the path there of an object or folder, or None if it is absent.

        Parameters
        ----------
        path : str
            Path of the object or folder below the roots.
        """
        return next((place for layer in self._layers() if (place := layer.find(path)) is not None), None)

    def exists(self, path: str) -> bool:
        """Return whether an object or folder exists in one of the layers.

        Parameters
        ----------
        path : str
            Path of the object or folder below the roots.
        """
        return any(layer.exists(path) for layer in self._layers())

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders directly below `path`, sorted.

        Parameters
        ----------
        path : str
            Path of the folder below the roots.
        """
        return self._children(path, folders=True)

    def files(self, path: str) -> list[str]:
        """Return the names of the objects directly below `path`, sorted.

        Parameters
        ----------
        path : str
            Path of the folder below the roots.
        """
        return self._children(path, folders=False)

    def read(self, path: str) -> bytes:
        """Return the content of an object.

        Parameters
        ----------
        path : str
            Path of the object below the roots.

        Raises
        ------
        FileNotFoundError
            If no layer has the object.
        """
        for layer in self._layers():
            try:
                return layer.read(path)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(path)

    def _layers(self) -> list[Layer]:
        return [self.overlay] if self.static is None else [self.overlay, self.static]

    def _children(self, path: str, *, folders: bool) -> list[str]:
        names = {
            name for layer in self._layers() for name, is_folder in layer.children(path).items() if is_folder == folders
        }
        return sorted(names)
