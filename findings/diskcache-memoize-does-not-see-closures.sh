#!/usr/bin/env bash
# diskcache 5.6.3: `Cache.memoize`, as put before calls of a model.
#
# A good guess: functions that were made apart have entries of their own: one `ask` for each model, made by a function
# that takes the model; and an answer that was cached stays until it expires or is deleted, for nothing else was asked.
# What it does: the key is the name of the function and the arguments. All closures of one definition share their
# entries, and so does the edited function with the one before: the second model is never called, and its column is
# the first one's answers. And once the cache has 1 GB, unless `size_limit` says otherwise, the entries stored first
# are deleted silently; the script shows it with a limit of a thousandth of that.
#
# Seen: "small: 'small: hi', large: 'small: hi', calls: 1; kept of 300 entries of 10 kB with a limit of 1 MB: 90".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q diskcache==5.6.3
cd "$home"
venv/bin/python - <<'END'
import diskcache

cache = diskcache.Cache("answers")
assert cache.size_limit == 2**30
calls = 0

def caller(model):
    @cache.memoize()
    def ask(text):
        global calls
        calls += 1
        return f"{model}: {text}"

    return ask

small, large = caller("small")("hi"), caller("large")("hi")
print(f"small: {small!r}, large: {large!r}, calls: {calls}", end="; ")
assert (small, large, calls) == ("small: hi", "small: hi", 1)

limited = diskcache.Cache("limited", size_limit=10**6)
for number in range(300):
    limited[number] = bytes(10_000)
print(f"kept of 300 entries of 10 kB with a limit of 1 MB: {len(limited)}")
assert len(limited) < 120 and 0 not in limited
END
