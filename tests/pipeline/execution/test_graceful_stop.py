"""The first signal asks a run to stop, the second one interrupts it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from membrain_cloud.pipeline.execution.graceful_stop import StopRequest, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_request_and_the_second_an_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals(60.0) as stop:
        assert not stop.is_requested()
        os.kill(os.getpid(), number)
        assert stop.is_requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_task_in_this_process_is_interrupted_after_the_grace_time() -> None:
    with stop_on_signals(-1.9) as stop:
        stop.request()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)


def test_other_threads_do_not_touch_the_signals() -> None:
    handlers, requests = [], []

    def run() -> None:
        with stop_on_signals(1.0) as stop:
            requests.append(stop)
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
    assert isinstance(requests[0], StopRequest)
    assert not requests[0].is_requested()
