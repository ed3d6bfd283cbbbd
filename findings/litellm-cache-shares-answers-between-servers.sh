#!/usr/bin/env bash
# LiteLLM's SDK 1.110.2, `completion(..., caching=True)` with its in-memory cache.
#
# A good guess: the key of a cached answer is all that decides what is asked: the server, the model and each parameter
# that is sent.
# What it does: only parameters that OpenAI documents count. A call of the same model name at another `api_base` is
# answered from the first server; so is one with another `extra_body`, `min_p` or `chat_template_kwargs`, which it
# does send on a miss. A comparison of two servers, or of thinking on and off, compares an answer with itself. And as
# installed without extras each hit raises ModuleNotFoundError: it imports code of the proxy, which needs fastapi,
# orjson and soundfile.
#
# Seen: "second call: No module named fastapi; with those: another server: first's answer, chat_template_kwargs:
# first's answer, extra_body: first's answer, min_p: first's answer, seed: its own, temperature: its own".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q litellm==1.110.2
cd "$home"
cat > ask.py <<'END'
import http.server
import json
import threading

import litellm
from litellm.caching.caching import Cache

litellm.cache = Cache()
litellm.suppress_debug_info = True
answers = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global answers
        answers += 1
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": f"answer {answers}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        data = json.dumps(answer | {"usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass

def start():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"

one, other = start(), start()

def ask(api_base=one, text="hi", **options):
    messages = [{"role": "user", "content": text}]
    response = litellm.completion("openai/m", messages, api_base=api_base, api_key="k", caching=True, **options)
    return response.choices[0].message.content
END
export LITELLM_LOCAL_MODEL_COST_MAP=True
venv/bin/python - <<'END'
from ask import ask

ask()
try:
    ask()
except ModuleNotFoundError as error:
    print(f"second call: {error}", end="; ")
    assert error.name == "fastapi"
else:
    raise SystemExit("a hit works without the proxy's dependencies")
END
venv/bin/pip install -q fastapi==0.165.0 orjson==3.13.0 soundfile==0.14.0
venv/bin/python - <<'END'
import ask

pairs = {
    "another server": ({"api_base": ask.one}, {"api_base": ask.other}),
    "chat_template_kwargs": tuple({"chat_template_kwargs": {"thinking": on}} for on in (True, False)),
    "extra_body": ({"extra_body": {"top_k": 1}}, {"extra_body": {"top_k": 50}}),
    "min_p": ({"min_p": 0.1}, {"min_p": 0.9}),
    "seed": ({"seed": 1}, {"seed": 2}),
    "temperature": ({"temperature": 0}, {"temperature": 1}),
}
seen = {}
for name, (first, second) in pairs.items():
    same = ask.ask(text=name, **first) == ask.ask(text=name, **second)
    seen[name] = "first's answer" if same else "its own"
print("with those:", ", ".join(f"{name}: {result}" for name, result in seen.items()))
assert list(seen.values()) == ["first's answer"] * 4 + ["its own"] * 2
END
