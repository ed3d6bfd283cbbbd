#!/usr/bin/env bash
# langchain-core 1.7.2: InMemoryRateLimiter(requests_per_second=50), everything else by default.
#
# A good guess: 50 requests a second are let through, one after the other or together.
# What it does: whoever has to wait looks again every 0.1 s, and the bucket holds one. A loop gets 10 a second, and
# 32 tasks that began together get fewer than 20, for most of them look at the same moments; what the bucket cannot
# hold meanwhile is lost. It takes a `check_every_n_seconds` well below 1 / requests_per_second.
#
# Seen: "one by one: 10/s; 32 together: 18/s; 32 together, looking every ms: 55/s" (the last counts whoever was
# under way when the 4 s ended).
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q langchain-core==1.7.2
"$home/venv/bin/python" - <<'END'
import asyncio
import time

from langchain_core.rate_limiters import InMemoryRateLimiter

async def rate(workers, **options):
    limiter = InMemoryRateLimiter(requests_per_second=50, **options)
    passed, until = 0, time.monotonic() + 4

    async def work():
        nonlocal passed
        while time.monotonic() < until:
            await limiter.aacquire()
            passed += 1

    await asyncio.gather(*(work() for _ in range(workers)))
    return passed / 4

one, many = asyncio.run(rate(1)), asyncio.run(rate(32))
fine = asyncio.run(rate(32, check_every_n_seconds=0.001))
print(f"one by one: {one:.0f}/s; 32 together: {many:.0f}/s; 32 together, looking every ms: {fine:.0f}/s")
assert one < 15, one
assert many < 30, many
assert fine > 35, fine
END
