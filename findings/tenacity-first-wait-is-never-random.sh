#!/usr/bin/env bash
# tenacity 9.2.1 with wait_random_exponential(min=1, max=60), which OpenAI's cookbook gives for rate limits.
#
# A good guess: "random" spreads those who were refused together, from the first retry on.
# What it does: the first wait is exactly 1 s for everybody, since the first window ends where `min` begins. All
# who were refused at the same time come back at the same time. Only the second wait is random, over 1 to 2 s.
#
# Seen: "first 1.0 to 1.0 s, second 1.0 to 2.0 s, third 1.0 to 4.0 s" (rounded), of 1,000 draws each.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q tenacity==9.2.1
"$home/venv/bin/python" - <<'END'
import asyncio
import tenacity

TRIES, CALLS = 4, 1_000
waits = [[] for _ in range(TRIES - 1)]

async def no_sleep(seconds):
    pass

async def refused():
    raise ConnectionError("refused")

async def call():
    policy = tenacity.AsyncRetrying(
        wait=tenacity.wait_random_exponential(min=1, max=60),
        stop=tenacity.stop_after_attempt(TRIES),
        sleep=no_sleep,
        before_sleep=lambda state: waits[state.attempt_number - 1].append(state.next_action.sleep),
    )
    try:
        await policy(refused)
    except tenacity.RetryError:
        pass

async def main():
    await asyncio.gather(*(call() for _ in range(CALLS)))

asyncio.run(main())
said = [f"{name} {min(w):.1f} to {max(w):.1f} s" for name, w in zip(("first", "second", "third"), waits)]
print(", ".join(said))
assert set(waits[0]) == {1.0}, "the first wait is random now"
assert min(waits[1]) < 1.2 and max(waits[1]) > 1.8, waits[1][:5]
END
