"""A server with a certificate that signs itself, as a test lab has it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.providers.http.raw import ANSWER

__all__ = ["certificate", "hashed", "tls_server"]


def certificate(folder: Path) -> Path:
    """Make what `openssl req -x509` makes for `localhost`: a certificate that says it is an authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not there")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


def hashed(cert: Path) -> Path:
    """Put `cert` where OpenSSL looks for it in its folder, under the hash of its subject."""
    command = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(cert)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(cert, cert.with_name(f"{name}.0"))
    return cert


@contextmanager
def tls_server(cert: Path) -> Iterator[str]:
    """Answer every request by TLS with `cert`; gives the base URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, cert.with_name("key.pem"))
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)

    def handle(raw: socket.socket) -> None:
        try:
            with raw, context.wrap_socket(raw, server_side=True) as connection:
                received = b""
                while not received.endswith(b"\r\n\r\n{}"):  # what is left unread would reset it
                    part = connection.recv(65536)
                    if not part:
                        return
                    received += part
                connection.sendall(head + ANSWER)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            raw.settimeout(10)
            handle(raw)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://localhost:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
