#!/usr/bin/env bash
# ray 2.60.0: Dataset.map_batches with a class whose `__call__` is async, and a consumer that takes 0.2 s for each block.
#
# A good guess: a slow consumer holds back the next batches, and the event loop of the class goes on: requests in flight,
# timers and heartbeats are not its business.
# What it does: results go into a bounded `queue.Queue` by a blocking `put` on the event loop itself (a comment in
# plan_udf_map_op.py says so). While the queue is full, the loop of all of the worker's batches stands still. Sync classes
# in threads (`enable_true_multi_threading`) have no such queue.
#
# Seen: "the loop's heartbeat of 0.01 s paused for 13.7 s".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q "ray[data]==2.60.0"
RAY_USAGE_STATS_ENABLED=0 "$home/venv/bin/python" - <<'END'
import asyncio
import time

import ray
import ray.data

class Beats:
    def __init__(self):
        self.longest, self.last, self.task = 0.0, time.monotonic(), None

    async def beat(self):
        self.last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.longest, self.last = max(self.longest, now - self.last), now

    async def __call__(self, batch):
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(self.beat())
        await asyncio.sleep(0.05)
        batch["longest"] = batch["id"] * 0.0 + self.longest
        batch["filling"] = [b"x" * 1_000_000] * len(batch["id"])
        return batch

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False, logging_level="error")
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
context.target_max_block_size = 2_000_000
try:
    mapped = ray.data.range(200, override_num_blocks=1).map_batches(
        Beats, batch_size=2, num_cpus=0.5, compute=ray.data.ActorPoolStrategy(size=1)
    )
    longest = 0.0
    for batch in mapped.iter_batches(batch_size=None, prefetch_batches=0):
        longest = max(longest, float(batch["longest"].max()))
        time.sleep(0.2)
    print(f"the loop's heartbeat of 0.01 s paused for {longest:.1f} s")
    assert longest > 1, "the loop goes on now"
finally:
    ray.shutdown()
END
