#!/usr/bin/env bash
# langchain-core 1.7.2: `abatch` with `max_concurrency` over a chain that forks.
#
# A good guess: `max_concurrency=5` means that at most five calls run at once; that is what a rate-limited server or a
# local model with five slots needs.
# What it does: it counts items. Each of five items runs all branches of a `RunnableParallel` at once, and branches of
# branches too, so that three branches of three bring nine calls for each item.
#
# Seen: "max_concurrency 5, three branches of three: 45 calls at once".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-core==1.7.2
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import asyncio

from langchain_core.runnables import RunnableLambda, RunnableParallel

running = most = 0

async def call(value):
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.01)
    running -= 1
    return value

branches = RunnableParallel({name: RunnableLambda(call) for name in "abc"})
chain = RunnableParallel({name: branches for name in "xyz"})
asyncio.run(chain.abatch(list(range(50)), config={"max_concurrency": 5}))
print(f"max_concurrency 5, three branches of three: {most} calls at once")
assert most == 45
END
