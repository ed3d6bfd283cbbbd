"""The command line in this process, with nothing of the machine's own environment."""

from __future__ import annotations

import io
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, Protocol

import anyio
import pytest

from batchrt.cli import job
from batchrt.cli import process as process_module
from batchrt.cli.main import main
from batchrt.files import row_writer
from batchrt.testing.pytest_plugin import mock_provider, mock_server
from tests import virtual

__all__ = ["Command", "Result", "command", "mock_provider", "mock_server"]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The message, in one line, and nothing else."""
        assert self.out == ""
        [line] = self.err.splitlines()
        assert line.startswith("batchrt: ")
        return line.removeprefix("batchrt: ")


class Command(Protocol):
    def __call__(self, *arguments: object, stdin: bytes | None = None) -> Result: ...


@pytest.fixture(autouse=True)
def _bare_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    known = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
    for name in (*known, *(name for name in os.environ if name.startswith("BATCHRT_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")  # an unknown host is no matter of many seconds
    # In tests signals come at once, and each is meant.
    monkeypatch.setattr(process_module, "_ONE_SIGNAL", -1)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `batchrt` with these arguments, and `stdin` in a pipe's place."""

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert isinstance(left.value.code, int)
        return Result(left.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs run on a clock that jumps to where something happens: minutes pass at once."""

    def virtual_run(main: Callable[[], Awaitable[Any]], **_options: object) -> None:
        virtual.run(main, longest=math.inf)

    class VirtualAnyio:
        """Replace `run` and nothing else; the attributes of `anyio` are loaded when they are asked for."""

        run = staticmethod(virtual_run)

        def __getattr__(self, name: str) -> Any:
            return getattr(anyio, name)

    async def at_once(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(job, "anyio", VirtualAnyio())
    # The clock would jump while a thread writes.
    monkeypatch.setattr(row_writer, "run_sync", at_once)
