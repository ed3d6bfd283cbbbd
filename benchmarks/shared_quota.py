"""One quota for several processes: how much of the limit they use, and whether they exceed it.

    python -m benchmarks.shared_quota                  # all parts
    python -m benchmarks.shared_quota simulated cost   # some of them

`simulated` has workers in virtual time, with a carrier in memory. `sqlite` and `redis` have four processes,
one of which is killed while another one joins; the Redis server is stopped and started again. The mock
provider enforces the limit, and its log is the judge. `cost` measures a message of each carrier.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import anyio

from batchrt.limits.shared.carrier import Carrier
from batchrt.limits.shared.lease_messages import Demand, LeaseRequest
from batchrt.limits.shared.memory_carrier import MemoryCarrier
from batchrt.testing import LogNormal, MockProvider, RateLimits, Verdict
from tests.limits.shared.cluster import Cluster, simulate

__all__ = ["main"]

RPM = 6_000
"""The limit, in a bucket of one second."""
_WAYS: dict[str, Any] = {"given": "none", "told by headers": "all", "told by nothing": "none"}
"""How workers know the limit, and the headers of the provider's answers."""
LEARNING = 4.5
"""Seconds after a restart of the server in which its state is learned: a lease, and a message."""


def main() -> None:
    """Measure the parts that the command line names, or all."""
    parts = {"simulated": simulated, "sqlite": sqlite, "redis": redis, "cost": cost}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_quota", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--seconds", type=float, default=60, help="seconds of work at the limit (60)")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(parts)):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    logging.disable(logging.CRITICAL)
    for name in options.parts or parts:
        parts[name](options.seconds)


def simulated(seconds: float) -> None:
    """Run workers in virtual time."""
    for workers, (told, headers) in itertools.product((4, 50, 1_000), _WAYS.items()):
        began = time.process_time()
        given = {"requests_per_minute": RPM, "burst_seconds": 1} if told == "given" else {}
        limits = RateLimits(requests_per_minute=RPM, burst_seconds=1, headers=headers)
        items = int(seconds * RPM / 60 / workers)
        most = max(10, 400 // workers)
        outcome = simulate(Cluster(workers, limits, given, items, max_concurrency=most))
        sent = sum(map(len, outcome.carrier.sent.values()))
        whole = outcome.verdict
        print(
            f"simulated: {workers} workers, limit {told}: {100 * outcome.used:.1f} % of the refill "
            f"used, {whole.rejected} of {whole.sent} refused, {len(outcome.answers)} answers, messages: "
            f"{outcome.messages:.2f} per worker and second, "
            f"{outcome.carrier.most_in_a_second()} at the most, {sent / whole.accepted:.2f} per request; "
            f"{outcome.seconds:.0f} virtual seconds in {time.process_time() - began:.0f} s of CPU"
        )


def sqlite(seconds: float) -> None:
    """Run four processes on one file, kill one and add one."""
    for headers in ("none", "all"):
        with tempfile.TemporaryDirectory() as folder:
            run = _Processes(f"sqlite:///{folder}/quota.db", headers, seconds)
            run.kill_at = 0.3 * seconds
            print(f"sqlite, headers {headers}: {run.measure()}")


def redis(seconds: float) -> None:
    """Run four processes on one server, stop and start it, kill one and add one."""
    for headers in ("none", "all"):
        with tempfile.TemporaryDirectory() as folder, _RedisServer(folder) as server:
            run = _Processes(server.url, headers, seconds)
            run.kill_at, run.server, run.stop_at = 0.6 * seconds, server, 0.3 * seconds
            print(f"redis, headers {headers}: {run.measure()}")


class _RedisServer:
    def __init__(self, folder: str) -> None:
        found = shutil.which("redis-server")
        if found is None:
            sys.exit("there is no redis-server on this machine")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.command = [found, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        self.url = f"redis://127.0.0.1:{port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Processes:
    """Four processes that share a quota, and the mock that they ask."""

    stop_at = kill_at = 0.0
    server: _RedisServer | None = None

    def __init__(self, shared: str, headers: Any, seconds: float) -> None:
        limits = RateLimits(requests_per_minute=RPM, burst_seconds=1, headers=headers)
        self.provider = MockProvider(latency=LogNormal(0.3, 0.5), rate_limits=limits, keep_records=1)
        self.given = {"requests_per_minute": RPM, "burst_seconds": 1} if headers == "none" else {}
        self.shared, self.seconds = shared, seconds
        self.outcomes: dict[str, list[str]] = {}
        self.messages: list[float] = []
        self.began = 0.0

    def measure(self) -> str:
        """Run them; return a sentence with the figures."""
        each = int(self.seconds * RPM / 60 / 4)
        work = [[f"process {number}, item {item}" for item in range(each)] for number in range(4)]
        with self.provider.serve() as server:
            running = [self._start(server.base_url, prompts) for prompts in work]
            while not self.outcomes:
                time.sleep(0.01)
            self.began = time.monotonic()
            pause = self._stop_and_start()
            self._sleep_until(self.kill_at)
            running[3][0].kill()
            running[3][0].wait()
            running[3][1].join()
            left = [prompt for prompt in work[3] if prompt not in self.outcomes]
            running.append(self._start(server.base_url, left))
            for process, reader in running:
                process.wait()
                reader.join()
            end = time.monotonic() - self.began - 2
            spans = [(2.0, end)] if pause is None else [(2.0, pause[0]), (pause[1], end)]
            used = [_used(self.provider.verdict(since=start, until=until)) for start, until in spans]
            whole = self.provider.verdict()
        twice = sum(len(found) > 1 for found in self.outcomes.values())
        failed = sum(any(found) for found in self.outcomes.values())
        return (
            f"{' and '.join(f'{100 * share:.1f} %' for share in used)} of the refill used, "
            f"{whole.rejected} of {whole.sent} refused; {len(self.outcomes)} of {4 * each} items with an "
            f"outcome, {twice} with two, {failed} failed; {len(left)} items of the killed process were done "
            f"by the new one; at most {max(self.messages):.2f} messages per worker and second"
        )

    def _sleep_until(self, second: float) -> None:
        time.sleep(max(0.0, self.began + second - time.monotonic()))

    def _stop_and_start(self) -> tuple[float, float] | None:
        if self.server is None:
            return None
        self._sleep_until(self.stop_at)
        self.server.stop()
        stopped = time.monotonic() - self.began
        time.sleep(4)
        self.server.start()
        return stopped, time.monotonic() - self.began + LEARNING

    def _start(self, base_url: str, prompts: list[str]) -> tuple[subprocess.Popen[str], threading.Thread]:
        settings = {
            "shared": self.shared,
            "base_url": base_url,
            "max_concurrency": 60,
            "limits": self.given,
        }
        command = [sys.executable, "-m", "benchmarks.shared_quota_worker", json.dumps(settings)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert process.stdin is not None
        process.stdin.write("\n".join(prompts))
        process.stdin.close()
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        return process, reader

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                continue  # it was killed as it wrote
            told = json.loads(line)
            if "prompt" in told:
                self.outcomes.setdefault(told["prompt"], []).append(told["failed"])
            else:
                self.messages.append(told["messages"] / told["seconds"])


def _used(verdict: Verdict) -> float:
    limit = verdict.limits[0]
    return limit.spent / (limit.allowed - limit.held)


def cost(_: float) -> None:
    """Measure a message of each carrier, with few and with many workers that have leases."""
    from batchrt.limits.shared.redis_carrier import RedisCarrier
    from batchrt.limits.shared.sqlite_carrier import SQLiteCarrier

    with tempfile.TemporaryDirectory() as folder, _RedisServer(folder) as server:
        carriers: list[Carrier] = [
            MemoryCarrier(),
            SQLiteCarrier(Path(folder) / "quota.db"),
            RedisCarrier(server.url),
        ]
        for carrier, workers in itertools.product(carriers, (4, 1_000)):
            wall, cpu = anyio.run(_exchange_all, carrier, workers)
            name = type(carrier).__name__
            print(
                f"cost: {name}, {workers} workers: {1e6 * wall:.0f} µs a message, {1e6 * cpu:.0f} µs of CPU"
            )


async def _exchange_all(carrier: Carrier, workers: int, messages: int = 3_000) -> tuple[float, float]:
    limits = {"requests_per_minute": 1e6, "tokens_per_minute": 1e9}
    demands: Any = {"requests": Demand(50, 60, 1), "tokens": Demand(5e4, 6e4, 1e3)}
    for number in range(workers):
        request = LeaseRequest(worker=f"worker {number}", demands=demands, given=limits)
        await carrier.exchange(f"{workers}", request)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(messages):
        await carrier.exchange(
            f"{workers}", LeaseRequest(worker=f"worker {number % workers}", demands=demands)
        )
    return (time.perf_counter() - wall) / messages, (time.process_time() - cpu) / messages


if __name__ == "__main__":
    main()
