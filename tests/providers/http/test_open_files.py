from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from batchrt.providers.http.open_files import allow_connections

resource = pytest.importorskip("resource")


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    restore = resource.setrlimit  # a test replaces it
    yield
    restore(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_open_files_limit_is_raised_as_far_as_needed() -> None:
    """Up to the hard limit, and never lowered."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    assert allow_connections(100) == 100
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 200
    assert allow_connections(200) == 200
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 264
    assert allow_connections(10) == 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 264


def test_open_files_say_how_many_connections_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hard limit is lower, or the system refuses to raise the soft one."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 300))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert allow_connections(1000) == 236

    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allow_connections(1000) == 36
