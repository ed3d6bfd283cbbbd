#!/usr/bin/env bash
# langchain-core 1.7.2: `abatch` without `return_exceptions`, and one item that fails.
#
# A good guess: when the call has raised, its work is over, as it is with a task group.
# What it does: the first error is raised and the other items run on behind it, to their ends, without a receiver for
# their outputs; requests that are under way or waiting for `max_concurrency` are still sent, and billed.
#
# Seen: "done when abatch raised: 0 of 19; half a second later: 19".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-core==1.7.2
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import asyncio

from langchain_core.runnables import RunnableLambda

done = []

async def call(item):
    if item == 0:
        raise ValueError(item)
    await asyncio.sleep(0.02)
    done.append(item)

async def main():
    try:
        await RunnableLambda(call).abatch(list(range(20)), config={"max_concurrency": 2})
    except ValueError:
        at_once = len(done)
    await asyncio.sleep(0.5)
    print(f"done when abatch raised: {at_once} of 19; half a second later: {len(done)}")
    assert (at_once, len(done)) == (0, 19)

asyncio.run(main())
END
