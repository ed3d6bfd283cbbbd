"""Canaries: a key and a prompt that may be shown nowhere, in runs that meet every fault."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import traceback
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import cloudpickle
import pytest

from batchrt import (
    ChatOpenAI,
    Job,
    OpenAI,
    OpenAIEmbeddings,
    PromptTemplate,
    ProviderError,
    StrOutputParser,
)
from batchrt.providers.http.secrets import Hidden
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.reliability.conftest import Figure

KEY = "sk-canary-5b7c1f0e9d"
PROMPT = "the-canary-prompt-77aa"

QUICK = {
    *(Fault.SERVER_ERROR, Fault.MALFORMED_JSON, Fault.UNAUTHORIZED, Fault.RATE_LIMIT_MS),
    *(Fault.DROP_MID_BODY, Fault.STALL, Fault.NAN_IN_VECTOR, Fault.ERROR_IN_200),
}
FAULTS = [
    pytest.param(fault, id=fault.value, marks=() if fault in QUICK else pytest.mark.long)
    for fault in Fault
    if fault.takes != "size" and not fault.of_streams
]


class Shown:
    """Collect all that a run shows, by where it is."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, thing: Any) -> None:
        self.texts += [(f"{where} repr", repr(thing)), (f"{where} str", str(thing))]

    def add_error(self, error: BaseException) -> None:
        self.add(type(error).__name__, error)
        self.add("its data", vars(error))
        shown: Any = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.texts.append(("traceback", "".join(shown.format())))
        self.texts.append(("pickled error", pickle.dumps(error).decode("latin-1")))

    def has(self, canary: str, *, but: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        return [(where, text[:2_000]) for where, text in self.texts if canary in text and where not in but]


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Iterator[Shown]:
    """Collect logs of every level and warnings as well."""
    found = Shown()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield found
    for record in caplog.records:
        found.add("log", record.getMessage())
        found.add("log record", vars(record))
    for warning in warned:
        found.add("warning", warning.message)
    assert not found.has(KEY)
    # A traceback with variables has the values of the functions that it goes through.
    assert not found.has(PROMPT, but=("traceback",))


def models(**options: Any) -> list[Any]:
    given = {"api_key": KEY, "max_retries": 0, "timeout": 0.3, **options}
    return [
        ChatOpenAI("m", **given) | StrOutputParser(),
        ChatOpenAI("m", streaming=True, **given) | StrOutputParser(),
        OpenAI("m", **given),
        OpenAIEmbeddings("m", max_batch_size=2, **given),
    ]


def closely(model: Any) -> list[Any]:
    """Return the parts of a chain, and what the parts are made of."""
    parts = [model, *getattr(model, "steps", [])]
    return [*parts, *(value for part in parts for value in vars(part).values())]


@pytest.mark.parametrize("fault", FAULTS)
def test_canaries_are_not_shown_by_any_fault(fault: Fault, shown: Shown, figure: Figure) -> None:
    """In no repr, message, log, warning, event, pickle or traceback with variables."""
    tuned = fault(seconds=0.6) if fault.takes else fault
    provider = MockProvider(faults=FaultPlan({tuned: 1.0}, max_consecutive=None))

    async def main(base_url: str) -> int:
        errors = 0
        for model in models(base_url=base_url):
            quota = next((part.quota for part in closely(model) if hasattr(part, "quota")), None)
            assert quota is not None
            with quota.listening(lambda event: shown.add("event", event)):
                result = await model.arun([PROMPT, f"{PROMPT} 2"], {"timeout": 1.0})
            for part in (*closely(model), result, result.summary(), quota.statistics(), model.describe()):
                shown.add(type(part).__name__, part)
            shown.texts.append(("pickled model", pickle.dumps(model).decode("latin-1")))
            shown.texts.append(("pickled model", cloudpickle.dumps(model).decode("latin-1")))
            shown.texts.append(("copied model", repr(copy.deepcopy(model))))
            for outcome in result:
                shown.add("outcome", outcome.error)
                if outcome.error is not None:
                    errors += 1
                    shown.add_error(outcome.error)
        return errors

    with provider.serve() as server:
        errors = anyio.run(main, server.base_url)
    figure(errors=errors)


def test_canaries_are_found_where_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that does not hide itself is seen: the other tests can fail."""
    monkeypatch.setattr(Hidden, "__repr__", lambda self: self.get_secret_value())
    found = Shown()
    for model in models(base_url="http://127.0.0.1:9/v1"):
        found.texts.clear()
        for error in model.run([PROMPT]).errors.values():
            found.add_error(error)
        assert found.has(KEY)


def test_canaries_are_not_in_a_journal_report_or_page(tmp_path: Path, shown: Shown) -> None:
    """The journal has the inputs, which a job needs, and no key; what is shown of it has neither."""
    provider = MockProvider(faults=FaultPlan({Fault.BAD_PARAMETER: 0.5, Fault.SERVER_ERROR: 0.3}))
    with provider.serve() as server:
        model = ChatOpenAI("m", base_url=server.base_url, api_key=KEY, max_retries=0)
        chain = PromptTemplate.from_template("{text}") | model | StrOutputParser()
        rows = [{"text": f"{PROMPT} {number}"} for number in range(30)]
        output = tmp_path / "out.jsonl"
        job = Job(chain, rows, output, journal=tmp_path / "a.journal", version="1")
        report = job.run(lambda outcome: shown.add("outcome", outcome.error))
    assert report.failed
    shown.add("job", job)
    shown.add("report", report)
    for path in tmp_path.iterdir():
        content = path.read_bytes().decode("latin-1")
        assert KEY not in content, path
    assert PROMPT in output.read_text()


def test_canaries_are_not_sent_where_a_redirect_leads(shown: Shown) -> None:
    """A redirect is an error of the request: neither key nor prompt goes to another address."""
    received: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            received.append(f"{self.path} {self.headers} {body!r}")
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Redirecting(Elsewhere):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(int(self.path.split("/")[1]))
            self.send_header("location", f"http://127.0.0.1:{elsewhere.server_port}/taken")
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

    elsewhere, redirecting = (HTTPServer(("127.0.0.1", 0), kind) for kind in (Elsewhere, Redirecting))
    threads = [threading.Thread(target=server.serve_forever) for server in (elsewhere, redirecting)]
    for thread in threads:
        thread.start()
    try:
        for status in (301, 302, 303, 307, 308):
            for model in models(base_url=f"http://127.0.0.1:{redirecting.server_port}/{status}/v1"):
                result = model.run([PROMPT])
                (error,) = result.errors.values()
                assert isinstance(error, ProviderError)
                shown.add_error(error)
    finally:
        for server, thread in zip((elsewhere, redirecting), threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
    assert received == []
