#!/usr/bin/env bash
# orjson 3.13.0 beside json, msgspec 0.22.0 and jiter 0.19.0.
#
# A good guess: an integer in JSON is read as an int, of any size, as by `json`; or what does not fit raises, as
# `orjson.dumps` does for the same number.
# What it does: from 2**64 on it is read as a float: the last digits are gone, and the type of an identifier changes
# with its value. As a key of results it no longer equals the number that was sent, and different ones become equal.
#
# Seen: "18446744073709551615 -> 18446744073709551615; 18446744073709551617 -> 1.8446744073709552e+19"; `dumps` of
# 18446744073709551617: "Integer exceeds 64-bit range".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q orjson==3.13.0 msgspec==0.22.0 jiter==0.19.0
"$home/venv/bin/python" - <<'END'
import json

import jiter
import msgspec
import orjson

small, large = 2**64 - 1, 2**64 + 1
text = json.dumps([small, large]).encode()
first, second = orjson.loads(text)
print(f"{small} -> {first!r}; {large} -> {second!r}", end="; ")
assert first == small and type(second) is float and second == orjson.loads(b"%d" % (large + 1))
for read in (json.loads, msgspec.json.decode, jiter.from_json):
    assert read(text) == [small, large], read
try:
    orjson.dumps(large)
except orjson.JSONEncodeError as error:
    print(f"dumps of {large}: {error}")
else:
    raise SystemExit("orjson wrote it")
END
