"""Rows of Ray Data through `map_dataset`: beside Ray's own HTTP stage, and the memory of a long job.

    python -m benchmarks.ray_rows beside
    python -m benchmarks.ray_rows memory --rows 10000000 --minutes 30

`beside` asks one mock provider, in this process, 200 questions of 0.1 s by each of the two, three times; the
provider refuses four of them. `memory` gives each worker a mock provider of its own, and prints a line of
JSON every ten seconds: the rows that came out, and the resident MB of the workers, of the coordinator and of
this process. What the mock provider keeps for its log and its verdict is let go every 20,000 requests of a
worker, so that what grows is the integration's, or Ray's. Needs batchrt[ray,mock] and aiohttp.
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
from batchrt.testing import MockProvider

__all__ = ["main"]

_SECONDS: Final = 10.0
_KEPT: Final = 20_000
_QUESTIONS: Final = 200
_RUNS: Final = 3
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _MockedChain:
    """Make the chain once in each worker, since a provider in the process cannot be pickled."""

    def __init__(self) -> None:
        self._chain: Runnable[Any, str] | None = None
        self._provider: MockProvider | None = None
        self._asked = 0

    async def get(self, _row: dict[str, Any]) -> Any:
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


def beside() -> None:
    """Ask the same questions by Ray's HTTP stage and by `map_dataset`."""
    provider = MockProvider(latency=0.1, reject=lambda text: text.endswith(", 7 of 50"))
    with provider.serve() as server:
        for _ in range(_RUNS):
            for name, ask in (("HTTP stage", _by_http_stage), ("map_dataset", _by_map_dataset)):
                provider.reset()
                counts = ask(server.base_url)
                records = provider.log.records()
                seconds = records[-1].time + records[-1].seconds - records[0].time
                told = provider.log.snapshot()
                facts = {"per_second": round(_QUESTIONS / seconds, 1), "peak_in_flight": told.peak_in_flight}
                print(
                    json.dumps({"by": name, **counts, "refused": told.by_status.get(400, 0), **facts}),
                    flush=True,
                )


def _question(row: dict[str, Any]) -> str:
    return f"ticket {row['id']}, {row['id'] % 50} of 50"


def _by_http_stage(base_url: str) -> dict[str, int]:
    import ray.data
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    config = HttpRequestProcessorConfig(
        url=f"{base_url}/chat/completions", batch_size=64, concurrency=1, max_retries=5
    )
    process = build_processor(
        config,
        preprocess=lambda row: {
            "payload": {"model": "model", "messages": [{"role": "user", "content": _question(row)}]}
        },
        postprocess=lambda row: {"reply": json.dumps(row["http_response"])},
    )
    rows = process(ray.data.range(_QUESTIONS, override_num_blocks=1)).take_all()
    answers = sum(json.loads(row["reply"]).get("choices") is not None for row in rows)
    return {"answers": answers, "errors as answers": len(rows) - answers, "failed": 0}


def _by_map_dataset(base_url: str) -> dict[str, int]:
    import ray.data

    from batchrt.integrations.ray import map_dataset

    chain = ChatOpenAI("model", base_url=base_url, api_key="none") | StrOutputParser()
    rows = ray.data.range(_QUESTIONS, override_num_blocks=1)
    found = map_dataset(rows, chain, input=_question, config={"max_concurrency": 64}).take_all()
    failed = sum(row["error"] is not None for row in found)
    return {"answers": len(found) - failed, "errors as answers": 0, "failed": failed}


def memory(most: int, workers: int, minutes: float) -> None:
    """Map `most` rows, and print the memory."""
    import ray.data

    from batchrt.integrations.ray import map_dataset

    ended, rows, failed, began = threading.Event(), 0, 0, time.monotonic()

    def tell() -> None:
        found = _megabytes(("ray::MapWorker", "ray::CoordinatorActor"))
        shown = {name.removeprefix("ray::"): round(number, 1) for name, number in found.items()}
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"seconds": seconds, "rows": rows, "failed": failed, **shown}), flush=True)

    def sample() -> None:
        while not ended.wait(_SECONDS):
            tell()

    threading.Thread(target=sample, daemon=True).start()
    chain = RunnableLambda(_MockedChain().get)
    answers = map_dataset(ray.data.range(most), chain, concurrency=workers)
    try:
        for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            rows += batch.num_rows
            failed += batch.num_rows - batch["error"].null_count
            if time.monotonic() > began + 60 * minutes:
                break
        tell()
    finally:
        ended.set()


def main() -> None:
    """Run the parts that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_rows", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="+", choices=("beside", "memory"))
    parser.add_argument("--rows", type=int, default=50_000, help="of `memory`, %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="of `memory`, %(default)s")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which `memory` ends, %(default)s")
    options = parser.parse_args()
    try:  # Only now: `--help` needs no Ray.
        import ray
        import ray.data
    except ImportError as error:
        parser.error(f"{error}: install batchrt[ray,mock] and aiohttp")
    os.environ.setdefault("OPENAI_API_KEY", "none")
    ray.init(
        num_cpus=4,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        if "beside" in options.parts:
            beside()
        if "memory" in options.parts:
            memory(options.rows, options.workers, options.minutes)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
