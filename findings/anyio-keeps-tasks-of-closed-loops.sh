#!/usr/bin/env bash
# AnyIO 4.16.0 on asyncio: event loops that are closed while a task of theirs waits in a cancel scope.
#
# A good guess: a task that is left in a closed event loop goes with the loop, as one of plain asyncio does.
# What it does: AnyIO's table of task states has weak keys, but the state it keeps for a task that is in a
# `CancelScope` refers to the scope, and the scope to the task: the entry holds itself alive. The task, its frames and
# all that they hold stay for the life of the process: each test, request or notebook cell with a loop of its own
# that ends this way leaks, and each later garbage collection looks at it.
#
# Seen: "plain task: gone; in a cancel scope: still there, 1 state kept".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q anyio==4.16.0
"$home/venv/bin/python" - 2> /dev/null <<'END'
import asyncio
import contextlib
import gc
import weakref

import anyio
from anyio._backends import _asyncio

class Held:
    pass

def is_kept(scope):
    held = []

    async def wait(thing):
        with scope():
            await asyncio.Event().wait()

    async def main():
        thing = Held()
        held.append(weakref.ref(thing))
        held.append(asyncio.ensure_future(wait(thing)))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    reference = held[0]
    del held, loop, main
    gc.collect()
    return reference() is not None

plain, scoped = is_kept(contextlib.nullcontext), is_kept(anyio.CancelScope)
kept = len(_asyncio._task_states)
print(f"plain task: {'still there' if plain else 'gone'}; in a cancel scope: {'still there' if scoped else 'gone'}, {kept} state kept")
assert (plain, scoped, kept) == (False, True, 1)
END
