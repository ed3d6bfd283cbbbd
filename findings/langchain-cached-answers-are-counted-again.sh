#!/usr/bin/env bash
# langchain-core 1.7.2 and langchain-openai 1.7.3 with `set_llm_cache(InMemoryCache())`, against a local server.
#
# A good guess: an answer from the cache reports no usage, or usage that the token counters leave out, for nothing was
# sent; and a batch of equal inputs is one request and nine hits.
# What it does: an answer from the cache has the usage of the first, and `UsageMetadataCallbackHandler` adds it each
# time: ten calls and one request of 15 tokens are 150. What tells them apart is `total_cost: 0`, a key that the type
# does not have and that spreads to the sums, so that a bill made of them is 0 or ten times too high. And a batch asks
# for all its equal inputs before the first answer is there: ten requests.
#
# Seen: "10 calls, 1 request of 15 tokens: 150 tokens counted, total_cost 0; abatch of 10 equal inputs: 10 requests".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-core==1.7.2 langchain-openai==1.7.3
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import asyncio
import http.server
import json
import threading

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI

requests = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        data = json.dumps(answer | {"usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
model = ChatOpenAI(model="m", base_url=f"http://127.0.0.1:{server.server_port}", api_key="k")

set_llm_cache(InMemoryCache())
counter = UsageMetadataCallbackHandler()
for _ in range(10):
    model.invoke("hi", config={"callbacks": [counter]})
counted, cost = counter.usage_metadata["m"]["total_tokens"], counter.usage_metadata["m"].get("total_cost")
print(f"10 calls, {requests} request of 15 tokens: {counted} tokens counted, total_cost {cost}", end="; ")
assert (requests, counted, cost) == (1, 150, 0)

set_llm_cache(InMemoryCache())
requests = 0
asyncio.run(model.abatch(["hi"] * 10))
print(f"abatch of 10 equal inputs: {requests} requests")
assert requests == 10
END
