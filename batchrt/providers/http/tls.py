"""TLS contexts: trusted certificates, from the environment or the system, cached for the process."""

from __future__ import annotations

import os
import ssl
from typing import Final, TypeAlias

import certifi

from batchrt.providers.http.connection_errors import ConnectFailed, reason_of

__all__ = ["tls_context"]

_Settings: TypeAlias = tuple[tuple[str, str, int, int], ...]

_SETTINGS: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_MOST_CONTEXTS: Final = 16
_contexts: Final[dict[_Settings, ssl.SSLContext]] = {}


def tls_context() -> ssl.SSLContext:
    """Return the context for connections by TLS, with the certificates that the environment names.

    `SSL_CERT_FILE` and `SSL_CERT_DIR` name the only certificates that are trusted, as for httpx, curl and
    OpenSSL. Without them certifi's and the system's are. A context takes some 30 ms to make, so there is one
    for each setting; a file that has changed counts as another setting.

    Raises:
        ConnectFailed: the certificates cannot be read; `fault` is "certificate".
    """
    settings = tuple(_stamped(name) for name in _SETTINGS if os.environ.get(name))
    context = _contexts.get(settings)
    if context is None:
        if len(_contexts) >= _MOST_CONTEXTS:
            _contexts.clear()
        # Concurrent threads must get the same context, since it is a part of the pool's key.
        context = _contexts.setdefault(settings, _make(settings))
    return context


def _stamped(name: str) -> tuple[str, str, int, int]:
    path = os.environ[name]
    try:
        state = os.stat(path)  # noqa: PTH116  a stat of a path that may be any string
    except (OSError, ValueError) as error:
        raise _unreadable(name, path, error) from error
    return name, path, state.st_mtime_ns, state.st_size


def _make(settings: _Settings) -> ssl.SSLContext:
    if settings:
        context = _of_environment({name: path for name, path, *_ in settings})
    else:
        context = ssl.create_default_context(cafile=certifi.where())
        context.load_default_certs()
    context.set_alpn_protocols(["http/1.1"])
    # A Python may leave the oldest version to OpenSSL's configuration, as Debian's 3.14 does.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    return context


def _of_environment(paths: dict[str, str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=paths.get("SSL_CERT_FILE"), capath=paths.get("SSL_CERT_DIR"))
    except OSError as error:  # OpenSSL's errors too
        name = "SSL_CERT_FILE" if "SSL_CERT_FILE" in paths else "SSL_CERT_DIR"
        raise _unreadable(name, paths[name], error) from error


def _unreadable(name: str, path: str, error: BaseException) -> ConnectFailed:
    return ConnectFailed(
        f"the certificates that {name} names cannot be read: {path!r}: {reason_of(error)}",
        fault="certificate",
        explained=True,
    )
