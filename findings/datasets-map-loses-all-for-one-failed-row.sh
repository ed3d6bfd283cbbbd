#!/usr/bin/env bash
# datasets 5.2.0: `Dataset.map` with an async function, and one row of 3,000 that fails.
#
# A good guess: results are written to the cache batch by batch (`writer_batch_size`), so a second call goes on where
# the first one failed; or at least the calls that were not begun yet are not made.
# What it does: the cache file exists only once all rows are there. The rows that were done are thrown away with the
# temporary file, and the second call starts at row 0. With an async function 1,000 calls are under way at once,
# whatever the batch size, and all of them have been sent when the error of row 5 is raised.
#
# Seen: "row 5 of 3,000 fails: more than 1,000 calls begun, most at once 1000; row 2,990 of 3,000 fails, called twice:
# 5,982 calls".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q datasets==5.2.0
cd "$home"
export HF_HOME=$home/cache HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'END'
import asyncio

from datasets import Dataset

Dataset.from_dict({"id": range(3000)}).save_to_disk("rows")
rows = Dataset.load_from_disk("rows")
begun = running = most = 0

async def answer(row):
    global begun, running, most
    begun += 1
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.05)
    running -= 1
    if row["id"] == 5:
        raise ValueError("refused")
    return {"answer": "yes"}

try:
    rows.map(answer, writer_batch_size=10)
except ValueError:
    print(f"row 5 of 3,000 fails: {begun:,} calls begun, most at once {most}", end="; ")
assert begun >= 1000 and most == 1000

calls = 0

def answer_one_by_one(row):
    global calls
    calls += 1
    if row["id"] == 2990:
        raise ValueError("refused")
    return {"answer": "yes"}

for _ in range(2):
    try:
        rows.map(answer_one_by_one, writer_batch_size=10)
    except ValueError:
        pass
print(f"row 2,990 of 3,000 fails, called twice: {calls:,} calls")
assert calls == 2 * 2991
END
