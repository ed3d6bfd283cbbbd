"""pyqwest's threads at the end of a process and after a fork."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from batchrt.providers.http import pyqwest_transport
from tests.providers.http.raw import threaded_server


def test_pyqwest_transport_exit_waits_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of another library may stay in Python until the end."""
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
    monkeypatch.setattr(pyqwest_transport, "time", clock)
    _thread.start_new_thread(stay, ())
    entered.wait()
    try:
        pyqwest_transport._let_threads_out()
        assert len(naps) == 3
    finally:
        leave.set()
        left.wait()


def test_pyqwest_transport_exit_does_not_wait_for_threads_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """`threading` ends them itself."""
    pyqwest_transport._let_threads_out()  # those that other tests left behind
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()

    def nap(seconds: float) -> None:
        raise AssertionError(seconds)

    monkeypatch.setattr(pyqwest_transport, "time", SimpleNamespace(monotonic=float, sleep=nap))
    try:
        pyqwest_transport._let_threads_out()
    finally:
        leave.set()
        thread.join()


PRELUDE = """
import os, sys, anyio
from batchrt.providers.http.transport import Transport
transport = Transport({}, tls=False, timeout=20, max_response_bytes=1000)
def ask():
    return anyio.run(transport.post, sys.argv[1], b"{}").status
"""


def run_script(script: str, base_url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in a Python of its own."""
    command = [sys.executable, *flags, "-c", PRELUDE + script, base_url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_pyqwest_transport_unclosed_neither_warns_nor_hangs_at_exit() -> None:
    """A transport need not be closed."""
    with threaded_server() as base_url:
        done = run_script("print(ask())", base_url, "-X", "dev", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


LINGERING = """
import atexit, threading
from asyncio.selector_events import BaseSelectorEventLoop

leaving = threading.Event()
wake = BaseSelectorEventLoop._write_to_self

def wake_and_linger(loop):
    wake(loop)
    if threading.get_ident() != threading.main_thread().ident:
        leaving.wait()

BaseSelectorEventLoop._write_to_self = wake_and_linger
atexit.register(leaving.set)
print(ask())
"""


def test_pyqwest_transport_exit_waits_for_the_thread_of_the_last_answer() -> None:
    """Having woken the loop it wants the interpreter back, which must not be ending by then."""
    with threaded_server() as base_url:
        done = run_script(LINGERING, base_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


FORK = """
if {before}: ask()
child = os.fork()
if child == 0:
    try:
        print(ask(), flush=True)
    except RuntimeError as error:
        print("spawn" in str(error), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(("before", "said"), [(False, "200\n"), (True, "True\n")])
def test_pyqwest_transport_after_a_fork_works_or_is_an_error(before: bool, said: str) -> None:
    """Before the first request forking is fine; after it, an error instead of waiting forever."""
    with threaded_server() as base_url:
        done = run_script(FORK.format(before=before), base_url)
    assert (done.returncode, done.stdout) == (0, said)
