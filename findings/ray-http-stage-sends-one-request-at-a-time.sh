#!/usr/bin/env bash
# ray 2.60.0: HttpRequestProcessorConfig of ray.data.llm, one worker, one batch of 8 rows, a local server that takes
# 0.3 s for each answer, and one that fails a single row.
#
# A good guess: the requests of a batch are sent together ("first send all requests", its source says), `max_retries`
# deals with errors, and a row that fails for good is one failed row.
# What it does: aiohttp's `session.post()` sends when it is awaited, and that happens one after the other. A status 500
# with a JSON body counts as the row's answer, and is not tried again. A row that was answered 503 to its last try
# ends the whole job with a RuntimeError, with the answers of all other rows that were not written yet.
#
# Seen: "8 rows in 2.7 s, at most 1 at once", "a 500 became the row's answer: {'answer': None, 'error': 'broken'}",
# "a 503 that stays: the job died, 0 of 8 rows came out".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q "ray[data]==2.60.0" aiohttp==3.14.5 pydantic
RAY_USAGE_STATS_ENABLED=0 "$home/venv/bin/python" - <<'END'
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ray
import ray.data
from ray.data.llm import HttpRequestProcessorConfig, build_processor

ROWS, SECONDS = 8, 0.3
lock, times, now, most, broken = threading.Lock(), [], 0, 0, {}

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global now, most
        row = json.loads(self.rfile.read(int(self.headers["content-length"])))["row"]
        with lock:
            now += 1
            most = max(most, now)
            times.append(time.monotonic())
        time.sleep(SECONDS)
        with lock:
            now -= 1
        status = broken.get(row, 200)
        reply = json.dumps({"answer": row} if status == 200 else {"error": "broken"}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass

def run():
    config = HttpRequestProcessorConfig(
        url=f"http://127.0.0.1:{server.server_port}/", batch_size=8, concurrency=1, max_retries=1,
        base_retry_wait_time_in_s=0.1,
    )
    process = build_processor(
        config,
        preprocess=lambda row: {"payload": {"row": int(row["id"])}},
        postprocess=lambda row: {"reply": json.dumps(row["http_response"])},
    )
    return [json.loads(row["reply"]) for row in process(ray.data.range(ROWS, override_num_blocks=1)).iter_rows()]

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
ray.data.DataContext.get_current().enable_progress_bars = False
try:
    replies = run()
    took = times[-1] - times[0] + SECONDS
    print(f"{len(replies)} rows in {took:.1f} s, at most {most} at once")
    assert len(replies) == ROWS and most == 1, "the requests of a batch are sent together now"
    broken[3] = 500
    reply = next(reply for reply in run() if reply.get("answer") is None)
    print(f"a 500 became the row's answer: {reply}")
    broken[3], rows = 503, []
    try:
        rows = run()
    except Exception as error:
        assert "Reached maximum retries" in str(error), error
    assert not rows, "the job survives a row that fails"
    print(f"a 503 that stays: the job died, {len(rows)} of {ROWS} rows came out")
finally:
    ray.shutdown()
END
