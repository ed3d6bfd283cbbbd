#!/usr/bin/env bash
# flexllm 0.17.10: `chat_completions_batch(..., output_jsonl=...)`, its checkpoint and resume.
#
# A good guess: what is resumed is checked: with another model or temperature the rows are asked again, or it raises,
# as it does when the messages have changed; and a result that was reported is in the file a second later at most.
# What it does: only the messages are compared. The second model's run returns the first one's answers as its own,
# without a request. And the file is written when a result comes more than a second after the last write: results that
# come in a burst stay in memory until the next one, so a kill while the slowest rows are out loses all of them.
#
# Seen: "m1: ['m1 says a', 'm1 says b'], m2: ['m1 says a', 'm1 says b'], 2 requests; killed 3 s after 5 of 6 answers:
# 1 line" (none, if the first answer comes within a second of the start).
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q flexllm==0.17.10
cd "$home"
cat > batch.py <<'END'
import asyncio
import sys

from flexllm import LLMClient

async def run(url, model, texts, path):
    client = LLMClient(base_url=url, api_key="k", model=model)
    messages = [[{"role": "user", "content": text}] for text in texts]
    return await client.chat_completions_batch(messages, output_jsonl=path, show_progress=False)

if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], "m1", ["1", "2", "3", "4", "5", "slow"], "killed.jsonl"))
END
venv/bin/python -W ignore - 2> /dev/null <<'END'
import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import batch

requests = 0
burst = threading.Barrier(5)  # the short answers come together

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        if text == "slow":
            time.sleep(60)
        elif text in "12345":
            burst.wait()
        requests += 1
        message = {"role": "assistant", "content": f"{body['model']} says {text}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"

first = asyncio.run(batch.run(url, "m1", ["a", "b"], "results.jsonl"))
second = asyncio.run(batch.run(url, "m2", ["a", "b"], "results.jsonl"))
print(f"m1: {first}, m2: {second}, {requests} requests", end="; ")
assert first == second == ["m1 says a", "m1 says b"] and requests == 2

requests = 0
process = subprocess.Popen([sys.executable, "batch.py", url], stdout=subprocess.DEVNULL)
while requests < 5:
    time.sleep(0.1)
time.sleep(3)
process.kill()
process.wait()
lines = open("killed.jsonl").read().count("\n") if os.path.exists("killed.jsonl") else 0
print(f"killed 3 s after 5 of 6 answers: {lines} line")
assert lines < 5
END
