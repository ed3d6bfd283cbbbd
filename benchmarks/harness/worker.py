"""The inside of a measurement's process: `python -m benchmarks.harness.worker MODULE SETTINGS`."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from benchmarks.harness.isolation import raise_file_limit

__all__ = ["main"]


def main(module: str, settings: str) -> None:
    """Call the module's `work` and write its result as the last line.

    The process ends at once: threads and finalizers of a contender are not part of the measurement.
    """
    raise_file_limit()
    result = import_module(f"benchmarks.{module}").work(json.loads(settings))
    sys.stdout.write(f"\n{json.dumps(result)}\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
