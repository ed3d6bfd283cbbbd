#!/usr/bin/env bash
# genai-prices 0.2.3, asked for a model by its name alone.
#
# A good guess: OpenAI's models are found by their names, all of them: "if neither are provided, we try to find the
# most suitable provider based on the model reference".
# What it does: a name leads to a provider by its first letters, and those of OpenAI are `gpt-`, `o1`, `o3`, `o4` and two
# more. text-embedding-3-small, whose price it has, raises LookupError until the provider or its address is given. A model
# at the provider's regional address (us.api.openai.com) is not found either.
#
# Seen: "gpt-5-mini: 0.25", "text-embedding-3-small: LookupError", "with its provider: 0.02", "at us.api: LookupError".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q genai-prices==0.2.3
"$home/venv/bin/python" - <<'END'
from genai_prices import Usage, calc_price

def price(model, **where):
    try:
        return f"{calc_price(Usage(input_tokens=1_000_000), model, **where).total_price:.2f}"
    except LookupError as error:
        return type(error).__name__

seen = {
    "gpt-5-mini": price("gpt-5-mini"),
    "text-embedding-3-small": price("text-embedding-3-small"),
    "with its provider": price("text-embedding-3-small", provider_id="openai"),
    "at api": price("gpt-5-mini", provider_api_url="https://api.openai.com/v1"),
    "at us.api": price("gpt-5-mini", provider_api_url="https://us.api.openai.com/v1"),
}
print(", ".join(f"{name}: {value}" for name, value in seen.items()))
assert seen["text-embedding-3-small"] == "LookupError", "it is found by its name now"
assert seen["at us.api"] == "LookupError", "regional addresses are known now"
assert [seen["gpt-5-mini"], seen["with its provider"], seen["at api"]] == ["0.25", "0.02", "0.25"]
END
