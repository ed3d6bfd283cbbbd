#!/usr/bin/env bash
# fsspec 2026.9.0: `memory://`, which tests use in place of a disk or an object store.
#
# A good guess: two readers of one file have a position each; and what is being written is seen once it is closed, as
# on S3, or once it is flushed, as on a disk.
# What it does: every `open` returns the same object, set to its start. Two readers that take turns each get every
# other part of the file, and a second `open` sends the first reader back to the start. A file that is opened for
# writing shows each write at once; on the local disk the old content is gone at once and the new comes with the
# flush.
#
# Seen: "memory: abc, def; file: abc, abc; while 'new' is being written over 'old': memory b'new', file b''".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q fsspec==2026.9.0
cd "$home"
venv/bin/python - <<'END'
import os

import fsspec

def try_out(protocol, path):
    fs = fsspec.filesystem(protocol)
    fs.pipe(path, b"abcdef")
    one, other = fs.open(path, "rb"), fs.open(path, "rb")
    parts = one.read(3).decode(), other.read(3).decode()
    fs.pipe(path, b"old")
    with fs.open(path, "wb") as file:
        file.write(b"new")
        meanwhile = fs.cat(path)
    assert fs.cat(path) == b"new"
    return parts, meanwhile

memory, disk = try_out("memory", "/rows"), try_out("file", os.path.abspath("rows"))
print(f"memory: {', '.join(memory[0])}; file: {', '.join(disk[0])}", end="; ")
print(f"while 'new' is being written over 'old': memory {memory[1]}, file {disk[1]}")
assert memory == (("abc", "def"), b"new") and disk == (("abc", "abc"), b"")
END
