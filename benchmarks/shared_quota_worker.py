"""One process of several that share a quota: asks for an answer to each prompt of its input, one a line."""

from __future__ import annotations

import json
import sys

import anyio

from batchrt import ChatOpenAI, Quota


async def main(settings: dict[str, object]) -> None:
    limits = settings["limits"]
    assert isinstance(limits, dict)
    quota = Quota(shared=str(settings["shared"]), **limits)
    model = ChatOpenAI("mock", base_url=str(settings["base_url"]), api_key="k", quota=quota)
    prompts = [line.strip() for line in sys.stdin]
    began = anyio.current_time()
    config = {"max_concurrency": settings["max_concurrency"]}
    async for index, outcome in model.abatch_as_completed(prompts, config, return_exceptions=True):
        failed = repr(outcome) if isinstance(outcome, Exception) else ""
        print(json.dumps({"prompt": prompts[index], "failed": failed}), flush=True)
    shared = quota.statistics().shared
    assert shared is not None
    seconds = anyio.current_time() - began
    print(json.dumps({"messages": shared.messages, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    anyio.run(main, json.loads(sys.argv[1]), backend=json.loads(sys.argv[1]).get("backend", "asyncio"))
