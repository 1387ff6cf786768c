"""Coroutines are run in the calling thread, and by zarr's loop where a loop runs there already."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from membrain_cloud.store.volumes.inline_loop import InlineLoop, run_inline


async def names_of_threads() -> tuple[str, str, bool]:
    here = threading.current_thread().name
    there = await asyncio.to_thread(lambda: threading.current_thread().name)
    return here, there, isinstance(asyncio.get_running_loop(), InlineLoop)


def test_everything_is_done_by_the_caller() -> None:
    own = threading.current_thread().name
    assert run_inline(names_of_threads()) == (own, own, True)
    with ThreadPoolExecutor(4, "readers") as pool:
        for here, there, is_inline in pool.map(lambda _: run_inline(names_of_threads()), range(20)):
            assert here == there
            assert here.startswith("readers")
            assert is_inline


def test_errors_pass() -> None:
    async def fail() -> None:
        await asyncio.to_thread(lambda: 1 // 0)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_inline(fail())


def test_a_running_loop_is_no_obstacle() -> None:
    async def notebook() -> tuple[str, str, bool]:
        return run_inline(names_of_threads())

    here, _, is_inline = asyncio.run(notebook())
    assert here != threading.current_thread().name
    assert not is_inline
