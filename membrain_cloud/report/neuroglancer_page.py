"""Neuroglancer's page, served on this machine by its own package, offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class NeuroglancerPage:
    """Serves the viewer with a state, from a thread of its own, as long as this object lives.

    UsageError where the package neuroglancer is not installed.
    """

    def __init__(self, state: Mapping[str, Any], *, bind: str, port: int) -> None:
        try:
            import neuroglancer
        except ImportError:
            raise UsageError(
                "Neuroglancer is not installed", "pip install 'membrain_cloud[view]', or open the project in napari"
            ) from None
        neuroglancer.set_server_bind_address(bind, port)
        # Its server keeps only weak references to viewers.
        self._viewer = neuroglancer.Viewer()
        self._viewer.set_state(dict(state))
        self.url = str(self._viewer.get_viewer_url())
