#!/usr/bin/env bash
# langchain-openai 1.7.4 with openai 3.57.0: the timeout of a `ChatOpenAI` that was given none.
#
# A good guess: openai's default of ten minutes holds for a model built on openai's client.
# What it does: `timeout=None` is passed on to openai's client, where None means none and leaving it out means ten
# minutes. A request to a server that accepts it and never answers waits for ever.
#
# Seen: "openai.AsyncOpenAI: Timeout(connect=5.0, read=600, write=600, pool=600); ChatOpenAI: None".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-openai==1.7.4 openai==3.57.0
LANGSMITH_TRACING=false "$home/venv/bin/python" - <<'END'
import openai
from langchain_openai import ChatOpenAI

own = openai.AsyncOpenAI(api_key="k").timeout
model = ChatOpenAI(model="gpt-4o", api_key="k")
print(f"openai.AsyncOpenAI: {own}; ChatOpenAI: {model.root_async_client.timeout}")
assert own.read == 600 and model.root_async_client.timeout is None

request = model.root_async_client._build_request(
    openai._models.FinalRequestOptions.construct(method="post", url="/chat/completions", json_data={})
)
assert set(request.extensions["timeout"].values()) == {None}, request.extensions
END
