"""Mock provider: an ASGI application with OpenAI's API."""

from __future__ import annotations

import hmac
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

import anyio

from batchrt.testing.admission.controller import AdmissionController, AdmissionDecision, ArrivingRequest
from batchrt.testing.admission.noise import Noise
from batchrt.testing.admission.outages import Outage
from batchrt.testing.admission.queue import Queueing
from batchrt.testing.admission.rate_limits import RateLimits
from batchrt.testing.endpoints.answers import Answer, Messages, as_messages, text_of
from batchrt.testing.endpoints.chat import ChatEndpoint
from batchrt.testing.endpoints.completions import CompletionsEndpoint
from batchrt.testing.endpoints.embeddings import EmbeddingsEndpoint
from batchrt.testing.endpoints.replies import MockReply, RejectedError, json_reply
from batchrt.testing.endpoints.request_body import CREATED, Reject
from batchrt.testing.endpoints.server_families import ServerFamily, family_of
from batchrt.testing.endpoints.streams import Streaming
from batchrt.testing.endpoints.vectors import Embeddable
from batchrt.testing.faults.fault_responses import apply_fault
from batchrt.testing.faults.latency import Latency, check_latency, check_seconds, seconds_of
from batchrt.testing.faults.plan import Fault, FaultPlan
from batchrt.testing.faults.seeded import digest_of
from batchrt.testing.history import History
from batchrt.testing.log import RequestLog
from batchrt.testing.serving.asgi import Receive, Scope, Send, authorization, play, read_body
from batchrt.testing.serving.exchange import Exchange
from batchrt.testing.verdict import Verdict

if TYPE_CHECKING:
    from batchrt.testing.serving.server import MockServer
    from batchrt.testing.serving.transport import MockTransport

__all__ = ["MockProvider"]

_Endpoint: TypeAlias = Callable[[bytes, str], MockReply]
_NO_FAULTS = FaultPlan()
_STREAMING = Streaming()
_MODELS = "GET /v1/models"
_EMBEDDINGS = "POST /v1/embeddings"


class MockProvider:
    """A mock OpenAI-compatible provider, deterministic for each seed.

    An ASGI 3 application for asyncio and Trio with `POST /v1/chat/completions`, `POST /v1/completions`, `POST
    /v1/embeddings`, `GET /v1/models`, with `server="vllm"` also `POST /v1/chat/completions/batch`, and for
    control `GET /_mock/log[?records=N]`, `GET /_mock/verdict[?since=S&until=S&grace=S&max_concurrency=N]` and
    `POST /_mock/reset`. Use it in process through `transport()`, on a socket through `serve()`, or mount it.
    A text's tokens are a quarter of its characters, rounded up. All times are the event loop's, so that hours
    pass at once on a simulated clock.

    A valid request for a model meets an outage, else a random refusal, else a full queue, else an exhausted
    quota, else a fault, and else is answered.

    Args:
        seed: another number gives other answers and latencies.
        latency: seconds before an answer, or a LogNormal to draw them from.
        faults: which requests meet which fault. An invalid request gets its 4xx at once, without latency or
            fault.
        api_key: if given, requests under /v1 must carry it, or get a 401.
        models: the models that exist; None accepts every name.
        answer: makes an answer from the request's body, in place of the hashed one; of a list of prompts or
            conversations it gets one at a time. It returns a text or, for a chat, an `AIMessage`, whose
            content, tool calls, refusal, reasoning, log probabilities, finish reason and usage are sent.
        server: the kind of server, which determines limits, leniency and errors of `/v1/embeddings` and of
            lists of prompts.
        max_inputs: the most inputs of an embedding request; None keeps the server's own limit (32 for "tei",
            2,048 for "openai", "azure" and "infinity", otherwise none).
        max_input_tokens: the most tokens of one input; the server's own is 8,192 for "openai" and "azure",
            512 for "llama-server", otherwise none.
        max_request_tokens: the most tokens of one request; 300,000 for "openai", otherwise none.
        max_in_flight: the number in flight above which embedding requests are refused: inputs for "tei"
            (512), requests for the others (512 for "ollama", otherwise no limit).
        dimensions: the width of a vector without `dimensions` in the request, and the greatest.
        reject: predicate on each input, prompt and message; a request for which it holds gets a 400 that does
            not tell which text.
        latency_per_input: seconds that each input adds to the latency.
        keep_records: the number of records in the log.
        rate_limits: the limits of each API key for each model, and how they are reported; None for none.
        queueing: the number of requests processed at a time; None for all.
        outages: spans without service; the first one that is on counts.
        noise: the share of random refusals; None for none.
        refusal_latency: the seconds until a refusal other than an outage's; with 0 it comes at once.
        streaming: how the answers of chats and completions are sent that are asked for as streams.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        latency: Latency = 0.0,
        faults: FaultPlan = _NO_FAULTS,
        api_key: str | None = None,
        models: Sequence[str] | None = None,
        answer: Answer | None = None,
        server: ServerFamily = "openai",
        max_inputs: int | None = None,
        max_input_tokens: int | None = None,
        max_request_tokens: int | None = None,
        max_in_flight: int | None = None,
        dimensions: int = 1536,
        reject: Reject | None = None,
        latency_per_input: float = 0.0,
        keep_records: int = 10_000,
        rate_limits: RateLimits | None = None,
        queueing: Queueing | None = None,
        outages: Sequence[Outage] = (),
        noise: Noise | None = None,
        refusal_latency: float = 0.0,
        streaming: Streaming = _STREAMING,
    ) -> None:
        self.seed = seed
        self.latency: Latency = check_latency(latency)
        self.faults = faults
        self.log: RequestLog = RequestLog(keep_records)
        self._key = None if api_key is None else api_key.encode()
        self._models = None if models is None else tuple(models)
        self._latency_per_input = check_seconds(latency_per_input)
        self._latency_per_token = 0.0 if queueing is None else queueing.seconds_per_token
        family = family_of(
            server,
            max_inputs=max_inputs,
            max_input_tokens=max_input_tokens,
            max_request_tokens=max_request_tokens,
            max_in_flight=max_in_flight,
        )
        self._controller = AdmissionController(
            server,
            family,
            limits=rate_limits,
            queueing=queueing,
            outages=outages,
            noise=noise,
            seed=seed,
            refusal_latency=check_seconds(refusal_latency, "refusal_latency"),
        )
        self._chat = ChatEndpoint(seed, self._models, answer, reject, streaming)
        self._completions = CompletionsEndpoint(
            seed, family, self._models, answer=answer, reject=reject, streaming=streaming
        )
        self._embeddings = EmbeddingsEndpoint(
            seed,
            family,
            self._models,
            dimensions=dimensions,
            reject=reject,
        )
        self._history = History()
        self._valid_requests = itertools.count()
        # Routes that a model answers: the ones with latency and faults.
        self._endpoints: dict[str, _Endpoint] = {
            "POST /v1/chat/completions": self._chat.reply,
            "POST /v1/completions": self._completions.reply,
            _EMBEDDINGS: self._embeddings.reply,
        }
        if family.has_chat_batch:
            self._endpoints["POST /v1/chat/completions/batch"] = self._chat.reply_batch

    def __repr__(self) -> str:
        # Without the key.
        return f"MockProvider(seed={self.seed}, latency={self.latency}, faults={self.faults})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; raises NotImplementedError for anything but HTTP."""
        if scope["type"] == "lifespan":
            await _serve_lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"the mock provider speaks HTTP, not {scope['type']}")
        body = await read_body(receive)
        if body is None:
            return
        exchange = self.open(
            scope["method"],
            scope["path"],
            body,
            authorization=authorization(scope),
            query=scope.get("query_string", b""),
        )
        await play(exchange, scope, receive, send)

    def answer_to(
        self,
        messages: str | Messages,
        *,
        response_format: Mapping[str, Any] | None = None,
        index: int = 0,
    ) -> str:
        """Return the text of the answer to `messages`; a string is one user message.

        Meant for a test's expectations: it is not logged, and no fault or limit applies. A custom `answer`
        gets `{"messages": …, "response_format": …}`.
        """
        said = as_messages(messages)
        body = {"messages": said, "response_format": response_format}
        return text_of(self._chat.answer(body, said, index))

    def completion_to(self, prompt: Embeddable, *, index: int = 0) -> str:
        """Return the completion of `prompt`, a text or its tokens; `index` is below `n`.

        For expectations, as `answer_to`. A custom `answer` gets `{"prompt": …}`.
        """
        return self._completions.text({}, prompt, index)

    def vector_of(
        self, text: Embeddable, *, model: str = "mock", dimensions: int | None = None
    ) -> list[float]:
        """Return the embedding of `text`, or of its tokens: a unit vector of exact float32.

        For expectations, as `answer_to`. The same in each `encoding_format`; a server that ignores `model` or
        `dimensions` ignores them here too.
        """
        return self._embeddings.vector(text, model, dimensions)

    def transport(self) -> MockTransport:
        """Return an `httpx.AsyncBaseTransport` that answers in process, without sockets."""
        from batchrt.testing.serving.transport import MockTransport

        return MockTransport(self)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> MockServer:
        """Return a context manager that serves this provider from a thread; port 0: any free one.

        Raises ImportError that names the missing package where uvicorn is not installed.
        """
        from batchrt.testing.serving.server import MockServer

        return MockServer(self, host, port)

    def verdict(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        grace: float = 0.0,
        max_concurrency: int | None = None,
    ) -> Verdict:
        """Judge the requests received: use of the quota, waits kept, rows answered.

        Args:
            since: start of the judged span, in seconds since the first request; None: the first valid request
                for a model.
            until: its end; None: the last such request.
            grace: the seconds that a refusal takes to reach the client: a request within them was sent
                before. On a socket more than 0; in process there is no delay.
            max_concurrency: the most requests that the client has in flight, so that it is compared with one
                that has as many; None for no bound.
        """
        peak = self.log.snapshot().peak_in_flight
        return self._controller.verdict(
            since=since,
            until=until,
            grace=grace,
            peak_in_flight=peak,
            max_concurrency=max_concurrency,
        )

    def reset(self) -> None:
        """Forget every request: the log, the quotas, the attempts, and the position in each script.

        Requests that wait in the queue stay there.
        """
        self.log.reset()
        self._controller.reset()
        self._history.clear()
        self._valid_requests = itertools.count()

    def open(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        authorization: bytes = b"",
        query: bytes = b"",
    ) -> Exchange:
        """Decide the reply to a request; the caller waits, sends it, and finishes the exchange."""
        route = f"{method} {path}"
        if path.startswith("/_mock/"):
            return Exchange(self._control(route, query), name="control")
        now = anyio.current_time()
        self._controller.begin(now)
        digest = digest_of(path.encode() + b"\0" + body)
        attempt, in_a_row = self._history.arrived(digest)
        name = f"{digest:016x}-{attempt}"
        fault: Fault | None = None
        decision: AdmissionDecision | None = None
        try:
            self._check_key(path, authorization)
            good = reply = self._reply(route, body, name)
            if good.charge is not None:
                is_embedding = route == _EMBEDDINGS
                decision = self._controller.enter(
                    ArrivingRequest(
                        now, good.charge, authorization, digest, attempt, good.items, is_embedding
                    )
                )
                if decision.refusal is not None:
                    reply = decision.refusal
                else:
                    good = good._replace(delay=self._seconds_of(good, digest, attempt))
                    reply, fault = self._with_fault(good, digest, attempt, in_a_row)
                    reply = decision.with_rate_limit_headers(reply, now)
        except RejectedError as rejected:
            good = reply = rejected.reply
        return Exchange(
            reply,
            name=name,
            now=now,
            route=route if route in self._endpoints or route == _MODELS else "other",
            fault=fault,
            attempt=attempt,
            digest=digest,
            items=good.items,
            log=self.log,
            decision=decision,
        )

    def _reply(self, route: str, body: bytes, name: str) -> MockReply:
        endpoint = self._endpoints.get(route)
        if endpoint is not None:
            return endpoint(body, name)
        if route != _MODELS:
            raise RejectedError(404, f"Invalid URL ({route})")
        names = ("mock",) if self._models is None else self._models
        return json_reply(200, {"object": "list", "data": [_model(name) for name in names]})

    def _seconds_of(self, good: MockReply, digest: int, attempt: int) -> float:
        seconds = seconds_of(self.latency, self.seed, digest, attempt)
        answered = 0 if good.charge is None else good.charge.answered
        return seconds + self._latency_per_input * good.items + self._latency_per_token * answered

    def _with_fault(
        self, good: MockReply, digest: int, attempt: int, in_a_row: int
    ) -> tuple[MockReply, Fault | None]:
        """Return the reply after the fault that the plan chose, and that fault if the reply can have it."""
        position = next(self._valid_requests)
        if position < len(self.faults.script):
            tuned = self.faults.scripted(position)
        else:
            tuned = self.faults.drawn(digest, attempt, in_a_row)
        reply = good if tuned is None else apply_fault(good, tuned)
        fault = None if tuned is None or reply is good else tuned.fault
        if fault is not None or in_a_row:
            self._history.record_outcome(digest, faulty=fault is not None)
        return reply, fault

    def _check_key(self, path: str, authorization: bytes) -> None:
        if self._key is None or not path.startswith("/v1/"):
            return
        if not hmac.compare_digest(authorization, b"Bearer " + self._key):
            raise RejectedError(
                401,
                "Incorrect API key provided." if authorization else "No API key provided.",
                code="invalid_api_key",
            )

    def _control(self, route: str, query: bytes) -> MockReply:
        if route == "GET /_mock/log":
            newest = parse_qs(query.decode("latin-1")).get("records", ["0"])[0]
            seen = self.log.snapshot().to_dict()
            if newest.isdecimal() and int(newest):
                seen["records"] = [entry.to_dict() for entry in self.log.records(int(newest))]
            return json_reply(200, seen)
        if route == "GET /_mock/verdict":
            return self._verdict_reply(query)
        if route == "POST /_mock/reset":
            self.reset()
            return json_reply(200, {"reset": True})
        return RejectedError(404, f"Invalid URL ({route})").reply

    def _verdict_reply(self, query: bytes) -> MockReply:
        asked = parse_qs(query.decode("latin-1"))
        cap = asked.get("max_concurrency", ["0"])[0]
        try:
            given = {name: float(asked[name][0]) for name in ("since", "until", "grace") if name in asked}
        except ValueError:
            given = {"since": math.nan}
        if not all(map(math.isfinite, given.values())):
            return RejectedError(400, "since, until and grace must be seconds.").reply
        if not cap.isdecimal():
            return RejectedError(400, "max_concurrency must be a whole number.").reply
        verdict = self.verdict(
            since=given.get("since"),
            until=given.get("until"),
            grace=given.get("grace", 0.0),
            max_concurrency=int(cap) or None,
        )
        return json_reply(200, verdict.to_dict())


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "batchrt"}


async def _serve_lifespan(receive: Receive, send: Send) -> None:
    """Confirm a server's startup and shutdown messages."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
