"""Requests for streams: the members that ask for one and for its usage, and servers that refuse these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from batchrt.errors import BadRequestError, ProviderError

if TYPE_CHECKING:
    from batchrt.providers.http.endpoint import Endpoint
    from batchrt.providers.http.response import Reply
    from batchrt.providers.http.streamed_call import Chunks
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.step import Produce
    from batchrt.runtime.strand import Strand

__all__ = ["StreamUsage", "producer"]

_NAMES: Final = ("stream_options", "include_usage")


class StreamUsage:
    """Whether streams of a model are asked for their usage.

    OpenAI sends usage with a stream if `stream_options` asks for it. Some servers refuse that member: then
    the request is sent again without, and so are all that follow, for as long as the model lives.

    Args:
        wanted: ask for it.

    Attributes:
        asked: it is asked for.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.asked: bool = wanted

    def fields(self, fields: Mapping[str, Any], *, usage: bool) -> dict[str, Any]:
        """Return the members of a body that asks for a stream, also where those given ask for none."""
        streamed = {**fields, "stream": True}
        if usage:
            given = fields.get("stream_options")
            streamed["stream_options"] = {"include_usage": True, **(given if isinstance(given, dict) else {})}
        return streamed

    def is_refused(self, error: ProviderError) -> bool:
        """Whether `error` refuses `stream_options`, which are not asked for from then on."""
        if not self.asked or not isinstance(error, BadRequestError):
            return False
        said = f"{error.param} {error.message[:2_000]}"
        if not any(name in said for name in _NAMES):
            return False
        self.asked = False
        return True


def producer(
    endpoint: Endpoint,
    usage: StreamUsage,
    body: Callable[[Any, bool], bytes],
    read: Callable[[Reply, Clock], Chunks[Any]],
) -> Produce:
    """Return the `produce` of a model's step; see `Step`.

    Args:
        endpoint: sends the requests.
        usage: whether usage is asked for.
        body: returns the request's body for an input, which asks for usage or does not.
        read: makes the reader of an answer.
    """

    def produce(value: Any, strand: Strand) -> AsyncIterator[Any]:
        asked = usage.asked

        def bodies(error: ProviderError | None) -> bytes | None:
            if error is None:
                return body(value, asked)
            return body(value, False) if asked and usage.is_refused(error) else None

        return endpoint.stream(bodies, read, strand)

    return produce
