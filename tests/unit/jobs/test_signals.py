from __future__ import annotations

import os
import signal
import threading

import pytest

from jobs.signals import signals_wait, stopping_on_signals


def test_the_first_signal_stops_and_the_rest_are_ignored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def end_slowly(done: list[str], error: Exception | None = None) -> None:
    with stopping_on_signals(), signals_wait():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        if error:
            raise error
        done.append("noted")


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        end_slowly(done)
    assert done == ["noted"]


def test_an_error_of_the_block_comes_first() -> None:
    with pytest.raises(ZeroDivisionError):
        end_slowly([], ZeroDivisionError())


def test_other_threads_are_left_alone() -> None:
    ran = []

    def work() -> None:
        with stopping_on_signals(), signals_wait():
            ran.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [1]
