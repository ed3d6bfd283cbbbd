#!/usr/bin/env bash
# pydantic 2.14.4: a model with a float, written by `model_dump_json` and read by `model_validate_json`.
#
# A good guess: what a model has accepted and written it reads again; or a NaN, which JSON lacks, raises when it is
# written, as in many JSON writers.
# What it does: NaN and infinity are accepted (from the JSON text "NaN", too, as an LLM may answer), written
# as null, and null is refused when it is read. A checkpoint or cache is written without an error and fails when it is
# needed. `pydantic_core.to_json` writes NaN for the same value, which `json` and pydantic read.
#
# Seen: "accepted: score=nan; written: {"score":null}; read: float_type; to_json: {"score":NaN}, read: score=nan".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q pydantic==2.14.4
"$home/venv/bin/python" - <<'END'
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

class Answer(BaseModel):
    score: float

answer = Answer.model_validate_json('{"score": "NaN"}')
written = answer.model_dump_json()
print(f"accepted: {answer}; written: {written}", end="; ")
assert written == '{"score":null}'
try:
    Answer.model_validate_json(written)
except ValidationError as error:
    kind = error.errors()[0]["type"]
    print(f"read: {kind}", end="; ")
    assert kind == "float_type"
else:
    raise SystemExit("null was read as a float")
other = to_json({"score": answer.score}).decode()
print(f"to_json: {other}, read: {Answer.model_validate_json(other)}")
assert other == '{"score":NaN}'
END
