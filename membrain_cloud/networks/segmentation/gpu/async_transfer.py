"""Copy results of a device to the host while both continue to work."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, cuda, empty

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Later:
    """A tensor whose copy to the host's memory is under way; on a CPU the tensor itself.

    Parameters
    ----------
    values : Tensor
        Values on the device.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: cuda.Event | None = None
        self._values = values
        if values.device.type == "cuda":
            # Only into pinned memory does a copy go on beside the device's work.
            self._values = empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = cuda.Event()
            self._arrived.record()

    def array(self) -> NDArray[np.float32]:
        """Return the values as an array once the copy is finished; later work of the device is not waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return cast("NDArray[np.float32]", self._values.numpy())

    def wait(self) -> list[float]:
        """Return one-dimensional values as numbers."""
        return [float(value) for value in self.array()]
