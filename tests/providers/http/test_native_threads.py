"""The end of a process that native threads still have something to tell."""

from __future__ import annotations

import _thread
import threading
from types import SimpleNamespace

import pytest

from batchrt.providers.http import native_threads as leaving


def test_it_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some other library's thread may stay in Python until the end."""
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        leave.wait()
        left.set()

    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        assert len(naps) < 10

    clock = SimpleNamespace(monotonic=lambda: 0.4 * len(naps), sleep=nap)
    monkeypatch.setattr(leaving, "time", clock)
    _thread.start_new_thread(stay, ())
    entered.wait()
    try:
        leaving.let_threads_out()
        assert len(naps) == 3
    finally:
        leave.set()
        left.wait()


def test_threads_of_python_s_own_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are `threading`'s affair."""
    leaving.let_threads_out()  # those that other tests left behind
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()

    def nap(seconds: float) -> None:
        raise AssertionError(seconds)

    monkeypatch.setattr(leaving, "time", SimpleNamespace(monotonic=float, sleep=nap))
    try:
        leaving.let_threads_out()
    finally:
        leave.set()
        thread.join()
