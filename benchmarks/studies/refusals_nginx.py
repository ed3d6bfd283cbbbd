"""nginx with a limit, in front of a small provider that has none."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.harness.isolation import running
from benchmarks.studies.refusals_server import Counts, serving

__all__ = ["IN_FLIGHT", "RATE", "free_port", "lacking", "limiting", "version"]

_START_SECONDS = 10

RATE = (
    "limit_req_zone $binary_remote_addr zone=rate:1m rate=50r/s;",
    "limit_req zone=rate burst=10 nodelay; limit_req_status 429;",
)
"""50 requests a second, and 11 at once: the one that is due, and the burst."""
IN_FLIGHT = (
    "limit_conn_zone $binary_remote_addr zone=open:1m;",
    "limit_conn open 4; limit_conn_status 429;",
)
"""Four requests at a time."""

_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log error;
events {{ worker_connections 4096; }}
http {{
    log_format status "$status";
    access_log {home}/access.log status;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {zone}
    upstream provider {{ server {upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 100000;
        location / {{
            {limit}
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def lacking() -> str:
    """Return why nginx cannot be measured; empty if it can."""
    if shutil.which("nginx") or Path("/usr/sbin/nginx").exists():
        return ""
    return "nginx is not installed: apt-get install nginx-light"


def version() -> str:
    """Return which nginx it is."""
    said = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=False).stderr
    return said.strip().rpartition("/")[2]


def _program() -> str:
    return shutil.which("nginx") or "/usr/sbin/nginx"


class _Nginx:
    """Speak of one that runs."""

    def __init__(self, base_url: str, log: Path) -> None:
        self.base_url = base_url
        self._log = log

    def counts(self) -> Counts:
        """Return what its log has so far."""
        statuses = self._log.read_text().split()
        return Counts(len(statuses), statuses.count("429"), statuses.count("200"))


@contextmanager
def limiting(limit: tuple[str, str], *, latency: tuple[float, float]) -> Iterator[_Nginx]:
    """Serve with `RATE` or `IN_FLIGHT` while entered.

    Raises:
        RuntimeError: nginx did not start.
    """
    with serving(latency=latency) as upstream, tempfile.TemporaryDirectory(prefix="nginx-") as name:
        home = Path(name)
        home.chmod(0o755)  # its worker is another user if it was started by root
        port = free_port()
        configuration = home / "nginx.conf"
        zone, rule = limit
        address = urlsplit(upstream.base_url).netloc
        configuration.write_text(
            _CONFIGURATION.format(home=home, zone=zone, limit=rule, upstream=address, port=port)
        )
        command = [_program(), "-p", name, "-c", str(configuration)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with running(process):
            _await_listener(process, port)
            yield _Nginx(f"http://127.0.0.1:{port}/v1", home / "access.log")


def free_port() -> int:
    """Return a port of this machine that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _await_listener(process: subprocess.Popen[str], port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    complaint = process.stderr.read().strip() if process.poll() is not None and process.stderr else ""
    raise RuntimeError(f"nginx did not start: {complaint or os.strerror(110)}")
