#!/usr/bin/env bash
# langchain-core 1.7.2: `abatch` of a sequence of two steps, one of three items slow in the first.
#
# A good guess: each item goes through the chain at its own pace, since `abatch` is described as running `ainvoke` in
# parallel.
# What it does: a sequence batches step by step. No item begins the second step before the slowest has finished the
# first; with a tail of slow answers every step costs its slowest item, and what is done is held in memory.
#
# Seen: "first 1, first 2, first 0, second 0, second 1, second 2" (item 0 is the slow one).
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-core==1.7.2
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import asyncio

from langchain_core.runnables import RunnableLambda

seen = []

async def first(item):
    await asyncio.sleep(0.5 if item == 0 else 0.01 * item)
    seen.append(f"first {item}")
    return item

async def second(item):
    seen.append(f"second {item}")
    return item

asyncio.run((RunnableLambda(first) | RunnableLambda(second)).abatch([0, 1, 2]))
print(", ".join(seen))
assert seen[:3] == ["first 1", "first 2", "first 0"] and len(seen) == 6
END
