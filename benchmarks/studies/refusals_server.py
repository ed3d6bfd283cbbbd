"""A small provider that refuses: `python -m benchmarks.studies.refusals_server OPTIONS`, a process on a port.

Written for this comparison alone, apart from batchrt's mock: whoever tunes the one has not seen the other.
What it decides depends on the text and on how often that text was sent, never on the time of day, so that
everybody is refused alike.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import socket
import struct
import sys
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from typing import Any

from benchmarks.harness.isolation import announced, raise_file_limit

__all__ = ["Counts", "Refuser", "chance", "latency_of", "main", "serving"]

_WIDTH = 8
_GRACE = 0.02
"""Seconds that a refusal takes to reach its client at the most: requests within them were sent before it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold a server's own count of a run.

    Attributes:
        sent: requests that came.
        refused: those of them answered with 429.
        answered: those answered with 200.
        in_waits: requests that came during a wait that an earlier refusal had named.
        quiet: seconds of those waits, each second once.
    """

    sent: int
    refused: int
    answered: int
    in_waits: int = 0
    quiet: float = 0.0

    def since(self, before: Counts) -> Counts:
        """Return the counts of the time after `before`."""
        mine, theirs = astuple(self), astuple(before)
        return Counts(*(after - earlier for after, earlier in zip(mine, theirs, strict=True)))


def chance(*parts: object) -> float:
    """Return a number of [0, 1) that is always the same for the same parts."""
    # CRC's low bits of short texts are alike; a multiplication spreads them (Knuth, TAOCP 6.4).
    return (zlib.crc32(repr(parts).encode()) * 2654435761 % 2**32) / 2**32


def latency_of(text: str, latency: tuple[float, float]) -> float:
    """Return how many seconds the answer to a text takes: evenly spread between two bounds."""
    low, high = latency
    return low + (high - low) * chance("latency", text)


class Refuser:
    """Answer chats and embeddings after a while, or refuse.

    Args:
        latency: the least and the most seconds before an answer; a refusal takes none.
        share: of requests refused at random.
        per_second: requests a second that are let through, from a bucket of `bucket`.
        most: requests in flight at which one more is refused.
        at_once: requests that are answered at a time, while others queue; 0 for all.
        wait: seconds that a refusal names in `retry-after`; 0 for none.
        headers: of a refusal.
        waits: a refusal says in `retry-after-ms` when the bucket will have one again.
        told: headers of an answer.
        body: of a refusal.
        content_type: of a refusal.
    """

    def __init__(
        self,
        *,
        latency: tuple[float, float] = (0.1, 0.2),
        share: float = 0,
        per_second: float = 0,
        bucket: int = 1,
        most: int = 0,
        at_once: int = 0,
        wait: int = 0,
        headers: Mapping[str, str] | None = None,
        waits: bool = False,
        told: Mapping[str, str] | None = None,
        body: str = '{"error": {"message": "Too many requests", "type": "rate_limit", "code": null}}',
        content_type: str = "application/json",
    ) -> None:
        self._latency = latency
        self._share, self._most, self._waits = share, most, waits
        self._per_second, self._bucket = per_second, bucket
        self._level, self._since = float(bucket), time.monotonic()
        named = {"retry-after": str(wait)} if wait else {}
        self._refusal = (body.encode(), {"content-type": content_type, **named, **(headers or {})})
        self._wait = wait
        self._quiet_from = self._quiet_until = 0.0
        self._quiet = 0.0
        self._places = asyncio.Semaphore(at_once or 1_000_000)
        self._told = dict(told or {})
        self._tries: Counter[str] = Counter()
        self._in_flight = 0
        self._counts: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request of ASGI's."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path.endswith("/counts"):
            counts = {key: self._counts[key] for key in ("sent", "refused", "answered", "in_waits", "peak")}
            await _reply(send, 200, json.dumps({**counts, "quiet": self._quiet}).encode(), {})
            return
        came = await _body(receive)
        if came is None:
            return
        if scope["method"] != "POST":  # a gateway looks for models
            await _reply(send, 404, b"{}", {})
            return
        body = json.loads(came)
        self._counts["sent"] += 1
        self._counts["in_waits"] += self._quiet_from + _GRACE < time.monotonic() < self._quiet_until
        text = _text(body)
        self._tries[text] += 1
        if self._refuses(text):
            self._counts["refused"] += 1
            refusal, headers = self._refusal
            if self._waits:
                milliseconds = math.ceil(1_000 * (1 - self._level) / self._per_second)
                headers = {**headers, "retry-after-ms": str(milliseconds)}
                self._name_wait(milliseconds / 1_000)
            elif self._wait:
                self._name_wait(self._wait)
            await _reply(send, 429, refusal, headers)
            return
        self._in_flight += 1
        self._counts["peak"] = max(self._counts["peak"], self._in_flight)
        try:
            async with self._places:
                await asyncio.sleep(latency_of(text, self._latency))
        finally:
            self._in_flight -= 1
        self._counts["answered"] += 1
        answer = _embeddings(body) if path.endswith("/embeddings") else _chat(body)
        await _reply(send, 200, json.dumps(answer).encode(), self._told)

    def _name_wait(self, seconds: float) -> None:
        """Count a wait that begins now, as far as no other one covers it."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_from = now
        self._quiet += now + seconds - max(now, self._quiet_until)
        self._quiet_until = now + seconds

    def _refuses(self, text: str) -> bool:
        if self._share and chance("refused", text, self._tries[text]) < self._share:
            return True
        if self._most and self._in_flight >= self._most:
            return True
        if not self._per_second:
            return False
        now = time.monotonic()
        self._level = min(self._bucket, self._level + (now - self._since) * self._per_second)
        self._since = now
        if self._level < 1:
            return True
        self._level -= 1
        return False


async def _body(receive: Any) -> bytes | None:
    """Return all of a request's body; `None` if its client has gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _reply(send: Any, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(key.encode(), value.encode()) for key, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _text(body: Mapping[str, Any]) -> str:
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    texts = body["input"]
    return texts if isinstance(texts, str) else "|".join(map(str, texts))


def _chat(body: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"about {_text(body)}"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }


def _embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    vectors = [[chance(text, place) for place in range(_WIDTH)] for text in texts]
    packed = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{_WIDTH}f", *vector)).decode() if packed else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 5 * len(texts), "total_tokens": 5 * len(texts)}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


class _Process:
    """Speak to one that runs elsewhere."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def counts(self) -> Counts:
        """Return what came so far."""
        with urllib.request.urlopen(f"{self.base_url}/counts", timeout=30) as answer:
            seen = json.load(answer)
        return Counts(**{field.name: seen[field.name] for field in fields(Counts)})


@contextmanager
def serving(**options: Any) -> Iterator[_Process]:
    """Serve with these options of `Refuser`, in a process of its own, while entered.

    Raises:
        RuntimeError: the server did not start.
    """
    command = [sys.executable, "-m", "benchmarks.studies.refusals_server", json.dumps(options)]
    with announced(command, "the refusing provider") as base_url:
        yield _Process(base_url)


def main(options: dict[str, Any]) -> None:
    """Serve until terminated, and say where on the first line."""
    import uvicorn

    raise_file_limit()
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        Refuser(**options), log_level="error", lifespan="off", access_log=False, timeout_keep_alive=60
    )
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}/v1\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
