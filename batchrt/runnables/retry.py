"""RunnableRetry: more attempts for items that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from batchrt.errors import SpendingLimitError
from batchrt.runnables.base import In, Out, RetryIf, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description
from batchrt.runnables.streams import begun, produced
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.sync_callbacks import check_sync, checked_sync

__all__ = ["RunnableRetry"]


class RunnableRetry(Runnable[In, Out]):
    """Run `bound` again for an item that failed, and only for that one. See `Runnable.with_retry`.

    A stream is tried again before its first chunk only: what was handed out cannot be taken back.
    """

    def __init__(
        self,
        bound: RunnableLike[In, Out],
        *,
        retry_if_exception_type: RetryIf = (Exception,),
        wait_exponential_jitter: bool = True,
        exponential_jitter_params: Mapping[str, float] | None = None,
        stop_after_attempt: int = 3,
    ) -> None:
        if stop_after_attempt < 1:
            raise ValueError(f"stop_after_attempt must be at least 1, not {stop_after_attempt}")
        unknown = set(exponential_jitter_params or ()) - {"initial", "max", "exp_base", "jitter"}
        if unknown:
            raise ValueError(f"exponential_jitter_params has no {', '.join(sorted(unknown))}")
        if not isinstance(retry_if_exception_type, type | tuple):
            check_sync("retry_if_exception_type", retry_if_exception_type)
        self.bound: Runnable[In, Out] = coerce(bound)
        self.retry_if_exception_type: RetryIf = retry_if_exception_type
        self.wait_exponential_jitter: bool = wait_exponential_jitter
        self.exponential_jitter_params: dict[str, float] = dict(exponential_jitter_params or {})
        self.stop_after_attempt: int = stop_after_attempt

    def __repr__(self) -> str:
        return f"{self.bound!r}.with_retry()"

    def _takes(self, keyword: str) -> bool:
        return self.bound._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.bound._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        return self.bound.describe(kwargs)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.bound._step(kwargs)

        async def attempt(value: Any, strand: Strand) -> Any:
            return step.call(value, strand) if step.inline else await step.call(value, strand)

        async def call(value: Any, strand: Strand) -> Any:
            try:
                return await attempt(value, strand)
            except SpendingLimitError:
                raise  # another attempt would fail as well
            except Exception as error:  # noqa: BLE001  the policy decides
                failure = error
            # Imported at the first failure, so that a run without one does not pay for tenacity.
            from batchrt.runtime.retry import retry_after_failure

            return await retry_after_failure(
                lambda: attempt(value, strand), failure, strand=strand, **self._policy(strand)
            )

        return Step.of(call, [step], produce=partial(self._produced, step))

    async def _produced(self, step: Step, value: Any, strand: Strand) -> AsyncIterator[Any]:
        """Yield the chunks of the first attempt that gives one, or ends without."""

        async def attempt() -> tuple[AsyncIterator[Any], Sequence[Any]]:
            chunks = produced(step, value, strand)
            return chunks, await begun(chunks)

        try:
            chunks, begin = await attempt()
        except SpendingLimitError:
            raise  # another attempt would fail as well
        except Exception as error:  # noqa: BLE001  the policy decides
            from batchrt.runtime.retry import retry_after_failure

            chunks, begin = await retry_after_failure(attempt, error, strand=strand, **self._policy(strand))
        async with Closing(chunks):
            for chunk in begin:
                yield chunk
            async for chunk in chunks:
                yield chunk

    def _condition(self) -> Any:
        import tenacity

        wanted = self.retry_if_exception_type
        if isinstance(wanted, type | tuple):
            # By its type: an instance may lie about its `__class__`.
            return tenacity.retry_if_exception(lambda error: issubclass(type(error), wanted))
        return tenacity.retry_if_exception(
            lambda error: checked_sync("retry_if_exception_type", wanted(error))
        )

    def _policy(self, strand: Strand) -> dict[str, Any]:
        import tenacity

        from batchrt.runtime.retry import wait_exponential_jitter

        random = strand.run.clock.random
        wait = wait_exponential_jitter(random, **self.exponential_jitter_params)
        return {
            "retry": self._condition(),
            "stop": tenacity.stop_after_attempt(self.stop_after_attempt),
            "wait": wait if self.wait_exponential_jitter else tenacity.wait_none(),
        }
