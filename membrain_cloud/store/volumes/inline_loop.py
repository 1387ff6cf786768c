"""Run a coroutine of zarr in the calling thread, with what it hands to threads.

zarr hands each read and each decoding of a chunk to another thread, and waits in a third one. For one chunk at a time
that costs up to a millisecond, and as many threads as the machine has cores. Here all of it is done by the caller.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from zarr.core.sync import sync

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


class InlineLoop(asyncio.SelectorEventLoop):
    """An event loop that does the work for other threads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()

    def run_in_executor(  # type: ignore[override]  # the same for whoever awaits it
        self, executor: Any, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call at once, and return a future that is done."""
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


# Loops that wait for the next call; a thread takes one and brings it back.
_IDLE: deque[InlineLoop] = deque()


def run_inline(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a coroutine, run in this thread.

    Where this thread runs an event loop already, as that of a notebook does, the coroutine is run by zarr's loop.

    Parameters
    ----------
    coroutine : coroutine
        A call of zarr's asynchronous interface.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        result: _T = sync(coroutine)
        return result
    loop = _take()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        _IDLE.append(loop)


def _take() -> InlineLoop:
    while _IDLE:
        try:
            loop = _IDLE.pop()
        except IndexError:  # another thread was quicker
            break
        if loop.process == os.getpid():
            return loop
    return InlineLoop()


def _close_idle() -> None:
    while _IDLE:
        _IDLE.pop().close()


atexit.register(_close_idle)
