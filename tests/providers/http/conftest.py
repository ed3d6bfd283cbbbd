"""The environment of tests of requests over HTTP."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own proxies and certificates out."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"SSL_CERT_FILE", "SSL_CERT_DIR"}:
            monkeypatch.delenv(name)


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Return a folder for Unix sockets: their paths have a hundred bytes at most, and `tmp_path` more."""
    with tempfile.TemporaryDirectory(prefix="brt-", dir="/tmp") as folder:
        yield Path(folder)
