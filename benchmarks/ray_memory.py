"""Memory of a Ray job: rows of Ray Data through `map_dataset`, each asked of a mock provider in its worker.

    python -m benchmarks.ray_memory 10000000 --minutes 30

Prints a line of JSON every ten seconds: the rows that came out, and the resident MB of the workers, of the
coordinator and of this process. What the mock provider keeps for its log and its verdict is let go every
20,000 requests of a worker, so that what grows is the integration's, or Ray's.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from batchrt import ChatOpenAI, ChatPromptTemplate, Runnable, RunnableLambda, StrOutputParser
from batchrt.integrations.ray import map_dataset
from batchrt.testing import MockProvider

__all__ = ["main"]

_SECONDS: Final = 10.0
_KEPT: Final = 20_000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _MockedChain:
    """Make the chain once in each worker, since a provider in the process cannot be pickled."""

    def __init__(self) -> None:
        self._chain: Runnable[Any, str] | None = None
        self._provider: MockProvider | None = None
        self._asked = 0

    def __call__(self, _row: dict[str, Any]) -> Any:
        """Return the chain, which is then run on the row."""
        if self._chain is None or self._provider is None:
            self._provider = MockProvider()
            model = ChatOpenAI("model", api_key="none", transport=self._provider.transport())
            self._chain = (
                ChatPromptTemplate.from_template("Say {id}, the number of a ticket")
                | model
                | StrOutputParser()
            )
        self._asked += 1
        if self._asked % _KEPT == 0:
            self._provider.reset()
        return self._chain


def _megabytes(names: Iterable[str]) -> dict[str, float]:
    """Return the resident MB of the processes whose titles begin with one of `names`, and of this one."""
    found = dict.fromkeys(names, 0.0)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_text(errors="replace")
            counts = (folder / "statm").read_text().split()
        except (OSError, IndexError):
            continue
        for name in found:
            if title.startswith(name):
                found[name] += _private(counts)
    return {**found, "driver": _private(Path("/proc/self/statm").read_text().split())}


def _private(counts: list[str]) -> float:
    """Return the MB of a process that are resident, without pages of the object store and of files."""
    return (int(counts[1]) - int(counts[2])) * _PAGE / 2**20


def main() -> None:
    """Run the job, and print its figures."""
    import ray
    import ray.data

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    ray.init(
        num_cpus=4,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    ended, rows, failed, began = threading.Event(), 0, 0, time.monotonic()

    def tell() -> None:
        memory = _megabytes(("ray::MapWorker", "ray::CoordinatorActor"))
        shown = {name.removeprefix("ray::"): round(number, 1) for name, number in memory.items()}
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"seconds": seconds, "rows": rows, "failed": failed, **shown}), flush=True)

    def sample() -> None:
        while not ended.wait(_SECONDS):
            tell()

    threading.Thread(target=sample, daemon=True).start()
    chain = RunnableLambda(_MockedChain(), inline=True)
    answers = map_dataset(ray.data.range(options.rows), chain, concurrency=options.workers)
    try:
        for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            rows += batch.num_rows
            failed += batch.num_rows - batch["error"].null_count
            if time.monotonic() > began + 60 * options.minutes:
                break
        tell()
    finally:
        ended.set()
        ray.shutdown()


if __name__ == "__main__":
    main()
