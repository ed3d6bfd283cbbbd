#!/usr/bin/env bash
# cloudpickle 3.1.1, as used for the key of a cache or of a journal.
#
# A good guess: the bytes of one unchanged function, in one version of Python, are the same in every process, so that
# their hash says whether the function has changed since the last run.
# What it does: `x in {"a", "b", "c"}` is compiled to a frozenset among the code's constants. It is written in the
# order of iteration, which depends on the hashes of the texts, and those are random in each process unless
# PYTHONHASHSEED is set. So the same function has other bytes in most processes, and all that was kept under their
# hash is done again. A function with `in ("a", "b", "c")` is stable, and `marshal` sorts the members.
#
# Seen: "in 8 processes: a function with a set has more than 1 digest (by marshal 1), one with a tuple has 1".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q cloudpickle==3.1.1
cd "$home"
cat > digests.py <<'END'
import hashlib
import marshal

import cloudpickle

def by_set(word):
    return word in {"red", "green", "blue", "black", "white"}

def by_tuple(word):
    return word in ("red", "green", "blue", "black", "white")

for function in (by_set, by_tuple):
    print(hashlib.sha256(cloudpickle.dumps(function)).hexdigest(), hashlib.sha256(marshal.dumps(function.__code__)).hexdigest())
END
for seed in 1 2 3 4 5 6 7 8; do PYTHONHASHSEED=$seed venv/bin/python digests.py; done > digests.txt
venv/bin/python - <<'END'
lines = open("digests.txt").read().splitlines()
sets, tuples = set(lines[::2]), set(lines[1::2])
more = "more than 1 digest" if len(sets) > 1 else "1 digest"
marshalled = {line.split()[1] for line in lines[::2]}
print(f"in 8 processes: a function with a set has {more} (by marshal {len(marshalled)}), one with a tuple has {len(tuples)}")
assert len(sets) > 1 and len(tuples) == 1 and len(marshalled) == 1
END
