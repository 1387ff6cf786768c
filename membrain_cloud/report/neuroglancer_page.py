"""Serve Neuroglancer's page on this machine, offline, by its own Python package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class NeuroglancerPage:
    """A local server of Neuroglancer. It runs in a thread of its own as long as this object lives.

    Parameters
    ----------
    state : mapping
        The viewer's state, see `viewer_state.viewer_state`.
    bind : str
        Address to listen on.
    port : int
        Port to listen on; 0 chooses a free one.

    Attributes
    ----------
    url : str
        Address of the page.

    Raises
    ------
    UsageError
        If the package neuroglancer is not installed.
    """

    def __init__(self, state: Mapping[str, Any], *, bind: str, port: int) -> None:
        try:
            import neuroglancer
        except ImportError:
            raise UsageError(
                "Neuroglancer is not installed", "pip install 'membrain_cloud[view]', or open the project in napari"
            ) from None
        neuroglancer.set_server_bind_address(bind, port)
        # The server keeps only weak references to viewers.
        self._viewer = neuroglancer.Viewer()
        self._viewer.set_state(dict(state))
        self.url = str(self._viewer.get_viewer_url())
