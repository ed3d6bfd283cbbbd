"""The mock provider on a core of its own: `python -m benchmarks.harness.mock_server OPTIONS`."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness.isolation import SERVER_CORE, announced, command_for, environment

__all__ = ["SEED", "ServerProcess", "serving"]

SEED = 7


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

    def log(self) -> dict[str, Any]:
        """Return what it saw since the reset, as `LogSnapshot.to_dict` has it."""
        with urllib.request.urlopen(f"{self._root}/_mock/log", timeout=30) as answer:
            seen: dict[str, Any] = json.load(answer)
        return seen


@contextmanager
def serving(core: int | None = SERVER_CORE, **options: Any) -> Iterator[ServerProcess]:
    """Serve with options of `MockProvider`, as JSON can hold them, while entered.

    Args:
        core: the core to run on; `None` for any.
        options: `rate_limits` is a dict of the arguments of `RateLimits`, `faults` one of the shares of
            faults by their values.

    Raises:
        RuntimeError: the server did not start.
    """
    command = command_for(["-m", "benchmarks.harness.mock_server", json.dumps(options)])
    with announced(command, "the mock provider", core=core, env=environment()) as base_url:
        yield ServerProcess(base_url)


def main(options: dict[str, Any]) -> None:
    """Serve until terminated, and write the base URL as the first line."""
    from batchrt.testing import Fault, FaultPlan, MockProvider, RateLimits, serve_forever

    if "rate_limits" in options:
        options["rate_limits"] = RateLimits(**options["rate_limits"])
    if "faults" in options:
        options["faults"] = FaultPlan({Fault(name): share for name, share in options["faults"].items()})

    def say(base_url: str) -> None:
        sys.stdout.write(f"{base_url}\n")
        sys.stdout.flush()

    # One record is kept, not ten thousand: only counts are asked for.
    provider = MockProvider(seed=SEED, keep_records=1, **options)
    serve_forever(provider, port=0, on_listening=say)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
