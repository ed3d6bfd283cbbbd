"""The mock provider on a core of its own: `python -m benchmarks.mock_server LATENCY`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.isolation import SERVER_CORE, pinned

__all__ = ["SEED", "ServerProcess", "serving"]

SEED = 7
_STOP_SECONDS = 10


class ServerProcess:
    """Speak to a mock that runs elsewhere.

    Attributes:
        base_url: what a client takes for its base URL.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._root = base_url.removesuffix("/v1")

    def reset(self) -> None:
        """Have it forget what it saw."""
        request = urllib.request.Request(f"{self._root}/_mock/reset", method="POST")
        urllib.request.urlopen(request, timeout=30).read()

    def peak_in_flight(self) -> int:
        """Return the most requests that were open at once since the reset."""
        with urllib.request.urlopen(f"{self._root}/_mock/log", timeout=30) as answer:
            return int(json.load(answer)["peak_in_flight"])


@contextmanager
def serving(latency: float) -> Iterator[ServerProcess]:
    """Serve with `latency` seconds before each answer, while entered.

    Raises:
        RuntimeError: the server did not start.
    """
    command = [sys.executable, "-m", "benchmarks.mock_server", str(latency)]
    with pinned(SERVER_CORE):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            if not base_url:
                raise RuntimeError("the mock provider did not start")
            yield ServerProcess(base_url)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def main(latency: float) -> None:
    """Serve until terminated, and say where on the first line."""
    from batchrt.testing import MockProvider, serve_forever

    def say(base_url: str) -> None:
        sys.stdout.write(f"{base_url}\n")
        sys.stdout.flush()

    # One record is kept, not ten thousand: what is asked for is the peak.
    provider = MockProvider(seed=SEED, latency=latency, keep_records=1)
    serve_forever(provider, port=0, on_listening=say)


if __name__ == "__main__":
    main(float(sys.argv[1]))
