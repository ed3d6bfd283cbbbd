#!/usr/bin/env bash
# pydantic 2.14.4: `experimental_allow_partial`, the validation of JSON that is still being streamed.
#
# A good guess: what is forgiven is the JSON that has not arrived yet. Once the text is complete, partial validation
# gives what full validation gives, so the same call can be made for each chunk and for the last.
# What it does: any error of the last element is forgiven, complete or not. A complete list whose last element is
# wrong is returned shorter; a complete object loses a wrong last member. And a number is not held back as a string
# is: of a price that is still arriving as `1250` it gives 1, then 12, then 125, each valid.
#
# Seen: "[1, 2, "x"] -> [1, 2]; {"a": 1, "b": "x"} -> {'a': 1}; {"price": 12 -> {'price': 12}; {"name": "Jo -> {}".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q pydantic==2.14.4
"$home/venv/bin/python" - <<'END'
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

class Row(TypedDict, total=False):
    a: int
    b: int
    price: int
    name: str

seen = {}
for kind, text in (
    (list[int], '[1, 2, "x"]'),
    (Row, '{"a": 1, "b": "x"}'),
    (Row, '{"price": 12'),
    (Row, '{"name": "Jo'),
):
    adapter = TypeAdapter(kind)
    seen[text] = adapter.validate_json(text, experimental_allow_partial=True)
    try:
        adapter.validate_json(text)
    except ValidationError:
        pass
    else:
        raise SystemExit(f"{text} is valid as a whole")
print("; ".join(f"{text} -> {value}" for text, value in seen.items()))
assert list(seen.values()) == [[1, 2], {"a": 1}, {"price": 12}, {}]
END
