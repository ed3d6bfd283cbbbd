"""TLS contexts: certificates of the environment or the system, made once."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from batchrt.providers.http import tls
from batchrt.providers.http.connection_errors import ConnectFailed, translate
from batchrt.providers.http.tls import tls_context
from tests.providers.http.tls import certificate, hashed


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own certificates out, and contexts of other tests."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setattr(tls, "_contexts", {})


def subjects(context: ssl.SSLContext) -> set[str]:
    """Return the common names of the authorities that `context` has loaded."""
    authorities: list[Any] = list(context.get_ca_certs())
    return {
        dict(pair for part in one["subject"] for pair in part).get("commonName", "") for one in authorities
    }


def test_tls_context_is_made_once_for_each_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its making costs as much as thousands of requests; a file that has changed is read again."""
    made: list[dict[str, Any]] = []
    make = ssl.create_default_context

    def counted(**options: Any) -> ssl.SSLContext:
        made.append(options)
        return make(**options)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    first = tls_context()
    assert tls_context() is first
    cert = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    second = tls_context()
    assert second is not first
    assert tls_context() is second
    monkeypatch.delenv("SSL_CERT_FILE")
    assert tls_context() is first
    assert len(made) == 2
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    os.utime(cert, ns=(1, 1))
    assert tls_context() is not second
    assert len(made) == 3


def test_tls_context_verifies_and_speaks_http_1() -> None:
    """Names and certificates are checked; a server that could speak HTTP/2 does not."""
    context = tls_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert "ISRG Root X1" in subjects(context)


def test_tls_context_needs_tls_1_2_where_python_leaves_that_to_openssl(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Debian's builds of Python do."""
    original = ssl.create_default_context

    def without_minimum(**given: Any) -> ssl.SSLContext:
        context = original(**given)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        return context

    monkeypatch.setattr(ssl, "create_default_context", without_minimum)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
    assert tls_context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_tls_context_of_a_file_trusts_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for httpx and curl: the setting names the authorities rather than adding to them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
    assert subjects(tls_context()) == {"localhost"}


def test_tls_context_of_a_folder_trusts_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenSSL reads the files of a folder when it needs them."""
    monkeypatch.setenv("SSL_CERT_DIR", str(hashed(certificate(tmp_path)).parent))
    assert subjects(tls_context()) == set()


def test_tls_contexts_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that changes its settings again and again does not grow."""
    cert = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    for moment in range(100):
        os.utime(cert, ns=(moment, moment))
        tls_context()
    assert len(tls._contexts) <= 16


@pytest.mark.parametrize(
    ("setting", "content"),
    [("SSL_CERT_FILE", None), ("SSL_CERT_DIR", None), ("SSL_CERT_FILE", "no certificate"),
     ("SSL_CERT_FILE", "\0")],
)  # fmt: skip
def test_tls_context_that_cannot_be_made_names_the_setting_and_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, content: str | None
) -> None:
    """And is a fault of certificates, which another attempt would meet again."""
    path = tmp_path / "missing.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(setting, str(path))
    with pytest.raises(ConnectFailed, match=f"{setting} names cannot be read: .*missing.pem") as caught:
        tls_context()
    error: Any = translate(caught.value, "https://h/v1", 5)
    assert error.fault == "certificate"
    assert setting in str(error)
