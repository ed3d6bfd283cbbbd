"""Jobs that are killed and run again, against a provider that outlives them.

    python -m tests.jobs.kills 200 --seed 1

kills that many processes at random moments and prints what was sent again; the tests do the same with few.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchrt.jobs.commit_thread import GROUP_ROWS
from batchrt.testing import Fault, FaultPlan, LogNormal, MockProvider

CAP = 50
ROOT = Path(__file__).parents[2]
FAULTS = (
    *(Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.CONFLICT, Fault.MALFORMED_JSON, Fault.TRUNCATED_JSON),
    *(Fault.SHORT_BODY, Fault.DROP_BEFORE_RESPONSE, Fault.DROP_MID_BODY, Fault.RATE_LIMIT_MS(seconds=0.01)),
)
"""Faults that a retry fixes, none of which makes the whole quota wait for long."""
PATIENCE = 120.0
"""Seconds after which a process that does not end is a failure."""


@dataclass
class Traffic:
    """The rows that the provider was asked for, by the number of kills before.

    Attributes:
        kills: so far.
        asked: requests that reached an answer, as (kills before, row).
        slowest_end: the most seconds from a signal to the end of the process.
    """

    kills: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)
    slowest_end: float = 0.0

    def answer(self, body: Any) -> str:
        found = re.search(r"number (\d+)", json.dumps(body))
        assert found is not None
        row = int(found[1])
        self.asked.append((self.kills, row))
        return f"the answer to {row}"

    def sent_again(self) -> list[int]:
        """Return for each kill how many rows were asked for after it that had been before."""
        before: set[int] = set()
        again = []
        for epoch in range(self.kills + 1):
            rows = {row for kills, row in self.asked if kills == epoch}
            again.append(len(rows & before))
            before |= rows
        return again[1:]


def rows_file(path: Path, count: int) -> Path:
    """Write so many rows, some of which cannot be read or lack the prompt's field."""
    with path.open("w") as file:
        for number in range(count):
            line = json.dumps({"number": number, "note": f"row {number}"})
            if number % 401 == 400:
                line = '{"number": '
            elif number % 397 == 396:
                line = json.dumps({"note": "no number"})
            file.write(line + "\n")
    return path


@dataclass
class Process:
    """A job that runs in a process of its own."""

    arguments: dict[str, Any]
    shown: set[int] = field(default_factory=set)
    ended: str = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.jobs.child", json.dumps(self.arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._reached = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._reached:
                if not line.endswith("\n"):
                    break
                if line.strip().isdecimal():
                    self.shown.add(int(line))
                else:
                    self.ended = line.strip()
                self._reached.notify_all()

    def wait_for(self, rows: int) -> None:
        """Wait until so many rows were shown, or the process has ended."""
        with self._reached:
            while len(self.shown) < rows and not self.ended and self.process.poll() is None:
                self._reached.wait(0.1)

    def wait(self, seconds: float = PATIENCE) -> bool:
        """Wait for the end, and return whether it came by itself."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._close()
        return True

    def kill(self, number: int = signal.SIGKILL) -> float:
        """Send a signal, and return the seconds until the process has ended."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self._close()
        return time.monotonic() - began

    def _close(self) -> None:
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def provider(traffic: Traffic, *, faults: float = 0.1, latency: Any = None) -> Iterator[str]:
    """Serve a provider that answers as `traffic` says, and give its address."""
    plan = FaultPlan({fault: faults / len(FAULTS) for fault in FAULTS} if faults else {})
    mock = MockProvider(answer=traffic.answer, faults=plan, latency=latency or LogNormal(0.02, 0.5))
    with mock.serve() as server:
        yield server.base_url


def undisturbed(folder: Path, source: Path) -> bytes:
    """Return the output of a job that nothing disturbs."""
    sink = folder / "undisturbed.jsonl"
    with provider(Traffic(), faults=0.0, latency=0.0) as url:
        process = Process(arguments(url, source, sink, folder / "undisturbed.journal"))
        process.start()
        assert process.wait()
        assert process.ended == "complete"
    return sink.read_bytes()


def arguments(url: str, source: Path, sink: Path, journal: Path, **options: Any) -> dict[str, Any]:
    paths = {"source": str(source), "sink": str(sink), "journal": str(journal)}
    return {"base_url": url, "cap": CAP, **paths, **options}


def run_killed(
    url: str,
    traffic: Traffic,
    folder: Path,
    source: Path,
    moments: Iterator[tuple[int, float]],
    kills: int,
    number: int = signal.SIGKILL,
) -> tuple[bytes, set[int]]:
    """Kill a job up to `kills` times, at moments as (rows shown, seconds more); then let it end.

    Return the output, and the rows that were asked for after they had been shown.
    """
    sink, journal = folder / "out.jsonl", folder / "job.journal"
    shown: dict[int, int] = {}
    begin = len(traffic.asked)
    for _ in range(kills):
        process = Process(arguments(url, source, sink, journal))
        process.start()
        rows, seconds = next(moments)
        process.wait_for(rows)
        process.wait(seconds)
        traffic.slowest_end = max(traffic.slowest_end, process.kill(number))
        for row in process.shown:
            shown.setdefault(row, traffic.kills)
        traffic.kills += 1
    last = Process(arguments(url, source, sink, journal))
    last.start()
    assert last.wait(), "the job does not end"
    assert last.ended == "complete", last.ended
    asked = traffic.asked[begin:]
    return sink.read_bytes(), {row for epoch, row in asked if row in shown and epoch > shown[row]}


def random_moments(chance: random.Random, rows: int) -> Iterator[tuple[int, float]]:
    """Yield moments: while it starts, anywhere in the middle, near the end, and after it."""
    while True:
        kind = chance.random()
        if kind < 0.25:
            yield 0, chance.uniform(0.0, 1.0)
        elif kind < 0.85:
            yield chance.randrange(1, rows // 2), chance.uniform(0.0, 0.05)
        else:
            yield rows, chance.uniform(0.0, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "INT", "TERM"])
    parser.add_argument("--most", type=int, default=6, help="kills of one job")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    moments = random_moments(chance, options.rows)
    again: Counter[int] = Counter()
    done = jobs = worst = 0
    slowest = 0.0
    number = signal.Signals[f"SIG{options.signal}"]
    while done < options.kills:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = rows_file(folder / "rows.jsonl", options.rows)
            expected = undisturbed(folder, source)
            traffic = Traffic()
            kills = min(options.kills - done, chance.randrange(1, options.most + 1))
            with provider(traffic) as url:
                output, lost = run_killed(url, traffic, folder, source, moments, kills, number)
            assert output == expected, "the output differs"
            assert not lost, f"rows that were shown and sent again: {sorted(lost)[:10]}"
            for count in traffic.sent_again():
                worst = max(worst, count)
                again[min(count // 25 * 25, 1000)] += 1
            done += kills
            jobs += 1
            slowest = max(slowest, traffic.slowest_end)
        sys.stdout.write(
            f"{done} kills of {jobs} jobs; most rows sent again after one: {worst}; "
            f"slowest end: {slowest:.2f} s\n"
        )
        sys.stdout.flush()
    assert worst <= CAP + GROUP_ROWS
    sys.stdout.write(f"rows sent again after a kill, by 25: {dict(sorted(again.items()))}\n")


if __name__ == "__main__":
    main()
