#!/usr/bin/env bash
# genai-prices 0.2.3, which has prices of 2,300 models.
#
# A good guess: `calc_price` raises LookupError for a model whose price it does not know, as it does for one that it
# does not know at all; 0 means free.
# What it does: it returns 0 for a model that it knows by name only (Cerebras' Qwen 3 Coder, no longer listed by its
# provider, whose price was removed), and for tokens of a model that is priced by another unit (whisper-1: hours). A
# spending limit that adds these up is never reached. The price itself tells them apart: it has no `input_mtok`.
#
# Seen: "qwen-3-coder-480b: total 0, input_mtok None", "whisper-1: total 0.00, input_mtok None", "no-such-model: LookupError".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q genai-prices==0.2.3
"$home/venv/bin/python" - <<'END'
from genai_prices import Usage, calc_price

usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
for model, provider in (("qwen-3-coder-480b", "cerebras"), ("whisper-1", "openai")):
    found = calc_price(usage, model, provider_id=provider)
    print(f"{model}: total {found.total_price}, input_mtok {found.model_price.input_mtok}")
    assert found.total_price == 0, "a missing price is told now"
    assert found.model_price.input_mtok is None
try:
    calc_price(usage, "no-such-model", provider_id="openai")
except LookupError as error:
    print(f"no-such-model: {type(error).__name__}")
else:
    raise AssertionError("an unknown model has a price now")
END
