#!/usr/bin/env bash
# zstandard 0.25.0: data of two frames, as `zstd` and log writers make by appending to a file.
#
# A good guess: `decompress` returns what `stream_reader` of the same library reads and what the command `zstd -d`
# writes; or it raises because of the bytes that are left.
# What it does: `decompress` and `read_to_iter` return the first frame and ignore the rest silently. `stream_reader`
# and `open` of this version read all frames. So rows read from a file are all there, and the same bytes that came by
# HTTP, or from an object store in one piece, are short; `gzip.decompress` and `bz2.decompress` read on.
#
# Seen: "decompress: b'first ', read_to_iter: b'first ', stream_reader: b'first second', open: b'first second',
# gzip.decompress: b'first second'".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q zstandard==0.25.0
cd "$home"
venv/bin/python - <<'END'
import gzip
import io

import zstandard

data = zstandard.compress(b"first ") + zstandard.compress(b"second")
with open("rows.zst", "wb") as file:
    file.write(data)
with zstandard.open("rows.zst", "rb") as file:
    opened = file.read()
seen = {
    "decompress": zstandard.decompress(data),
    "read_to_iter": b"".join(zstandard.ZstdDecompressor().read_to_iter(io.BytesIO(data))),
    "stream_reader": zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read(),
    "open": opened,
    "gzip.decompress": gzip.decompress(gzip.compress(b"first ") + gzip.compress(b"second")),
}
print(", ".join(f"{name}: {content!r}" for name, content in seen.items()))
assert list(seen.values()) == [b"first "] * 2 + [b"first second"] * 3
END
