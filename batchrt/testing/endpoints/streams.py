"""Streamed answers of the mock: the events of an answer, in the forms in which servers send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from pydantic_core import to_json

from batchrt.testing.endpoints.replies import MockReply, RejectedError, TimedPart, TokenCharge
from batchrt.testing.endpoints.request_body import wrong_type
from batchrt.testing.faults.latency import check_seconds

__all__ = ["StreamForm", "Streaming", "asks_for_stream"]

StreamForm: TypeAlias = Literal[
    # of the format
    "byte_order_mark",
    "carriage_returns",
    "crlf",
    "comments",
    "retry",
    "identifiers",
    "empty_events",
    "two_data_lines",
    "no_last_blank",
    # of the answer
    "no_done",
    "null_choices",
    "empty_deltas",
    "missing_usage",
    "cumulative_usage",
    "refused_usage",
    "whole",
]
"""A way in which servers differ from OpenAI's, all of which a client has to understand.

- `byte_order_mark`: one at the beginning.
- `carriage_returns`, `crlf`: lines end with these.
- `comments`: one before each event.
- `retry`: a `retry` field at the beginning.
- `identifiers`: an `id` field in each event, and a blank line more behind it.
- `empty_events`: an event without data before each, and one with an empty one.
- `two_data_lines`: the JSON of an event in two `data` fields.
- `no_last_blank`: the blank line of the last event is missing.
- `no_done`: no `[DONE]` at the end.
- `null_choices`: null in place of an empty list of choices, and an event like that at the beginning.
- `empty_deltas`: a delta that is empty and one of nulls among the others.
- `missing_usage`: none, though it was asked for.
- `cumulative_usage`: that of the answer so far with each chunk, also where none was asked for.
- `refused_usage`: a 400 for `stream_options`.
- `whole`: an answer as a whole, as if none had asked for a stream.
"""


@dataclass(frozen=True, slots=True)
class Streaming:
    """How answers are sent that are asked for as streams.

    Args:
        chunk_size: characters in a chunk.
        first_pause: seconds between the head of an answer, which the latency is before, and its first chunk.
        pause: seconds between one chunk and the next.
        forms: differences from OpenAI's streams, all at once.
    """

    chunk_size: int = 4
    first_pause: float = 0.0
    pause: float = 0.0
    forms: Sequence[StreamForm] | AbstractSet[StreamForm] = ()

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be 1 or more characters, not {self.chunk_size}")
        check_seconds(self.first_pause, "first_pause")
        check_seconds(self.pause, "pause")
        unknown = set(self.forms) - set(get_args(StreamForm))
        if unknown:
            raise ValueError(f"forms has {', '.join(sorted(unknown))}; there are {get_args(StreamForm)}")

    def reply(
        self, document: Mapping[str, Any], body: Mapping[str, Any], charge: TokenCharge, items: int
    ) -> MockReply | None:
        """Return the reply that streams an answer; `None` for a server that answers as a whole.

        Raises:
            RejectedError: the server does not know `stream_options`.
        """
        if "refused_usage" in self.forms and body.get("stream_options") is not None:
            message = "Unrecognized request argument supplied: stream_options"
            raise RejectedError(400, message)
        if "whole" in self.forms:
            return None
        headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
        events = tuple(self._timed(self._encoded(list(self._objects(document, body)))))
        return MockReply(200, headers, events=events, items=items, charge=charge)

    def _timed(self, events: list[bytes]) -> Iterator[TimedPart]:
        for place, event in enumerate(events):
            yield self.pause if place else self.first_pause, event

    def _objects(self, document: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the objects of the events."""
        options = body.get("stream_options") or {}
        asked = bool(options.get("include_usage"))
        common = {name: value for name, value in document.items() if name not in ("choices", "usage")}
        if document["object"] == "chat.completion":
            common["object"] = "chat.completion.chunk"
        cumulative, usage = "cumulative_usage" in self.forms, document["usage"]
        if "null_choices" in self.forms:
            yield {**common, "choices": None}
        said = 0
        for choice in document["choices"]:
            for delta in self._deltas(choice):
                said += 1
                chunk = {**common, "choices": [delta]}
                if cumulative:
                    chunk["usage"] = _so_far(usage, said)
                elif asked:
                    chunk["usage"] = None
                yield chunk
        if (asked or cumulative) and "missing_usage" not in self.forms:
            yield {**common, "choices": None if "null_choices" in self.forms else [], "usage": usage}

    def _deltas(self, choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield one choice in chunks; a completion's have no delta."""
        message = choice.get("message")
        common = {"index": choice["index"], "logprobs": None}
        ends = {**common, "logprobs": choice["logprobs"], "finish_reason": choice["finish_reason"]}
        goes_on = {**common, "finish_reason": None}
        if message is None:
            yield from ({"text": piece, **goes_on} for piece in self._pieces(choice["text"]))
            yield {"text": "", **ends}
            return
        content = None if message["content"] is None else ""
        yield {"delta": {"role": "assistant", "content": content, "refusal": None}, **goes_on}
        for delta in self._deltas_of(message):
            if "empty_deltas" in self.forms:
                yield {"delta": {}, **goes_on}
                yield {"delta": {"role": None, "content": None}, **goes_on}
            yield {"delta": delta, **goes_on}
        yield {"delta": {}, **ends}

    def _deltas_of(self, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the members of a message in pieces, in the order in which models write them."""
        for name in ("reasoning_content", "content", "refusal"):
            value = message.get(name)
            if isinstance(value, str):
                yield from ({name: piece} for piece in self._pieces(value))
            elif value:  # content in parts
                yield {name: value}
        for index, call in enumerate(message.get("tool_calls", ())):
            function = call.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
                yield {"tool_calls": [{"index": index, **call}]}
                continue
            begin = {"index": index, **call, "function": {**function, "arguments": ""}}
            yield {"tool_calls": [begin]}
            for piece in self._pieces(function["arguments"]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _pieces(self, text: str) -> list[str]:
        return [text[start : start + self.chunk_size] for start in range(0, len(text), self.chunk_size)]

    def _encoded(self, objects: list[dict[str, Any]]) -> list[bytes]:
        """Return the events as bytes."""
        events = [self._event(place, to_json(each)) for place, each in enumerate(objects)]
        if "no_done" not in self.forms:
            events.append(b"data: [DONE]\n\n")
        if "no_last_blank" in self.forms:
            events[-1] = events[-1].rstrip(b"\n") + b"\n"
        if "retry" in self.forms:
            events[0] = b"retry: 3000\n\n" + events[0]
        if "byte_order_mark" in self.forms:
            events[0] = b"\xef\xbb\xbf" + events[0]
        for form, end in (("carriage_returns", b"\r"), ("crlf", b"\r\n")):
            if form in self.forms:
                events = [event.replace(b"\n", end) for event in events]
        return events

    def _event(self, place: int, data: bytes) -> bytes:
        if "two_data_lines" in self.forms:
            data = data.replace(b",", b",\ndata: ", 1)
        event = b"data: %b\n\n" % data
        if "identifiers" in self.forms:
            event = b"id: %d\n%b\n" % (place, event)
        if "empty_events" in self.forms:
            event = b"event: ping\n\ndata:\n\n" + event
        if "comments" in self.forms:
            event = b": keep-alive\n\n" + event
        return event


def _so_far(usage: Mapping[str, int], said: int) -> dict[str, int]:
    answered = min(said, usage["completion_tokens"])
    return {**usage, "completion_tokens": answered, "total_tokens": usage["prompt_tokens"] + answered}


def asks_for_stream(body: Mapping[str, Any]) -> bool:
    """Return whether a request asks for a stream; RejectedError for options of streams that make no sense."""
    stream, options = body.get("stream"), body.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise wrong_type("stream", "a boolean")
    if options is not None:
        if not isinstance(options, dict):
            raise wrong_type("stream_options", "an object")
        if not stream:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise RejectedError(400, message, param="stream_options")
    return bool(stream)
