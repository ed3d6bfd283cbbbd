#!/usr/bin/env bash
# langchain-openai 1.7.4 with openai 3.57.0: the error for a prompt beyond the model's context.
#
# A good guess: `except ContextOverflowError` (langchain_core.exceptions) catches it; the class exists for that, and
# summarizing middleware waits for it.
# What it does: langchain-openai looks for "context_length_exceeded" in the text of openai's error. That is the error's
# code, and openai 3.57 puts only the server's message into the text, which says "maximum context length" in the words
# that OpenAI has used for years. The error is an OpenAIInvalidRequestError, as for any bad request.
#
# Seen: "OpenAIInvalidRequestError, code context_length_exceeded, ContextOverflowError: False".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-openai==1.7.4 openai==3.57.0
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI

ERROR = {
    "message": "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 "
    "tokens. Please reduce the length of the messages.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}

class Refusing(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.dumps({"error": ERROR}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Refusing)
threading.Thread(target=server.serve_forever, daemon=True).start()
model = ChatOpenAI(model="gpt-4o", api_key="k", base_url=f"http://127.0.0.1:{server.server_port}/v1", max_retries=0)
try:
    model.invoke("a long prompt")
except Exception as error:
    known = isinstance(error, ContextOverflowError)
    print(f"{type(error).__name__}, code {error.code}, ContextOverflowError: {known}")
    assert not known and error.code == "context_length_exceeded"
END
