"""A server on a GPU, `transformers serve`, and how many requests it wants at once: prepared for one run.

    python -m benchmarks.studies.gpu_server --out gpu.json --markdown gpu.md     # ten minutes, on a GPU
    python -m benchmarks.studies.gpu_server --size tiny --out gpu.json           # on a CPU, to try it
    python -m benchmarks.studies.gpu_server --render gpu.json --markdown gpu.md

It makes models of random weights, starts the servers one after the other, and measures each client at each
number of requests at once. The README says what has to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.isolation import running
from benchmarks.harness.machine import describe, installed
from benchmarks.studies.gpu_clients import CLIENTS, Work
from benchmarks.studies.gpu_model import SIZES
from benchmarks.studies.gpu_section import section
from benchmarks.studies.refusals_nginx import free_port

__all__ = ["Plan", "main", "plans"]

_ROOT = Path(__file__).parent.parent.parent
_START_SECONDS, _STOP_SECONDS = 180, 20
_MARGIN = 20.0
"""Seconds that are left for the end of a run that is stopped, and for writing the results."""
_VERSIONS = ("torch", "transformers", "fastapi", "uvicorn", "openai", "langchain-core", "langchain-openai")
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_PROXY": "127.0.0.1,localhost",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Say how much is measured; a size that a server manages in seconds at each number of requests at once.

    Attributes:
        items: for each kind, prompts or texts for each request at once, with their least and their most.
        max_tokens: of an answer.
        per_list: texts in a request for embeddings.
        seconds: the most that one measurement may take.
        caps: the numbers of requests at once.
        serve: more options of `transformers serve`.
    """

    items: Mapping[str, tuple[int, int, int]]
    max_tokens: int
    per_list: int
    seconds: float
    caps: tuple[int | str, ...] = (1, 4, 16, 64, 256, "auto")
    serve: tuple[str, ...] = ()


plans: Mapping[str, Plan] = {
    "1b": Plan(
        items={"chat": (6, 8, 768), "embeddings": (2_048, 2_048, 16_384)},
        max_tokens=64,
        per_list=64,
        seconds=90,
    ),
    "tiny": Plan(
        items={"chat": (1, 2, 16), "embeddings": (16, 32, 64)},
        max_tokens=4,
        per_list=8,
        seconds=90,
        caps=(1, 4, "auto"),
        # On a CPU it would take most of the memory for its cache.
        serve=("--cb-num-blocks", "512", "--cb-max-batch-tokens", "512"),
    ),
}


class _Study:
    """One run of the study: its results so far, and the time that is left.

    Args:
        options: of the command line.
        folder: for models and logs.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.plan = plans[options.size]
        self.folder = folder
        self.ends = time.monotonic() + 60 * options.minutes - _MARGIN
        self._out: Path = options.out
        self._rounds: int = options.rounds
        self.document: dict[str, Any] = {
            "machine": describe(),
            "versions": {name: installed(name) for name in _VERSIONS},
            "plan": asdict(self.plan),
            "models": {},
            "servers": {},
            "runs": [],
            "notes": [],
        }

    def left(self) -> float:
        """Return the seconds that are left."""
        left: float = self.ends - time.monotonic()
        return left

    def save(self) -> None:
        """Write what is there: a study that is cut off keeps its measurements."""
        text = json.dumps(self.document, indent=1, ensure_ascii=False)
        self._out.write_text(f"{text}\n", encoding="utf-8")

    def make_models(self, size: str) -> None:
        """Make the models, in a process that ends and gives the memory of the GPU back."""
        command = [sys.executable, "-m", "benchmarks.studies.gpu_model", str(self.folder), "--size", size]
        self.document["models"] = _last_line(command, seconds=max(60.0, self.left()))
        self.save()

    def measure(self, kind: str, base_url: str, until: float) -> None:
        """Measure each client at each number of requests at once, round by round, until the time is over."""
        for number in range(self._rounds):
            began = time.monotonic()
            for work in _works(self.plan, kind, base_url, str(self.folder / kind), number):
                if time.monotonic() + _MARGIN > until:
                    self.document["notes"].append(f"{kind}: the time was over in round {number + 1}")
                    return
                _tell(f"{kind}, round {number + 1}: {work.client} at {work.cap}, {work.items} inputs")
                self._measure(work, number, until)
            if time.monotonic() + (time.monotonic() - began) > until:
                return

    def _measure(self, work: Work, number: int, until: float) -> None:
        lacking = [name for name in CLIENTS[work.client][1] if installed(name) is None]
        run: dict[str, Any] = {
            "kind": work.kind,
            "client": work.client,
            "cap": work.cap,
            "items": work.items,
            "round": number,
        }
        if lacking:
            run["note"] = f"not installed: {', '.join(lacking)}"
        else:
            command = [sys.executable, "-m", "benchmarks.studies.gpu_clients", json.dumps(asdict(work))]
            try:
                found = _last_line(command, seconds=min(self.plan.seconds, until - time.monotonic()))
            except (subprocess.SubprocessError, ValueError, IndexError) as error:
                run["note"] = _reason(error)
            else:
                run |= _figures(work, found)
        self.document["runs"].append(run)
        self.save()


def _figures(work: Work, found: Mapping[str, Any]) -> dict[str, Any]:
    seconds = found["seconds"]
    done = work.items - found["failed"]
    figures: dict[str, Any] = {name: found[name] for name in ("wall", "tokens", "failed", "errors")}
    figures["items_per_second"] = done / found["wall"]
    figures["tokens_per_second"] = found["tokens"] / found["wall"]
    if seconds:
        figures["median"] = statistics.median(seconds)
        figures["p95"] = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
    return figures


def _works(plan: Plan, kind: str, base_url: str, model: str, number: int) -> Iterator[Work]:
    each, least, most = plan.items[kind]
    clients = list(CLIENTS)
    for place, cap in enumerate(plan.caps):
        items = most if cap == "auto" else min(most, max(least, each * int(cap)))
        if kind == "embeddings" and cap != "auto" and int(cap) > -(-items // plan.per_list):
            continue  # more at once than there are lists
        start = (place + number) % len(clients)
        for client in [*clients[start:], *clients[:start]]:
            if cap == "auto" and client != "batchrt":
                continue
            yield Work(
                kind=kind,
                client=client,
                cap=cap,
                items=items,
                base_url=base_url,
                model=model,
                max_tokens=plan.max_tokens,
                per_list=plan.per_list,
                seed=1_000 * number + place,
            )


def _last_line(command: Sequence[str], *, seconds: float) -> Any:
    """Run a command, and return the JSON of its last line."""
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env={**os.environ, **_OFFLINE},
        check=True,
        capture_output=True,
        text=True,
        timeout=max(1.0, seconds),
    )
    return json.loads(done.stdout.splitlines()[-1])


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not finished after {error.timeout:.0f} s"
    said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
    return said[-1][:300] if said else type(error).__name__


@contextmanager
def _serving(command: Sequence[str], port: int, log: Path) -> Iterator[str]:
    """Run a server until the block ends, once it is healthy; yield its base URL."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=_ROOT, env={**os.environ, **_OFFLINE}, stdout=output, stderr=output
        )
    with running(process, stop_seconds=_STOP_SECONDS):
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > until:
                    said = " ".join(log.read_text(errors="replace").split())[-600:]
                    raise RuntimeError(f"the server did not start: {said}") from error
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"


def _command(kind: str, model: Path, port: int, extra: Sequence[str]) -> list[str]:
    if kind == "embeddings":
        module = "benchmarks.studies.gpu_embedding_server"
        return [sys.executable, "-m", module, str(model), "--port", str(port)]
    start = "from transformers.cli.transformers import main; main()"
    options = ["--continuous-batching", "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    return [sys.executable, "-c", start, "serve", str(model), *options, *extra]


def _warm_up(study: _Study, kind: str, base_url: str) -> float:
    """Send first requests, for which a server compiles and allocates; return their seconds."""
    began = time.monotonic()
    for cap, items in ((1, 1), (16, 32)):
        work = Work(
            kind=kind,
            client="batchrt",
            cap=cap,
            items=items,
            base_url=base_url,
            model=str(study.folder / kind),
            max_tokens=study.plan.max_tokens,
            per_list=study.plan.per_list,
            seed=-1,
        )
        command = [sys.executable, "-m", "benchmarks.studies.gpu_clients", json.dumps(asdict(work))]
        found = _last_line(command, seconds=min(_START_SECONDS, study.left()))
        if found["failed"]:
            raise RuntimeError(f"the first requests failed: {found['errors']}")
    return time.monotonic() - began


def _study(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    study = _Study(options, folder)
    _tell(f"models of size {options.size}")
    study.make_models(options.size)
    kinds: list[str] = options.only or ["chat", "embeddings"]
    for place, kind in enumerate(kinds):
        port, log = free_port(), folder / f"{kind}.log"
        command = _command(
            kind, folder / kind, port, [*study.plan.serve, *options.serve] if kind == "chat" else ()
        )
        began = time.monotonic()
        try:
            with _serving(command, port, log) as base_url:
                started = time.monotonic() - began
                warm = _warm_up(study, kind, base_url)
                study.document["servers"][kind] = {
                    "options": [each for each in command[3:] if not each.startswith((str(folder), "from "))],
                    "start_seconds": round(started, 1),
                    "first_requests_seconds": round(warm, 1),
                }
                # Chats are what the study is about: embeddings get the last fifth.
                share = study.left() * (1.0 if place + 1 == len(kinds) else 0.8)
                study.measure(kind, base_url, time.monotonic() + share)
        except (RuntimeError, subprocess.SubprocessError) as error:
            said = " ".join(log.read_text(errors="replace").split())[-600:] if log.exists() else ""
            study.document["notes"].append(f"{kind}: {_reason(error)}; the server's log ends with: {said}")
            _tell(study.document["notes"][-1])
        study.save()
    return study.document


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or render; return 1 if nothing was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.gpu_server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole study's time")
    parser.add_argument("--rounds", type=int, default=3, help="the most rounds, as far as the time allows")
    parser.add_argument("--only", nargs="*", choices=("chat", "embeddings"))
    parser.add_argument("--serve", nargs="*", default=[], help="more options of transformers serve")
    parser.add_argument("--out", type=Path, default=Path("gpu-server.json"), metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the section of the docs there")
    parser.add_argument("--render", type=Path, metavar="FILE", help="of these results, without measuring")
    options = parser.parse_args(arguments)
    if options.render is not None:
        document = json.loads(options.render.read_text(encoding="utf-8"))
    else:
        # Else a study that is ended would leave its servers and models behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with tempfile.TemporaryDirectory(prefix="gpu-study-") as name:
            document = _study(options, Path(name))
    text = section(document)
    if options.markdown is not None:
        options.markdown.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0 if any("wall" in run for run in document["runs"]) else 1


if __name__ == "__main__":
    sys.exit(main())
