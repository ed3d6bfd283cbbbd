"""Streamed calls: answers in chunks over real connections, cut, cancelled, left and ended at every place."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest
from anyio.streams.tls import TLSListener

from batchrt import (
    BadRequestError,
    ChatOpenAI,
    ConnectionFailedError,
    MalformedResponseError,
    Price,
    ProviderError,
    Quota,
    RequestTimeoutError,
    ServerError,
    SpendingLimitError,
    Usage,
)
from batchrt.messages import AIMessageChunk
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand, current_strand
from tests.limits.quotas import BACKENDS, is_idle, virtually
from tests.providers.http.raw import Connection, HangUp, RawServer, raw_server
from tests.providers.http.tls import certificate
from tests.providers.mocked import respond
from tests.providers.streaming import Streamed, chunk_of, event, message_of, streamed

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    """Return a chunk of HTTP."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def answer(number: int | str, pieces: int = 3) -> list[bytes]:
    """Return the events of an answer that tells its request's number in each chunk."""
    texts = [chunk_of({"content": f"<{number}.{piece}>"}) for piece in range(pieces)]
    first, last = chunk_of({"role": "assistant", "content": ""}), chunk_of({}, "stop")
    return [*map(event, (first, *texts, last, chunk_of(None, usage=USAGE))), event(b"[DONE]")]


def brief(number: int | str) -> list[bytes]:
    """Return the events of an answer in as few bytes as can be."""
    texts = [
        b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode() for text in texts_of(number)
    ]
    return [*texts, b"data: [DONE]\n\n"]


def texts_of(number: int | str, pieces: int = 3) -> list[str]:
    return [f"<{number}.{piece}>" for piece in range(pieces)]


def number_of(server: RawServer) -> str:
    """Return the text of the newest request."""
    text: str = json.loads(server.requests[-1].body)["messages"][0]["content"]
    return text


def model_at(server: RawServer, **options: Any) -> ChatOpenAI:
    given = {"base_url": server.base_url, "api_key": "k", "max_retries": 0, "timeout": 30.0, **options}
    given.setdefault("quota", Quota())  # an earlier server may have had the same port
    return ChatOpenAI("m", **given)


def spoken(chunks: list[AIMessageChunk]) -> list[str]:
    return [str(chunk.content) for chunk in chunks if chunk.content]


async def gone(server: RawServer) -> None:
    """Wait until the server has seen the end of a connection."""
    with anyio.fail_after(20):
        await server.closed.wait()


@pytest.mark.anyio
async def test_streamed_call_is_the_same_cut_at_every_byte() -> None:
    """However TCP cuts the bytes, each chunk comes once, in order; all answers use one connection."""
    body = b"".join(map(framed, brief(7))) + END

    async def script(connection: Connection) -> None:
        cut = int(number_of(server))
        await connection.send(HEAD + body[:cut])
        await anyio.lowlevel.checkpoint()
        await connection.send(body[cut:] or b"")

    async with raw_server(script) as server, model_at(server) as model:
        for cut in range(len(body)):
            assert spoken(await streamed(model, str(cut))) == texts_of(7)
        assert server.opened == 1


@pytest.mark.anyio
async def test_streamed_call_that_is_cut_off_at_every_byte_fails_with_the_chunks_so_far() -> None:
    """What came is told, no more; no connection stays open, and no other stream is touched."""
    parts = [framed(part) for part in brief("x")]
    body = b"".join(parts) + END
    ends = [len(b"".join(parts[:place])) + len(part) - 2 for place, part in enumerate(parts)]

    async def script(connection: Connection) -> None:
        cut = int(number_of(server))
        await connection.send(HEAD + body[:cut])
        raise HangUp

    async with raw_server(script) as server, model_at(server) as model:
        results = await Streamed(model).abatch(
            list(map(str, range(len(body)))), {"max_concurrency": 1}, return_exceptions=True
        )
        for cut, result in enumerate(results):
            came = texts_of("x")[: sum(cut >= end for end in ends)]
            if cut >= ends[-1]:
                assert spoken(result) == came
            elif came:
                assert isinstance(result, MalformedResponseError)
                assert result.partial.content == "".join(came)
            else:
                assert isinstance(result, MalformedResponseError | ConnectionFailedError)
                assert result.partial is None
        assert is_idle(model.quota)


@pytest.mark.anyio
async def test_streamed_call_that_drips_is_whole() -> None:
    """A server that sends byte by byte is read as it comes."""
    body = HEAD + b"".join(map(framed, answer(1))) + END

    async def script(connection: Connection) -> None:
        for byte in body:
            await connection.send(bytes((byte,)))

    async with raw_server(script) as server, model_at(server) as model:
        chunks = await Streamed(model).abatch(["1"] * 5)
        assert [spoken(each) for each in chunks] == [texts_of(1)] * 5


@pytest.mark.anyio
@pytest.mark.parametrize("most", range(6))
async def test_streamed_call_that_is_left_closes_its_connection(most: int) -> None:
    """A consumer that stops after any chunk leaves no connection and no request in flight."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD + b"".join(map(framed, answer(1, 5)[:6])))
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server, model_at(server) as model:
        chunks = await Streamed(model, most=most).ainvoke("1")
        assert spoken(chunks) == texts_of(1)[:most] + texts_of(1, 5)[3:most]
        if most:
            await gone(server)
        assert server.opened == bool(most)
        assert is_idle(model.quota)


@pytest.mark.anyio
@pytest.mark.parametrize("most", range(6))
async def test_streamed_call_that_is_cancelled_closes_its_connection(most: int) -> None:
    """Cancelling the consumer while it waits for any chunk, or handles one, closes the connection at once."""
    for in_handler in (False, True):

        async def script(connection: Connection) -> None:
            events = answer(1, 5)
            await connection.send(HEAD + b"".join(map(framed, events[: most + 1])))
            await connection.until_closed()
            raise HangUp

        reached = anyio.Event()

        async def each(
            chunks: list[Any], *, in_handler: bool = in_handler, reached: anyio.Event = reached
        ) -> None:
            if in_handler and len(chunks) == most:
                reached.set()
                await anyio.sleep_forever()

        async with (
            raw_server(script) as server,
            model_at(server) as model,
            anyio.create_task_group() as group,
        ):
            group.start_soon(Streamed(model, each).ainvoke, "1")
            with anyio.fail_after(20):
                await (reached if in_handler and most else server.arrived).wait()
            group.cancel_scope.cancel()
        assert is_idle(model.quota)


@pytest.mark.anyio
async def test_streamed_call_cancelled_among_others_leaves_these_alone() -> None:
    """Streams that go on get all of their own chunks while others are cancelled at every place."""

    async def script(connection: Connection) -> None:
        text = number_of(server)
        await connection.send(HEAD)
        for part in answer(text, 8):
            await connection.send(framed(part))
            await anyio.lowlevel.checkpoint()
        await connection.send(END)

    async with raw_server(script) as server, model_at(server) as model:

        async def stop_early(number: int) -> None:
            with anyio.CancelScope() as scope:

                async def each(chunks: list[Any]) -> None:
                    if len(chunks) == number:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()

                await Streamed(model, each).ainvoke(f"no {number}")

        async with anyio.create_task_group() as group:
            for number in range(1, 9):
                group.start_soon(stop_early, number)
            results = await Streamed(model).abatch([f"yes {number}" for number in range(20)])
        assert [spoken(result) for result in results] == [texts_of(f"yes {n}", 8) for n in range(20)]
        assert is_idle(model.quota)


@pytest.mark.anyio
async def test_streamed_call_waits_no_longer_than_its_timeout_in_a_silence() -> None:
    """A stream that stalls after its first chunk is a timeout, and its connection is closed."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD + b"".join(map(framed, answer(1)[:3])))
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server, model_at(server, timeout=1.0) as model:
        with pytest.raises(RequestTimeoutError, match="stalled: nothing came for 1 s") as info:
            await streamed(model, "1")
        assert info.value.partial.content == "<1.0><1.1>"
        await gone(server)
        assert is_idle(model.quota)


@pytest.mark.anyio
async def test_streamed_call_without_an_answer_is_a_timeout() -> None:
    """The time to the head of the answer is bounded too."""

    async def script(connection: Connection) -> None:
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server, model_at(server, timeout=0.5) as model:
        with pytest.raises(RequestTimeoutError, match=r"no answer from .* within 0.5 s") as info:
            await streamed(model, "1")
        assert info.value.partial is None
        await gone(server)


@pytest.mark.anyio
async def test_streamed_call_ends_with_done_though_the_connection_stays_open() -> None:
    """A server that does not end the body loses its connection, not the answer."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD + b"".join(map(framed, answer(1))))
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server, model_at(server) as model:
        assert spoken(await streamed(model, "1")) == texts_of(1)
        await gone(server)


@pytest.mark.anyio
async def test_streamed_call_uses_its_connection_again() -> None:
    """An answer received to its end gives the connection back: to streams and to other requests."""

    async def script(connection: Connection) -> None:
        if b'"stream"' in server.requests[-1].body:
            await connection.send(HEAD)
            for part in answer(1):
                await connection.send(framed(part))
                await anyio.lowlevel.checkpoint()
            await connection.send(END)
        else:
            await connection.answer()

    async with raw_server(script) as server, model_at(server) as model:
        for _ in range(3):
            assert spoken(await streamed(model, "1")) == texts_of(1)
            assert (await model.ainvoke("1")).content == "hello"
        assert server.opened == 1


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_streamed_call_unpacks_each_event_as_it_comes(encoding: str) -> None:
    """A proxy that compresses and flushes delays no chunk, and a bomb ends at the bound."""
    arrived: list[int] = []

    async def script(connection: Connection) -> None:
        packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        await connection.send(HEAD.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {encoding}\r\n\r\n".encode()))
        for place, part in enumerate(answer(1)):
            await connection.send(framed(packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH)))
            while 0 < place <= 3 and len(arrived) < place:
                await anyio.lowlevel.checkpoint()
        await connection.send(framed(packer.flush()) + END)

    async def each(chunks: list[Any]) -> None:
        arrived.append(len(chunks))

    async with raw_server(script) as server, model_at(server) as model:
        with anyio.fail_after(20):
            assert spoken(await Streamed(model, each).ainvoke("1")) == texts_of(1)

    async def bomb(connection: Connection) -> None:
        body = gzip.compress(b": " + bytes(10**7))
        await connection.send(HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n") + framed(body))
        await connection.until_closed()
        raise HangUp

    async with raw_server(bomb) as server, model_at(server, max_response_bytes=10**6) as model:
        with pytest.raises(MalformedResponseError, match="max_response_bytes"):
            await streamed(model, "1")
        await gone(server)


@pytest.mark.anyio
async def test_streamed_call_bounds_its_answer() -> None:
    """A server that never ends is left at `max_response_bytes`, with what had come."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD)
        while True:
            await connection.send(framed(event(chunk_of({"content": "again "}))))

    async with raw_server(script) as server, model_at(server, max_response_bytes=10_000) as model:
        with pytest.raises(MalformedResponseError, match="max_response_bytes") as info:
            await streamed(model, "1")
        assert info.value.partial.content.startswith("again again ")
        await gone(server)


@pytest.mark.anyio
async def test_streamed_call_over_tls_is_whole_or_closed(tmp_path: Path) -> None:
    """Over TLS too: each chunk at once, the connection used again, and closed when a stream is left."""
    cert = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, cert.with_name("key.pem"))
    trusting = ssl.create_default_context(cafile=str(cert))
    opened = 0
    left = anyio.Event()

    async def handle(stream: anyio.abc.ByteStream) -> None:
        nonlocal opened
        opened += 1
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    received = b""
                    while not received.endswith(b"}"):
                        received += await stream.receive()
                    stops = b'"stop"' in received
                    await stream.send(HEAD)
                    for part in answer(1)[:3] if stops else answer(1):
                        await stream.send(framed(part))
                    if not stops:
                        await stream.send(END)
            left.set()

    tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = tcp.extra(anyio.abc.SocketAttribute.local_port)
    listener = TLSListener(tcp, context, standard_compatible=False)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        model = ChatOpenAI(
            "m", base_url=f"https://localhost:{port}/v1", api_key="k", ssl_context=trusting, max_retries=0
        )
        async with model:
            for _ in range(2):
                assert spoken(await streamed(model, "go")) == texts_of(1)
            assert spoken(await Streamed(model, most=2).ainvoke("stop")) == texts_of(1)[:2]
            with anyio.fail_after(20):
                await left.wait()
            assert opened == 1
        group.cancel_scope.cancel()


CHANNELS: dict[str, Callable[[], Any]] = {
    "httpx client": lambda: {"http_client": httpx.AsyncClient()},
    "httpx2 client": lambda: {"http_client": httpx2.AsyncClient()},
    "httpx transport": lambda: {"transport": httpx.AsyncHTTPTransport()},
}


@pytest.mark.anyio
@pytest.mark.parametrize("channel", CHANNELS)
async def test_streamed_call_goes_through_users_clients(channel: str) -> None:
    """A user's client or transport streams too: chunks as they come, and closed when it is left."""

    async def script(connection: Connection) -> None:
        number = number_of(server)
        await connection.send(HEAD)
        for place, part in enumerate(answer(number)):
            await connection.send(framed(part))
            while 0 < place <= 3 and len(arrived) < place:
                await anyio.lowlevel.checkpoint()
            if number == "stop" and place == 2:
                await connection.until_closed()
                raise HangUp
            if number == "cut" and place == 2:
                raise HangUp
        await connection.send(END)

    arrived: list[int] = []

    async def each(chunks: list[Any]) -> None:
        arrived.append(len(chunks))

    async with raw_server(script) as server:
        options = CHANNELS[channel]()
        model = model_at(server, **options)
        with anyio.fail_after(20):
            for number in ("1", "2"):
                arrived.clear()
                assert spoken(await Streamed(model, each).ainvoke(number)) == texts_of(number)
            assert server.opened == 1
            arrived.clear()
            assert spoken(await Streamed(model, each, most=2).ainvoke("stop")) == texts_of("stop")[:2]
            await gone(server)
            arrived.clear()
            with pytest.raises((MalformedResponseError, ConnectionFailedError)) as info:
                await Streamed(model, each).ainvoke("cut")
            assert info.value.partial.content == "<cut.0><cut.1>"
            with anyio.move_on_after(0.05):
                await streamed(model, "wait")
        assert is_idle(model.quota)
        for option in options.values():
            await option.aclose()


class _Dripping(httpx.AsyncByteStream):
    """Events with a pause before each; an `Exception` among them is raised."""

    def __init__(self, events: list[Any], pause: float) -> None:
        self._events, self._pause = events, pause
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._events:
            await anyio.sleep(self._pause)
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.closed = True


def dripping(events: list[Any], pause: float, **options: Any) -> ChatOpenAI:
    return respond(lambda _: httpx.Response(200, stream=_Dripping(events, pause)), **options)


on_both = pytest.mark.parametrize("backend", BACKENDS)


@on_both
def test_streamed_call_may_take_longer_than_its_timeout(backend: str) -> None:
    """The timeout bounds each silence and not the whole: a stream that flows is not cut off."""

    async def main() -> None:
        chunks = await streamed(dripping(answer(1), 9.0, timeout=10.0))
        assert spoken(chunks) == texts_of(1)
        assert anyio.current_time() == pytest.approx(9.0 * 7)

    virtually(backend, main)


@on_both
def test_streamed_call_time_of_a_slow_consumer_is_no_silence(backend: str) -> None:
    """A consumer may take as long as it likes with a chunk."""

    async def main() -> None:
        model = dripping(answer(1), 1.0, timeout=2.0)

        async def each(_: list[Any]) -> None:
            await anyio.sleep(100)

        assert spoken(await Streamed(model, each).ainvoke("1")) == texts_of(1)

    virtually(backend, main)


@on_both
def test_streamed_call_counts_as_in_flight_until_its_end(backend: str) -> None:
    """`max_in_flight` bounds streams; the next is sent when one ends, or is left."""

    async def main() -> None:
        model = dripping(answer(1), 1.0, max_in_flight=3)
        peaks: list[int] = []

        async def each(_: list[Any]) -> None:
            peaks.append(model.quota.statistics().in_flight)

        await Streamed(model, each).abatch(["1"] * 9)
        assert max(peaks) == 3
        assert anyio.current_time() == pytest.approx(21)
        await Streamed(model, each, most=1).abatch(["1"] * 9)
        assert anyio.current_time() == pytest.approx(21 + 3 * 2)
        assert is_idle(model.quota)

    virtually(backend, main)


@on_both
def test_streamed_call_is_retried_until_its_first_chunk(backend: str) -> None:
    """Refusals, failures and streams that break before their first chunk count as attempts."""
    early = [*answer(1)[:1], httpx.ReadError("broke")]
    replies: list[Callable[[], httpx.Response]] = [
        lambda: httpx.Response(500, json={"error": {"message": "oops"}}),
        lambda: httpx.Response(200, stream=_Dripping(early, 0.1)),
        lambda: httpx.Response(429, headers={"retry-after": "3"}, json={"error": {"message": "slow"}}),
        lambda: httpx.Response(200, content=event({"error": {"message": "again", "code": 503}})),
        lambda: httpx.Response(200, content=b"".join(answer(1))),
    ]

    async def main() -> None:
        model = respond(lambda _: replies.pop(0)(), max_retries=4)
        result = await Streamed(model).arun(["1"])
        assert spoken(result.outputs[0] or []) == texts_of(1)
        assert result[0].attempts == 5
        assert result[0].usage == Usage(10, 3, 13)
        assert result[0].request_seconds is not None
        assert model.quota.statistics().answers == 1
        assert is_idle(model.quota)

    virtually(backend, main)


@on_both
def test_streamed_call_gives_up_like_any_other(backend: str) -> None:
    """The last error is raised, and says how many attempts there were."""

    async def main() -> None:
        model = respond(lambda _: httpx.Response(500, json={"error": {"message": "oops"}}), max_retries=2)
        with pytest.raises(ServerError, match="3 attempts") as info:
            await streamed(model)
        assert info.value.partial is None
        assert is_idle(model.quota)

    virtually(backend, main)


@on_both
def test_streamed_call_is_paid_from_the_runs_budget(backend: str) -> None:
    """Usage is settled at the end; what broke off or was left is paid as expected, and the budget holds."""

    async def main() -> None:
        model = dripping(answer(1), 0.1, max_tokens=3)
        config: Any = {"max_concurrency": 1, "max_tokens_total": 100, "prices": Price(1.0, 1.0)}
        result = await Streamed(model).arun(["1"] * 50, config)
        assert result.usage.total_tokens <= 100
        assert isinstance(result.ended, SpendingLimitError)
        assert sum(outcome.ok for outcome in result) == 100 // 13

        left = await Streamed(model, most=1).arun(["1"] * 50, config)
        assert isinstance(left.ended, SpendingLimitError)
        assert 0 < sum(outcome.ok for outcome in left) < 50
        assert is_idle(model.quota)

    virtually(backend, main)


@on_both
def test_streamed_call_counts_cumulative_usage_once(backend: str) -> None:
    """Of usage on every chunk the last one holds, in the item's books and in an error."""

    async def main() -> None:
        parts = [
            event(
                {
                    **chunk_of({"content": str(n)}),
                    "usage": {**USAGE, "completion_tokens": n, "total_tokens": 10 + n},
                }
            )
            for n in range(1, 4)
        ]
        result = await Streamed(dripping([*parts, event(b"[DONE]")], 0.1)).arun(["1"])
        assert result[0].usage == Usage(10, 3, 13)
        broken = await Streamed(dripping([*parts[:2], httpx.ReadError("broke")], 0.1)).arun(["1"])
        assert isinstance(broken[0].error, ProviderError)
        assert broken[0].error.partial.usage == broken[0].usage == Usage(10, 2, 12)

    virtually(backend, main)


@on_both
def test_streamed_call_latency_is_not_the_consumers(backend: str) -> None:
    """Under `max_concurrency="auto"` a slow consumer does not look like a busy provider."""

    async def main() -> None:
        limits: list[float] = []
        for slowest in (0, 60):
            model = dripping(answer(1, 1), 0.1, quota=Quota())
            count = 0

            async def each(_: list[Any], slowest: int = slowest) -> None:
                nonlocal count
                count += 1
                if count > 600:
                    await anyio.sleep(count % 7 * slowest)

            await Streamed(model, each).abatch(["1"] * 800, {"max_concurrency": "auto"})
            limits.append(model.quota.statistics().max_concurrency or 0)
        assert limits[1] > limits[0] / 2

    virtually(backend, main)


@on_both
def test_streamed_call_takes_its_slot_again_before_it_waits(backend: str) -> None:
    """A slow consumer may give the slot up: another stream goes on meanwhile, and the cap holds."""

    async def main() -> None:
        model = dripping(answer(1), 1.0)

        async def each(_: list[Any]) -> None:
            strand = current_strand()
            assert strand is not None
            assert strand.has_slot
            strand.give()
            await anyio.sleep(10)

        results = await Streamed(model, each).abatch(["1"] * 2, {"max_concurrency": 1})
        assert [spoken(result) for result in results] == [texts_of(1)] * 2
        assert anyio.current_time() < 1.5 * (5 * 10 + 7)

    virtually(backend, main)


def test_streamed_call_that_has_ended_gives_nothing_more() -> None:
    """After its end, an error or its close there is no chunk, and nothing is sent."""
    requests: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, content=b"".join(answer(1)))

    class Ended(Streamed):
        def _build(self, kwargs: Mapping[str, Any]) -> Step:
            produce = self._model._step().produce
            assert produce is not None

            async def call(value: Any, strand: Strand) -> None:
                closed: Any = produce(value, strand)
                await closed.aclose()
                stream: Any = produce(value, strand)
                async for _ in stream:
                    pass
                for ended in (closed, stream):
                    await ended.aclose()
                    with pytest.raises(StopAsyncIteration):
                        await anext(ended)

            return Step(call)

    anyio.run(Ended(respond(reply)).ainvoke, "1")
    assert len(requests) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("rest", [b": bye\n\n" * 3, b"", None], ids=["more", "cut", "reset"])
async def test_streamed_call_does_not_mind_what_follows_its_end(rest: bytes | None) -> None:
    """Behind `[DONE]` an answer is complete: neither more bytes nor a broken connection change that."""

    async def script(connection: Connection) -> None:
        await connection.send(HEAD + b"".join(map(framed, answer(1))))
        if rest:
            await connection.send(framed(rest) + END)
        else:
            await connection.send(b"no chunk\r\n" if rest is None else b"")
            raise HangUp

    async with raw_server(script) as server, model_at(server) as model:
        for _ in range(2):
            chunks = await streamed(model, "1")
            assert spoken(chunks) == texts_of(1)
            assert message_of(chunks).usage == Usage(10, 3, 13)
        assert server.opened == (1 if rest else 2)
        assert model.quota.statistics().answers == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    "field", [b"content-encoding: compress", b"transfer-encoding: gzip"], ids=bytes.decode
)
async def test_streamed_call_in_an_unknown_encoding_fails(field: bytes) -> None:
    """A body that cannot be read is an error with the encoding's name, and its connection is closed."""

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n" + b"".join(answer(1)))
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server, model_at(server) as model:
        with pytest.raises(MalformedResponseError, match=r"compress|gzip"):
            await streamed(model, "1")
        await gone(server)
        async with httpx.AsyncClient() as client:
            if b"content" in field:
                with pytest.raises(MalformedResponseError, match="compress"):
                    await streamed(model_at(server, http_client=client), "1")


@pytest.mark.anyio
async def test_streamed_call_without_a_server_says_so() -> None:
    """A refused connection and an error's body are told as those of any request."""

    async def script(connection: Connection) -> None:
        await connection.answer(b'{"error":{"message":"no such model"}}', "404 Not Found")

    async with raw_server(script) as server, model_at(server) as model:
        with pytest.raises(BadRequestError, match="no such model") as info:
            await streamed(model, "1")
        assert info.value.status == 404
        with pytest.raises(BadRequestError):
            await streamed(model, "1")
        assert server.opened == 1
    with pytest.raises(ConnectionFailedError, match="nothing listens there"):
        await streamed(model_at(server), "1")
