"""Observers: the hooks by which a tracing library follows runs, their items and their requests.

There is none unless an integration installs one. Then a run costs one comparison more, and so does a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from batchrt.config import RunConfig
    from batchrt.runtime.run import Run
    from batchrt.runtime.step import Step
    from batchrt.runtime.strand import Strand

__all__ = [
    "Observer",
    "RequestObserver",
    "RequestTarget",
    "RunObserver",
    "SentList",
    "install",
    "installed",
    "observed_step",
    "remove",
    "sending_list",
]

R = TypeVar("R", bound="Callable[..., Any]")


class RequestTarget(Protocol):
    """Where requests are sent."""

    @property
    def url(self) -> str:
        """The address, which may have a query."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def quota(self) -> Any:
        """The quota that admits them."""


class RequestObserver(Protocol):
    """Follow one request, its retries included.

    It is entered before the request waits for its quota, and exited with the error of its last attempt.
    """

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an error propagates."""

    def sent(self) -> None:
        """Note that an attempt is about to be sent."""

    def retried(self, error: Exception, wait: float, attempt: int) -> None:
        """Note that attempt `attempt`, from 1, failed; the next follows in `wait` seconds or more."""

    def reading(self, read: R) -> R:
        """Return `read`, which reads a whole reply, or a function that notes the reply first."""

    def chunk(self, chunk: Any) -> None:
        """Note a chunk of a streamed answer."""

    def answered(self, answer: Any) -> None:
        """Note the answer, or the reader of a streamed one, which may have `usage`."""


class RunObserver(Protocol):
    """Follow one run."""

    def enter(self, context: Context) -> None:
        """Prepare the context that the run's items start from."""

    def step(self, step: Step) -> Step:
        """Return `step`, or one that follows each item through it."""

    def origin(self) -> object:
        """Identify the current item, for the list that its input is sent in."""

    def request(
        self, target: RequestTarget, body: bytes, strand: Strand, *, streamed: bool = False
    ) -> RequestObserver:
        """Return an observer of a request with this body."""

    def ended(self, error: BaseException | None, admitted: int) -> None:
        """Note the end of the run, of which `admitted` items were begun."""


class Observer(Protocol):
    """Follow the runs of this process."""

    def run(self, run: Run, config: RunConfig, context: Context) -> RunObserver:
        """Return the observer of a run of many inputs; `context` is its caller's."""

    def single(self, run: Run, config: RunConfig, step: Step) -> Step:
        """Return a step that follows a run of a single input through `step`; may set `run.observer`."""


class SentList(NamedTuple):
    """Describe the list whose request is being sent.

    Attributes:
        size: how many inputs it has.
        origins: for each input the `RunObserver.origin` of the items that it came from; empty if inputs were
            packed without items.
    """

    size: int
    origins: Sequence[Sequence[object]] = ()

    def part(self, start: int, stop: int) -> SentList:
        """Return the description of a part of it."""
        return SentList(stop - start, self.origins[start:stop])


sending_list: Final[ContextVar[SentList | None]] = ContextVar("batchrt_sending_list", default=None)
"""Set, in an observed run, while a list is carried."""

_installed: Final[list[Observer]] = []
"""The observers of this process, of which the last is in use; module state, as the process is the scope."""


def install(observer: Observer) -> None:
    """Have `observer` follow runs that begin from now on."""
    _installed.append(observer)


def remove(observer: Observer) -> None:
    """Have `observer` follow no more runs; those in progress are followed to their end."""
    if observer in _installed:
        _installed.remove(observer)


def installed() -> Observer | None:
    """Return the observer of new runs."""
    return _installed[-1] if _installed else None


def observed_step(run: Run, config: RunConfig, step: Step) -> Step:
    """Return `step` for a run of a single input, followed by the installed observer if there is one."""
    return _installed[-1].single(run, config, step) if _installed else step
