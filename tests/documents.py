"""Code blocks of the documents: where they are, and how they run.

The Python blocks of a page share one namespace, from top to bottom, and may `await`; its shell blocks share
one folder. Requests of both go to a mock provider, whatever their address: nothing leaves the process or
the machine.

A block is left out with a reason: ```` ```python skip="draws a random sample" ````. A comment `<!-- test:
python … -->` or `<!-- test: sh … -->` is a block that no reader sees: it makes what a page takes for
granted, and asserts what the page says.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchrt.providers.http import client, transport
from batchrt.testing import MockProvider, MockServer

ROOT = Path(__file__).parent.parent
LANGUAGES = {"python": "python", "py": "python", "sh": "sh", "bash": "sh", "shell": "sh", "console": "sh"}

_BLOCK = re.compile(
    r"^(?P<fence>```+)(?P<language>\w*)(?P<options>[^\n`]*)\n(?P<fenced>.*?)^(?P=fence)$"
    r"|^<!-- test: (?P<hidden>\w+)\n(?P<text>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
_SKIP = re.compile(r'^ skip="(?P<reason>[^"]+)"$')


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One block of code.

    Attributes:
        language: "python" or "sh".
        line: of its first line of code.
        skip: why it is not run; "" if it is.
    """

    language: str
    source: str
    line: int
    skip: str = ""


def blocks_of(text: str) -> list[CodeBlock]:
    """Return the Python and shell blocks of a Markdown text; raise ValueError for an unknown option."""
    found = []
    for match in _BLOCK.finditer(text):
        language = LANGUAGES.get(match["language"] or match["hidden"] or "")
        if language is None:
            continue
        source = match["fenced"] if match["hidden"] is None else match["text"]
        line = text.count("\n", 0, match.start()) + 2
        options = match["options"] or ""
        skip = _SKIP.match(options)
        if options and skip is None:
            raise ValueError(f"line {line - 1}: a block has the option skip and no other, not {options!r}")
        if source.lstrip().startswith(">>>"):
            continue  # a session: `doctest` runs it
        found.append(CodeBlock(language, source, line, skip["reason"] if skip else ""))
    return found


class Page:
    """Run the blocks of one page."""

    def __init__(self, path: Path, folder: Path, server: MockServer, requests: list[httpx.Request]) -> None:
        self._path = path
        self._folder = folder
        self._server = server
        self._names: dict[str, Any] = {"__name__": "__main__", "requests": requests, "mock_server": server}

    def run(self) -> None:
        """Run all blocks in their order; an error carries the page and the line."""
        with asyncio.Runner() as runner:
            for block in blocks_of(self._path.read_text(encoding="utf-8")):
                if block.skip:
                    continue
                if block.language == "sh":
                    self._run_shell(block)
                else:
                    self._run_python(block, runner)

    def _run_python(self, block: CodeBlock, runner: asyncio.Runner) -> None:
        # The blank lines give tracebacks the line of the page.
        source = "\n" * (block.line - 1) + block.source
        code = compile(source, self._path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, self._names))
        else:
            exec(code, self._names)

    def _run_shell(self, block: CodeBlock) -> None:
        written = self._folder / ".output"
        with written.open(
            "w", encoding="utf-8"
        ) as file:  # a server that is left running would keep a pipe open
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block.source],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(timeout=120)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        output = written.read_text(encoding="utf-8", errors="replace")
        assert process.returncode == 0, f"{self._path}:{block.line}\n{block.source}\n{output}"
        self._names["output"] = output

    def _environment(self) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb"}


@contextlib.contextmanager
def page(path: Path, folder: Path, server: MockServer, patch: pytest.MonkeyPatch) -> Iterator[Page]:
    """Prepare `folder` as a checkout in which the blocks of `path` run, with `server` as every provider."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    patch.chdir(folder)
    for name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "GEMINI_API_KEY", "AZURE_OPENAI_API_KEY"):
        patch.setenv(name, "sk-of-nobody")
    patch.setenv("OPENAI_BASE_URL", server.base_url)
    patch.setenv("XDG_CONFIG_HOME", str(folder / ".config"))
    requests: list[httpx.Request] = []
    patch.setattr(client, "Transport", through_mock(transport.Transport, server.provider, requests))
    yield Page(path, folder, server, requests)


def through_mock(
    make_transport: Callable[..., Any], provider: MockProvider, requests: list[httpx.Request]
) -> Callable[..., Any]:
    """Return a transport's constructor: `provider` answers, whatever the host; requests are recorded."""
    mock = provider.transport()

    async def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        path = re.sub(r"^.*?(?=/(chat/completions|completions|embeddings)$)", "/v1", request.url.path)
        moved = httpx.Request(
            request.method, f"http://mock{path}", headers=request.headers, content=await request.aread()
        )
        return await mock.handle_async_request(moved)

    def make(*arguments: Any, **options: Any) -> Any:
        if options.get("transport") is None and options.get("http_client") is None:
            options |= {"transport": httpx.MockTransport(answer), "ssl_context": None}
        return make_transport(*arguments, **options)

    return make
