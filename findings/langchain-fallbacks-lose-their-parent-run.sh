#!/usr/bin/env bash
# langchain-core 1.8.3: the run tree of `with_fallbacks`, from `ainvoke`.
#
# A good guess: a tracer shows the attempts, the one that failed and the fallback, inside the run of the
# RunnableWithFallbacks, as it shows the steps inside a sequence; that is how `invoke` and `ainvoke` of every other
# runnable work.
# What it does: the run is opened and gets no children. Each attempt is passed the caller's own config, so that with
# callbacks given to the call every attempt is a trace of its own, and inside a chain a sibling. Costs and errors of
# the attempts cannot be assigned to the call that caused them.
#
# Seen: "ainvoke: 3 traces, 0 runs inside RunnableWithFallbacks".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-core==1.8.3
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import asyncio

from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import BaseTracer

class Traces(BaseTracer):
    def __init__(self):
        super().__init__()
        self.roots = []

    def _persist_run(self, run):
        self.roots.append(run)

async def fail(value):
    raise ValueError

async def spare(value):
    return value

traces = Traces()
chain = RunnableLambda(fail).with_fallbacks([RunnableLambda(spare)])
asyncio.run(chain.ainvoke(1, {"callbacks": [traces]}))
inside = [len(run.child_runs) for run in traces.roots if run.name == "RunnableWithFallbacks"]
print(f"ainvoke: {len(traces.roots)} traces, {inside[0]} runs inside RunnableWithFallbacks")
assert len(traces.roots) == 3 and inside == [0]
END
