"""The benchmarks: batchrt and its contenders in turns, and the page docs/benchmarks.md of the results."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks import against, documents
from benchmarks.contenders.registry import CONTENDERS
from benchmarks.harness.machine import describe
from benchmarks.harness.running import run_scenario
from benchmarks.pages.page import render
from benchmarks.scenarios.protocol import Tier
from benchmarks.scenarios.registry import SCENARIOS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write results and page, and return the exit code: 1 if `--against` found a regression."""
    options = _parse(arguments)
    if options.against is not None:
        return against.compare(options.against, tell=_tell)
    if not options.render:
        _measure("full" if options.full else "quick", options.only)
    for path in render():
        _tell(f"wrote {path}")
    return 0


def _measure(tier: Tier, only: Sequence[str]) -> None:
    """Measure the scenarios, and write the results after each."""
    began = time.monotonic()
    machine = describe()
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.key in only]
    found: list[dict[str, object]] = []
    for scenario in chosen:
        found.append(run_scenario(scenario, scenario.cases(tier, CONTENDERS), _tell))
        seconds = time.monotonic() - began
        _tell(f"{scenario.title}: {seconds:.0f} s so far")
        documents.write(
            {
                "tier": tier,
                "command": "nox -s bench" + (" -- --full" if tier == "full" else ""),
                "seconds": round(seconds),
                "machine": machine,
                "contenders": [
                    {"key": each.key, "name": each.name, "version": each.version(), "use": each.use}
                    for each in CONTENDERS
                ],
                "scenarios": found,
            }
        )


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = [scenario.key for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--full", action="store_true", help="all sizes, more rounds, and Ray: some hours")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=keys, metavar="SCENARIO", help=", ".join(keys)
    )
    parser.add_argument("--against", metavar="REV", help="compare this checkout with a commit of it")
    parser.add_argument("--render", action="store_true", help="write the page from the results as they are")
    options = parser.parse_args(arguments)
    if options.against is not None and (options.full or options.only or options.render):
        parser.error("--against takes no other option")
    return options


if __name__ == "__main__":
    sys.exit(main())
